"""The modules of benchmarks/, which find one another beside the program that is run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
