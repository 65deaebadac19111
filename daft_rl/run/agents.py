"""The agent of a run: a source, loaded with the settings for fine-tuning, or a fresh agent of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import nn
from torch.optim import Optimizer

from daft_rl.agents import BatchNormExtractor, fuse_batch_renorm
from daft_rl.agents.algorithms import ALGORITHMS, Algorithm, find_algorithm
from daft_rl.archives import (
    ChosenStatistics,
    apply_vecnormalize,
    check_hyperparameters,
    check_space,
    find_agent,
    load_agent,
    read_archive,
    read_vecnormalize,
    save_agent,
)
from daft_rl.correspondence import Correspondence
from daft_rl.errors import AgentError, ConfigError
from daft_rl.hyperparameters import check_learning_starts
from daft_rl.imports import load_object
from daft_rl.outputs import say
from daft_rl.policy.exploration import bound_exploration
from daft_rl.rollout.device.off_policy import learn_off_policy
from daft_rl.rollout.device.on_policy import collect_on_policy
from daft_rl.run.rhythm import first_update, own_rate, own_rhythm
from daft_rl.run.source_statistics import (
    SourceStatistics,
    find_statistics,
    settle_norm_reward,
    tell_file,
    treat_normalization,
    warn_of_missing,
)
from daft_rl.run.vec_wrappers import wrap_outside
from daft_rl.settings import AgentSettings, PretrainSettings, TransferSettings, algorithm_names
from daft_rl.validation import unknown_name

__all__ = [
    *("algorithm_entry", "algorithm_of_agent", "algorithm_of_archive", "build_agent", "check_classes"),
    *("check_learning_steps", "load_saved", "load_source"),
]

FOR_ARCHIVES = (
    "path",
    "policy",
    "policy_kwargs",
    "activation",
    "trust",
    "correspondence",
    "adapt_spaces",
    "vecnormalize",
)
"""Settings of the agent that say how to read a file."""


def algorithm_entry(name: str) -> Algorithm:
    """The entry of an algorithm in the table of algorithms.

    :param name: a name in ``configs/algo``, such as ``"ppo"``
    :raises ConfigError: no such algorithm
    """
    entries = {entry.config: entry for entry in ALGORITHMS.values()}
    if name not in entries:
        raise ConfigError(unknown_name("algorithm", name, sorted(entries)))
    return entries[name]


def algorithm_of_agent(agent: BaseAlgorithm) -> str:
    """The name in ``configs/algo`` of an agent's algorithm, also for a class derived from SB3's.

    :raises AgentError: it is no agent, or its algorithm cannot be transferred
    """
    entry = find_algorithm(agent)
    if not entry.adapts:
        raise AgentError(f"Agents of {entry.name} cannot be transferred. Supported: {', '.join(algorithm_names())}.")
    return entry.config


def algorithm_of_archive(source: str) -> str:
    """The name in ``configs/algo`` of an archive's algorithm.

    :param source: an archive, the name of a shipped source, or an address of the hub
    :raises AgentError: there is no such archive, or its algorithm cannot be transferred
    """
    name = read_archive(find_agent("", "", source)).algorithm
    config = ALGORITHMS[name].config if name in ALGORITHMS else None
    if config not in algorithm_names():
        raise AgentError(
            f"{source} is an agent of {name or 'an unknown algorithm'}. Supported: {', '.join(algorithm_names())}."
        )
    return config


def build_agent(settings: PretrainSettings, venv: VecEnv) -> BaseAlgorithm:
    """A fresh agent with BatchNorm in actor and critic, as the recipe says.

    :param venv: what it learns from
    """
    recipe = settings.recipe
    if recipe.normalize_reward:
        gamma = recipe.settings.get("gamma", 0.99)
        venv = VecNormalize(venv, norm_obs=False, norm_reward=True, gamma=gamma)
    policy_kwargs = dict(recipe.policy)
    if recipe.extractor is not None:
        policy_kwargs |= {
            "features_extractor_class": BatchNormExtractor,
            "features_extractor_kwargs": recipe.extractor,
            "share_features_extractor": False,
        }
    model = algorithm_entry(settings.algo.name).cls(
        "MlpPolicy", venv, policy_kwargs=policy_kwargs, seed=settings.seed, device=settings.device, **recipe.settings
    )
    fuse_batch_renorm(model.policy)
    _collect_on_device(model)
    return model


def load_source(
    settings: TransferSettings,
    agent: Path | BaseAlgorithm,
    venv: VecEnv,
    folder: Path,
    open_target: Callable[[BaseAlgorithm], AbstractContextManager[VecEnv]],
    correspondence: Correspondence | None = None,
) -> tuple[BaseAlgorithm, SourceStatistics | None]:
    """Load a source with the settings for fine-tuning.

    :param agent: an archive; or an agent, which is copied and stays as it is
    :param venv: what it learns from
    :param folder: the run folder
    :param open_target: opens a few environments of the target for the agent to play in
    :param correspondence: of the entries of the archive and of the target, if some move
    :return: the agent, and what ``results.json`` tells of its ``VecNormalize``
    """
    kind = algorithm_entry(settings.algo.name).cls
    hyperparameters = settings.algo.hyperparameters
    hyperparameters |= own_rhythm(agent, kind, hyperparameters, settings.num_envs)
    hyperparameters |= own_rate(agent, kind, hyperparameters, settings.algo.most_learning_rate)
    hyperparameters |= first_update(kind, hyperparameters, settings.total_timesteps, settings.algo.most_learning_starts)
    file: str | None = None
    if isinstance(agent, BaseAlgorithm):
        model = _copy_agent(settings, agent, kind, hyperparameters, venv, folder)
    else:
        chosen = find_statistics(
            settings.agent, agent, venv, None if correspondence is None else correspondence.observation
        )
        file = None if chosen is None else tell_file(chosen, agent)
        model = _load_archive(settings, agent, kind, hyperparameters, venv, chosen, correspondence)
    settle_norm_reward(model, settings.agent.norm_reward, open_target, settings.seed)
    normalizer = model.get_vec_normalize_env()
    statistics = None if normalizer is None else SourceStatistics(file, normalizer.norm_reward)
    treat_normalization(model, settings.agent)
    noise = getattr(model, "action_noise", None)
    if noise is not None:  # SB3 would keep it for as many environments as it was made for
        model.action_noise = getattr(noise, "base_noise", noise)  # type: ignore[attr-defined]
    bound_exploration(model, settings.exploration_std, settings.algo.most_exploration_std)
    fuse_batch_renorm(model.policy)
    model.set_random_seed(settings.seed)
    _collect_on_device(model)
    return model, statistics


def load_saved(settings: TransferSettings, archive: Path, venv: VecEnv) -> BaseAlgorithm:
    """Load an archive of a run.

    :param settings: of the run
    :param archive: that the run has saved
    :param venv: the target, or another task with the same spaces
    """
    given = replace(settings.agent, activation=None, adapt_spaces=False, correspondence="auto", vecnormalize="auto")
    kind = algorithm_entry(settings.algo.name).cls
    chosen = find_statistics(given, archive, venv)
    model = _load_archive(replace(settings, agent=given), archive, kind, {}, venv, chosen)
    fuse_batch_renorm(model.policy)  # the run's policy computes so, to the last bit
    return model


def _collect_on_device(model: BaseAlgorithm) -> None:
    """Collect experience as tensors, if the model learns in worlds on its device."""
    if isinstance(model, OnPolicyAlgorithm):
        collect_on_policy(model)
    elif isinstance(model, OffPolicyAlgorithm):
        learn_off_policy(model)


def _load_archive(
    settings: TransferSettings,
    archive: Path,
    kind: type[BaseAlgorithm],
    hyperparameters: dict[str, Any],
    venv: VecEnv,
    statistics: ChosenStatistics | None,
    correspondence: Correspondence | None = None,
) -> BaseAlgorithm:
    given = settings.agent
    if statistics is not None:
        venv = apply_vecnormalize(venv, statistics.content)
    venv = wrap_outside(settings.env.vec_wrappers, kind, venv)
    if given.policy is not None:
        hyperparameters = hyperparameters | {"policy": _load_class(given.policy, "policy", BasePolicy)}
    return load_agent(
        archive,
        env=venv,
        algo=kind,
        trust=given.trust,
        device=settings.device,
        policy_kwargs=_import_classes(given.policy_kwargs),
        activation=given.activation,
        correspondence=correspondence,
        vecnormalize="none",
        norm_reward=False,
        **hyperparameters,
    )


def _copy_agent(
    settings: TransferSettings,
    agent: BaseAlgorithm,
    kind: type[BaseAlgorithm],
    hyperparameters: dict[str, Any],
    venv: VecEnv,
    folder: Path,
) -> BaseAlgorithm:
    """A copy of an agent with another environment, by way of an archive in the run folder."""
    if not isinstance(agent, kind):
        raise AgentError(
            f"algo={settings.algo.name!r} is for agents of {kind.__name__}, got one of {type(agent).__name__}."
        )
    check_hyperparameters(kind, hyperparameters)
    ignored = [name for name in FOR_ARCHIVES if getattr(settings.agent, name) not in (None, False, "auto")]
    if ignored:
        raise AgentError(f"agent.{ignored[0]} is for archives; an agent that is passed is taken as it is.")
    warn_of_missing(agent)
    archive = folder / "source.zip"
    save_agent(agent, archive, prefix="source_")
    if agent.get_vec_normalize_env() is not None:
        venv = apply_vecnormalize(venv, read_vecnormalize(archive.with_name("source_vecnormalize.pkl")))
    venv = kind._wrap_env(wrap_outside(settings.env.vec_wrappers, kind, venv))
    fitting: dict[str, Any] = {}
    for name in ("observation_space", "action_space"):
        stored, actual = getattr(agent, name), getattr(venv, name)
        check_space("The agent", name.removesuffix("_space"), stored, actual, adapts=False)
        fitting |= {} if stored == actual else {name: actual}  # SB3 would refuse another bound
    try:
        return type(agent).load(
            archive, env=venv, device=settings.device, custom_objects=fitting or None, **hyperparameters
        )
    except ValueError as error:
        raise AgentError(f"The settings {hyperparameters} are refused by {kind.__name__}: {error}") from error
    except AttributeError as error:  # an optimizer that these settings do without
        raise AgentError(
            f"The settings {hyperparameters} do not go with what the agent holds: {error}. Save it, pass the archive."
        ) from error


def _import_classes(kwargs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Replace texts like ``my_package:MyExtractor`` by the classes they name."""
    if kwargs is None:
        return None
    return {
        key: _load_class(item, "policy_kwargs", nn.Module, Optimizer) if isinstance(item, str) and ":" in item else item
        for key, item in kwargs.items()
    }


