"""From numbers of runs to verdicts on claims."""
