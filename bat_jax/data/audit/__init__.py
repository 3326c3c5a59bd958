"""Finds flaws that distort comparisons: repeated images, contradictory labels, uneven classes.

python -m bat_jax.data.audit --name=NAME [--path=FILE] [--json=FILE]
"""

from bat_jax.data.audit.findings import audit, read, table, text

__all__ = ["audit", "read", "table", "text"]
