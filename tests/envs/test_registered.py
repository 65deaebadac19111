"""An environment or a wrapper that cannot be made is one line, and what the line advises leads on."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.wrappers import FrameStackObservation

from daft_rl.envs import make, make_vec
from daft_rl.envs.domain import read_domains
from daft_rl.errors import TaskError


def make_without_package() -> gym.Env:
    raise gym.error.DependencyNotInstalled("Box3D is not installed,\nrun `pip install box3d`")


def fail() -> gym.Env:
    raise RuntimeError("no window\n  to draw in")


def stack(env: gym.Env) -> gym.Env:
    """What the message about a wrapper with arguments advises."""
    return FrameStackObservation(env, 4)


gym.register("NoPackage-v0", f"{__name__}:make_without_package")
gym.register("NoWindow-v0", f"{__name__}:fail")

NOT_MADE: list[tuple[dict[str, Any], str]] = [
    ({"name": "NoPackage-v0"}, "NoPackage-v0 cannot be made: DependencyNotInstalled: Box3D is not installed, run `pip"),
    ({"name": "NoWindow-v0"}, "NoWindow-v0 cannot be made: RuntimeError: no window to draw in"),
    ({"name": "Hopper-v3"}, "Hopper-v3 cannot be made: ImportError: .* Gymnasium has Hopper-v4, Hopper-v5 too."),
    ({"name": "CartPole-v1", "kwargs": {"gravity": 3}}, "CartPole-v1 cannot be made with {'gravity': 3}: "),
    (
        {"name": "CartPole-v1", "wrappers": ["gymnasium.wrappers:FrameStackObservation"]},
        "'gymnasium.wrappers:FrameStackObservation' cannot wrap .*CartPole.*'stack_size'. If it needs arguments, name "
        r"a function of yours that takes an environment and returns FrameStackObservation\(env, ...\)",
    ),
]


@pytest.mark.parametrize(("env", "message"), NOT_MADE)
def test_what_cannot_be_made_is_one_line(env: dict[str, Any], message: str) -> None:
    for attempt in ("make", "make_vec"):
        domain = read_domains(env)["target"]
        with pytest.raises(TaskError, match=message) as caught:
            domain.make() if attempt == "make" else domain.make_vec(2, "dummy")
        assert "\n" not in str(caught.value)


def test_the_versions_that_a_message_names_can_be_made() -> None:
    with pytest.raises(TaskError) as caught:
        make("Hopper-v3")
    named = re.findall(r"Hopper-v[45]", str(caught.value))
    assert named
    for id in named:
        make(id).close()


def test_a_function_gives_a_wrapper_its_arguments() -> None:
    domain = read_domains({"name": "CartPole-v1", "wrappers": [f"{__name__}:stack"]})["target"]
    venv = domain.make_vec(2, "dummy")
    assert venv.reset().shape == (2, 4, 4)  # type: ignore[union-attr]


def test_a_batch_names_the_environment_that_cannot_be_made() -> None:
    with pytest.raises(TaskError, match="NoWindow-v0 cannot be made"):
        make_vec("NoWindow-v0", 2)
