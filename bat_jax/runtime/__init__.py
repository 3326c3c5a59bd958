"""The program's environment: processes, signals, files, folders and buckets."""
