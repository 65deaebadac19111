"""An agent that moves from body to body is carried once each time, whatever it is passed as."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl import blend, load_agent
from daft_rl.archives.kept_names import kept_names
from daft_rl.correspondence import by_names, by_positions
from daft_rl.envs.domain import Domain, read_domains
from daft_rl.envs.names import Names
from daft_rl.envs.other_body import OtherBody, SeenAs
from daft_rl.errors import AgentError, DaftWarning, TaskError
from daft_rl.run.bodies import find_correspondence
from daft_rl.transfer import transfer
from tests.conftest import parse

TINY = parse(
    [
        *("num_envs=2", "evaluation.episodes=2", "evaluation.episodes_during=2", "calibration.steps=64"),
        *("calibration.held_out=32", "progress_bar=false", "evaluate_in_background=false", "algo.settings.n_steps=32"),
    ]
)


class Named(gym.Env):
    """A world of 26 numbers. A body senses and moves those of its names."""

    def __init__(self, senses: str, motors: str, told: Any = None) -> None:
        self.senses, self.motors = senses, motors
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(senses),))
        self.action_space = spaces.Box(-2.0, 2.0, (len(motors),))
        self.observation_names, self.action_names = list(senses)[:told], list(motors)
        self.state, self.steps = np.zeros(26), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.normal(1.0, 2.0, 26), 0
        return self._observe(), {}

    def _observe(self) -> Any:
        return self.state[[string.ascii_lowercase.index(name) for name in self.senses]].astype(np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        moved = dict(zip(self.motors, action, strict=True))
        self.state = 0.9 * self.state
        self.state[:2] += moved.get("u", 0.0), moved.get("v", 0.0)
        self.steps += 1
        return self._observe(), -abs(self.state[0] - self.state[1]), False, self.steps >= 10, {}


class Turned(gym.ObservationWrapper):
    """Shows the entries backwards, and does not say so."""

    def observation(self, observation: Any) -> Any:
        return observation[::-1]


gym.register("daft_rl_tests/Named-v0", f"{__name__}:Named")
NAME = "daft_rl_tests/Named-v0"
HOME = {"senses": "abc", "motors": "uv"}
MOVED = {"senses": "cab", "motors": "vu"}
LONGER = {"senses": "dabc", "motors": "uwv"}


def go(target: dict[str, Any], agent: Any, folder: Path, method: str = "zero_shot", **further: Any) -> dict[str, float]:
    """Transfer an agent whose task has the body ``HOME``; what it returns at first."""
    settings = TINY | {"env.kwargs": target, "env.source_kwargs": HOME} | further
    result = transfer(NAME, method, agent, output_dir=folder, total_timesteps=64, settings=settings)
    return {role: returns.mean for role, returns in result.zero_shot.items()}


def names_in(archive: Path) -> tuple[str, str] | None:
    kept = kept_names(vars(load_agent(archive)))
    return None if kept is None else ("".join(kept.observation), "".join(kept.action))


def make(body: dict[str, Any], folder: Path) -> Path:
    """An agent that makes large steps, of a body."""
    agent = PPO("MlpPolicy", Named(**body), policy_kwargs={"net_arch": [8], "ortho_init": False}, device="cpu", seed=0)
    agent.save(folder / "agent.zip")
    return folder / "agent.zip"


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """An agent that has gone from ``HOME`` to ``MOVED``, and what it returned on both."""
    folder = tmp_path_factory.mktemp("moved")
    returned = go(MOVED, make(HOME, folder), folder / "run")
    assert returned["target"] == pytest.approx(returned["source"])
    assert names_in(folder / "run/final.zip") == ("cab", "vu")
    return folder / "run/final.zip", returned


Moved = tuple[Path, dict[str, float]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daft_rl.run.new_entries.STEPS", 64)
    monkeypatch.setattr("daft_rl.blend._draw", lambda *_: None)


def test_a_race_tells_of_another_body_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(MOVED, make(HOME, tmp_path), tmp_path / "run", "auto")
    assert capsys.readouterr().err.count("Another body") == 1


@pytest.mark.parametrize("kind", ["archive", "read by trust", "object"])
def test_an_agent_that_tells_its_body_plays_there_and_on_the_source(kind: str, moved: Moved, tmp_path: Path) -> None:
    agent: Any = load_agent(moved[0], env=Named(**MOVED)) if kind == "object" else moved[0]
    trust: dict[str, Any] = {"agent.trust": kind == "read by trust"}
    assert go(MOVED, agent, tmp_path / "run", **trust) == pytest.approx(moved[1])


def test_functions_tell_the_names_of_both_bodies_to_an_agent_that_has_some(moved: Moved, tmp_path: Path) -> None:
    result = transfer(
        lambda: Named(**MOVED), "zero_shot", load_agent(moved[0], env=Named(**MOVED)),
        source_env=lambda: Named(**HOME), output_dir=tmp_path / "run", settings=TINY,
    )  # fmt: skip
    assert {role: returns.mean for role, returns in result.zero_shot.items()} == pytest.approx(moved[1])


@pytest.mark.parametrize("kind", ["read by trust", "object"])
def test_an_agent_that_cannot_be_carried_is_refused_on_another_body(kind: str, moved: Moved, tmp_path: Path) -> None:
    agent: Any = load_agent(moved[0], env=Named(**MOVED)) if kind == "object" else moved[0]
    trust: dict[str, Any] = {"agent.trust": kind == "read by trust"}
    with pytest.raises(AgentError, match=r"of another body: its actions are v, u, its observations c, a, b.*save it"):
        go(HOME, agent, tmp_path / "run", **trust)


@pytest.mark.parametrize(
    ("target", "choice", "kept", "then"),
    [
        (HOME, "positions", None, HOME),
        ({"senses": "xyz", "motors": "pq"}, "auto", ("xyz", "pq"), {"senses": "zxy", "motors": "qp"}),
    ],
)
def test_entries_that_stay_in_place_have_the_names_of_where_they_are(
    target: dict[str, Any], choice: str, kept: Any, then: dict[str, Any], moved: Moved, tmp_path: Path
) -> None:
    first = go(target, moved[0], tmp_path / "first", **{"agent.correspondence": choice})
    assert names_in(tmp_path / "first/final.zip") == kept
    second = go(then, tmp_path / "first/final.zip", tmp_path / "second")
    assert second["target"] == pytest.approx(first["target"])
    if choice == "positions":
        assert first["target"] != pytest.approx(moved[1]["target"]), "else nothing would tell a second carrying"


def test_loading_by_positions_or_by_a_correspondence_settles_the_names(moved: Moved) -> None:
    home = Named(**HOME)
    renamed = by_names(Names((*"cab",), (*"vu",)), Names((*"cab",), (*"vu",)))
    for given, names in (("positions", None), (renamed, renamed.target_names), (None, renamed.target_names)):
        assert kept_names(vars(load_agent(moved[0], env=home, correspondence=given))) == names  # type: ignore[arg-type]
    again = by_names(Names((*"abc",), (*"uv",)), Names((*"cab",), (*"vu",)))
    with pytest.raises(AgentError, match=r"begins with u, v and a, b, c; the entries of .* are v, u and c, a, b"):
        load_agent(moved[0], env=Named(**MOVED), correspondence=again)


def test_a_file_may_be_about_the_body_that_an_agent_learnt_on_last(moved: Moved, tmp_path: Path) -> None:
    first = go(LONGER, moved[0], tmp_path / "first")
    rules = {"observation": {"e": "d"}, "action": {"k": "w"}}
    agent, renamed = tmp_path / "first/final.zip", {"senses": "abce", "motors": "kuv"}
    second = go(renamed, agent, tmp_path / "second", "ft", **{"agent.correspondence": rules})
    assert second == pytest.approx(first)
    assert names_in(tmp_path / "second/final.zip") == ("abce", "kuv")
    at_start = blend(tmp_path / "second", alphas=[0]).returns[0.0]
    assert {role: one.mean for role, one in at_start.items()} == pytest.approx(second)


def test_names_in_a_file_are_those_of_the_source_and_not_of_what_has_left_it(moved: Moved) -> None:
    rules = {"source": {"observation": [*"abc"], "action": [*"uv"]}}
    domains = read_domains({"name": NAME, "kwargs": LONGER, "source_kwargs": HOME})
    found = find_correspondence(rules, domains, moved[0])
    assert found is not None
    assert found.observation.source == (*"cab",)


@pytest.mark.parametrize("as_archive", [False, True])
def test_an_agent_of_the_target_s_body_needs_no_name_in_common_with_the_source(
    as_archive: bool, tmp_path: Path
) -> None:
    body = {"senses": "wxyz", "motors": "pqr"}
    archive = make(body, tmp_path)
    agent: Any = archive if as_archive else PPO.load(archive, env=Named(**body))
    assert set(go(body, agent, tmp_path / "run")) == {"target"}


def test_a_blend_plays_where_the_run_played(tmp_path: Path) -> None:
    agent = PPO.load(make(MOVED, tmp_path), env=Named(**MOVED))
    played = go(MOVED, agent, tmp_path / "run", "ft")
    at_start = blend(tmp_path / "run", alphas=[0]).returns[0.0]
    assert {role: one.mean for role, one in at_start.items()} == played


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"observation": ["a", "b"], "action": ["u", "v"]}, "2 names for 3 entries"),
        ({"observation": ["a", "b", "a"], "action": ["u", "v"]}, "has 'a' twice"),
        ({"observation": ["a", "b", "c"], "action": ["u", "v\nw"]}, "cannot be printed in one line"),
    ],
)
def test_names_in_an_archive_that_do_not_fit_are_refused(names: Any, message: str, tmp_path: Path) -> None:
    agent: BaseAlgorithm = PPO.load(make(HOME, tmp_path))
    agent.entry_names = names  # type: ignore[attr-defined]
    agent.save(tmp_path / "agent.zip")
    for read in (lambda: load_agent(tmp_path / "agent.zip"), lambda: go(HOME, tmp_path / "agent.zip", tmp_path / "r")):
        with pytest.raises(AgentError, match=rf"entry_names.*{message}.*delete or mend them") as refusal:
            read()
        assert "\n" not in str(refusal.value)


def test_names_that_do_not_fit_the_target_are_told(tmp_path: Path) -> None:
    archive = make(HOME, tmp_path)
    given: dict[str, Any] = {"name": NAME, "source_kwargs": HOME}
    with pytest.warns(DaftWarning, match="observation_names has 2 names for 3 entries.*stay where they are"):
        assert find_correspondence("auto", read_domains(given | {"kwargs": MOVED | {"told": 2}}), archive) is None
    with pytest.raises(TaskError, match="observation_names has 2 names for 4 entries"):
        find_correspondence("auto", read_domains(given | {"kwargs": LONGER | {"told": 2}}), archive)
    turning = given | {"kwargs": LONGER, "wrappers": [f"{__name__}:Turned"]}
    with pytest.raises(TaskError, match="Turned may change the order of entries"):
        find_correspondence("auto", read_domains(turning), archive)


def test_an_agent_that_tells_its_body_is_carried_to_what_a_function_makes(moved: Moved) -> None:
    domains = {"target": Domain("own", maker=lambda: Named(**HOME))}
    found = find_correspondence("auto", domains, moved[0])
    assert found is not None
    assert found.action.origin == (1, 0)


def test_names_of_what_is_stacked_are_not_kept(tmp_path: Path) -> None:
    stack = {"path": "stable_baselines3.common.vec_env:VecFrameStack", "kwargs": {"n_stack": 2}}
    archive = make(HOME | {"senses": "abcabc"}, tmp_path)
    settings: dict[str, Any] = {"agent.correspondence": "names", "env.vec_wrappers": [stack]}
    go(HOME, archive, tmp_path / "run", **settings)
    assert names_in(tmp_path / "run/final.zip") is None


def test_a_source_of_another_size_is_refused() -> None:
    home, longer = Named(**HOME), Named(**LONGER)
    found = by_positions((longer.observation_space, longer.action_space), (home.observation_space, home.action_space))
    with pytest.raises(TaskError, match="of 4 entries of the source's observation, and the source has 3"):
        OtherBody(home, SeenAs(found, home.observation_space, home.action_space, ()))
