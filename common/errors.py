"""The one exception that users see: a line saying what is wrong, where, and how to mend it."""

import difflib
from collections.abc import Iterable

__all__ = ["RefigureError", "suggest"]


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
