"""Agents from Stable-Baselines3 archives of any age, without running what is pickled in them.

:func:`load_agent` gives the ordinary SB3 algorithm; :func:`read_archive` only says what an archive holds.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize
from torch import Tensor, nn

from daft_rl.archives.architecture import infer_policy_kwargs, modernize, own_policy_kwargs, uses_sde
from daft_rl.archives.container import SUPPORTED, ArchiveContents, check_tensor, find_archive, read_archive, refusing
from daft_rl.archives.hyperparameters import constructor_arguments, find_activation, find_policy
from daft_rl.archives.resize import adapt_state, check_adaptable, resize_statistics
from daft_rl.archives.text import differs
from daft_rl.archives.vecnormalize import apply_vecnormalize, find_vecnormalize, read_vecnormalize
from daft_rl.errors import AgentError

__all__ = [
    *("SUPPORTED", "ArchiveContents", "apply_vecnormalize", "check_hyperparameters", "load_agent", "read_archive"),
    "read_vecnormalize",
]

_COUNTERS = ("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_episode_num", "_n_updates", "_n_calls")
_OPTIMIZER_STATE: dict[str, set[str]] = {"RMSprop": {"square_avg"}, "RMSpropTFLike": {"square_avg"}, "SGD": set()}
_ADAM_STATE = {"exp_avg", "exp_avg_sq"}


def load_agent(
    path: str | os.PathLike[str],
    env: gym.Env | VecEnv | None = None,
    algo: str | type[BaseAlgorithm] | None = None,
    trust: bool = False,
    device: torch.device | str = "auto",
    policy_kwargs: Mapping[str, Any] | None = None,
    activation: str | type[nn.Module] | None = None,
    adapt_spaces: bool = False,
    **overrides: Any,
) -> BaseAlgorithm:
    """Load an agent that Stable-Baselines3 or sb3-contrib saved, of any version, without unpickling anything.

    Weights and optimizer states come through ``torch.load(weights_only=True)``. Spaces, hyperparameters and the
    kinds of layers come from the readable text beside each pickle, the sizes from the tensors. Schedules that
    are functions cannot be read: SB3's defaults take their place, with a warning that names them. The seed,
    the log folder and the verbosity of the file are not taken over.

    A ``VecNormalize`` file beside the archive (see :func:`~daft_rl.archives.vecnormalize.find_vecnormalize`) is part of
    the agent's function: ``env`` is wrapped in it, frozen. An ``env`` that has a ``VecNormalize`` keeps its own.

    Off-policy agents get an empty replay buffer of the size in the file when there is an ``env`` to learn in
    (``buffer_size=...`` to change it; the operating system hands its memory out as it fills), and none
    without: ``predict`` needs none. To learn, pass ``env`` here; ``set_env`` afterwards does not make a buffer.

    :param path: the archive; ``.zip`` may be left out
    :param env: where the agent is to act: a Gymnasium environment, or a ``VecEnv``; ``None`` for prediction only
    :param algo: name of the algorithm, or its class or a subclass; by default what the archive tells
    :param trust: read with SB3's own ``load``, which executes code from the file
    :param device: ``"cpu"``, ``"cuda"``, or ``"auto"``
    :param policy_kwargs: entries that win over what the archive says, and fill in what it does not: classes of
        other packages, for instance
    :param activation: activation between hidden layers, like ``"ReLU"``, in place of the archive's
    :param adapt_spaces: admit an ``env`` with longer or shorter observation or action vectors: what there is of both is
        kept, weights of entries at the end that are new start at random, and a warning names the tensors
    :param overrides: arguments of the algorithm's constructor that win over the stored ones, ``policy`` included
    :return: SB3's ordinary algorithm, for instance a ``PPO``
    :raises AgentError: no such file; damaged or hostile; an algorithm that is not supported, or not ``algo``;
        an ``env`` with other spaces; or something that must be passed by name because it cannot be read
    """
    if not isinstance(trust, bool):
        raise AgentError(f"trust={trust!r}: expected True or False.")
    file = find_archive(path)
    asked = None if algo is None else _find_algorithm(algo)
    if trust:
        if activation is not None or adapt_spaces:
            raise AgentError("activation=... and adapt_spaces=True go with trust=False: SB3's own loader has neither.")
        try:
            kind = asked or _choose_algorithm(read_archive(file).algorithm, None, file)
        except AgentError as error:
            raise AgentError(f"{error} With algo=..., trust=True does not have to read the file beforehand.") from error
        check_hyperparameters(kind, overrides)
        return _load_trusted(file, kind, _prepare_env(env, file, False), device, policy_kwargs, overrides)

    contents = read_archive(file)
    kind = _choose_algorithm(contents.algorithm, asked, file)
    check_hyperparameters(kind, overrides)
    if contents.policy_kwargs is None and policy_kwargs is None:
        raise AgentError(
            f"{file} does not describe its policy_kwargs. Pass policy_kwargs=... ({{}} for SB3's defaults; "
            "agent.policy_kwargs=... on the command line)."
        )
    given = dict(policy_kwargs or {})
    if activation is not None or "activation_fn" in given:
        given["activation_fn"] = find_activation(given["activation_fn"] if activation is None else activation)
    venv = _prepare_env(env, file, adapt_spaces)
    with refusing(f"{file}: the agent cannot be rebuilt from what the archive says"):
        state = modernize(contents.state_dicts["policy"])
        model = _build(contents, state, kind, venv, device, given, overrides, adapt_spaces)
        if adapt_spaces:
            state = _adapt(model, state, contents)
        _load_policy(model, state, file)
        _load_optimizers(model, contents, overrides)
        _load_entropy_coefficient(model, contents, overrides)
        _load_counters(model, contents.description)
        if model.use_sde:
            model.policy.reset_noise()  # type: ignore[operator]
    _warn_defaults(contents, kind, overrides)
    return model


def _find_algorithm(algo: str | type[BaseAlgorithm]) -> type[BaseAlgorithm]:
    kind = SUPPORTED.get(algo) if isinstance(algo, str) else algo
    if kind is None or not issubclass(kind, tuple(SUPPORTED.values())):
        raise AgentError(f"Algorithm {algo!r} is not supported. What is: {', '.join(SUPPORTED)}.")
    return kind


def _base_name(kind: type[BaseAlgorithm]) -> str:
    return next(name for name, known in SUPPORTED.items() if issubclass(kind, known))


def _choose_algorithm(guess: str | None, asked: type[BaseAlgorithm] | None, path: Path) -> type[BaseAlgorithm]:
    """The class to build: SB3's, or the user's if it is that class or a subclass of it."""
    if guess not in SUPPORTED:
        what = f"an agent of {guess}" if guess else "not recognizable as an agent of any algorithm"
        raise AgentError(f"{path} is {what}. Supported: {', '.join(SUPPORTED)}.")
    if asked is not None and _base_name(asked) != guess:
        raise AgentError(f"{path} is an agent of {guess}, not of {_base_name(asked)}.")
    return asked or SUPPORTED[guess]


def check_hyperparameters(kind: type[BaseAlgorithm], overrides: Mapping[str, Any]) -> None:
    """
    :raises AgentError: the constructor has no such argument
    """
    known = constructor_arguments(SUPPORTED[_base_name(kind)])
    for name in overrides:
        if name not in known:
            guess = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean '{guess[0]}'?" if guess else ""
            raise AgentError(f"{kind.__name__} has no hyperparameter '{name}'.{hint}")


def _prepare_env(env: gym.Env | VecEnv | None, path: Path, adapt: bool) -> VecEnv | None:
    """The environment as a batch, in the frozen ``VecNormalize`` that lies beside the archive if there is one.

    :param adapt: whether observations may have more or fewer entries than the statistics
    """
    statistics = find_vecnormalize(path)
    if env is None:
        if statistics is not None and read_vecnormalize(statistics).norm_obs:
            warnings.warn(
                f"{path} expects observations normalized with {statistics}, and no env was given: pass env, or "
                "normalize what you pass to `predict` (daft_rl.archives.load.apply_vecnormalize).",
                stacklevel=3,
            )
        return None
    if isinstance(env, VecEnv):
        venv = env
    elif isinstance(env, gym.Env):
        monitored = env if is_wrapped(env, Monitor) else Monitor(env)
        venv = DummyVecEnv([lambda: monitored])
    else:
        raise AgentError(f"env should be a gymnasium environment or a VecEnv of SB3, got {type(env).__name__}.")
    if statistics is None or unwrap_vec_normalize(venv) is not None:
        return venv
    found = read_vecnormalize(statistics)
    return apply_vecnormalize(venv, resize_statistics(found, venv.observation_space) if adapt else found)


def _brief(space: spaces.Space) -> str:
    """A space in one line: of an array of bounds, the range."""
    if not isinstance(space, spaces.Box):
        return str(space)
    bounds = [np.unique(bound) for bound in (space.low, space.high)]
    told = [str(bound[0]) if len(bound) == 1 else f"from {bound[0]} to {bound[-1]}" for bound in bounds]
    return f"Box({', '.join(told)}, shape {space.shape}, {space.dtype})"


def _find_spaces(contents: ArchiveContents, venv: VecEnv | None, adapt: bool) -> tuple[spaces.Space, spaces.Space]:
    """Observation and action space: the environment's, which must fit the archive's, or else the archive's."""
    found = []
    for what, stored in (("observation", contents.observation_space), ("action", contents.action_space)):
        actual = stored if venv is None else getattr(venv, f"{what}_space")
        if actual is None:
            reason = contents.unreadable[f"{what}_space"]
            raise AgentError(f"{contents.path} does not tell its {what} space: {reason}. Pass env=... that has it.")
        if adapt:
            check_adaptable(what, stored, actual)
        fits = venv is None or stored is None or not differs(stored, actual, bounds_matter=what == "action")
        if stored is not None and not fits and not adapt:
            raise AgentError(
                f"{contents.path} was trained on the {what} space {_brief(stored)}, the environment "
                f"has {_brief(actual)}. Wrap the environment so that they agree "
                "(gymnasium.wrappers.RescaleAction, FlattenObservation, ...); or, for vectors of another length, pass "
                "adapt_spaces=True (agent.adapt_spaces=true on the command line)."
            )
        found.append(actual)
    return found[0], found[1]


