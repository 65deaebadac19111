"""Networks for agents that can be moved with daft_rl, and the agents that are shipped (``pretrained/``)."""

from daft_rl.agents.extractors import BatchNormExtractor

__all__ = ["BatchNormExtractor"]
