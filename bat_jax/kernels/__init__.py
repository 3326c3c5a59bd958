"""Convolutions in the forms that run fastest on CPU; other back ends use XLA's own."""
