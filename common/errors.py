"""The one exception that users see: a line saying what is wrong, where, and how to mend it; and how commands end."""

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable

__all__ = ["RefigureError", "is_full", "status_of", "suggest"]


class RefigureError(Exception):
    """A fault that its message explains in one line.

    Commands print the message to standard error and exit with status 1; no traceback is shown. The message
    names what went wrong, where (file, key, run) and what mends it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def suggest(name: str, known: Iterable[str]) -> str:
    """Half a sentence that offers the nearest known name, or lists all of them.

    >>> suggest("survea", ["survae", "vsml"])
    "did you mean 'survae'? Known: survae, vsml"
    """
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    listing = f"Known: {', '.join(options)}" if options else "None is known"
    return f"did you mean {near[0]!r}? {listing}" if near else listing


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk or the quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def status_of(command: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Run a command and return its exit status: 0, or after one line on standard error that of a fault.

    Arguments:
        interrupted: What to say after Ctrl-C.
    """
    try:
        command()
    except RefigureError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        place = error.filename or "no file named"
        if is_full(error):
            print(f"error: disk full ({place}): free some space and run again", file=sys.stderr)
        else:
            print(f"error: {place}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0
