"""Ensembles trained on random subsets, for memorization estimates."""
