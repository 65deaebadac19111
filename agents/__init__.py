"""The table of algorithms, networks with BatchNorm, and the agents that are shipped (``pretrained/``)."""

from daft_rl.agents.algorithms import ALGORITHMS, Algorithm, find_algorithm, register_algorithm
from daft_rl.agents.extractors import BatchNormExtractor
from daft_rl.agents.layouts import PolicyLayout
from daft_rl.agents.renorm import fuse_batch_renorm

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "BatchNormExtractor",
    "PolicyLayout",
    "find_algorithm",
    "fuse_batch_renorm",
    "register_algorithm",
]
