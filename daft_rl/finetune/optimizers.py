"""The optimizers of a policy, with one parameter group per part of the agent while it is adapted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn
from torch.optim import Adam, Optimizer

from daft_rl.learner.adam import QuickAdam
from daft_rl.policy.anatomy import Anatomy
from daft_rl.policy.networks import optimizer_settings

__all__ = ["GroupedOptimizers"]


class _BeforeStep:
    """A hook of an optimizer."""

    def __init__(self, call: Callable[[Optimizer], None]) -> None:
        self.call = call

    def __call__(self, optimizer: Optimizer, *_: Any) -> None:
        self.call(optimizer)


class GroupedOptimizers:
    """Regroups the optimizers of one policy, and writes their states as if each had SB3's one group.

    :param model: whose learning rate is saved with the states
    :param anatomy: the parts of its policy
    :param before_step: called with an optimizer before each of its steps
    :param quick: whether Adam's step is :class:`~daft_rl.learner.adam.QuickAdam`'s
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        anatomy: Anatomy,
        before_step: Callable[[Optimizer], None] | None = None,
        quick: bool = True,
    ) -> None:
        self.model, self.anatomy, self.before_step, self.quick = model, anatomy, before_step, quick
        optimizers = anatomy.optimizers()
        self._order = {
            path: [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for path, optimizer in optimizers.items()
        }
        self._classes = {path: type(optimizer) for path, optimizer in optimizers.items()}
        self._defaults = {path: optimizer_settings(optimizer) for path, optimizer in optimizers.items()}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters that the optimizers own."""
        return [parameter for parameters in self._order.values() for parameter in parameters]

    def forget(self) -> None:
        """Drop all moments."""
        for optimizer in self.anatomy.optimizers().values():
            optimizer.state.clear()

    def group(self) -> None:
        """Give each optimizer one parameter group per part of the agent. Moments stay."""
        for path, optimizer in self.anatomy.optimizers().items():
            self.anatomy.set_optimizer(path, self._grouped(path, optimizer))
        self.watch()

    def watch(self) -> None:
        """Let :attr:`before_step` know of each step, also of optimizers that were copied: copies have no hooks."""
        if self.before_step is None:
            return
        for optimizer in self.anatomy.optimizers().values():
            hooks = optimizer._optimizer_step_pre_hooks
            if not any(isinstance(hook, _BeforeStep) for hook in hooks.values()):
                optimizer.register_step_pre_hook(_BeforeStep(self.before_step))

    def ungroup(self) -> None:
        """Give each optimizer SB3's one group again. Moments stay."""
        for path in self.anatomy.optimizers():
            plain = self._classes[path](self._order[path], **self._defaults[path])
            plain.load_state_dict(self._plain_state(path))
            self.anatomy.set_optimizer(path, plain)

    def _grouped(self, path: str, optimizer: Optimizer) -> Optimizer:
        """An optimizer of the same class, settings and moments.

        Adam is computed in one kernel per group: a PPO update takes a seventh less time, and differs in the last bits.
        """
        settings = self._defaults[path] | ({"fused": True, "foreach": None} if isinstance(optimizer, Adam) else {})
        own = {id(parameter) for parameter in self._order[path]}
        groups = [
            {"params": [p for p in parameters.values() if id(p) in own], "name": name}
            for name, parameters in self.anatomy.groups.items()
        ]
        cls = QuickAdam if self.quick and self._classes[path] is Adam else self._classes[path]
        grouped = cls([group for group in groups if group["params"]], **settings)
        grouped.state.update(optimizer.state)
        return grouped

    def plain_states(self) -> dict[str, dict[str, Any]]:
        """The states by SB3's names, as if each optimizer had one parameter group in SB3's order."""
        return {f"policy.{path}" if path == "optimizer" else path: self._plain_state(path) for path in self._order}

    def _plain_state(self, path: str) -> dict[str, Any]:
        optimizer, order = self.anatomy.optimizers()[path], self._order[path]
        options = {key: value for key, value in optimizer.param_groups[0].items() if key not in ("params", "name")}
        options |= {key: self._defaults[path][key] for key in ("fused", "foreach") if key in options}
        options["lr"] = self.model.lr_schedule(self.model._current_progress_remaining)
        state = {index: optimizer.state[p] for index, p in enumerate(order) if p in optimizer.state}
        return {"state": state, "param_groups": [{**options, "params": list(range(len(order)))}]}

    def state_dict(self) -> dict[str, Any]:
        """The moments, by optimizer and by the parameter's place in SB3's order."""
        return {path: self._plain_state(path)["state"] for path in self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the moments of :meth:`state_dict`."""
        for path, optimizer in self.anatomy.optimizers().items():
            optimizer.state.clear()
            for index, entries in state[path].items():
                optimizer.state[self._order[path][index]] = {
                    key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in entries.items()
                }
