"""The command `refigure`."""

import sys

from common.errors import status_of

__all__ = ["main"]


def main() -> None:
    """Run the command line; every fault is one line on standard error and a non-zero status."""
    from common.cli.app import app

    sys.exit(status_of(lambda: app(prog_name="refigure")))
