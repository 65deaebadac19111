"""Networks for agents that can be moved with daft_rl, and the agents that are shipped (``pretrained/``)."""

from daft_rl.agents.extractors import BatchNormExtractor
from daft_rl.agents.renorm import fuse_batch_renorm

__all__ = ["BatchNormExtractor", "fuse_batch_renorm"]
