"""Tests the paper's findings: the runs to make, their summary, and verdicts by fixed rules."""
