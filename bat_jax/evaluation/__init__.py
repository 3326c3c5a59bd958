"""Evaluation of a model on a whole set, each accuracy with its n and its interval."""
