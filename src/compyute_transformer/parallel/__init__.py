"""Data parallel training: several processes share a batch, and the result does not depend on how many they are."""

from .communicator import Communicator, Single, run_in_threads
from .data_parallel import DataParallel
from .sharing import shared, sharing
from .start import world
from .tree import TreeSum, all_reduce, fold

__all__ = [
    "Communicator",
    "DataParallel",
    "Single",
    "TreeSum",
    "all_reduce",
    "fold",
    "run_in_threads",
    "shared",
    "sharing",
    "world",
]