def _load_class(path: str, argument: str, *bases: type) -> Any:
    """A settings file may come from a stranger, so nothing but a class of the right kind is called.

    :raises AgentError: there is no such class, or it derives from none of ``bases``
    """
    found = load_object(path, AgentError)
    if not (isinstance(found, type) and issubclass(found, bases)):
        kinds = " or ".join(f"{base.__module__}.{base.__qualname__}" for base in bases)
        raise AgentError(
            f"{argument}: '{path}' is no class derived from {kinds}, got {found!r}.", arguments=(argument,)
        )
    return found


def check_classes(given: AgentSettings) -> None:
    """Whether the classes exist that settings name.

    :raises AgentError: one does not, or is of another kind
    """
    if given.policy is not None:
        _load_class(given.policy, "policy", BasePolicy)
    _import_classes(given.policy_kwargs)


def check_learning_steps(model: BaseAlgorithm, total_timesteps: int) -> None:
    """Whether there are enough steps to learn from. A single rollout gets a warning, since rates have decayed by then.

    :raises ConfigError: an off-policy algorithm would only fill its replay buffer
    """
    idle = getattr(model, "learning_starts", 0)
    rollout = model.n_steps * model.n_envs if isinstance(model, OnPolicyAlgorithm) else 0
    if total_timesteps <= rollout:
        say(
            f"total_timesteps={total_timesteps} is one rollout of {rollout} steps, and learning rates that decay are 0 "
            "after it. Take more steps, fewer num_envs, or a smaller n_steps."
        )
    check_learning_starts(idle, total_timesteps)
