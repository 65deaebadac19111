"""Agents from Stable-Baselines3 archives of any age, without running what is pickled in them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import nn

from daft_rl.agents.algorithms import find_algorithm
from daft_rl.archives.architecture import modernize
from daft_rl.archives.bare import wrap_policy
from daft_rl.archives.build import Request, build_agent, choose_class, prepare_env
from daft_rl.archives.checks import wrap_errors
from daft_rl.archives.container import ArchiveContents, find_archive, read_archive
from daft_rl.archives.hyperparameters import check_hyperparameters, constructor_arguments, find_activation
from daft_rl.archives.kept_names import keep_names
from daft_rl.archives.restore import restore_agent
from daft_rl.archives.settle import names_there, settle_correspondence
from daft_rl.archives.statistics_wrapper import warn_of_reward_scale, was_normalized
from daft_rl.archives.trusted import load_trusted
from daft_rl.correspondence import Correspondence
from daft_rl.errors import AgentError, DaftWarning
from daft_rl.hyperparameters import OTHERWISE

__all__ = ["load_agent"]

IN_SETTINGS = {"action_noise": "exploration_std"}
"""Hyperparameter that is a Python object -> the setting that stands for it."""


def load_agent(
    path: str | os.PathLike[str] | BasePolicy,
    env: gym.Env[Any, Any] | VecEnv | None = None,
    algo: str | type[BaseAlgorithm] | None = None,
    trust: bool = False,
    device: torch.device | str = "auto",
    policy_kwargs: Mapping[str, Any] | None = None,
    activation: str | type[nn.Module] | None = None,
    correspondence: Correspondence | Literal["positions"] | None = None,
    vecnormalize: str | os.PathLike[str] = "auto",
    norm_reward: bool | None = None,
    **overrides: Any,
) -> BaseAlgorithm:
    """Load an agent that Stable-Baselines3 or sb3-contrib saved, of any version, without unpickling anything.

    Weights and optimizer states come through ``torch.load(weights_only=True)``. Spaces, hyperparameters and the
    classes of layers come from the readable text beside each pickle, the sizes from the tensors. Schedules that
    are functions cannot be read: SB3's defaults take their place, with a warning that names them. The seed,
    the log folder and the verbosity of the file are ignored.

    A ``VecNormalize`` file that belongs to the archive (see
    :func:`~daft_rl.archives.statistics_files.find_vecnormalize`) is part of the agent's function: ``env`` is wrapped in
    it, frozen. An ``env`` that has a ``VecNormalize`` keeps its own.

    With an ``env``, off-policy agents get an empty replay buffer of the file's size (or ``buffer_size``), whose memory
    is used as it fills. Without one they can only ``predict``: ``set_env`` afterwards makes no buffer.

    A policy alone (from ``imitation``, or ``ActorCriticPolicy.load``) is put into a new agent, if ``algo`` and ``env``
    say into which one.

    :param path: the archive; ``.zip`` may be left out; the name of a shipped source; or a policy object
    :param env: where the agent will act: a Gymnasium environment, or a ``VecEnv``; ``None`` for prediction only
    :param algo: name of the algorithm, or its class or a subclass; ``None`` recognizes it from the archive
    :param trust: read with SB3's own ``load``, which executes code from the file
    :param device: ``"cpu"``, ``"cuda"``, or ``"auto"``
    :param policy_kwargs: entries that win over the archive's, and add what it does not say: classes of other packages,
        for instance
    :param activation: activation between hidden layers, like ``"ReLU"``, in place of the archive's
    :param correspondence: which entries of ``env``'s observations and actions are which of the archive's
        (:func:`daft_rl.correspondence.by_names`); ``"positions"`` keeps what vectors of another length have in common
    :param vecnormalize: path of the statistics of the agent's ``VecNormalize``; ``"auto"`` finds them; ``"none"`` is
        for an agent that needs none
    :param norm_reward: whether the ``VecNormalize`` of the file scales rewards; ``None`` does what the file says, and
        warns if the critic's values are of another size
    :param overrides: arguments of the algorithm's constructor that win over the stored ones, ``policy`` included
    :return: SB3's ordinary algorithm, for instance a ``PPO``
    :raises AgentError: the file is missing, damaged or hostile; the algorithm is not supported, or not ``algo``;
        ``env`` has other spaces; or something cannot be read and must be passed, which the message names
    """
    if not isinstance(trust, bool):
        raise AgentError(f"trust={trust!r}: expected True or False.", arguments=("trust",))
    wanted = None if algo is None else find_algorithm(algo).cls  # refuses what the table does not have
    request = Request(
        cls=algo if isinstance(algo, type) else wanted, env=env, device=device, policy_kwargs=policy_kwargs,
        activation=activation, correspondence=correspondence, vecnormalize=os.fspath(vecnormalize),
        norm_reward=norm_reward, overrides=overrides,
    )  # fmt: skip
    if isinstance(path, BasePolicy):
        return wrap_policy(path, request)
    return (load_trusted if trust else _load_safely)(find_archive(path), request)


def _load_safely(path: Path, request: Request) -> BaseAlgorithm:
    contents = read_archive(path, None if request.cls is None else find_algorithm(request.cls))
    cls = choose_class(contents.algorithm, request.cls, path)
    check_hyperparameters(cls, request.overrides)
    if contents.policy_kwargs is None and request.policy_kwargs is None:
        raise AgentError(
            f"{path} has no readable policy_kwargs. Pass policy_kwargs=... ({{}} for SB3's defaults).",
            arguments=("policy_kwargs",),
        )
    names = names_there(request, contents)
    request = settle_correspondence(replace(request, policy_kwargs=_with_activation(request)), contents)
    venv = prepare_env(request, path, was_normalized(contents.algorithm, contents.attributes))
    given = f" and from what was passed ({', '.join(request.overrides)})" if request.overrides else ""
    with wrap_errors(f"{path}: the agent cannot be rebuilt from what the archive says{given}"):
        state = modernize(contents.state_dicts["policy"])
        model = build_agent(contents, state, cls, venv, request)
        restore_agent(model, contents, state, request.settled, request.overrides)
    keep_names(model, names)
    _warn_defaults(contents, cls, request.overrides)
    if request.norm_reward is None and not (isinstance(request.env, VecEnv) and unwrap_vec_normalize(request.env)):
        warn_of_reward_scale(model, venv)
    return model


def _with_activation(request: Request) -> dict[str, Any]:
    given = dict(request.policy_kwargs or {})
    if request.activation is not None or "activation_fn" in given:
        given["activation_fn"] = find_activation(
            given["activation_fn"] if request.activation is None else request.activation
        )
    return given


def _warn_defaults(contents: ArchiveContents, cls: type[BaseAlgorithm], overrides: Mapping[str, Any]) -> None:
    """Name the hyperparameters that are SB3's defaults because the archive's could not be read."""
    parameters = constructor_arguments(find_algorithm(cls).cls)
    names = [name for name in contents.unreadable if name in parameters and name not in overrides]
    if names:
        used = ", ".join(f"{name}={parameters[name].default} for {contents.unreadable[name]}" for name in names)
        settable = [IN_SETTINGS.get(name, name) for name in names]
        warnings.warn(
            DaftWarning(
                f"{contents.path}: some hyperparameters cannot be read without running code from the file; SB3's "
                f"defaults are used: {used}. To set them: load_agent(..., {'=..., '.join(names)}=...).",
                arguments=[name for name in settable if name not in OTHERWISE],
            ),
            stacklevel=4,
        )
