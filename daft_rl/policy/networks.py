"""The networks of an SB3 policy: how data reaches each of them, which are targets, where their optimizers are."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from daft_rl.agents.algorithms import find_layout
from daft_rl.batchnorm import (
    Moments,
    Statistics,
    apply_statistics,
    batchnorm_layers,
    evaluation_mode,
    measure_statistics,
)
from daft_rl.errors import AgentError

__all__ = ["Networks", "Observations", "optimizer_settings"]

Observations = NDArray[Any] | dict[str, NDArray[Any]]
"""An array ``(n, ...)``, or a dictionary of such arrays."""


def optimizer_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The arguments that make an optimizer of the same class with the settings of this one.

    :raises AgentError: its parameter groups differ in more than the learning rate
    """
    accepted = inspect.signature(type(optimizer)).parameters  # AdamW's defaults have one that it does not take
    settings = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    for name in settings.keys() - {"lr", "foreach", "fused"}:
        values = [group.get(name, settings[name]) for group in optimizer.param_groups]
        if any(value != values[0] for value in values):
            raise AgentError(
                f"The parameter groups of {type(optimizer).__name__} have different values of {name}, {values}. The "
                "groups will be replaced by those of a method: give all of them one value first."
            )
        settings[name] = values[0]
    return settings


class Networks:
    """The networks of one policy: how data reaches them, which are targets of which, where their optimizers are.

    :param policy: of an algorithm in the table (:mod:`daft_rl.agents.algorithms`)
    :raises AgentError: the table has no layout for such a policy
    """

    def __init__(self, policy: BasePolicy) -> None:
        self.policy = policy
        self.layout = find_layout(policy)

    def is_target(self, name: str) -> bool:
        """Whether a parameter or a module belongs to a target network."""
        return name.partition(".")[0] in self.layout.targets

    def batchnorm_modules(self) -> dict[str, nn.Module]:
        """Every BatchNorm layer of the online networks, by name."""
        return {name: layer.module for name, layer in batchnorm_layers(self.policy).items() if not self.is_target(name)}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Where each optimizer lives -> the optimizer, without that of the entropy coefficient."""
        return {path: self._owner(path).optimizer for path in self.layout.optimizers}

    def set_optimizer(self, path: str, optimizer: torch.optim.Optimizer) -> None:
        """Replace the optimizer at ``path``, one of :meth:`optimizers`."""
        self._owner(path).optimizer = optimizer

    def online_parameters(self, path: str) -> list[nn.Parameter]:
        """Parameters of the network whose optimizer is at ``path``, in SB3's order."""
        named = self._owner(path).named_parameters()
        return [parameter for name, parameter in named if path != "optimizer" or not self.is_target(name)]

    def _owner(self, path: str) -> Any:
        prefix = path.rpartition(".")[0]
        return self.policy.get_submodule(prefix) if prefix else self.policy

    def forward(self, observations: Any, actions: Tensor | None = None) -> None:
        """Run data through every online network.

        :param observations: tensors as the policy gets them, shape ``(batch, ...)``
        :param actions: scaled as in a replay buffer, shape ``(batch, *action_shape)``. If there are none, a critic that
            takes actions gets the actor's
        """
        self.layout.forward(self.policy, observations, actions)

    def measure(self, batches: Iterable[Any]) -> dict[str, Statistics]:
        """Pooled statistics at every BatchNorm layer of the online networks, by name.

        :param batches: observations, or pairs of observations and actions, see :meth:`forward`
        """
        return measure_statistics(self.policy, batches, self.forward)

    def apply(self, statistics: Mapping[str, Statistics | Moments], preserve_function: bool = True) -> None:
        """Give online and target networks new statistics, in place.

        A target network gets the statistics of its online network, because SB3 copies them at each update
        (SB3 issue #996), and compensates with its own weights: its function is preserved too.
        """
        twins = {name: statistics[online] for name, online in self._twins().items() if online in statistics}
        apply_statistics(self.policy, {**statistics, **twins}, preserve_function)

    def first_layers(self, size: int) -> dict[str, str]:
        """Linear and BatchNorm layers whose input begins with the observation, also those of target networks.

        :param size: entries of an observation vector
        :return: name of a layer -> name of the online layer that it copies, or its own
        """
        policy = self.policy
        probe = torch.randn(7, size, generator=torch.Generator().manual_seed(0)).to(policy.device)
        layers = batchnorm_layers(policy)
        reading: list[str] = []
        handles = []
        for name, module in policy.named_modules():
            if (isinstance(module, nn.Linear) or name in layers) and not self.is_target(name):

                def compare(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                    if args[0].shape[0] == 7 and torch.equal(args[0][:, :size], probe):
                        reading.append(name)

                handles.append(module.register_forward_pre_hook(compare))
        try:
            with evaluation_mode(policy), torch.no_grad():
                self.forward(probe)
        finally:
            for handle in handles:
                handle.remove()
        return {name: name for name in reading} | {
            name: online for name, online in self._twins().items() if online in reading
        }

    def _twins(self) -> dict[str, str]:
        """Modules of target networks -> those of online networks.

        An extractor that two networks share has two names; each module goes by the one that the policy lists.
        """
        policy = self.policy
        listed = {id(module): name for name, module in policy.named_modules()}
        return {
            listed[id(policy.get_submodule(f"{target}.{name}"))]: listed[id(module)]
            for target, online in self.layout.targets.items()
            for name, module in policy.get_submodule(online).named_modules()
            if name
        }

    def synchronize_targets(self) -> None:
        """Copy the online networks into their target networks."""
        for target, online in self.layout.targets.items():
            self.policy.get_submodule(target).load_state_dict(self.policy.get_submodule(online).state_dict())

    def batches(
        self, observations: Observations, actions: NDArray[Any] | None = None, size: int = 4096
    ) -> Iterator[tuple[Any, Tensor | None]]:
        """Cut arrays into batches of tensors on the model's device, for :meth:`forward`.

        :param observations: array ``(n, ...)``, or a dictionary of such arrays
        :param actions: array ``(n, *action_shape)``, scaled as in a replay buffer; ``None`` if they are not known
        :param size: most samples in a batch
        """
        parts = observations.values() if isinstance(observations, dict) else [observations]
        for start in range(0, len(next(iter(parts))), size):
            part = slice(start, start + size)
            if isinstance(observations, dict):
                batch: Any = {key: self._tensor(value[part]) for key, value in observations.items()}
            else:
                batch = self._tensor(observations[part])
            yield batch, None if actions is None else self._tensor(actions[part]).to(torch.float32)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.as_tensor(array, device=self.policy.device)
