"""The command `refigure`."""

import os
import sys

from common.atomic import is_full
from common.errors import RefigureError

__all__ = ["main"]


def main() -> None:
    """Run the command line; every fault is one line on standard error and a non-zero status."""
    from common.cli.app import app

    try:
        app(prog_name="refigure", standalone_mode=True)
    except RefigureError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if is_full(error):
            sys.exit(f"error: disk full ({error.filename or 'no file named'}): free some space and try again")
        sys.exit(f"error: {error.filename or ''}: {error.strerror or error}")
