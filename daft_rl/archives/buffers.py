"""The replay buffer of an off-policy agent: hindsight, and the settings that SB3's buffers take together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.goal_selection_strategy import KEY_TO_GOAL_STRATEGY

from daft_rl.errors import DaftWarning

__all__ = ["choose_buffer", "read_buffer"]

_SB3 = ("stable_baselines3.", "sb3_contrib.")
_HINDSIGHT = HerReplayBuffer.__module__
_GONE = ("online_sampling", "max_episode_length")
"""Arguments of SB3 before 2.0, which samples goals online, and of episodes of any length, since then."""


def read_buffer(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """``replay_buffer_class`` and ``replay_buffer_kwargs`` of an archive, where they are not SB3's defaults.

    :param attributes: the JSON of ``data``
    :return: the values, and a reason for each class or argument that could not be read
    """
    values: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    for name, usual in (("replay_buffer_class", "ReplayBuffer"), ("rollout_buffer_class", "RolloutBuffer")):
        entry = attributes.get(name)
        module = str(entry.get("__module__")) if isinstance(entry, dict) else ""
        if module == _HINDSIGHT and name == "replay_buffer_class":
            values[name] = HerReplayBuffer
        elif isinstance(entry, dict) and not module.startswith(_SB3):
            unreadable[name] = f"a class of {module[:100]}, not SB3's {usual}"
    stored = attributes.get("replay_buffer_kwargs")
    if isinstance(stored, dict) and "replay_buffer_class" not in unreadable:
        given = {name: value for name, value in stored.items() if name not in (":type:", *_GONE)}
        read = {name: _read(name, value) for name, value in given.items()}
        if None in read.values():
            unreadable["replay_buffer_kwargs"] = f"{str(given)[:100]!r}"
        elif read:
            values["replay_buffer_kwargs"] = read
    return values, unreadable


def _read(name: str, value: Any) -> Any:
    """One argument of a buffer's constructor; ``None`` if it is not readable."""
    if name in ("handle_timeout_termination", "copy_info_dict"):
        return value if isinstance(value, bool) else None
    if name == "n_sampled_goal":
        return value if type(value) is int and 0 < value < 10**6 else None
    if name == "goal_selection_strategy":
        strategy = str(value).rpartition(".")[2].lower()  # a text, or a printed "GoalSelectionStrategy.FUTURE"
        return strategy if strategy in KEY_TO_GOAL_STRATEGY else None
    return None


def choose_buffer(
    arguments: Mapping[str, Any], overrides: Mapping[str, Any], space: spaces.Space[Any], venv: VecEnv | None
) -> dict[str, Any]:
    """The arguments of an algorithm's constructor with a buffer that can be built.

    :param arguments: the archive's, and the user's in place of them
    :param overrides: the user's
    :param space: of observations
    :param venv: where the agent will learn, if anywhere
    """
    chosen = dict(arguments)
    if "replay_buffer_class" in overrides and "replay_buffer_kwargs" not in overrides:
        chosen.pop("replay_buffer_kwargs", None)  # they are for another class
    elif chosen.get("replay_buffer_class") is HerReplayBuffer and not _has_goals(venv, space):
        chosen = {name: chosen[name] for name in chosen if not name.startswith("replay_buffer_")}
        if venv is not None:
            warnings.warn(
                DaftWarning(
                    "The agent learnt from a HerReplayBuffer. The environment has no compute_reward, with which it "
                    "would set new goals, so the agent learns from an ordinary replay buffer."
                ),
                stacklevel=5,
            )
    if chosen.get("optimize_memory_usage"):
        kwargs = {"handle_timeout_termination": False, **chosen.get("replay_buffer_kwargs", {})}
        plain = not isinstance(space, spaces.Dict) and chosen.get("n_steps", 1) == 1
        if plain and kwargs["handle_timeout_termination"] is False:
            chosen["replay_buffer_kwargs"] = kwargs
        elif "optimize_memory_usage" not in overrides:
            chosen["optimize_memory_usage"] = False  # SB3 has no such buffer
    return chosen


def _has_goals(venv: VecEnv | None, space: spaces.Space[Any]) -> bool:
    goals = {"observation", "achieved_goal", "desired_goal"}
    if venv is None or not isinstance(space, spaces.Dict) or not goals <= set(space.spaces):
        return False
    return venv.has_attr("compute_reward")
