"""`python -m common.report <paper> --scale S`: draw a paper's results from its finished runs."""

import argparse
import sys

from common.errors import status_of
from common.report.build import build
from common.room import spec

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m common.report", description=__doc__)
    parser.add_argument("paper")
    parser.add_argument("--scale", default="cpu", help=f"{', '.join(spec.SCALES)} (default: cpu)")
    options = parser.parse_args()
    sys.exit(status_of(lambda: print("drawn:", build(options.paper, spec.scale_name(options.scale)) / "index.html")))
