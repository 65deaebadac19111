"""An agent with the networks of an archive, and fresh weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize
from torch import Tensor, nn

from daft_rl.agents.algorithms import ALGORITHMS, Algorithm, find_algorithm
from daft_rl.agents.policies import HAS_BATCHNORM, with_batchnorm
from daft_rl.archives.architecture import infer_policy_kwargs, own_policy_kwargs, uses_sde
from daft_rl.archives.buffers import choose_buffer
from daft_rl.archives.carried import carry_noise
from daft_rl.archives.checks import TRUST
from daft_rl.archives.container import ArchiveContents
from daft_rl.archives.hyperparameters import constructor_arguments
from daft_rl.archives.space_checks import find_spaces
from daft_rl.archives.statistics_wrapper import apply_vecnormalize, choose_statistics
from daft_rl.correspondence import Correspondence, Matching
from daft_rl.errors import AgentError, DaftWarning

__all__ = ["Request", "as_batch", "build_agent", "choose_class", "prepare_env"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of :func:`~daft_rl.archives.load.load_agent`, which explains them."""

    cls: type[BaseAlgorithm] | None
    env: gym.Env[Any, Any] | VecEnv | None
    device: torch.device | str
    policy_kwargs: Mapping[str, Any] | None
    activation: str | type[nn.Module] | None
    correspondence: Correspondence | Literal["positions"] | None
    vecnormalize: str
    norm_reward: bool | None
    overrides: Mapping[str, Any]

    @property
    def matching(self) -> Matching | None:
        """Of the entries of observations, if some of them move."""
        return None if self.settled is None else self.settled.observation

    @property
    def settled(self) -> Correspondence | None:
        """The correspondence, after it is known for certain; see :mod:`daft_rl.archives.settle`."""
        return self.correspondence if isinstance(self.correspondence, Correspondence) else None

    def __post_init__(self) -> None:
        if not (self.correspondence in (None, "positions") or isinstance(self.correspondence, Correspondence)):
            raise AgentError(
                f"correspondence={self.correspondence!r}: expected a Correspondence, 'positions' or None. "
                "daft_rl.correspond.correspond(SOURCE, TARGET, FILE) makes one of names.",
                arguments=("correspondence",),
            )
        if self.norm_reward not in (None, True, False):
            raise AgentError(
                f"norm_reward={self.norm_reward!r}: expected True, False or None.", arguments=("norm_reward",)
            )


def choose_class(recognized: str | None, wanted: type[BaseAlgorithm] | None, path: Path) -> type[BaseAlgorithm]:
    """The class to build: SB3's, or the user's if it is that class or a subclass of it.

    :param recognized: name of the algorithm that the archive is of
    :param wanted: the user's class
    :param path: of the archive, for messages
    """
    found = ALGORITHMS.get(recognized or "")
    if wanted is None and found is not None:
        return found.cls
    if wanted is not None:
        entry = find_algorithm(wanted)
        fits = issubclass(entry.cls, found.cls) if found else recognized is None
        if entry is found or (entry.recognize is None and fits):
            return wanted
        if found is not None:
            raise AgentError(f"{path} is an agent of {recognized}, not of {entry.name}.", arguments=("algo",))
    what = f"an agent of {recognized}" if recognized else "not recognizable as an agent of any algorithm"
    supported = ", ".join(entry.name for entry in ALGORITHMS.values() if entry.adapts)
    raise AgentError(f"{path} is {what}. Supported: {supported}.", arguments=("algo",))


def prepare_env(request: Request, path: Path, normalized: bool | None) -> VecEnv | None:
    """The environment as a batch, in the frozen ``VecNormalize`` that belongs to the archive if there is one.

    :param request: what the user asks for
    :param path: the archive
    :param normalized: whether the agent learnt inside of a ``VecNormalize``, if that is known
    """
    env, choice = request.env, request.vecnormalize
    if env is None:
        found = choose_statistics(path, choice, None, None, normalized)
        if found is not None and found.content.norm_obs:
            warnings.warn(
                DaftWarning(
                    f"{path} expects observations normalized with {found.path}, and no env was given. Pass env, or "
                    "normalize what you pass to `predict` (daft_rl.archives.apply_vecnormalize).",
                    arguments=("env",),
                ),
                stacklevel=4,
            )
        return None
    venv = as_batch(env)
    if unwrap_vec_normalize(venv) is not None:
        return venv
    found = choose_statistics(path, choice, venv.observation_space, request.matching, normalized)
    if found is None:
        return venv
    said = found.content.norm_reward if request.norm_reward is None else request.norm_reward
    return apply_vecnormalize(venv, replace(found.content, norm_reward=said))


def as_batch(env: gym.Env[Any, Any] | VecEnv) -> VecEnv:
    """An environment as a batch of one; a batch as it is."""
    if isinstance(env, VecEnv):
        return env
    if not isinstance(env, gym.Env):
        raise AgentError(
            f"env should be a gymnasium environment or a VecEnv of SB3, got {type(env).__name__}.", arguments=("env",)
        )
    monitored = env if is_wrapped(env, Monitor) else Monitor(env)
    return DummyVecEnv([lambda: monitored])


def _policy_kwargs(
    contents: ArchiveContents,
    state: Mapping[str, Tensor],
    algorithm: Algorithm,
    request: Request,
    policy: type[BasePolicy],
    found: tuple[spaces.Space[Any], spaces.Space[Any]],
) -> dict[str, Any]:
    stored, given = contents.policy_kwargs or {}, request.policy_kwargs or {}
    sizes = find_spaces(contents, None, False) if request.correspondence else found
    try:
        return infer_policy_kwargs(algorithm, policy, state, stored, *sizes, given)
    except AgentError:
        if policy.__module__.startswith(("stable_baselines3.", "sb3_contrib.", "daft_rl.")):
            raise
        return own_policy_kwargs(stored, given)


