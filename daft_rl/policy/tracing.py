"""Which entry of observation and action each input of each layer is: seen with a probe, not assumed.

A probe with different values in each entry runs through the networks of a policy, with BatchNorm switched off. Each
input of a layer that shows an entry's values *is* that entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from daft_rl.batchnorm import batchnorm_layers, evaluation_mode
from daft_rl.policy.networks import Networks

__all__ = ["HIDDEN", "ROWS", "Tracer"]

HIDDEN = -1
"""Label of an input that is no entry of observation or action."""
ROWS = 3
"""Rows of the probe: two entries with equal values in all of them are not to be expected."""


@contextmanager
def _hooked(policy: BasePolicy, probe: Any, before: dict[str, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """Replace what feature extractors get by a probe, and call ``before`` with what layers get.

    :param probe: a tensor ``(rows, entries)``, a dictionary of such, or ``None``
    :param before: name of a layer -> function of its input, which may return another one
    """
    outer: list[str] = []
    with ExitStack() as stack:
        for name, module in policy.named_modules():
            if isinstance(module, BaseFeaturesExtractor) and not any(name.startswith(f"{one}.") for one in outer):
                outer.append(name)
                if probe is not None:
                    handle = module.register_forward_pre_hook(lambda _, __: (probe,))
                    stack.callback(handle.remove)
        for name, function in before.items():

            def call(_: nn.Module, args: tuple[Tensor, ...], function: Any = function) -> Any:
                changed = function(args[0])
                return None if changed is None else (changed, *args[1:])

            stack.callback(policy.get_submodule(name).register_forward_pre_hook(call).remove)
        yield


def _run(networks: Networks, observation: Tensor | None, action: Tensor | None) -> None:
    """Run all networks, then the target networks in their place.

    :param observation: entries, shape ``(rows, entries)``; ``None`` shows zeros
    :param action: likewise
    """
    policy: Any = networks.policy
    shown = _zeros(policy.observation_space, ROWS if observation is None else len(observation), policy.device)
    with evaluation_mode(policy), torch.no_grad():
        networks.forward(shown, action)
        modules, targets = policy._modules, networks.layout.targets
        online = {name: modules[name] for name in targets.values()}
        try:
            modules.update({name: modules[target] for target, name in targets.items()})
            if targets:
                networks.forward(shown, action)
        finally:
            modules.update(online)


def _zeros(space: spaces.Space[Any], rows: int, device: torch.device) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _zeros(part, rows, device) for key, part in space.spaces.items()}
    integer = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    return torch.zeros((rows, *(space.shape or ())), dtype=torch.long if integer else torch.float32, device=device)


def _as_observation(space: spaces.Space[Any], entries: Tensor) -> Any:
    """What a features extractor gets of a batch of entries."""
    if not isinstance(space, spaces.Dict):
        return entries
    sizes = [spaces.flatdim(part) for part in space.spaces.values()]
    return dict(zip(space.spaces, entries.split(sizes, dim=1), strict=True))


class Tracer:
    """Finds the entries of observation and action among the inputs of the layers of one policy.

    :param policy: of an algorithm in the table
    :param observation: whether entries of the observation are looked for
    :param action: likewise, for actions that are vectors
    """

    def __init__(self, policy: BasePolicy, observation: bool, action: bool) -> None:
        self.networks, self.policy = Networks(policy), policy
        self.layers = batchnorm_layers(policy)
        generator = torch.Generator().manual_seed(0)
        sizes = [spaces.flatdim(space) for space in (policy.observation_space, policy.action_space)]
        moves = isinstance(policy.action_space, spaces.Box)
        self.sizes = sizes[0] if observation else 0, sizes[1] if action and moves else 0
        probe = torch.rand(ROWS, sum(sizes), generator=generator).to(policy.device)
        self.probe = probe[:, : self.sizes[0]], probe[:, self.sizes[0] : sum(self.sizes)]
        self.given_action = self.probe[1] if self.sizes[1] else self._zero_action()
        self.labels = self._label()
        """Name of a layer that reads entries -> which one each of its inputs is. Those of the action come last."""

    def _zero_action(self) -> Tensor | None:
        space = self.policy.action_space
        moves = isinstance(space, spaces.Box)
        return torch.zeros(ROWS, *(space.shape or ()), device=self.policy.device) if moves else None

    def shown(self, observation: Tensor) -> Any:
        """Entries as the features extractors get them; ``None`` if none are looked for."""
        return _as_observation(self.policy.observation_space, observation) if self.sizes[0] else None

    def _label(self) -> dict[str, Tensor]:
        labels: dict[str, Tensor] = {}
        columns = torch.cat(self.probe, dim=1)

        def record(name: str, x: Tensor) -> None:
            if x.ndim != 2 or len(x) != ROWS or not columns.numel():
                return
            same = (x.T[:, None] == columns.T[None]).all(dim=-1)
            found = torch.where(same.any(dim=1), same.to(torch.long).argmax(dim=1), HIDDEN)
            if bool((found != HIDDEN).any()):
                labels[name] = found

        read = {name for name, module in self.policy.named_modules() if isinstance(module, nn.Linear)} | {*self.layers}
        before = {name: lambda x, name=name: record(name, x) for name in read}
        with ExitStack() as stack:
            for layer in self.layers.values():  # values pass unchanged, so that the layer behind shows them too
                stack.callback(layer.module.register_forward_hook(lambda _, args, __: args[0]).remove)
            with _hooked(self.policy, self.shown(self.probe[0]), before):  # type: ignore[arg-type]
                _run(self.networks, self.probe[0] if self.sizes[0] else None, self.given_action)
        return labels

    def means(self) -> Tensor:
        """The mean of each entry, from a BatchNorm layer that reads it; 0 where there is none."""
        means = torch.zeros(sum(self.sizes), device=self.policy.device)
        for name, labels in self.labels.items():
            if name in self.layers:
                known = labels != HIDDEN
                means[labels[known]] = self.layers[name].mean[known].to(means)
        return means

    def inputs(self, values: Tensor, at_mean: Tensor | None = None) -> dict[str, Tensor]:
        """What each linear layer gets, and ``name:`` with what it gives.

        :param values: of all entries, shape ``(rows, entries)``
        :param at_mean: entries that each BatchNorm layer shall see at its own mean, a mask
        """
        found: dict[str, Tensor] = {}

        def center(name: str, x: Tensor) -> Tensor | None:
            labels = self.labels[name]
            own = (labels != HIDDEN) & at_mean[labels.clamp_min(0)]  # type: ignore[index]
            return torch.where(own, self.layers[name].mean.to(x), x)

        linear = {name for name, module in self.policy.named_modules() if isinstance(module, nn.Linear)}
        before: dict[str, Any] = {name: lambda x, name=name: found.update({name: x}) for name in linear}
        if at_mean is not None:
            of_entries = self.layers.keys() & self.labels
            before |= {name: lambda x, name=name: center(name, x) for name in of_entries}
        with ExitStack() as stack:
            for name in linear:
                hook = lambda _, __, y, name=name: found.update({f"{name}:": y})  # noqa: E731
                stack.callback(self.policy.get_submodule(name).register_forward_hook(hook).remove)
            observation, action = values.split(self.sizes, dim=1)
            with _hooked(self.policy, self.shown(observation), before):
                given = action if self.sizes[1] else self.given_action
                if given is not None and not self.sizes[1]:
                    given = given[:1].expand(len(values), -1)
                _run(self.networks, values, given)
        return found
