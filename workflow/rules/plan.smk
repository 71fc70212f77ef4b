# The facts the rules below are made from; everything comes from papers/*/paper.yaml.
import shlex

from planning import (
    checked, drawing_command, hold_build, job_of, marker, options_of, rooms, unknown_target, unknown_targets,
)

PAPERS, SCALE = checked(config, sys.argv[1:])
ROOMS = rooms(PAPERS, SCALE)
PYTHON = shlex.quote(sys.executable)

wildcard_constraints:
    paper="|".join(PAPERS),
    experiment=r"[\w.+-]+",
    variant=r"[\w.+-]+",
    seeds=r"seeds?[\d_-]+",
    key="[0-9a-f]{12}",
