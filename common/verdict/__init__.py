"""Numbers of runs in, verdicts out."""