def _build(
    contents: ArchiveContents,
    state: Mapping[str, Tensor],
    kind: type[BaseAlgorithm],
    venv: VecEnv | None,
    device: torch.device | str,
    given: Mapping[str, Any],
    overrides: Mapping[str, Any],
    adapt: bool,
) -> BaseAlgorithm:
    """The algorithm with networks of the right sizes and fresh weights."""
    name = _base_name(kind)
    # images channels first, as the constructor would do it; it leaves alone what is wrapped already
    venv = None if venv is None else kind._wrap_env(venv)
    observation_space, action_space = _find_spaces(contents, venv, adapt)
    arguments = {**contents.hyperparameters, **overrides}
    policy = find_policy(contents.description, kind, observation_space, arguments.pop("policy", None))
    sizes = _find_spaces(contents, None, False) if adapt else (observation_space, action_space)
    described = contents.policy_kwargs or {}
    try:
        kwargs = infer_policy_kwargs(name, policy, state, described, *sizes, given)
    except AgentError:
        if policy.__module__.startswith(("stable_baselines3.", "sb3_contrib.", "daft_rl.")):
            raise
        kwargs = own_policy_kwargs(described, given)
    known = constructor_arguments(SUPPORTED[name])
    if "use_sde" in known:
        arguments["use_sde"] = overrides.get("use_sde", uses_sde(state))
    if name == "A2C" and "optimizer_class" not in kwargs:
        arguments.setdefault("use_rms_prop", False)  # with it, the description would name RMSprop
    without_buffer = venv is None and issubclass(kind, OffPolicyAlgorithm) and "buffer_size" not in overrides
    if without_buffer:
        arguments["buffer_size"] = 1
    if venv is None and "target_entropy" in known and arguments.get("target_entropy", "auto") == "auto":
        arguments["target_entropy"] = -float(np.prod(action_space.shape or ()))  # SB3 would ask the environment

    model = kind(policy, venv, policy_kwargs=kwargs, device=device, _init_setup_model=False, **arguments)  # type: ignore[call-arg]
    if venv is None:
        model.observation_space, model.action_space, model.n_envs = observation_space, action_space, 1
    model._setup_model()
    if without_buffer and isinstance(model, OffPolicyAlgorithm):
        model.buffer_size = contents.hyperparameters.get("buffer_size", 1)
        model.replay_buffer = None  # learning from a buffer of one transition would go unnoticed
    return model


