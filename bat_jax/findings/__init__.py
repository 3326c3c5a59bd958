"""Tests the paper's findings: plans runs, summarizes them and reaches verdicts by fixed rules."""
