"""Whether the official homes still serve the data: `python workflow/lib/links.py`, a line for each address.

Exits with 1 when a file can be had from none of its addresses.
"""

import sys

import requests

from common.data import DATASETS


def is_served(url: str, size: int | None) -> bool:
    """Whether an address answers with a file of that size in bytes (None: of any); prints what it answers."""
    try:
        with requests.get(url, stream=True, timeout=60, headers={"Accept-Encoding": "identity"}) as reply:
            length = int(reply.headers.get("Content-Length") or 0)  # 0: the server does not say
    except requests.RequestException as error:
        print(f"{url}: {type(error).__name__}")
        return False
    print(f"{url}: {reply.status_code}, {length:,} of {size or 0:,} bytes")
    return reply.ok and 0 in (length, size or 0, length - (size or 0))


def main() -> int:
    """Ask every address of every official file; returns the exit status."""
    files = [raw for entry in DATASETS.values() for raw in entry.sources[0].files if raw.urls]
    served = [[is_served(url, raw.size) for url in raw.urls] for raw in files]
    return int(not all(map(any, served)))


if __name__ == "__main__":
    sys.exit(main())
