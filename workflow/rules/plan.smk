# The facts the rules below are made from; everything comes from papers/*/paper.yaml.
from snakemake.exceptions import WorkflowError

from planning import checked, hold_build, options_of, outputs, drawing_digest, planned_runs, unknown_paper

PAPERS, SCALE = checked(config)
RUNS = {run.path: run for paper in PAPERS for run in planned_runs(paper, SCALE)}

wildcard_constraints:
    paper="|".join(PAPERS),
    experiment=r"[\w.+-]+",
    variant=r"[\w.+-]+",
    seeds=r"seeds?[\d_-]+",
    key="[0-9a-f]{12}",
