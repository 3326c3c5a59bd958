"""Evaluation of a model on a whole set: accuracies with sample sizes and intervals."""
