"""Every setting of a run, with its type and default. Hydra's configuration and Python's arguments both become these.

The command line stores the defaults of this file with Hydra (:mod:`daft_rl.composing`). Nothing below the command line
sees Hydra's configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, StrictInt

from daft_rl.errors import ConfigError
from daft_rl.hyperparameters import TABLE, check_extractor, check_hyperparameters, check_policy
from daft_rl.method import Method, find_method
from daft_rl.validation import (
    LARGEST,
    PLAIN,
    Count,
    Flag,
    NonNegative,
    PathText,
    Positive,
    Seed,
    Text,
    Whole,
    checked,
    plain_data,
    unknown_name,
)  # fmt: skip

__all__ = [
    *("AgentSettings", "AlgorithmSettings", "Calibration", "Checkpoint", "Evaluation", "PretrainSettings", "Recipe"),
    *(
        "RunSettings",
        "TaskSettings",
        "TransferSettings",
        "algorithm_names",
        "cuda_names",
        "default_algorithm",
        "merge",
        "nest",
        "read_algorithm",
        "read_cuda",
        "read_task",
    ),
]

CONFIGS = Path(__file__).resolve().parent / "configs"
NORMALIZE = "VecNormalize"
"""Where the statistics of the agent are among wrappers of a batch."""


@checked()
class AgentSettings:
    """Which source policy to load, and how to read it."""

    path: PathText | None = None
    """An SB3 archive, the name of a shipped source, or ``hf://ORG/REPO/FILE.zip``. ``None`` takes the shipped source of
    task and algorithm."""
    trust: Flag = False
    """Whether to read the archive with SB3's own loader, which executes code from the file."""
    policy: Text | None = None
    """Import path of your own policy class, ``my_package:MyPolicy``."""
    policy_kwargs: dict[str, Any] | None = None
    """Arguments of the policy that the archive does not tell. A text ``module:name`` is imported."""
    activation: Text | None = None
    """Activation of hidden layers, where the archive does not tell."""
    head: tuple[Text, ...] | None = None
    """Patterns over the names of the heads' parameters, such as ``action_net.*``. ``None`` knows SB3's policies."""
    critic: tuple[Text, ...] | None = None
    """Patterns over the names of the critic's parameters, likewise."""
    correspondence: PathText | dict[Text, Any] = "auto"
    """Which entries of the target's observations and actions are which of the source's: ``names``; ``positions``; the
    path of a YAML file with exceptions, or its content. ``auto`` goes by names where the bodies may differ."""
    adapt_spaces: Flag = False
    """``true`` is ``correspondence=positions``."""
    vecnormalize: PathText = "auto"
    """Path of the statistics of the agent's ``VecNormalize``. ``auto`` finds them where SB3, rl-zoo and the hub keep
    them; ``none`` is for an agent that needs none."""
    norm_reward: Literal["auto"] | Flag = "auto"
    """Whether the ``VecNormalize`` scales rewards. ``auto`` does what its file says, and scales them nevertheless if
    the critic agrees with scaled rewards only."""
    normalize: Literal["frozen", "update", "fold"] = "frozen"
    """What happens to the statistics of a ``VecNormalize`` beside the archive: they stay, they follow the target, or
    they become part of the first layers."""
    insert_batchnorm: Literal["auto"] | Flag = "auto"
    """Whether to insert BatchNorm. ``auto`` does so in a policy without BatchNorm if the method converts BatchNorm."""

    def __post_init__(self) -> None:
        if self.adapt_spaces and self.correspondence not in ("auto", "positions"):
            raise ConfigError(
                f"adapt_spaces=True is correspondence='positions', and correspondence={self.correspondence!r}. Leave "
                "one of them out.",
                arguments=("adapt_spaces", "correspondence"),
            )
        if self.adapt_spaces:
            object.__setattr__(self, "correspondence", "positions")


