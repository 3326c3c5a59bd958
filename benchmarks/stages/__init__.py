"""The stages of benchmarks/accelerator.py, one module each, and what they share."""