def _is_foreign(module: Any) -> bool:
    """Whether the archive names a module for its policy, and that module is not SB3's."""
    return isinstance(module, str) and not module.startswith(("stable_baselines3.", "sb3_contrib."))


def _find_policy(
    attributes: Mapping[str, Any], cls: type[BaseAlgorithm], space: spaces.Space[Any], given: Any
) -> type[BasePolicy]:
    """SB3's policy class for such observations, or the user's.

    :param attributes: the JSON of ``data``
    :param cls: the algorithm
    :param space: of observations
    :param given: a class, a name like ``"MlpPolicy"``, or ``None``
    :raises AgentError: the archive's policy is of a class that is not SB3's, and none is given
    """
    stored = attributes.get("policy_class")
    if given is not None and not isinstance(given, str):
        return with_batchnorm(given) if isinstance(stored, dict) and HAS_BATCHNORM in stored else given
    module = stored.get("__module__") if isinstance(stored, dict) else None
    inserted = module == with_batchnorm.__module__
    aliases = cls.policy_aliases
    if given is None and not inserted and _is_foreign(module):
        raise AgentError(
            f"The agent's policy is a class of '{str(module)[:100]}', which is not SB3's. Pass it as policy=..., or, "
            f"{TRUST}.",
            arguments=("policy", "trust"),
        )
    name = given or ("MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy")
    if name not in aliases:
        raise AgentError(
            f"{cls.__name__} has no policy '{name}' for {space}. It has: {', '.join(aliases)}.", arguments=("policy",)
        )
    return with_batchnorm(aliases[name]) if inserted and given is None else aliases[name]


def _omits_buffer(cls: type[BaseAlgorithm], venv: VecEnv | None, overrides: Mapping[str, Any]) -> bool:
    """Whether the agent gets no replay buffer: it has nowhere to act, and the user asks for no size of it."""
    return venv is None and issubclass(cls, OffPolicyAlgorithm) and "buffer_size" not in overrides


def _asks_env_for_entropy(accepted: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
    """Whether SB3 would take the target of the entropy from the environment."""
    return "target_entropy" in accepted and arguments.get("target_entropy", "auto") == "auto"


def _was_automatic(arguments: Mapping[str, Any], actions: spaces.Space[Any] | None) -> bool:
    """Whether the target of the entropy is SB3's "auto" for these actions: archives hold the number it stood for."""
    return actions is not None and arguments.get("target_entropy") == -float(np.prod(actions.shape or ()))


def _fitting(stored: Mapping[str, Any], correspondence: Correspondence | None) -> Mapping[str, Any]:
    """The archive's hyperparameters, for the actions of the environment."""
    noise = stored.get("action_noise")
    if noise is None or correspondence is None:
        return stored
    return {**stored, "action_noise": carry_noise(noise, correspondence.action)}


def build_agent(
    contents: ArchiveContents,
    state: Mapping[str, Tensor],
    cls: type[BaseAlgorithm],
    venv: VecEnv | None,
    request: Request,
) -> BaseAlgorithm:
    """The algorithm with networks of the right sizes and fresh weights.

    :param contents: of the archive
    :param state: the policy's state dictionary
    :param cls: the algorithm, or the user's subclass of it
    :param venv: where the agent will act, if anywhere
    :param request: what the user asks for
    :raises AgentError: the archive, the environment and the request do not fit together
    """
    algorithm, overrides = find_algorithm(cls), request.overrides
    # images channels first, as the constructor would wrap them; it leaves wrapped environments as they are
    venv = None if venv is None else cls._wrap_env(venv)
    found = find_spaces(contents, venv, request.correspondence is not None)
    arguments = {**_fitting(contents.hyperparameters, request.settled), **overrides}
    policy = _find_policy(contents.attributes, cls, found[0], arguments.pop("policy", None))
    kwargs = _policy_kwargs(contents, state, algorithm, request, policy, found)
    accepted = constructor_arguments(algorithm.cls)
    if "use_sde" in accepted:
        arguments["use_sde"] = overrides.get("use_sde", uses_sde(state))
    if "optimizer_class" not in kwargs:
        arguments = {**algorithm.default_optimizer, **arguments}
    buffer: dict[str, Any] = {name: arguments[name] for name in arguments if name.startswith("replay_buffer_")}
    arguments = choose_buffer(arguments, overrides, found[0], venv)
    without_buffer = _omits_buffer(cls, venv, overrides)
    if without_buffer:
        arguments["buffer_size"] = 1
    follows = request.correspondence is not None and "target_entropy" not in overrides
    if follows and _was_automatic(arguments, contents.action_space):
        arguments["target_entropy"] = "auto"
    if venv is None and _asks_env_for_entropy(accepted, arguments):
        arguments["target_entropy"] = -float(np.prod(found[1].shape or ()))

    model = cls(policy, venv, policy_kwargs=kwargs, device=request.device, _init_setup_model=False, **arguments)  # type: ignore[call-arg]
    if venv is None:
        model.observation_space, model.action_space, model.n_envs = *found, 1
    model._setup_model()
    if without_buffer and isinstance(model, OffPolicyAlgorithm):
        model.buffer_size = contents.hyperparameters.get("buffer_size", 1)
        model.replay_buffer = None  # learning from a buffer of one transition would go unnoticed
        vars(model).update(buffer)  # whoever saves the agent keeps its kind of buffer
    return model