@checked()
class AlgorithmSettings:
    """The source's algorithm, and its settings for fine-tuning (``configs/algo``)."""

    name: Text = "ppo"
    """A name in ``configs/algo``."""
    actor_scale: Positive | None = None
    """Factor on the learning rates of the actor for every method but ``scratch``. ``None`` is the algorithm's own: 1,
    but 0.1 for CrossQ, where one of two transfers on Door lost its policy at the full rate."""
    most_learning_rate: Positive | None = None
    """Largest learning rate where ``settings`` name none: the policy learns at the source's, but no faster than this.
    ``None`` leaves the source's schedule as it is."""
    most_learning_starts: Whole | None = None
    """Largest number of steps before the first update of an algorithm with a replay buffer, where ``settings`` name
    none: a twentieth of ``total_timesteps``, but no more than this. ``None`` keeps the source's."""
    adaptive_kl: Positive | None = None
    """KL divergence of an update at which the learning rate of PPO is kept, by a factor on it (0.01 is usual with
    thousands of environments). ``None`` leaves the rate to the method's schedules."""
    exploration_std: Literal["auto"] | Positive | None = None
    """Least standard deviation of a Gaussian policy's actions at the start; for TD3 and DDPG without action noise, the
    standard deviation of the noise they get (half of the actions' range is 1). ``auto`` is the task's, or 0.2; ``None``
    keeps the source's."""
    most_exploration_std: Positive | None = None
    """Largest standard deviation of a Gaussian policy's actions at the start."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of the algorithm's constructor. ``None`` keeps what the source was trained with; for the chance of a
    random action at the start (``exploration_initial_eps``), that with which the source's training ended."""

    def __post_init__(self) -> None:
        check_hyperparameters(self.name, self.settings, "algo.settings")
        _check_adaptive_kl(self.name, self.adaptive_kl)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Arguments of the constructor that are not the source's."""
        given = {name: value for name, value in self.settings.items() if value is not None}
        if isinstance(given.get("train_freq"), list):  # SB3 refuses lists
            given["train_freq"] = tuple(given["train_freq"])
        return given


@checked()
class TaskSettings:
    """The target, and the source it is compared with."""

    name: Text = ""
    """A task, such as ``Ant-shifted``, or an id that is registered with Gymnasium (``my_package:MyEnv-v0``)."""
    id: Text | None = None
    """An id that is registered with Gymnasium, in place of ``name``."""
    simulator: Literal["mujoco"] | None = None
    """``mujoco`` if ``id`` is a MuJoCo environment whose model is shifted: the name is ``mujoco/ID`` then."""
    shift: Any = None
    """What differs from the source: a level's name or fields of the shift. ``None`` is the task's default."""
    source_shift: Any = None
    """A shift of the source. ``None`` is no shift."""
    wrappers: tuple[Text, ...] = ()
    """Import paths of wrappers around a registered environment, the innermost first. A wrapper is a class derived from
    ``gymnasium.Wrapper``, or a function of yours that takes an environment and returns one."""
    vec_wrappers: tuple[Any, ...] = ()
    """Wrappers of SB3 around the whole batch, the innermost first: import paths, or ``{path: ..., kwargs: {...}}``. The
    word ``VecNormalize`` marks the place of the agent's statistics, which is outermost where it is not there."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keywords of a registered environment's constructor, for the target."""
    source_kwargs: dict[str, Any] = field(default_factory=dict)
    """The same for the source."""
    exploration_std: Positive | None = None
    """What ``auto`` means for the exploration of Gaussian policies on this task."""
    cost_limit: Positive | None = None
    """Keep the mean cost of an episode below this while learning, by a Lagrangian penalty. ``None`` is no limit."""
    cost_rate: Positive = 0.1
    """Step of the penalty's multiplier, once per batch of finished episodes. Use far less for millions of steps."""
    cost_multiplier: NonNegative | None = None
    """Initial multiplier. ``None`` is the multiplier that the agent learnt under last, or 0."""
    step_timeout: Positive | None = None
    """Seconds after which a step or a reset that has not ended stops the run; ``None`` waits for ever. What hangs in a
    simulator's own machine code is noticed in worker processes only."""

    def __post_init__(self) -> None:
        if not (self.name or self.id):
            example = "mujoco/Hopper-v5" if self.simulator else "Pendulum-v1"
            raise ConfigError(
                f"The environment has no name: expected a task (env='Ant-shifted'), or an id that is registered with "
                f"Gymnasium (env='{example}').",
                arguments=("id",),
            )
        named = f"{self.simulator}/{self.id}" if self.simulator and self.id else self.id
        if named and self.name not in ("", named):
            raise ConfigError(f"env.id={self.id} and env.name={self.name}: name one of them.")
        object.__setattr__(self, "name", self.name or named)
        _check_vec_wrappers(self.vec_wrappers)


@checked()
class Calibration:
    """How many states are visited before learning."""

    steps: Annotated[StrictInt, Field(ge=2, le=LARGEST), PLAIN] = 8192
    """States of the target from which BatchNorm statistics are measured."""


