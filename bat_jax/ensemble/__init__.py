"""Ensembles trained on random subsets, which memorization is estimated from."""
