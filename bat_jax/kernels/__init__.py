"""Convolutions as the CPU back end runs them fastest; other back ends have XLA's own."""