@checked()
class TransferCalibration(Calibration):
    """How many states are visited before a transfer."""

    held_out: Count = 2048
    """Further states, of target and source, on which feature distortion is measured."""


@checked()
class Evaluation:
    """How a policy is evaluated: deterministic actions, whole episodes, the task's own reward."""

    episodes: Count = 20
    """Episodes before and after learning."""
    seed: Seed = 10_000
    """Seed of the first episode: every method and seed plays the same episodes."""
    every: Count = 50_000
    """Steps between evaluations during learning."""
    episodes_during: Count = 5
    """Episodes of each evaluation during learning."""


@checked()
class TransferEvaluation(Evaluation):
    """How a policy is evaluated before, during and after a transfer."""

    elsewhere: tuple[Text, ...] = ()
    """Levels of other shifts, such as ``gravity-2.0``, in which the policy also plays before and after learning."""

    def __post_init__(self) -> None:
        twice = next((level for level in self.elsewhere if self.elsewhere.count(level) > 1), None)
        if twice is not None:
            raise ConfigError(f"elsewhere: '{twice}' is there twice. Name it once.", arguments=("elsewhere",))


@checked()
class Checkpoint:
    """What a run keeps on disk while it learns, to go on after it was stopped."""

    every: Count | None = 20_000
    """Steps between checkpoints; ``None`` keeps none."""
    keep: Count = 2
    """How many are kept. Each is a few megabytes; steps in a replay buffer are kept once."""
    share: Annotated[Positive, Field(le=1)] = 0.01
    """Most of the time that checkpoints may take. If they would take more, fewer are made."""


@checked()
class TensorBoard:
    """How often a run writes scalars for TensorBoard while it learns."""

    every: Literal["auto"] | Count = "auto"
    """Fewest steps between two points of a scalar. ``auto`` is a thousandth of ``total_timesteps``. Evaluations are
    always written."""


@checked()
class RunSettings:
    """What a transfer and the training of a source share."""

    env: TaskSettings
    method: Method
    algo: AlgorithmSettings = field(default_factory=AlgorithmSettings)
    output_dir: Path | None = None
    """The run folder. ``None`` makes a new one under ``runs/``."""
    overwrite: Flag = False
    """Whether to delete what an earlier run has left in the run folder."""
    total_timesteps: Count = 200_000
    """Steps to learn from."""
    seed: Seed = 0
    """Seed of everything random."""
    device: Text = "auto"
    """``auto``, ``cpu``, or ``cuda``. ``auto`` is the GPU if ``vec`` is ``cuda``."""
    num_envs: Annotated[StrictInt, Field(ge=1, le=10**6), PLAIN] = 16
    """Environments that step together."""
    vec: Text = "auto"
    """How environments run: ``threads`` (Gymnasium's MuJoCo tasks), ``workers`` (processes), ``dummy``, ``cuda``
    (thousands of worlds that learning steps on the GPU; evaluations stay on the CPU), or ``auto``."""
    torch_threads: Annotated[StrictInt, Field(ge=1, le=1024), PLAIN] | None = 1
    """Threads of PyTorch; ``None`` leaves the number alone. More than one is hardly faster, and slows down runs side by
    side (CrossQ with two: 1.0 to 1.4 times)."""
    kernels: Literal["auto", "torch", "onednn", "plain"] = "auto"
    """What computes updates on a CPU: ``torch``, or ``onednn``, which is faster on AMD's processors with AVX-512 and
    which ``auto`` takes there; ``plain`` is SB3's own ``train``. They come to the same up to rounding."""
    evaluate_in_background: Literal["auto"] | Flag = "auto"
    """Whether to evaluate in a background process while learning goes on. ``auto`` does so where that is safe."""
    progress_bar: Flag = True
    """Whether to show SB3's progress bar, and to say what the run does."""
    calibration: Calibration = field(default_factory=Calibration)
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    tensorboard: TensorBoard = field(default_factory=TensorBoard)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ConfigError(f"device={self.device}: expected auto, cpu, cuda, or one of several, cuda:1.")
        _check_samples(self.algo.name, self.algo.hyperparameters, self.num_envs, "algo.settings")

    @property
    def exploration_std(self) -> float | None:
        """The least standard deviation of actions at the start."""
        chosen = self.algo.exploration_std
        return (self.env.exploration_std or 0.2) if chosen == "auto" else chosen

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the keys of the command line."""
        return plain_data(self) | {"output_dir": None if self.output_dir is None else str(self.output_dir)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Any:
        """Build settings from plain data, such as Hydra's configuration or a run's ``config.yaml``.

        :raises DaftError: an unknown key, or a value of another kind
        """
        given: dict[str, Any] = {str(key): value for key, value in values.items()}
        if given.get("output_dir") is not None and not str(given["output_dir"]).strip():
            raise ConfigError("output_dir is empty: name a folder.", arguments=("output_dir",))
        method: Any = given.get("method")
        return cls(**given | {"method": find_method(method)})


@checked()
class TransferSettings(RunSettings):
    """Everything that a transfer can be told."""

    agent: AgentSettings = field(default_factory=AgentSettings)
    calibration: TransferCalibration = field(default_factory=TransferCalibration)
    evaluation: TransferEvaluation = field(default_factory=TransferEvaluation)
    render: Flag = False
    """Whether to write videos of the final policy, ``target.mp4`` and ``source.mp4``."""
    render_steps: Count = 200
    """Steps of each video."""

    def __post_init__(self) -> None:
        super().__post_init__()
        race, arms = self.method.race, len(self.method.arms)
        if race is not None and race.is_too_long(self.total_timesteps, arms):
            raise ConfigError(
                f"rung={race.rung:g}: {arms} arms that learn so far leave their winner nothing of total_timesteps="
                f"{self.total_timesteps}. Take fewer arms, a smaller rung, or more steps."
            )


@checked()
class Recipe:
    """How a source is trained (``configs/recipe``)."""

    name: Text
    total_timesteps: Count
    num_envs: Count
    normalize_reward: Flag
    """Whether a running scale divides rewards. The scale is kept beside the agent in ``vecnormalize.pkl``."""
    settings: dict[str, Any]
    """Arguments of the algorithm's constructor."""
    adaptive_kl: Positive | None = None
    """As in :class:`AlgorithmSettings`."""
    extractor: dict[str, Any] | None
    """Arguments of :class:`~daft_rl.agents.BatchNormExtractor`. ``None`` for algorithms with BatchNorm of their own."""
    policy: dict[str, Any]
    """Arguments of the policy."""

    def __post_init__(self) -> None:
        check_policy(self.policy, "recipe.policy")
        if self.extractor is not None:
            check_extractor(self.extractor, "recipe.extractor")


