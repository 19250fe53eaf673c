"""Data parallel training: several processes share a batch, and the result does not depend on how many they are."""

from .buckets import all_reduce
from .communicator import Communicator, Single, run_in_threads
from .data_parallel import DataParallel
from .sharing import shared, sharing
from .start import for_device, world
from .tree import TreeSum, fold

__all__ = [
    "Communicator",
    "DataParallel",
    "Single",
    "TreeSum",
    "all_reduce",
    "fold",
    "for_device",
    "run_in_threads",
    "shared",
    "sharing",
    "world",
]
