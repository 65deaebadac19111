"""Domains from plain data and from environments of the user."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from daft_rl.envs.domain import read_domains, user_domains
from daft_rl.errors import TaskError
from tests.conftest import PointMass

TINY = [
    *("num_envs=2", "evaluation.episodes=2", "evaluation.episodes_during=1", "calibration.steps=64"),
    *("calibration.held_out=32", "progress_bar=false"),
]


ON_POLICY = ["algo.settings.n_steps=32", "algo.settings.batch_size=32"]


OFF_POLICY = ["algo.settings.learning_starts=10", "algo.settings.buffer_size=500"]


class Windy(PointMass):
    """A keyword of its constructor is its shift."""

    def __init__(self, wind: float = 0.0, discrete: bool = False) -> None:
        super().__init__(discrete)
        self.wind = wind

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        self.state = self.state + self.wind
        return super().step(action)


class Doubled(gym.RewardWrapper):
    """A wrapper for tests of import paths."""

    def reward(self, reward: Any) -> float:
        return 2 * float(reward)


gym.register("Windy-v0", entry_point=lambda **kwargs: Windy(**kwargs))


def registered(id: str = "Windy-v0", **entries: Any) -> dict[str, Any]:
    return {"name": id, "shift": {}, **entries}


def test_keywords_make_the_target() -> None:
    domains = read_domains(registered("tests.envs.test_domain:Windy-v0", kwargs={"wind": 3}))
    assert domains["target"].make().unwrapped.wind == 3  # type: ignore[attr-defined]
    assert domains["source"].make().unwrapped.wind == 0  # type: ignore[attr-defined]
    assert domains["target"].changes == {"kwargs": {"wind": 3}}
    domains = read_domains(registered(source_kwargs={"wind": -1}, shift={"observation_scale": 2.0}))
    assert domains["source"].make().unwrapped.wind == -1  # type: ignore[attr-defined]
    plain, scaled = (domains[role].make().reset(seed=1)[0] for role in ("source", "target"))
    np.testing.assert_allclose(scaled, 2 * plain)


def test_wrappers_are_around_source_and_target() -> None:
    domains = read_domains(registered(wrappers=["tests.envs.test_domain:Doubled"]))
    rewards = []
    for env in (*(domain.make() for domain in domains.values()), Windy()):
        env.reset(seed=0)
        rewards.append(float(env.step(np.ones(2, np.float32))[1]))
    assert rewards[0] == rewards[1] == 2 * rewards[2]


@pytest.mark.parametrize(
    ("env", "messages", "arguments"),
    [
        (registered("Windy-v7"), ["'Windy-v7'", "registered"], ("env",)),
        (registered("nothing_here:Windy-v0"), ["nothing_here", "my_package:MyEnv-v0"], ("env",)),
        (registered(wrappers=["tests.envs.test_domain:Nope"]), ["tests.envs.test_domain:Nope", "module:name"], ()),
        (registered(kwargs={"rain": 1}), ["Windy-v0", "rain"], ()),
        (registered(wrappers="my_package:MyWrapper"), ["my_package:MyWrapper", "expected a list"], ("wrappers",)),
        (registered(kwargs=3), ["kwargs: expected names with values, got 3"], ("kwargs",)),
    ],
)
def test_errors_name_value_and_expectation(env: dict[str, Any], messages: list[str], arguments: Any) -> None:
    with pytest.raises(TaskError) as error:
        read_domains(env)["target"].make()
    for message in messages:
        assert message in str(error.value)
    assert error.value.arguments == arguments


def test_levels_elsewhere_are_domains_and_not_the_target() -> None:
    env = {"name": "HalfCheetah-shifted", "shift": "gravity-0.5"}
    domains = read_domains(env, ["none", "gravity-2.0"])
    assert {name: domain.changes for name, domain in domains.items()} == {
        "target": {"gravity": 0.5}, "source": {}, "none": {}, "gravity-2.0": {"gravity": 2.0},
    }  # fmt: skip
    with pytest.raises(TaskError, match=r"elsewhere: 'gravity-0\.5' is the target"):
        read_domains(env, ["gravity-2.0", "gravity-0.5"])
    with pytest.raises(TaskError, match=r"expected a list of levels, \[gravity-2\.0\]"):
        read_domains(env, "gravity-2.0")


class Stubborn(Windy):
    """Cannot be copied."""

    def __deepcopy__(self, memo: Any) -> None:
        raise RuntimeError("no")


@pytest.mark.parametrize("env", [Stubborn(), "Ant", 3])
def test_objects_that_are_no_reusable_environment_are_errors(env: Any) -> None:
    with pytest.raises(TaskError):
        user_domains(env, None)


@pytest.mark.parametrize(("env", "name"), [(Windy, "Windy"), (lambda: Windy(), "own"), (Windy(), "Windy")])
def test_environments_of_the_user_have_names(env: Any, name: str) -> None:
    domains = user_domains(env, Windy)
    assert list(domains) == ["target", "source"]
    assert (domains["target"].name, domains["target"].is_ours, domains["target"].changes) == (name, False, {})


@pytest.mark.parametrize("ignored", [{"wrappers": ["my:Wrapper"]}, {"kwargs": {"wind": 3}}])
def test_a_task_of_ours_takes_no_wrappers_or_keywords(ignored: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match="task 'Ant-shifted' is taken as it is"):
        read_domains({"name": "Ant-shifted", **ignored})