@checked()
class PretrainSettings(RunSettings):
    """Everything that the training of a source can be told."""

    recipe: Recipe

    def __post_init__(self) -> None:
        super().__post_init__()
        check_hyperparameters(self.algo.name, self.recipe.settings, "recipe.settings")
        _check_adaptive_kl(self.algo.name, self.recipe.adaptive_kl)
        _check_samples(self.algo.name, self.recipe.settings, self.num_envs, "recipe.settings")
        if self.method.race is not None:
            raise ConfigError(f"'{self.method.name}' is a race of methods, for transfers. Name one method here.")
        if NORMALIZE in self.env.vec_wrappers:
            raise ConfigError(
                f"vec_wrappers: '{NORMALIZE}' marks the statistics of an agent, and a pretraining has none.",
                arguments=("vec_wrappers",),
            )


def _check_vec_wrappers(given: tuple[Any, ...]) -> None:
    """
    :raises ConfigError: an entry is neither an import path nor a mapping with one and arguments
    """
    for entry in given:
        path = entry.get("path") if isinstance(entry, Mapping) and entry.keys() <= {"path", "kwargs"} else entry
        kwargs = entry.get("kwargs") if isinstance(entry, Mapping) else None
        named = isinstance(path, str) and (":" in path or entry == NORMALIZE)
        if not named or not isinstance(kwargs, Mapping | None):
            raise ConfigError(
                "vec_wrappers: expected import paths such as 'stable_baselines3.common.vec_env:VecFrameStack', or "
                f"{{'path': ..., 'kwargs': {{'n_stack': 4}}}}, or '{NORMALIZE}', got {entry!r}.",
                arguments=("vec_wrappers",),
            )
    if given.count(NORMALIZE) > 1:
        raise ConfigError(f"vec_wrappers: '{NORMALIZE}' is there twice.", arguments=("vec_wrappers",))


