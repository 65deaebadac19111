"""Shipped sources move to other bodies by name: also to bodies that nobody named."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.mujoco import mujoco_env
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl import blend, load_agent
from daft_rl.archives import find_agent
from daft_rl.correspond import correspond
from daft_rl.correspondence import Correspondence, Exceptions, by_names
from daft_rl.envs.domain import Domain, read_domains
from daft_rl.envs.factory import make
from daft_rl.envs.names import Names
from daft_rl.errors import ConfigError, TaskError
from daft_rl.rollout.returns import Returns
from daft_rl.run.bodies import find_correspondence, see_as_target
from daft_rl.run.cache import cached_returns
from daft_rl.run.new_entries import measure_new_entries
from daft_rl.settings import TransferSettings
from daft_rl.transfer import transfer
from tests.conftest import PointMass, build, parse

TINY = [
    *("num_envs=2", "evaluation.episodes=1", "evaluation.episodes_during=1", "calibration.steps=64"),
    *("calibration.held_out=32", "progress_bar=false", "evaluate_in_background=false"),
]


def reordered(folder: Path) -> Path:
    """HalfCheetah's model with the front leg before the back leg, and the motors the other way round."""
    path = folder / "reordered.xml"
    tree = ElementTree.parse(Path(mujoco_env.__file__).parent / "assets" / "half_cheetah.xml")
    torso: Any = tree.find(".//body[@name='torso']")
    back = torso.find("body[@name='bthigh']")
    torso.remove(back)
    torso.append(back)
    motors: Any = tree.find("actuator")
    motors[:] = list(reversed(motors))
    tree.write(path)
    return path


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "mujoco/HalfCheetah-v5"])
def test_joints_in_another_order_are_found_by_their_names(name: str, tmp_path: Path) -> None:
    archive = find_agent("HalfCheetah", "crossq")
    domains = read_domains({"name": name, "kwargs": {"xml_file": str(reordered(tmp_path))}, "source_kwargs": {}})
    found = find_correspondence("auto", domains, archive)
    assert isinstance(found, Correspondence)
    assert not found.is_identity
    envs = [domains[role].make() for role in ("source", "target")]
    old, new = load_agent(archive, env=envs[0]), load_agent(archive, env=envs[1], correspondence=found)
    observations = np.random.default_rng(0).normal(size=(20, 17))
    moved = observations[:, np.array(found.observation.origin)]
    before, after = (model.predict(seen, deterministic=True)[0] for model, seen in ((old, observations), (new, moved)))
    assert not np.array_equal(moved, observations)
    np.testing.assert_allclose(after, before[:, np.array(found.action.origin)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("env", "shift", "source", "least"),
    [
        pytest.param("Ant-fivelegs", None, "Ant-ppo", 100, marks=pytest.mark.slow),
        ("Ant", "leg-less", "Ant-ppo", -100),  # the source's fourth leg hangs now
        ("HalfCheetah-threelegs", None, None, 100),
        ("Ant", "no-force-sensors", "Ant-ppo", 50),
    ],
)
def test_a_transfer_learns_on_another_body_and_plays_on_both(
    env: str, shift: str | None, source: str | None, least: float, tmp_path: Path, short_episodes: None
) -> None:
    short = ["algo.settings.n_steps=32"] if source else ["algo.settings.learning_starts=32"]
    result = transfer(
        env, "ft", source, shift=shift, total_timesteps=64, output_dir=tmp_path, settings=parse([*TINY, *short])
    )
    assert set(result.zero_shot) == set(result.final) == {"target", "source"}
    assert result.zero_shot["source"].mean > least  # of about 500 in 100 steps: the agent still knows its old body


def test_new_entries_get_their_statistics_in_the_target_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daft_rl.run.new_entries.STEPS", 64)
    domains = read_domains({"name": "Ant-fivelegs"})
    for source in ("Ant-ppo", "Ant-crossq"):
        archive = find_agent("Ant", "", source)
        found = find_correspondence("auto", domains, archive)
        assert found is not None
        venv = DummyVecEnv([domains["target"].make])
        model = load_agent(archive, env=venv, correspondence=found)
        observations: Any = venv.reset()
        normalizer: Any = model.get_vec_normalize_env()
        seen = observations if normalizer is None else normalizer.normalize_obs(observations)
        before = model.predict(seen, deterministic=True)[0]
        untouched = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
        measure_new_entries(model, found, venv, seed=0)
        seen = observations if normalizer is None else normalizer.normalize_obs(observations)
        np.testing.assert_allclose(model.predict(seen, deterministic=True)[0], before, rtol=1e-5, atol=1e-6)
        changed = [name for name, tensor in model.policy.state_dict().items() if not tensor.equal(untouched[name])]
        assert changed
        assert all("mean" in name or "var" in name for name in changed)
        new = found.observation.new
        if normalizer is not None and normalizer.norm_obs:
            assert not np.any(normalizer.obs_rms.mean[new] == 0.0)


class Parts(gym.Env):
    """A dictionary of entries with known means: 10, 11, ... for the arm, 100 for the goal, which VecNormalize omits."""

    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, joints: int) -> None:
        sizes = {"arm": joints, "goal": 1}
        self.observation_space: Any = gym.spaces.Dict(
            {key: gym.spaces.Box(-np.inf, np.inf, (size,)) for key, size in sizes.items()}
        )

    def _observe(self) -> dict[str, Any]:
        means = {"arm": 10.0 + np.arange(self.observation_space["arm"].shape[0]), "goal": np.array([100.0])}
        return {key: (mean + self.np_random.normal(size=len(mean))).astype(np.float32) for key, mean in means.items()}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        return self._observe(), 0.0, False, False, {}


