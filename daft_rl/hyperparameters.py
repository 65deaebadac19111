"""What each algorithm's constructor takes from plain settings: names, types and ranges.

Stable-Baselines3 checks few of its arguments, and most of those late. The table needs no PyTorch, so a wrong value is
refused at once. A test holds it against the constructors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictInt

from daft_rl.errors import ConfigError
from daft_rl.validation import (
    PLAIN,
    Count,
    Flag,
    Fraction,
    NonNegative,
    Number,
    Positive,
    Text,
    Whole,
    checked,
)  # fmt: skip

__all__ = [
    *("OTHERWISE", "TABLE", "PolicyArguments", "check_extractor", "check_hyperparameters", "check_learning_starts"),
    "check_policy",
]

AtLeastTwo = Annotated[StrictInt, Field(ge=2, le=10**9), PLAIN]
PositiveFraction = Annotated[Number, Field(gt=0, le=1), PLAIN]
BufferSize = Annotated[StrictInt, Field(ge=1, le=10**9), PLAIN]
OrNever = Literal[-1] | Count
LearningRate = Annotated[Number, Field(ge=0, le=100), PLAIN]
"""Beyond the bound it is a typing error: one step of Adam would move each weight by more than 100."""


Activation = Literal[
    "ReLU", "Tanh", "ELU", "LeakyReLU", "GELU", "SiLU", "Mish", "SELU", "CELU", "ReLU6", "Sigmoid", "Softplus",
    "Softsign", "Hardtanh", "Hardswish", "Hardsigmoid", "Identity",
]  # fmt: skip
"""The activations of :data:`daft_rl.agents.policies.ACTIVATIONS`."""


def _auto(value: str) -> str:
    """SB3 adapts a coefficient from where such a text says."""
    start = value.removeprefix("auto_")
    if value != "auto" and not (value.startswith("auto_") and re.fullmatch(r"\d*\.?\d+(e-?\d+)?", start)):
        raise ValueError("a text such as auto or auto_0.1")
    return value


Auto = Annotated[Text, AfterValidator(_auto)]

OTHERWISE = {
    "env": "the task is chosen by env",
    "policy": "a policy class of your own goes to agent.policy",
    "policy_kwargs": "they go to agent.policy_kwargs",
    "device": "set device itself",
    "seed": "set seed itself",
    "verbose": "progress_bar shows what goes on",
    "tensorboard_log": "TensorBoard files lie in the run folder",
    "_init_setup_model": "an agent is always set up",
    **dict.fromkeys(
        ("replay_buffer_class", "rollout_buffer_class"), "it takes a Python object; daft_rl.load_agent has it"
    ),
    "action_noise": "algo.exploration_std=0.1 gives TD3 and DDPG Gaussian noise; daft_rl.load_agent takes any",
    "rollout_buffer_kwargs": "SB3's rollout buffers have none",
}
"""Arguments of the constructors that no setting of an algorithm is, and what to do instead."""


@checked()
class ReplayBufferArguments:
    """Arguments of SB3's replay buffer."""

    handle_timeout_termination: Flag | None = None


@checked()
class Common:
    """Every algorithm."""

    learning_rate: LearningRate | None = None
    gamma: Fraction | None = None
    stats_window_size: Count | None = None


@checked()
class OnPolicy(Common):
    """A2C, PPO, TRPO."""

    n_steps: Count | None = None
    gae_lambda: Fraction | None = None
    normalize_advantage: Flag | None = None
    use_sde: Flag | None = None
    sde_sample_freq: OrNever | None = None


@checked()
class PolicyGradient(OnPolicy):
    """A2C, PPO."""

    ent_coef: NonNegative | None = None
    vf_coef: NonNegative | None = None
    max_grad_norm: Positive | None = None


@checked()
class A2C(PolicyGradient):
    """See SB3."""

    rms_prop_eps: Positive | None = None
    use_rms_prop: Flag | None = None


@checked()
class PPO(PolicyGradient):
    """See SB3."""

    batch_size: Count | None = None
    n_epochs: Count | None = None
    clip_range: Positive | None = None
    clip_range_vf: Positive | None = None
    target_kl: Positive | None = None


@checked()
class TRPO(OnPolicy):
    """See sb3-contrib."""

    batch_size: Count | None = None
    target_kl: Positive | None = None
    cg_max_steps: Count | None = None
    cg_damping: NonNegative | None = None
    line_search_shrinking_factor: PositiveFraction | None = None
    line_search_max_iter: Count | None = None
    n_critic_updates: Count | None = None
    sub_sampling_factor: Count | None = None


@checked()
class OffPolicy(Common):
    """Everything with a replay buffer."""

    buffer_size: BufferSize | None = None
    learning_starts: Whole | None = None
    batch_size: Count | None = None
    train_freq: Count | tuple[Count, Literal["step", "episode"]] | None = None
    gradient_steps: Literal[-1] | Whole | None = None  # -1: as many as steps; 0: only collect
    n_steps: Count | None = None
    optimize_memory_usage: Flag | None = None
    replay_buffer_kwargs: ReplayBufferArguments | None = None


@checked()
class WithTargets(OffPolicy):
    """Everything with target networks."""

    tau: PositiveFraction | None = None


