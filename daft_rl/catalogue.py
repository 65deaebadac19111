"""What can be chosen by name, with one line about each: tasks, levels, methods, algorithms, shipped agents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from daft_rl.envs.registry import levels, task_names
from daft_rl.method import methods
from daft_rl.settings import algorithm_names

__all__ = ["KINDS", "list_agents", "list_algorithms", "list_levels", "list_methods", "list_tasks"]

HERE = Path(__file__).resolve().parent


def list_tasks() -> dict[str, str]:
    """Name of a task -> what it is. The last three stand for the environments that others have registered."""
    return {name: _comment(HERE / "configs" / "env" / f"{name}.yaml") for name in (*task_names(), *_BY_ID)}


_BY_ID = ("mujoco", "gymnasium", "safety")


def list_methods() -> dict[str, str]:
    """Name of a method -> what it does."""
    return {name: _comment(HERE / "configs" / "method" / f"{name}.yaml") for name in methods()}


def list_algorithms() -> dict[str, str]:
    """Name of an algorithm -> where its settings stand."""
    return {name: f"settings: configs/algo/{name}.yaml" for name in algorithm_names()}


def list_levels(task: str) -> dict[str, str]:
    """Name of a level -> what it changes.

    :param task: as in :func:`daft_rl.levels`
    :raises TaskError: the task is unknown
    """
    return {
        name: ", ".join(f"{field}: {value}" for field, value in shift.items()) or "no shift"
        for name, shift in levels(task).items()
    }


def list_agents() -> dict[str, str]:
    """Name of a shipped agent -> its algorithm, its task, and its return there."""
    described = {}
    for path in sorted((HERE / "agents" / "pretrained").glob("*/card.json")):
        card = json.loads(path.read_text("utf-8"))
        returns = card["returns"]
        described[path.parent.name] = (
            f"{card['algo']} on {card['task']}, return {returns['mean']:.1f} ± {returns['std']:.1f}"
        )
    return described


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "tasks": list_tasks,
    "methods": list_methods,
    "algorithms": list_algorithms,
    "agents": list_agents,
}
"""What :mod:`daft_rl.__main__` lists without a further argument."""


def _comment(path: Path) -> str:
    """The first sentence of the comment on top of a file."""
    lines = path.read_text("utf-8").splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    text = " ".join(line.lstrip("# ") for line in lines[:end] if "@package" not in line)
    return re.split(r"(?<=[^.]{2})\. (?=[A-Z])", text)[0].removesuffix(".")
