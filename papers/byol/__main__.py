"""`python -m papers.byol`: train runs of this paper."""

import sys

from common.run.command import main

if __name__ == "__main__":
    sys.exit(main("byol"))
