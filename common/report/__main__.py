"""`python -m common.report <paper> --scale S`: draw a paper's results from its finished runs."""

import argparse
import sys

from common.errors import status_of
from common.report.build import build
from common.room import spec


def main() -> int:
    """Parse, draw, and turn a fault into one line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m common.report", description=__doc__)
    parser.add_argument("paper")
    parser.add_argument("--scale", default="cpu", help=f"{', '.join(spec.SCALES)} (default: cpu)")
    options = parser.parse_args()
    return status_of(lambda: print(f"drawn: {build(options.paper, spec.scale_name(options.scale)) / 'index.html'}"))


if __name__ == "__main__":
    sys.exit(main())
