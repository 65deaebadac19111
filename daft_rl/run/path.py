"""The straight path between two policies with the same layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.errors import AgentError
from daft_rl.run.snapshot import PolicyCopy

__all__ = ["PolicyPath"]


class PolicyPath:
    """All policies ``start + alpha (end - start)``: weights of every network, target networks among them, statistics of
    BatchNorm and of ``VecNormalize``.

    Where both policies compute alike up to small steps, as after conversion with running statistics, the policies in
    between do so too (WiSE-FT, arXiv 2109.01903). Nothing is learnt.

    :param start: an agent
    :param end: another, with the same layers; it becomes the policy that :meth:`go_to` asks for
    :raises AgentError: the layers differ
    """

    def __init__(self, start: BaseAlgorithm, end: BaseAlgorithm) -> None:
        self.model = end
        self._copy = PolicyCopy(end)
        self._start, self._end = PolicyCopy(start).state_dict(), self._copy.state_dict()
        shapes = [
            {name: tensor.shape for name, tensor in state["policy"].items()} for state in (self._start, self._end)
        ]
        if shapes[0] != shapes[1] or self._start["statistics"].keys() != self._end["statistics"].keys():
            raise AgentError("There is no path between policies of different layers or statistics.")
        self._end = _mixed(self._end, self._end, 1.0)  # apart from the policy that moves

    def go_to(self, alpha: float) -> BaseAlgorithm:
        """Become the policy at ``alpha``, exactly the start at 0 and the end at 1.

        :param alpha: from 0 to 1
        :return: the model, which is the same object each time
        """
        state = _mixed(self._start, self._end, alpha)
        self._copy.load_state_dict(state)
        self._copy.put_in_place()
        return self.model


def _mixed(start: Any, end: Any, alpha: float) -> Any:
    """Numbers in between, in nested dictionaries and tuples. Counts of batches are those of the end."""
    if isinstance(start, Mapping):
        return {name: _mixed(start[name], end[name], alpha) for name in start}
    if isinstance(start, tuple):
        return tuple(_mixed(*pair, alpha) for pair in zip(start, end, strict=True))
    if isinstance(start, torch.Tensor):
        return torch.lerp(start, end, alpha) if start.is_floating_point() else end.clone()
    return (1 - alpha) * start + alpha * end
