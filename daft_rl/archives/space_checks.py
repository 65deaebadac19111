"""Whether an environment has the spaces that an agent was trained on, and what helps if it has not."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.archives.container import ArchiveContents
from daft_rl.archives.statistics_wrapper import FRAME_STACK
from daft_rl.archives.text import spaces_differ
from daft_rl.envs.names import count_entries
from daft_rl.errors import AgentError

__all__ = ["check_space", "find_spaces"]


def find_spaces(
    contents: ArchiveContents, venv: VecEnv | None, carried: bool
) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Observation and action space: the environment's, which must fit the archive's, or else the archive's."""
    observation = _find_space("observation", contents, contents.observation_space, venv, carried)
    return observation, _find_space("action", contents, contents.action_space, venv, carried)


def _find_space(
    what: str, contents: ArchiveContents, stored: spaces.Space[Any] | None, venv: VecEnv | None, carried: bool
) -> spaces.Space[Any]:
    actual = stored if venv is None else getattr(venv, f"{what}_space")
    if actual is None:
        reason = contents.unreadable[f"{what}_space"]
        raise AgentError(
            f"{contents.path} does not tell its {what} space: {reason}. Pass env=... that has it.", arguments=("env",)
        )
    if not carried and venv is not None and stored is not None:
        check_space(str(contents.path), what, stored, actual)
    return actual


def check_space(
    agent: str, what: str, stored: spaces.Space[Any], actual: spaces.Space[Any], adapts: bool = True
) -> None:
    """Check that a policy for one space computes the same on another.

    :param agent: what the message calls it
    :param what: ``"observation"`` or ``"action"``
    :param stored: the agent's space; images channels first
    :param actual: the environment's, likewise
    :param adapts: whether a correspondence could help: the agent is an archive
    :raises AgentError: it does not
    """
    if spaces_differ(stored, actual, bounds_matter=what == "action"):
        stacked = _if_stacked(stored, actual)
        helps = ["correspondence"] if adapts and _is_adaptable(stored, actual) else []
        raise AgentError(
            f"{agent} was trained on the {what} space {_short(stored)}, the environment has {_short(actual)}. "
            f"{_remedy(what, stored, actual, adapts)}{stacked}",
            arguments=(*helps, "wrappers", *(["vec_wrappers"] if stacked else [])),
        )


def _short(space: spaces.Space[Any]) -> str:
    """A space in one line, with the range of an array of bounds."""
    if not isinstance(space, spaces.Box):
        return str(space)
    bounds = [np.unique(bound) for bound in (space.low, space.high)]
    ranges = [str(bound[0]) if len(bound) == 1 else f"from {bound[0]} to {bound[-1]}" for bound in bounds]
    return f"Box({', '.join(ranges)}, shape {space.shape}, {space.dtype})"


def _is_adaptable(stored: spaces.Space[Any], actual: spaces.Space[Any]) -> bool:
    sizes = count_entries(stored), count_entries(actual)
    return type(stored) is type(actual) and None not in sizes and sizes[0] != sizes[1]


def _remedy(what: str, stored: spaces.Space[Any], actual: spaces.Space[Any], adapts: bool) -> str:
    if _is_adaptable(stored, actual):
        archive = "pass" if adapts else "save the agent and pass the archive with"
        return (
            f"Wrap the environment so that they agree. For another body, {archive} correspondence=FILE that tells what "
            "corresponds (python -m daft_rl.correspond writes one), or correspondence='positions'."
        )
    if isinstance(stored, spaces.Box) and isinstance(actual, spaces.Dict | spaces.Tuple):
        return "Wrap the environment so that they agree (gymnasium.wrappers.FlattenObservation)."
    if what == "action" and isinstance(stored, spaces.Box) and stored.shape == actual.shape:
        return "Wrap the environment so that they agree (gymnasium.wrappers.RescaleAction with the agent's bounds)."
    return "Wrap the environment so that they agree."


def _if_stacked(stored: spaces.Space[Any], actual: spaces.Space[Any]) -> str:
    """What helps if the agent saw several observations at once."""
    saw, gives = stored.shape or (), actual.shape or ()
    if len(saw) != 1 or len(gives) != 1 or not 0 < gives[0] < saw[0] or saw[0] % gives[0]:
        return ""
    stack = f"{{'path': '{FRAME_STACK}', 'kwargs': {{'n_stack': {saw[0] // gives[0]}}}}}"
    return (
        f" If it saw observations stacked: vec_wrappers=[{stack}], or ['VecNormalize', {stack}] if they were stacked "
        "after normalization."
    )