def test_new_entries_of_a_dictionary_get_their_statistics_too(tmp_path: Path) -> None:
    venv = VecNormalize(DummyVecEnv([lambda: Parts(2)]), norm_obs_keys=["arm"], clip_obs=50.0)
    agent = PPO("MultiInputPolicy", venv, n_steps=32, batch_size=32, policy_kwargs={"net_arch": [8]}, device="cpu")
    agent.learn(32).save(tmp_path / "agent.zip")
    venv.save(str(tmp_path / "vecnormalize.pkl"))
    source = Names(("arm.a", "arm.b", "goal.x"), ("u",))
    found = by_names(source, Names(("arm.b", "arm.new", "arm.a", "goal.x"), ("u",)))
    target = DummyVecEnv([lambda: Parts(3)])
    model = load_agent(tmp_path / "agent.zip", env=target, correspondence=found)
    measure_new_entries(model, found, target, seed=0)
    known: Any = model.get_vec_normalize_env().obs_rms  # type: ignore[union-attr]
    old: Any = venv.obs_rms
    assert known["arm"].mean[[0, 2]].tolist() == old["arm"].mean[[1, 0]].tolist()
    assert (known["arm"].mean[1], known["arm"].var[1]) == pytest.approx((11.0, 1.0), abs=0.15)


def test_without_names_entries_stay_where_they_are_and_a_file_can_name_them() -> None:
    domains = {
        "source": Domain("short", maker=lambda: gym.make("CartPole-v1")),
        "target": Domain("long", maker=lambda: gym.wrappers.TimeAwareObservation(gym.make("CartPole-v1"))),
    }
    assert find_correspondence("auto", domains, None) is None
    with pytest.raises(TaskError, match=r"short: The entries of .*CartPole.* have no names"):
        find_correspondence("names", domains, None)
    names = {"observation": ["x", "v", "angle", "w"], "action": ["left", "right"]}
    longer = names | {"observation": ["v", "x", "angle", "w", "time"]}
    found = find_correspondence({"source": names, "target": longer}, domains, None)
    assert found is not None
    assert found.observation.origin == (1, 0, 2, 3, None)


def test_an_agent_for_the_same_body_plays_elsewhere_on_another(tmp_path: Path, short_episodes: None) -> None:
    result = transfer(
        "HalfCheetah-shifted", "zero_shot", output_dir=tmp_path,
        settings=parse([*TINY, "evaluation.elsewhere=[foot-less]"]),
    )  # fmt: skip
    assert set(result.zero_shot) == {"target", "source", "foot-less"}


@pytest.mark.parametrize("as_archive", [False, True])
def test_an_agent_that_knows_the_target_s_body_plays_on_the_source_s(
    as_archive: bool, tmp_path: Path, short_episodes: None
) -> None:
    agent: Any = PPO("MlpPolicy", make("HalfCheetah-threelegs"), policy_kwargs={"net_arch": [8]}, device="cpu")
    if as_archive:
        agent.save(tmp_path / "agent.zip")
        agent = tmp_path / "agent.zip"
    result = transfer("HalfCheetah-threelegs", "zero_shot", agent, output_dir=tmp_path / "run", settings=parse(TINY))
    assert set(result.zero_shot) == {"target", "source"}


def test_states_that_are_numbered_are_seen_as_those_of_another_body() -> None:
    def lake(size: int) -> Domain:
        return Domain(f"lake of {size}", maker=lambda: gym.make("FrozenLake-v1", map_name=f"{size}x{size}"))

    domains = {"source": lake(8), "target": lake(4)}
    agent = PPO("MlpPolicy", domains["target"].make(), policy_kwargs={"net_arch": [8]}, device="cpu")
    names = {"observation": [str(i) for i in range(64)], "action": ["left", "down", "right", "up"]}
    fewer = names | {"observation": [str(63 - i) for i in range(16)]}
    found = find_correspondence({"source": names, "target": fewer}, domains, None)
    source = see_as_target(domains, agent, found)["source"]
    assert source.make().reset(seed=0)[0] == 0  # the agent does not know the first state
    venv = source.make_vec(2, "dummy")
    seen: Any = venv.seen_as.observation(np.array([63, 60]), gym.spaces.Discrete(64))  # type: ignore[attr-defined]
    assert seen.tolist() == [0, 3]
    assert venv.reset().tolist() == [0, 0]  # type: ignore[union-attr]