def _check_adaptive_kl(algo: str, adaptive_kl: float | None) -> None:
    """
    :raises ConfigError: the algorithm is known not to measure what its learning rate would follow
    """
    if adaptive_kl is not None and algo in TABLE and algo != "ppo":
        raise ConfigError(
            f"adaptive_kl={adaptive_kl:g} is for ppo, whose updates measure a KL divergence; this is {algo}. Leave it "
            "out.",
            arguments=("adaptive_kl",),
        )


def _check_samples(algo: str, given: Mapping[str, Any], num_envs: int, where: str) -> None:
    """
    :raises ConfigError: rollouts of one sample, or episodes of several environments as units of learning
    """
    if algo in ("ppo", "trpo") and (given.get("n_steps") or 2) * num_envs < 2:
        raise ConfigError(f"{where}.n_steps=1 with num_envs=1: a rollout of one sample has no advantages to compare.")
    unit = given.get("train_freq")
    if isinstance(unit, list | tuple) and unit[1] == "episode" and num_envs > 1:
        raise ConfigError(
            f"{where}.train_freq={list(unit)} with num_envs={num_envs}: episodes of several environments do not end "
            "together. Use num_envs=1, or steps."
        )


def read_task(name: str) -> dict[str, Any]:
    """What ``configs/env/NAME.yaml`` says of a task; ``name`` alone where there is no such file."""
    path = CONFIGS / "env" / f"{name}.yaml"
    if not path.is_file():
        return {"name": name}
    # to Hydra, ??? marks a value that must be given
    return {key: value for key, value in yaml.safe_load(path.read_text("utf-8"))["env"].items() if value != "???"}


def default_algorithm(name: str) -> str:
    """The algorithm of a task where none is chosen."""
    path = CONFIGS / "env" / f"{name}.yaml"
    defaults = yaml.safe_load(path.read_text("utf-8"))["defaults"] if path.is_file() else []
    chosen = [item["override /algo"] for item in defaults if isinstance(item, dict) and "override /algo" in item]
    return chosen[0] if chosen else "ppo"


def algorithm_names() -> list[str]:
    """Algorithms that have settings for fine-tuning (``configs/algo``)."""
    return sorted(path.stem for path in (CONFIGS / "algo").glob("*.yaml"))


def read_algorithm(name: str) -> dict[str, Any]:
    """What ``configs/algo/NAME.yaml`` says.

    :raises ConfigError: there is no such file
    """
    if name not in algorithm_names():
        raise ConfigError(unknown_name("algorithm", name, algorithm_names()))
    return dict(yaml.safe_load((CONFIGS / "algo" / f"{name}.yaml").read_text("utf-8")))


def cuda_names() -> list[str]:
    """What ``cuda=`` takes: algorithms that have settings for ``vec="cuda"`` (``configs/cuda``), or ``none``."""
    return [*sorted(path.stem for path in (CONFIGS / "cuda").glob("*.yaml")), "none"]


def read_cuda(algorithm: str) -> dict[str, Any]:
    """What ``configs/cuda/ALGORITHM.yaml`` sets for ``vec="cuda"``; nothing where there is no such file."""
    path = CONFIGS / "cuda" / f"{algorithm}.yaml"
    return dict(yaml.safe_load(path.read_text("utf-8"))) if path.is_file() else {}


def nest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested dictionaries: ``{"calibration.steps": 512}`` is ``{"calibration": {"steps": 512}}``.

    :raises ConfigError: no mapping from names to values
    """
    if not isinstance(settings, Mapping) or not all(isinstance(key, str) and key for key in settings):
        raise ConfigError(f"settings: expected names with values, such as {{'num_envs': 4}}, got {settings!r}.")
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        _refuse_replaced(nested, value, key)
        nested = merge(nested, value)
    return nested


def _refuse_replaced(before: Any, after: Any, key: str) -> None:
    """
    :raises ConfigError: one setting gives a value, and another one parts of it
    """
    for name in after if isinstance(after, Mapping) and isinstance(before, Mapping) else ():
        if name in before and isinstance(before[name], Mapping) != isinstance(after[name], Mapping):
            raise ConfigError(f"settings: {key} is given as a whole and by its parts. Give it once.")
        _refuse_replaced(before.get(name), after[name], key)


def merge(base: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, dictionary by dictionary. Neither is modified."""
    merged = dict(base) if isinstance(base, Mapping) else {}
    for key, value in changes.items():
        merged[key] = merge(merged.get(key), value) if isinstance(value, Mapping) else value
    return merged
