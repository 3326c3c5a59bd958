"""Corrupted test images: reads CIFAR-10-C, CIFAR-100-C and Tiny-ImageNet-C, and makes others.

    found = corruptions.read("CIFAR-10-C", dataset)
    found.split("gaussian_noise", 3, dataset.test)  # with their labels and ids

    python -m bat_jax.data.corruptions --name=digits --out=digits-c

Source: Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, arXiv:1903.12261.
"""

from bat_jax.data.corruptions.files import NAMES, SEVERITIES, Corrupted, read
from bat_jax.data.corruptions.formulas import MADE, corrupted

__all__ = ["MADE", "NAMES", "SEVERITIES", "Corrupted", "corrupted", "read"]
