"""Which parameter of an SB3 policy is encoder, head or target, and how data reaches every network.

The map is data: for each kind of policy, patterns over parameter names. The first pattern that fits
decides. ``LAST`` stands for the last linear layer of a ``Sequential``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from daft_rl.batchnorm import (
    Moments,
    Statistics,
    apply_statistics,
    batchnorm_layers,
    evaluation_mode,
    measure_statistics,
)
from daft_rl.errors import AgentError
from daft_rl.method import GROUPS

__all__ = ["Anatomy", "Networks", "optimizer_settings"]

LAST = "<last>"

ON_POLICY = {
    "actor_head": ["action_net.*", "log_std"],
    "critic_head": ["value_net.*"],
    "critic_encoder": ["vf_features_extractor.*", "mlp_extractor.value_net.*"],
    "actor_encoder": ["features_extractor.*", "pi_features_extractor.*", "mlp_extractor.policy_net.*"],
}
SQUASHED_GAUSSIAN = {
    "actor_head": ["actor.mu.*", "actor.log_std", "actor.log_std.*"],
    "critic_head": [f"critic.qf*.{LAST}.*"],
    "actor_encoder": ["actor.*"],
    "critic_encoder": ["critic.*"],
}
DETERMINISTIC = {**SQUASHED_GAUSSIAN, "actor_head": [f"actor.mu.{LAST}.*"]}
Q_NETWORK = {
    "critic_head": [f"q_net.q_net.{LAST}.*"],
    "critic_encoder": ["q_net.*"],
}
QUANTILE_NETWORK = {
    "critic_head": [f"quantile_net.quantile_net.{LAST}.*"],
    "critic_encoder": ["quantile_net.*"],
}


def _actor_critic(policy: Any, observations: Any, actions: Tensor | None) -> None:
    policy(observations, deterministic=True)


def _squashed_gaussian(policy: Any, observations: Any, actions: Tensor | None) -> None:
    chosen = policy.actor(observations, deterministic=True)  # to measure is to draw no random number
    policy.critic(observations, chosen if actions is None else actions)


def _deterministic(policy: Any, observations: Any, actions: Tensor | None) -> None:
    chosen = policy.actor(observations)
    policy.critic(observations, chosen if actions is None else actions)


def _q_network(policy: Any, observations: Any, actions: Tensor | None) -> None:
    policy.q_net(observations)


def _quantile_network(policy: Any, observations: Any, actions: Tensor | None) -> None:
    policy.quantile_net(observations)


@dataclass(frozen=True)
class Kind:
    """What is known of one kind of policy."""

    patterns: dict[str, list[str]]
    forward: Callable[[Any, Any, Tensor | None], None]
    """Runs ``(policy, observations, scaled actions)`` through every online network."""
    targets: dict[str, str]
    """Prefix of a target network -> prefix of its online network."""
    optimizers: tuple[str, ...]
    """Where the optimizers live, as attributes of the policy."""
    shared_twice: bool = False
    """Whether a features extractor that actor and critic share is in the optimizers of both."""
    statistics: dict[str, str] = field(default_factory=dict)
    """Where the algorithm lists running statistics, which it copies to the targets -> the network they are of."""


_OWN = ("actor.optimizer", "critic.optimizer")
_CRITIC = {"batch_norm_stats": "critic", "batch_norm_stats_target": "critic_target"}
_BOTH = {
    f"{network}_batch_norm_stats{target}": f"{network}{target}"
    for network in ("actor", "critic")
    for target in ("", "_target")
}

KINDS: dict[type[BasePolicy], Kind] = {
    ActorCriticPolicy: Kind(ON_POLICY, _actor_critic, {}, ("optimizer",)),
    SACPolicy: Kind(SQUASHED_GAUSSIAN, _squashed_gaussian, {"critic_target": "critic"}, _OWN, statistics=_CRITIC),
    TQCPolicy: Kind(SQUASHED_GAUSSIAN, _squashed_gaussian, {"critic_target": "critic"}, _OWN, statistics=_CRITIC),
    CrossQPolicy: Kind(SQUASHED_GAUSSIAN, _squashed_gaussian, {}, _OWN),
    TD3Policy: Kind(
        DETERMINISTIC,
        _deterministic,
        {"actor_target": "actor", "critic_target": "critic"},
        _OWN,
        shared_twice=True,
        statistics=_BOTH,
    ),
    DQNPolicy: Kind(
        Q_NETWORK,
        _q_network,
        {"q_net_target": "q_net"},
        ("optimizer",),
        statistics={"batch_norm_stats": "q_net", "batch_norm_stats_target": "q_net_target"},
    ),
    QRDQNPolicy: Kind(
        QUANTILE_NETWORK,
        _quantile_network,
        {"quantile_net_target": "quantile_net"},
        ("optimizer",),
        statistics={"batch_norm_stats": "quantile_net", "batch_norm_stats_target": "quantile_net_target"},
    ),
}


def optimizer_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimizer of the same class has to be made with to be like this one.

    :raises AgentError: its parameter groups differ in more than the learning rate
    """
    accepted = inspect.signature(type(optimizer)).parameters  # AdamW's defaults have one that it does not take
    settings = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    for name in settings.keys() - {"lr", "foreach", "fused"}:
        values = [group.get(name, settings[name]) for group in optimizer.param_groups]
        if any(value != values[0] for value in values):
            raise AgentError(
                f"The groups of {type(optimizer).__name__} have different values of {name}, {values}: groups are "
                "what a method makes, so give the optimizer one value before."
            )
        settings[name] = values[0]
    return settings


