"""Whatever plain values stand at whatever keys: settings, or our own error, and never another exception."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.agents.algorithms import ALGORITHMS
from daft_rl.agents.policies import ACTIVATIONS
from daft_rl.archives.hyperparameters import constructor_arguments
from daft_rl.cli import compose_config
from daft_rl.envs.domain import read_domains
from daft_rl.errors import ConfigError, DaftError
from daft_rl.hyperparameters import OTHERWISE, TABLE, Extractor, check_extractor, check_hyperparameters
from daft_rl.settings import PretrainSettings, TransferSettings, algorithm_names

PROGRAMS: dict[str, Any] = {"transfer": TransferSettings, "pretrain": PretrainSettings}
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["auto", "cuda:1"])
)
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def complete(program: str) -> dict[str, Any]:
    """Settings that are right."""
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(compose_config(program, ["env=Ant", "output_dir=out"]), resolve=True)
    return values


def keys_of(values: Any, path: str = "") -> list[str]:
    """Dotted names of everything in a dictionary."""
    if not isinstance(values, dict):
        return [path]
    return [path, *(key for name, part in values.items() for key in keys_of(part, f"{path}.{name}"))]


VALUES = {program: complete(program) for program in PROGRAMS}
KEYS = [(program, key.removeprefix(".")) for program, values in VALUES.items() for key in keys_of(values) if key]


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(KEYS), plain, st.sampled_from(["", "", "", ".x", ".1"]))
def test_any_value_anywhere_is_taken_or_refused(place: tuple[str, str], value: Any, below: str) -> None:
    program, key = place
    changed = _with(VALUES[program], (key + below).split("."), value)
    with suppress(DaftError):
        made = PROGRAMS[program].from_dict(changed)
        read_domains(vars(made.env), getattr(made.evaluation, "elsewhere", ()))
        PROGRAMS[program].from_dict(made.as_dict())


def _with(values: Any, path: list[str], value: Any) -> Any:
    """A copy of nested dictionaries with another value somewhere."""
    if not path:
        return value
    there = values if isinstance(values, dict) else {}
    return {**there, path[0]: _with(there.get(path[0]), path[1:], value)}


@given(
    st.sampled_from(sorted(TABLE)), st.dictionaries(st.sampled_from([*sorted(OTHERWISE), "gamma", "tau", "x"]), plain)
)
def test_any_hyperparameter_is_taken_or_refused(algo: str, values: dict[str, Any]) -> None:
    with suppress(ConfigError):
        check_hyperparameters(algo, values, "algo.settings")


def _entries() -> list[type[BaseAlgorithm]]:
    return [entry.cls for entry in ALGORITHMS.values() if entry.config in algorithm_names()]


@pytest.mark.parametrize("cls", _entries(), ids=lambda cls: cls.__name__)
def test_the_table_names_what_the_constructor_takes(cls: type[BaseAlgorithm]) -> None:
    known = {*TABLE[cls.__name__.lower()].__dataclass_fields__}
    taken = {*constructor_arguments(cls)}
    assert known - taken <= ({"stats_window_size"} if cls.__name__ == "DDPG" else set())
    assert taken - known <= {*OTHERWISE}


@pytest.mark.parametrize("cls", _entries(), ids=lambda cls: cls.__name__)
def test_the_table_admits_the_constructors_own_defaults(cls: type[BaseAlgorithm]) -> None:
    parameters = constructor_arguments(cls)
    known = TABLE[cls.__name__.lower()].__dataclass_fields__
    check_hyperparameters(
        cls.__name__.lower(), {name: parameters[name].default for name in known if name in parameters}, "settings"
    )


def test_the_activations_are_those_of_the_policies() -> None:
    for activation in ACTIVATIONS:
        check_extractor({"hidden": [4], "activation": activation.__name__}, "extractor")
    assert Extractor().activation == "ReLU"
