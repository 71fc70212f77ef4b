"""The one exception that users see: a line saying what is wrong, where, and how to mend it; and how commands end."""

import contextlib
import difflib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator

__all__ = ["RefigureError", "status_of", "suggest", "writing"]

FULL = (errno.ENOSPC, errno.EDQUOT)


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


@contextlib.contextmanager
def writing(what: object, mend: str = "", *, only_full: bool = False) -> Iterator[None]:
    """Turn an OSError of the block, which writes `what`, into a RefigureError.

    Arguments:
        mend: What mends it, where it is not some space or a folder that can be written.
        only_full: Explain a full disk or quota alone; other errors pass on as they are.
    """
    try:
        yield
    except OSError as error:
        if only_full and error.errno not in FULL:
            raise
        mend = mend or ("free some space and run again" if error.errno in FULL else "make the folder writable")
        raise RefigureError(f"cannot write {what} ({_why(error)}): {mend}; what was there before is kept") from error


def _why(error: OSError) -> str:
    return "disk full" if error.errno in FULL else error.strerror or str(error)


def status_of(command: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Run a command and return its exit status: 0, or after one line on standard error that of a fault.

    Arguments:
        interrupted: What to say after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack some of the letters
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
        mend = ", free some space and run again" if error.errno in FULL else ""
        print(f"error: {error.filename or 'no file named'}: {_why(error)}{mend}", file=sys.stderr)
        return 1
    return 0
