"""The table of algorithms: everything that differs from one algorithm to the next, one entry each.

:func:`register_algorithm` adds an entry, for instance for a subclass of TD3::

    register_algorithm(replace(ALGORITHMS["TD3"], cls=MyTD3, recognize=None))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from daft_rl.agents.layouts import (
    ACTOR_CRITIC,
    DETERMINISTIC,
    Q_NETWORK,
    QUANTILE_CRITICS,
    QUANTILE_NETWORK,
    SQUASHED_GAUSSIAN,
    WITHOUT_TARGETS,
    PolicyLayout,
)
from daft_rl.errors import AgentError

__all__ = ["ALGORITHMS", "Algorithm", "find_algorithm", "find_layout", "recognize_algorithm", "register_algorithm"]

Recognize = Callable[[Mapping[str, Any], Mapping[str, Tensor]], bool]


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What daft_rl knows about one algorithm."""

    cls: type[BaseAlgorithm]
    layout: PolicyLayout
    """Where its policies keep their networks."""
    recognize: Recognize | None = None
    """Whether an archive with these attributes (the JSON of its ``data``) and this state dictionary of the policy is
    the algorithm's. ``None``: no archive shows it, so ``load_agent`` needs ``algo``."""
    bn_mode: Literal["eval", "train"] = "eval"
    """BatchNorm in updates: running statistics, or those of the batch."""
    scratch_conversion: Literal["none", "each_rollout"] = "each_rollout"
    """How statistics follow the data when training starts from random weights. ``none`` leaves it to the updates."""
    decay: Literal["cosine", "constant"] = "cosine"
    """Of learning rates over a run."""
    actor_scale: float = 1.0
    """Factor on the learning rate of a pretrained actor."""
    line_search: bool = False
    """Whether a line search moves the actor, so that its parameters have no learning rate."""
    adapts: bool = True
    """Whether its agents can be moved to another domain; others are only loaded."""
    explores_by_noise: bool = False
    """Whether it explores only by ``action_noise`` on a deterministic action."""
    default_optimizer: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the constructor that keep the optimizer which the policy has by default."""

    @property
    def name(self) -> str:
        """Name of the class: ``"PPO"``."""
        return self.cls.__name__

    @property
    def config(self) -> str:
        """Name of the settings in ``configs/algo``: ``"ppo"``."""
        return self.name.lower()


def _has(*attributes: str) -> Recognize:
    return lambda found, state: all(attribute in found for attribute in attributes)


def _is_a2c(found: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    return "gae_lambda" in found and "clip_range" not in found


def _is_ddpg(found: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    return "target_policy_noise" in found and found.get("policy_delay") == 1 and found.get("target_noise_clip") == 0


def _is_qrdqn(found: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    return "exploration_fraction" in found and any(key.startswith("quantile_net.") for key in state)


def _is_maskable_ppo(found: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    policy = found.get("policy_class")
    return "clip_range" in found and isinstance(policy, dict) and "maskable" in str(policy.get("__module__"))


def _is_recurrent_ppo(found: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("lstm_actor.") for key in state)


_TABLE = (
    Algorithm(cls=PPO, layout=ACTOR_CRITIC, recognize=_has("clip_range")),
    # by default A2C replaces the policy's optimizer, which an archive would then name as RMSprop
    Algorithm(cls=A2C, layout=ACTOR_CRITIC, recognize=_is_a2c, default_optimizer={"use_rms_prop": False}),
    Algorithm(cls=TRPO, layout=ACTOR_CRITIC, recognize=_has("cg_max_steps"), line_search=True),
    Algorithm(cls=SAC, layout=SQUASHED_GAUSSIAN, recognize=_has("target_entropy")),
    Algorithm(cls=TD3, layout=DETERMINISTIC, recognize=_has("target_policy_noise"), explores_by_noise=True),
    Algorithm(cls=DDPG, layout=DETERMINISTIC, recognize=_is_ddpg, explores_by_noise=True),
    Algorithm(cls=TQC, layout=QUANTILE_CRITICS, recognize=_has("top_quantiles_to_drop_per_net")),
    Algorithm(
        cls=CrossQ,
        layout=WITHOUT_TARGETS,
        recognize=_has("target_entropy", "policy_delay"),
        bn_mode="train",  # without target networks, its critics depend on the statistics of their batches
        scratch_conversion="none",  # its updates move the statistics
        actor_scale=0.1,  # at the full rate, one of two transfers on Door lost its policy
    ),
    # a policy that follows the values first gets worse on a target; rates that decay leave it there
    Algorithm(cls=DQN, layout=Q_NETWORK, recognize=_has("exploration_fraction"), decay="constant"),
    Algorithm(cls=QRDQN, layout=QUANTILE_NETWORK, recognize=_is_qrdqn, decay="constant"),
    Algorithm(cls=MaskablePPO, layout=ACTOR_CRITIC, recognize=_is_maskable_ppo, adapts=False),
)
ALGORITHMS: dict[str, Algorithm] = {entry.name: entry for entry in _TABLE}
"""Name -> entry. To recognize an archive, later entries are tried first: a special case follows the general one."""

_UNSUPPORTED: dict[str, Recognize] = {"RecurrentPPO": _is_recurrent_ppo, "ARS": _has("n_delta")}
"""Algorithms whose archives are recognized in order to say that they cannot be loaded."""
_UNSUPPORTED_POLICIES = (RecurrentActorCriticPolicy,)


def register_algorithm(algorithm: Algorithm) -> None:
    """Add an algorithm to the table, or replace the entry of its name.

    :param algorithm: the entry; ``dataclasses.replace(ALGORITHMS["TD3"], cls=MyTD3, ...)`` copies an existing one
    """
    ALGORITHMS.pop(algorithm.name, None)
    ALGORITHMS[algorithm.name] = algorithm


def find_algorithm(which: BaseAlgorithm | type[BaseAlgorithm] | str) -> Algorithm:
    """The entry of an algorithm, the most specific one for a class that derives from several.

    :param which: an agent, its class, or the name of an entry
    :raises AgentError: the table has no such algorithm
    """
    if isinstance(which, str):
        found = ALGORITHMS.get(which)
    else:
        cls = which if isinstance(which, type) else type(which)
        by_class = {entry.cls: entry for entry in ALGORITHMS.values()}
        found = next((by_class[base] for base in cls.__mro__ if base in by_class), None)
    if found is None:
        if isinstance(which, BasePolicy):
            layout = find_layout(which)
            fitting = next(entry.name for entry in ALGORITHMS.values() if entry.layout == layout)
            raise AgentError(
                f"A policy alone ({type(which).__name__}) has no algorithm. Put it into one: "
                f"daft_rl.load_agent(policy, env=env, algo={fitting!r})."
            )
        if not isinstance(which, str | type | BaseAlgorithm):
            raise AgentError(f"Expected an agent such as PPO.load(...), got an object of {type(which).__name__}.")
        name = repr(which) if isinstance(which, str | type) else type(which).__name__
        supported = ", ".join(entry.name for entry in ALGORITHMS.values() if entry.adapts)
        raise AgentError(
            f"Algorithm {name} is not supported. What is: {supported}. Add your own with "
            "daft_rl.agents.register_algorithm.",
            arguments=("algo",),
        )
    return found


def find_layout(policy: BasePolicy) -> PolicyLayout:
    """The layout of a policy, the most specific one for a class that derives from several.

    :raises AgentError: the table has no layout for such a policy
    """
    layouts = {entry.layout.policy: entry.layout for entry in reversed(ALGORITHMS.values())}
    found = next((layouts[base] for base in type(policy).__mro__ if base in layouts), None)
    if found is None or isinstance(policy, _UNSUPPORTED_POLICIES):
        supported, name = ", ".join(cls.__name__ for cls in reversed(layouts)), type(policy).__name__
        raise AgentError(f"Policies of class {name} are not supported. Supported: {supported}, and their subclasses.")
    return found


def recognize_algorithm(attributes: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    """The name of the algorithm that an archive is of. The archive itself does not hold it.

    :param attributes: the JSON of the archive's ``data``
    :param state: state dictionary of the policy
    :return: a name, which :data:`ALGORITHMS` may not have; ``None`` if the archive fits none
    """
    for name, recognize in _UNSUPPORTED.items():
        if recognize(attributes, state):
            return name
    for name, entry in reversed(ALGORITHMS.items()):
        if entry.recognize is not None and entry.recognize(attributes, state):
            return name
    return None
