"""Hydra's errors in one line of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue

from daft_rl.validation import did_you_mean, unknown_name

__all__ = ["explain_hydra"]

ADVICE = ("To append to your", "See https://", "Either remove", "Or add a second", "Config search path", "\tprovider=")
"""Lines of Hydra that do not help here: nothing would read a setting that was added."""


def _hint_of_id(name: str) -> str:
    """How the command line says an id of Gymnasium, or ``mujoco/ID`` as results and Python call it."""
    if name.startswith("mujoco/"):
        return f" For a MuJoCo environment of Gymnasium: env=mujoco env.id={name.removeprefix('mujoco/')}."
    return f" For an id of Gymnasium: env=gymnasium env.id={name}."


def explain_hydra(error: BaseException) -> str:
    """One line: what was wrong and what exists."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        missing = str(error.missing_cfg_file)
        # hydra/launcher is a group, and mujoco/Hopper-v5 is a name in the group env
        group, _, name = missing.partition("/") if missing.startswith("env/") else missing.rpartition("/")
        return unknown_name(group, name, error.options) + (_hint_of_id(name) if group == "env" else "")
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read: {_first_line(error)}. Expected key=value; a value with spaces, commas "
            "or brackets needs quotes, \"key='value'\"."
        )
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key or _first_line(error)} is missing: it has no default. Set it, {error.full_key}=..."
    parent = next((node for node in _parents(error) if isinstance(node, DictConfig)), None)
    named = re.match(r"Could not (?:override|append to config|delete from config)\W+([\w./@-]+)'", _first_line(error))
    if parent is not None and named:
        known = sorted(str(key) for key in parent if key != "hydra")
        above, _, own = named[1].rpartition(".")
        exists = f"What exists: {', '.join(known)}" if known else f"{above} is empty, or null"
        return f"{named[1]} does not exist.{did_you_mean(own, known)} {exists}."
    if _first_line(error).startswith("Error merging override") and error.__cause__ is not None:
        return f"{_first_line(error).removeprefix('Error merging override ')}: {_first_line(error.__cause__)}."
    key = getattr(error, "full_key", None)
    return f"{key}: {_first_line(error)}." if key else _in_one_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].removesuffix(".")


def _in_one_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(ADVICE)]
    return " ".join(" ".join(lines).split()) or type(error).__name__


def _parents(error: BaseException | None) -> Iterator[Any]:
    """The parts of the configuration that an error and its causes are about."""
    while error is not None:
        yield getattr(error, "parent_node", None)
        error = error.__cause__