def _adapt(model: BaseAlgorithm, state: Mapping[str, Tensor], contents: ArchiveContents) -> dict[str, Tensor]:
    """The archive's weights for the environment's sizes, with a warning that names what is new."""
    observation = check_adaptable("observation", contents.observation_space, model.observation_space)
    action = check_adaptable("action", contents.action_space, model.action_space)
    adapted, touched = adapt_state(model.policy, state, observation, action)
    if touched:
        warnings.warn(
            f"{contents.path}: rows and columns of new entries start at random, those of missing ones are dropped, in "
            f"{'; '.join(touched)}.",
            stacklevel=3,
        )
    return adapted


def _load_policy(model: BaseAlgorithm, state: Mapping[str, Tensor], path: Path) -> None:
    expected = model.policy.state_dict()
    wrong = [f"'{name}' is missing" for name in expected if name not in state]
    wrong += [f"'{name}' is not expected" for name in state if name not in expected]
    for name in (name for name in expected if name in state):
        got, want = state[name], expected[name]
        if got.shape != want.shape or got.is_floating_point() != want.is_floating_point():
            wrong.append(f"'{name}' is {tuple(got.shape)} {got.dtype}, not {tuple(want.shape)} {want.dtype}")
    if wrong:
        raise AgentError(
            f"{path}: {len(wrong)} tensors do not fit the networks that the archive describes: "
            f"{'; '.join(wrong[:4])}. Pass policy_kwargs=... (agent.policy_kwargs=... on the command line) as the "
            "agent was made with, or, if you trust whoever made the file, trust=True (agent.trust=true)."
        )
    model.policy.load_state_dict(state, strict=True)


