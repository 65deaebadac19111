"""Where policies of SB3 and sb3-contrib keep their networks: one :class:`PolicyLayout` per kind of policy.

Several algorithms share a layout. :mod:`daft_rl.agents.algorithms` says which algorithm has which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor

__all__ = ["LAST", "PolicyLayout"]

LAST = "<last>"
"""Stands in a pattern for the last linear layer of a ``Sequential``."""

Forward = Callable[[Any, Any, Tensor | None], None]


@dataclass(frozen=True, kw_only=True)
class PolicyLayout:
    """Where one kind of policy keeps its networks, and how data reaches them."""

    policy: type[BasePolicy]
    """Policies of this class and its subclasses have this layout."""

    # For fine-tuning
    groups: Mapping[str, tuple[str, ...]]
    """Parameter group -> shell-style patterns over parameter names. The first pattern that fits decides."""
    forward: Forward
    """Runs ``(policy, observations, scaled actions)`` through every online network. It draws no random number."""
    optimizers: tuple[str, ...] = ("actor.optimizer", "critic.optimizer")
    """Where the optimizers live, as attributes of the policy."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """Prefix of a target network -> prefix of its online network."""
    shared_twice: bool = False
    """Whether a features extractor that actor and critic share is in the optimizers of both."""
    statistics: Mapping[str, str] = field(default_factory=dict)
    """Attribute of the algorithm that lists running statistics, to copy them to the targets -> their network."""

    # For reading archives. A network is the chain of linear layers under its prefixes.
    actor: tuple[str, ...]
    """Prefixes of the network that acts."""
    critic: tuple[str, ...] = ()
    """Prefixes of the first critic."""
    critic_key: str = ""
    """The critic's name in ``net_arch``. If it is empty, ``net_arch`` is the actor's list alone."""
    critic_takes_action: bool = False
    extractor: str = "features_extractor."
    """Prefix of the actor's features extractor."""
    other_extractor: str = ""
    """Prefix of the critic's features extractor. ``share_features_extractor`` makes both the same tensors."""
    quantiles: Literal["", "actor", "critic"] = ""
    """The network whose outputs are quantiles, as many as ``n_quantiles`` in ``policy_kwargs``."""
    batch_norm_option: bool = False
    """Whether ``policy_kwargs`` has ``batch_norm``, which switches BatchRenorm layers on."""


def _run_actor_critic(policy: Any, observations: Any, actions: Tensor | None) -> None:
    policy(observations, deterministic=True)


def _run_squashed_gaussian(policy: Any, observations: Any, actions: Tensor | None) -> None:
    chosen = policy.actor(observations, deterministic=True)
    policy.critic(observations, chosen if actions is None else actions)


def _run_deterministic(policy: Any, observations: Any, actions: Tensor | None) -> None:
    chosen = policy.actor(observations)
    policy.critic(observations, chosen if actions is None else actions)


def _run_q_network(policy: Any, observations: Any, actions: Tensor | None) -> None:
    policy.q_net(observations)


def _run_quantile_network(policy: Any, observations: Any, actions: Tensor | None) -> None:
    policy.quantile_net(observations)


ACTOR_CRITIC = PolicyLayout(
    policy=ActorCriticPolicy,
    groups={
        "actor_head": ("action_net.*", "log_std"),
        "critic_head": ("value_net.*",),
        "critic_encoder": ("vf_features_extractor.*", "mlp_extractor.value_net.*"),
        "actor_encoder": ("features_extractor.*", "pi_features_extractor.*", "mlp_extractor.policy_net.*"),
    },
    forward=_run_actor_critic,
    optimizers=("optimizer",),
    actor=("mlp_extractor.policy_net", "action_net"),
    critic=("mlp_extractor.value_net", "value_net"),
    critic_key="vf",
    extractor="pi_features_extractor.",
    other_extractor="vf_features_extractor.",
)

SQUASHED_GAUSSIAN = PolicyLayout(
    policy=SACPolicy,
    groups={
        "actor_head": ("actor.mu.*", "actor.log_std", "actor.log_std.*"),
        "critic_head": (f"critic.qf*.{LAST}.*",),
        "actor_encoder": ("actor.*",),
        "critic_encoder": ("critic.*",),
    },
    forward=_run_squashed_gaussian,
    targets={"critic_target": "critic"},
    statistics={"batch_norm_stats": "critic", "batch_norm_stats_target": "critic_target"},
    actor=("actor.latent_pi", "actor.mu"),
    critic=("critic.qf0",),
    critic_key="qf",
    critic_takes_action=True,
    extractor="actor.features_extractor.",
    other_extractor="critic.features_extractor.",
)
QUANTILE_CRITICS = replace(SQUASHED_GAUSSIAN, policy=TQCPolicy, quantiles="critic")
WITHOUT_TARGETS = replace(SQUASHED_GAUSSIAN, policy=CrossQPolicy, targets={}, statistics={}, batch_norm_option=True)

DETERMINISTIC = replace(
    SQUASHED_GAUSSIAN,
    policy=TD3Policy,
    groups={**SQUASHED_GAUSSIAN.groups, "actor_head": (f"actor.mu.{LAST}.*",)},
    forward=_run_deterministic,
    targets={"actor_target": "actor", "critic_target": "critic"},
    shared_twice=True,
    statistics={
        "actor_batch_norm_stats": "actor",
        "actor_batch_norm_stats_target": "actor_target",
        "critic_batch_norm_stats": "critic",
        "critic_batch_norm_stats_target": "critic_target",
    },
    actor=("actor.mu",),
)

Q_NETWORK = PolicyLayout(
    policy=DQNPolicy,
    groups={"critic_head": (f"q_net.q_net.{LAST}.*",), "critic_encoder": ("q_net.*",)},
    forward=_run_q_network,
    optimizers=("optimizer",),
    targets={"q_net_target": "q_net"},
    statistics={"batch_norm_stats": "q_net", "batch_norm_stats_target": "q_net_target"},
    actor=("q_net.q_net",),
    extractor="q_net.features_extractor.",
)

QUANTILE_NETWORK = PolicyLayout(
    policy=QRDQNPolicy,
    groups={"critic_head": (f"quantile_net.quantile_net.{LAST}.*",), "critic_encoder": ("quantile_net.*",)},
    forward=_run_quantile_network,
    optimizers=("optimizer",),
    targets={"quantile_net_target": "quantile_net"},
    statistics={"batch_norm_stats": "quantile_net", "batch_norm_stats_target": "quantile_net_target"},
    actor=("quantile_net.quantile_net",),
    extractor="quantile_net.features_extractor.",
    quantiles="actor",
)
