"""Runs a config: `python launch.py --config=configs/digits_bat.py [--workdir=DIR]`; see --help."""

import sys

from bat_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(program="launch.py"))