def _unfit(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> str | None:
    """Why a saved state is of no use for this optimizer, or ``None``."""
    groups, state = saved.get("param_groups"), saved.get("state")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(groups, list) or not isinstance(state, dict):
        return "it is damaged"
    if [isinstance(group, dict) and group.get("params") for group in groups] != [list(range(len(parameters)))]:
        return "it is for other parameters"
    needed = _OPTIMIZER_STATE.get(type(optimizer).__name__, _ADAM_STATE)
    if any(optimizer.param_groups[0].get(option) for option in ("amsgrad", "momentum", "centered")):
        return "amsgrad, momentum and centered keep more than is read"
    for index, entries in state.items():
        if index not in range(len(parameters)) or not isinstance(entries, dict) or not needed <= set(entries):
            return f"it is not one of {type(optimizer).__name__}"
        for name, value in entries.items():
            if name == "step" and isinstance(value, int):
                continue  # before PyTorch 1.12
            try:
                shape = check_tensor(name, value).shape
            except AgentError as error:
                return str(error)
            if shape != (() if name == "step" else parameters[index].shape):
                return f"'{name}' of parameter {index} has shape {tuple(shape)}"
    return None


def _load_optimizers(model: BaseAlgorithm, contents: ArchiveContents, overrides: Mapping[str, Any]) -> None:
    for name in model._get_torch_save_params()[0]:
        if name == "policy" or (name == "ent_coef_optimizer" and "ent_coef" in overrides):
            continue
        optimizer, saved = recursive_getattr(model, name), contents.state_dicts.get(name)
        reason = "the archive has none" if saved is None else _unfit(optimizer, saved)
        if saved is None or reason is not None:
            warnings.warn(f"{contents.path}: the state of {name} is not loaded, {reason}.", stacklevel=3)
            continue
        # learning rate and options are the constructor's, which had them from the hyperparameters
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def _load_entropy_coefficient(model: BaseAlgorithm, contents: ArchiveContents, overrides: Mapping[str, Any]) -> None:
    """SAC and its kin keep it beside the networks; the user may have set another."""
    for name in [] if "ent_coef" in overrides else model._get_torch_save_params()[1]:
        own, saved = recursive_getattr(model, name), contents.variables.get(name)
        if saved is None or saved.numel() != own.numel() or not saved.is_floating_point():
            raise AgentError(f"{contents.path} has no usable '{name}', the entropy coefficient. Pass ent_coef=...")
        own.data.copy_(saved.reshape(own.shape))


def _load_counters(model: BaseAlgorithm, description: Mapping[str, Any]) -> None:
    for name in _COUNTERS:
        if type(description.get(name)) is int and hasattr(model, name):
            setattr(model, name, description[name])
    rate = description.get("exploration_rate")
    if isinstance(rate, (int, float)) and 0 <= rate <= 1 and hasattr(model, "exploration_rate"):
        model.exploration_rate = float(rate)


def _warn_defaults(contents: ArchiveContents, kind: type[BaseAlgorithm], overrides: Mapping[str, Any]) -> None:
    """Say which hyperparameters are SB3's defaults because the archive's could not be read."""
    known = constructor_arguments(SUPPORTED[_base_name(kind)])
    names = [name for name in contents.unreadable if name in known and name not in overrides]
    if names:
        used = ", ".join(f"{name}={known[name].default} for {contents.unreadable[name]}" for name in names)
        warnings.warn(
            f"{contents.path}: some hyperparameters cannot be read without running code from the file; SB3's "
            f"defaults are used: {used}. To set them: load_agent(..., {'=..., '.join(names)}=...), or "
            f"algo.settings.{names[0]}=... on the command line.",
            stacklevel=3,
        )


def _load_trusted(
    path: Path,
    kind: type[BaseAlgorithm],
    venv: VecEnv | None,
    device: torch.device | str,
    policy_kwargs: Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
) -> BaseAlgorithm:
    warnings.warn(f"trust=True: {path} is unpickled, which executes whatever code it contains.", stacklevel=3)
    replaced = {} if policy_kwargs is None else {"policy_kwargs": dict(policy_kwargs)}
    with refusing(f"{path} cannot be loaded by SB3"):
        model = kind.load(path, env=venv, device=device, custom_objects=replaced, **overrides)
        for name, tensor in model.policy.state_dict().items():
            check_tensor(f"{path}: {name}", tensor.cpu())
    return model
