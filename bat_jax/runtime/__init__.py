"""What a program needs of its machine: processes, signals, files, folders and buckets."""
