"""`python -m common.report <paper> --scale S`: draw a paper's results from its finished runs."""

import argparse
import sys

from common.errors import RefigureError, suggest
from common.report.build import build
from common.room import spec


def main() -> int:
    """Parse, draw, and turn a fault into one line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m common.report", description=__doc__)
    parser.add_argument("paper")
    parser.add_argument("--scale", default="cpu")
    options = parser.parse_args()
    try:
        if options.scale not in spec.SCALES:
            raise RefigureError(f"no scale {options.scale!r}; {suggest(options.scale, spec.SCALES)}")
        target = build(options.paper, options.scale)
    except RefigureError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"drawn: {target / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
