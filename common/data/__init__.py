"""Data: what there is (`DATASETS`), raw files (`fetch`), arrays (`load`), and what names them in a key (`identity`).

Importing this imports nothing heavy: NumPy, pooch and Pillow come with the calls that need them.
"""

from common.data.decode import declare, load, verify
from common.data.fetching import cache_folder, fetch
from common.data.registry import DATASETS, DataSet, Split, deviation, get, identity, known_checksums

__all__ = [
    "DATASETS",
    "DataSet",
    "Split",
    "cache_folder",
    "declare",
    "deviation",
    "fetch",
    "get",
    "identity",
    "known_checksums",
    "load",
    "verify",
]
