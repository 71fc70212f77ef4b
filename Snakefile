# `snakemake results/<paper>` redraws one paper; plain `snakemake` redraws them all.
import os
import sys

from snakemake.utils import min_version

min_version("9.18")

configfile: "config/config.yaml"

os.chdir(workflow.basedir) if workflow.is_main_process else None
sys.path[:0] = [workflow.basedir, os.path.join(workflow.basedir, "workflow", "lib")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [workflow.basedir, os.environ.get("PYTHONPATH")]))

include: "workflow/rules/plan.smk"      # which papers, which runs
include: "workflow/rules/runs.smk"      # one job per run
include: "workflow/rules/results.smk"   # figures, claims, report
include: "workflow/rules/targets.smk"   # results/<paper>, and the line for an unknown one

report: "workflow/report/index.rst"

# Here and not in an included file: an include resets the default target.
rule all:
    default_target: True
    input:
        [file for room in ROOMS for file in targets(room)],

onstart:
    hold_build(workflow.basedir)
