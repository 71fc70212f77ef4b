# The facts the rules below are made from; everything comes from papers/*/paper.yaml.
from planning import (
    checked, drawing_digest, hold_build, options_of, outputs, planned_runs, unknown_target, unknown_targets,
)

PAPERS, SCALE = checked(config)
RUNS = {run.path: run for paper in PAPERS for run in planned_runs(paper, SCALE)}

wildcard_constraints:
    paper="|".join(PAPERS),
    experiment=r"[\w.+-]+",
    variant=r"[\w.+-]+",
    seeds=r"seeds?[\d_-]+",
    key="[0-9a-f]{12}",