def _last_linears(policy: nn.Module) -> dict[str, str]:
    """For each ``Sequential`` its last linear layer: ``a.b.4`` -> ``a.b.<last>``."""
    found = {}
    for name, module in policy.named_modules():
        if isinstance(module, nn.Sequential):
            linears = [child for child, layer in module.named_children() if isinstance(layer, nn.Linear)]
            if linears:
                found[f"{name}.{linears[-1]}"] = f"{name}.{LAST}"
    return found


class Networks:
    """The networks of one policy: how data reaches them, which are targets of which, where their optimizers are.

    :param policy: of a known kind
    :raises AgentError: an unknown kind of policy
    """

    def __init__(self, policy: BasePolicy) -> None:
        self.policy = policy
        kind = next((kind for cls, kind in KINDS.items() if isinstance(policy, cls)), None)
        if kind is None or isinstance(policy, RecurrentActorCriticPolicy):
            known = ", ".join(cls.__name__ for cls in KINDS)
            raise AgentError(f"Unknown kind of policy {type(policy).__name__}. Known are {known} and their kin.")
        self.kind = kind

    def is_target(self, name: str) -> bool:
        """Whether a parameter or a module belongs to a target network."""
        return name.partition(".")[0] in self.kind.targets

    def batchnorm_modules(self) -> dict[str, nn.Module]:
        """Every BatchNorm layer of the online networks, by name."""
        return {name: layer.module for name, layer in batchnorm_layers(self.policy).items() if not self.is_target(name)}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Where each optimizer lives -> the optimizer. The entropy coefficient's is not among them."""
        found = {}
        for path in self.kind.optimizers:
            owner = self._owner(path)
            found[path] = owner.optimizer
        return found

    def set_optimizer(self, path: str, optimizer: torch.optim.Optimizer) -> None:
        """Replace the optimizer at ``path``, one of :meth:`optimizers`."""
        self._owner(path).optimizer = optimizer  # type: ignore[assignment]

    def online_parameters(self, path: str) -> list[nn.Parameter]:
        """Those of the network whose optimizer is at ``path``, in the order that SB3 has them."""
        named = self._owner(path).named_parameters()
        return [parameter for name, parameter in named if path != "optimizer" or not self.is_target(name)]

    def _owner(self, path: str) -> Any:
        prefix = path.rpartition(".")[0]
        return self.policy.get_submodule(prefix) if prefix else self.policy

    def forward(self, observations: Any, actions: Tensor | None = None) -> None:
        """Run data through every online network.

        :param observations: tensors as the policy gets them, shape ``(batch, ...)``
        :param actions: scaled as in a replay buffer, shape ``(batch, *action_shape)``; by default a critic that
            takes actions gets those of the actor
        """
        self.kind.forward(self.policy, observations, actions)

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
        """Linear and BatchNorm layers whose input begins with the observation, and their twins in target networks.

        :param size: entries of an observation, which is a vector
        :return: name -> name of the online layer, which is the same but for a twin
        """
        policy = self.policy
        probe = torch.randn(7, size, generator=torch.Generator().manual_seed(0)).to(policy.device)
        layers = batchnorm_layers(policy)
        reading: list[str] = []
        handles = []
        for name, module in policy.named_modules():
            if (isinstance(module, nn.Linear) or name in layers) and not self.is_target(name):

                def look(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                    if args[0].shape[0] == 7 and torch.equal(args[0][:, :size], probe):
                        reading.append(name)

                handles.append(module.register_forward_pre_hook(look))
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
        """Modules of target networks -> those of online networks. Each has the name that the policy lists it under,
        since an extractor that two networks share has two."""
        policy = self.policy
        listed = {id(module): name for name, module in policy.named_modules()}
        return {
            listed[id(policy.get_submodule(f"{target}.{name}"))]: listed[id(module)]
            for target, online in self.kind.targets.items()
            for name, module in policy.get_submodule(online).named_modules()
            if name
        }

    def synchronize_targets(self) -> None:
        """Copy the online networks into their target networks."""
        for target, online in self.kind.targets.items():
            self.policy.get_submodule(target).load_state_dict(self.policy.get_submodule(online).state_dict())

    def batches(self, observations: Any, actions: Any, size: int = 4096) -> Iterator[tuple[Any, Tensor]]:
        """Cut arrays into batches of tensors on the model's device.

        :param observations: array ``(n, ...)``, or a dictionary of such arrays
        :param actions: array ``(n, *action_shape)``, scaled as in a replay buffer
        """
        for start in range(0, len(actions), size):
            part = slice(start, start + size)
            if isinstance(observations, dict):
                obs: Any = {key: self._tensor(value[part]) for key, value in observations.items()}
            else:
                obs = self._tensor(observations[part])
            yield obs, self._tensor(actions[part]).to(torch.float32)

    def _tensor(self, array: Any) -> Tensor:
        return torch.as_tensor(array, device=self.policy.device)


class Anatomy(Networks):
    """Encoder and head of the networks of one policy.

    What the patterns above do not know, or know wrongly, a user's own patterns over parameter names decide
    (``"action_net.*"``, shell-style wildcards): each answers one question, is it head or encoder, is it the
    critic's or the actor's.

    :param policy: of a known kind
    :param head: patterns of the heads; everything else is encoder then
    :param critic: patterns of the critic; everything else is the actor's then
    :raises AgentError: an unknown kind of policy, a parameter that belongs nowhere, a pattern that fits nothing,
        or no head at all
    """

    def __init__(
        self, policy: BasePolicy, head: Sequence[str] | None = None, critic: Sequence[str] | None = None
    ) -> None:
        super().__init__(policy)
        self._patterns = {"head": head, "critic": critic}
        self._last = _last_linears(policy)
        self.groups: dict[str, dict[str, nn.Parameter]] = {name: {} for name in GROUPS}
        for name, parameter in policy.named_parameters():
            if not self.is_target(name):
                self.groups[self.group_of(name)][name] = parameter
        self._check()

    def _check(self) -> None:
        names = [name for group in self.groups.values() for name in group]
        for key, patterns in self._patterns.items():
            for pattern in patterns or ():
                if not any(fnmatchcase(name, pattern) for name in names):
                    raise AgentError(f"agent.{key}: no parameter fits '{pattern}'. What exists: {', '.join(names)}.")
        if not any(self.groups[f"{role}_head"] for role in ("actor", "critic")):
            raise AgentError(
                f"No parameter of {type(self.policy).__name__} is known as its head. Name them by patterns, like "
                f"agent.head=['action_net.*']. What exists: {', '.join(names)}."
            )

    def group_of(self, name: str) -> str:
        """The group of a parameter, or of a module with a dot behind its name."""
        known = self._known_group(name)
        matches = {
            key: None if patterns is None else any(fnmatchcase(name, pattern) for pattern in patterns)
            for key, patterns in self._patterns.items()
        }
        if known is None and matches["head"] is None:
            raise AgentError(
                f"Parameter '{name}' of {type(self.policy).__name__} is neither encoder nor head: known are "
                f"{self.kind.patterns}. Name the heads by patterns, like agent.head=['action_net.*'], and what is the "
                "critic's, like agent.critic=['value_net.*']."
            )
        role, part = (known or "actor_encoder").split("_")
        if matches["critic"] is not None:
            role = "critic" if matches["critic"] else "actor"
        if matches["head"] is not None:
            part = "head" if matches["head"] else "encoder"
        return f"{role}_{part}"

    def _known_group(self, name: str) -> str | None:
        for layer, alias in self._last.items():
            if name.startswith(layer + "."):
                name = alias + name[len(layer) :]
        for group, patterns in self.kind.patterns.items():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return group
        return None

    def heads(self) -> dict[str, nn.Module]:
        """The linear layers that end the networks, by name, without those of target networks."""
        return {
            name: module
            for name, module in self.policy.named_modules()
            if isinstance(module, nn.Linear)
            and not self.is_target(name)
            and self.group_of(name + ".").endswith("_head")
        }