def test_runs_of_a_grid_share_no_returns_of_a_source_that_is_seen_as_other_bodies(tmp_path: Path) -> None:
    archive, played = find_agent("HalfCheetah", "crossq"), []

    def play(domains: Any) -> dict[str, Returns]:
        played.append(domains["source"].seen_as is not None)
        return {"source": Returns([1.0], [1])}

    settings = TransferSettings.from_dict({"env": {"name": "HalfCheetah"}, "method": "ft", "algo": {"name": "crossq"}})
    for shift in ("none", "foot-less", "foot-less"):
        domains = read_domains({"name": "HalfCheetah", "shift": shift})
        found = find_correspondence("auto", domains, archive)
        if found is not None:
            model = load_agent(archive, env=domains["target"].make(), correspondence=found)
            domains = see_as_target(domains, model, found)
        cached_returns(tmp_path, settings, archive, {"source": domains["source"]}, play)
    assert played == [False, True]


def test_a_function_of_the_user_is_called_no_more_often_with_a_source(tmp_path: Path) -> None:
    calls: dict[bool, int] = {}
    for with_source in (False, True):
        made: list[PointMass] = []

        def make_target(made: list[PointMass] = made) -> PointMass:
            made.append(PointMass())
            return made[-1]

        build("PPO").save(tmp_path / "agent.zip")
        transfer(
            make_target, "zero_shot", tmp_path / "agent.zip", source_env=PointMass if with_source else None,
            output_dir=tmp_path / f"run{with_source}", settings=parse(TINY),
        )  # fmt: skip
        calls[with_source] = len(made)
    assert calls[True] == calls[False]


def test_an_agent_that_has_learnt_on_another_body_is_taken_to_be_of_that_body(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Joints in another order give vectors of the same length, which do not tell whose agent it is."""
    home: dict[str, Any] = {"max_episode_steps": 10}
    other = home | {"xml_file": str(reordered(tmp_path))}
    settings = parse(TINY) | {"env.kwargs": other, "env.source_kwargs": home}
    archive = find_agent("HalfCheetah", "ppo")
    first = transfer("HalfCheetah-v5", "zero_shot", archive, output_dir=tmp_path / "first", settings=settings)
    assert "Another body" in capsys.readouterr().err
    moved = tmp_path / "first" / "final.zip"
    second = transfer("HalfCheetah-v5", "zero_shot", moved, output_dir=tmp_path / "second", settings=settings)
    assert second.zero_shot == first.zero_shot
    assert "source" in second.zero_shot
    settings = parse(TINY) | {"env.kwargs": home}
    back = transfer("HalfCheetah-v5", "zero_shot", moved, output_dir=tmp_path / "back", settings=settings)
    # sums are in another order, and the simulation is chaotic
    assert back.zero_shot["target"].mean == pytest.approx(first.zero_shot["source"].mean, rel=1e-3)
    assert PPO.load(moved).policy.state_dict().keys() == PPO.load(archive).policy.state_dict().keys()


def test_a_body_that_is_moved_by_other_motors_is_still_at_first(tmp_path: Path, short_episodes: None) -> None:
    settings = parse([*TINY, "vec=dummy", "algo.settings.n_steps=32"])
    result = transfer("SafetyDoggoGoal0", "ft", total_timesteps=64, output_dir=tmp_path, settings=settings)
    assert set(result.zero_shot) == {"target"}
    with pytest.raises(ConfigError, match="On the source's body this policy does not play"):
        blend(tmp_path)
    policy: Any = load_agent(tmp_path / "start.zip").policy
    assert policy.action_net.weight.shape[0] == 12
    assert not policy.action_net.weight.any()
    assert np.isfinite(policy.log_std.detach()).all()
    again = find_correspondence("auto", read_domains({"name": "SafetyDoggoGoal0"}), tmp_path / "final.zip")
    assert again is not None
    assert again.is_identity, "an agent that has learnt to move there keeps that"
    assert correspond("SafetyCarGoal0", "SafetyDoggoGoal0").action.new == list(range(12))
    names = Names(("goal", "left"), ("left", "right")), Names(("goal", "hip"), ("hip", "knee"))
    with pytest.raises(ConfigError, match="No entry of the action corresponds: the source has left, right"):
        by_names(*names)
    for rules in (Exceptions(observation={"hip": "zero"}), Exceptions(action={"hip": "zero"})):
        with pytest.raises(ConfigError, match=r"No entry of the action corresponds.*call each entry"):
            by_names(*names, rules)
    assert by_names(*names, Exceptions(action={"hip": "zero", "knee": "zero"})).action.new == [0, 1]