@checked()
class Entropy(OffPolicy):
    """Everything that weighs an entropy against the return."""

    ent_coef: NonNegative | Auto | None = None
    target_entropy: Number | Literal["auto"] | None = None
    use_sde: Flag | None = None
    sde_sample_freq: OrNever | None = None
    use_sde_at_warmup: Flag | None = None


@checked()
class SAC(Entropy, WithTargets):
    """See SB3."""

    target_update_interval: Count | None = None


@checked()
class TQC(SAC):
    """See sb3-contrib."""

    top_quantiles_to_drop_per_net: Whole | None = None


@checked()
class CrossQ(Entropy):
    """See sb3-contrib."""

    batch_size: AtLeastTwo | None = None  # its BatchNorm normalizes batches
    policy_delay: Count | None = None


@checked()
class DDPG(WithTargets):
    """See SB3."""


@checked()
class TD3(WithTargets):
    """See SB3."""

    policy_delay: Count | None = None
    target_policy_noise: NonNegative | None = None
    target_noise_clip: NonNegative | None = None


@checked()
class DQN(WithTargets):
    """DQN, QRDQN."""

    target_update_interval: Count | None = None
    exploration_fraction: Fraction | None = None
    exploration_initial_eps: Fraction | None = None
    exploration_final_eps: Fraction | None = None
    max_grad_norm: Positive | None = None


TABLE: dict[str, type[Any]] = {
    **{"a2c": A2C, "ppo": PPO, "trpo": TRPO, "sac": SAC, "tqc": TQC, "crossq": CrossQ},
    **{"ddpg": DDPG, "td3": TD3, "dqn": DQN, "qrdqn": DQN},
}
"""Name of an algorithm in ``configs/algo`` -> what its constructor takes."""


@checked()
class Optimizer:
    """Arguments of Adam."""

    betas: tuple[Fraction, Fraction] | None = None
    eps: Positive | None = None
    weight_decay: NonNegative | None = None
    amsgrad: Flag | None = None
    foreach: Flag | None = None
    fused: Flag | None = None


@checked()
class PolicyArguments:
    """What a recipe may tell a policy of SB3."""

    net_arch: tuple[Count, ...] | dict[Literal["pi", "vf", "qf"], tuple[Count, ...]] | None = None
    log_std_init: Number | None = None
    ortho_init: Flag | None = None
    use_expln: Flag | None = None
    n_critics: Count | None = None
    n_quantiles: Count | None = None
    batch_norm_momentum: Fraction | None = None
    batch_norm_eps: Positive | None = None
    renorm_warmup_steps: Whole | None = None
    optimizer_kwargs: Optimizer | None = None


@checked()
class Extractor:
    """Arguments of :class:`~daft_rl.agents.BatchNormExtractor`."""

    hidden: tuple[Count, ...] = ()
    activation: Activation = "ReLU"


def check_hyperparameters(algo: str, values: Mapping[str, Any], where: str) -> None:
    """Refuse what the constructor of an algorithm would choke on.

    :param algo: a name in ``configs/algo``; of others nothing is known but what no setting may be
    :param values: arguments of the constructor by name; ``None`` stands for the constructor's own default
    :param where: name of the whole in messages, ``"algo.settings"``
    :raises ConfigError: an argument that does not exist, or a value of another kind or out of range
    """
    for name in values:
        if name in OTHERWISE:
            raise ConfigError(f"{where}.{name} is no setting of the algorithm: {OTHERWISE[name]}.")
    if algo in TABLE:
        _check(TABLE[algo], values, where)
    # SB3 asserts it when the agent is built
    if algo == "ppo" and values.get("batch_size") == 1 and values.get("normalize_advantage") is not False:
        raise ConfigError(
            f"{where}.batch_size=1: the advantage of one sample cannot be normalized. Set at least 2, or "
            "normalize_advantage=false."
        )
    if values.get("optimize_memory_usage"):
        buffer = values.get("replay_buffer_kwargs") or {}
        if buffer.get("handle_timeout_termination") is not False or (values.get("n_steps") or 1) > 1:
            raise ConfigError(
                f"{where}.optimize_memory_usage=true goes with n_steps=1 and with "
                "replay_buffer_kwargs={handle_timeout_termination: false} only: SB3's buffer refuses the rest."
            )


def check_learning_starts(learning_starts: int, total_timesteps: int) -> None:
    """
    :raises ConfigError: an off-policy algorithm would only fill its replay buffer
    """
    if total_timesteps <= learning_starts:
        raise ConfigError(
            f"total_timesteps={total_timesteps}: learning would begin after {learning_starts} steps. Take more steps, "
            "or fewer learning_starts.",
            arguments=("total_timesteps", "learning_starts"),
        )


def check_policy(values: Mapping[str, Any], where: str) -> None:
    """The same for what a recipe tells a policy.

    :raises ConfigError: as :func:`check_hyperparameters`
    """
    _check(PolicyArguments, values, where)


def check_extractor(values: Mapping[str, Any], where: str) -> None:
    """The same for what a recipe tells the features extractor.

    :raises ConfigError: as :func:`check_hyperparameters`
    """
    _check(Extractor, values, where)


def _check(kind: type[Any], values: Mapping[str, Any], where: str) -> None:
    try:
        kind(**{str(name): value for name, value in values.items()})
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from None
