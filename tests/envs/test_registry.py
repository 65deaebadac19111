"""Tasks and shifts: what is made, what really changes in the physics, and what is refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.envs import Shift, levels, make, make_vec, read_shift, task_names
from daft_rl.envs.mujoco.tasks import MujocoShift
from daft_rl.envs.shift import resolve_pattern
from daft_rl.envs.wrappers import ActionDelay, ObservationShift
from daft_rl.errors import TaskError

SOURCES = ["Ant", "HalfCheetah"]
REFERENCE = {"Ant": "Ant-v5", "HalfCheetah": "HalfCheetah-v5"}


def rollout(env: gym.Env, steps: int = 50, seed: int = 3) -> np.ndarray:
    """Observations and rewards of random actions from a seed."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    rows = [np.append(observation, 0.0)]
    for _ in range(steps):
        action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)  # type: ignore[attr-defined]
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.append(np.append(observation, reward))
        if terminated or truncated:
            env.reset()
    return np.array(rows)


def model_of(env: gym.Env) -> mujoco.MjModel:
    return env.unwrapped.model  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SOURCES)
def test_source_is_gymnasiums_task(name: str) -> None:
    ours, theirs = make(name), gym.make(REFERENCE[name])
    np.testing.assert_array_equal(rollout(ours), rollout(theirs))
    assert ours.spec is not None
    assert theirs.spec is not None
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", task_names())
def test_checkers_pass(name: str) -> None:
    gymnasium_check(gym.make(f"daft_rl/{name}-v0").unwrapped, skip_render_check=True)
    gymnasium_check(
        make(name, shift={"observation_noise": 0.1, "observation_offset": 0.5, "action_delay": 2}).env.env,  # type: ignore[attr-defined]
        skip_render_check=True,
    )
    sb3_check(make(name))


@pytest.mark.parametrize("name", task_names())
def test_every_level_is_valid_and_changes_something(name: str) -> None:
    for level in levels(name):
        assert bool(read_shift(name, level).changes()) == (level != "none"), level


@pytest.mark.parametrize("name", SOURCES)
def test_every_level_changes_the_trajectory(name: str) -> None:
    plain = rollout(make(name))
    assert np.array_equal(plain, rollout(make(name, shift="none")))
    seen = [plain]
    for level in levels(name):
        if level != "none":
            trajectory = rollout(make(name, shift=level))
            assert not any(np.array_equal(trajectory, other) for other in seen), level
            seen.append(trajectory)


def test_seeds_reproduce() -> None:
    shift = {"observation_noise": 0.1, "gravity": 0.7}
    assert np.array_equal(rollout(make("Ant", shift=shift), seed=1), rollout(make("Ant", shift=shift), seed=1))
    assert not np.array_equal(rollout(make("Ant", shift=shift), seed=1), rollout(make("Ant", shift=shift), seed=2))
    a, b = make("HalfCheetah", seed=5), make("HalfCheetah", seed=5)
    assert np.array_equal(a.action_space.sample(), b.action_space.sample())


@pytest.mark.parametrize(
    ("shift", "field", "factor"),
    [
        ({"gravity": 0.5}, lambda m: m.opt.gravity[2], 0.5),
        ({"friction": 2.0}, lambda m: m.geom_friction, 2.0),
        ({"mass": 3.0}, lambda m: m.body_mass[1:], 3.0),
        ({"mass": 3.0}, lambda m: m.body_inertia[1:], 3.0),
        ({"mass": 3.0}, lambda m: m.body_subtreemass, 3.0),
        ({"damping": 4.0}, lambda m: m.dof_damping, 4.0),
        ({"gear": 0.25}, lambda m: m.actuator_gear, 0.25),
    ],
)
@pytest.mark.parametrize("name", SOURCES)
def test_factors_reach_the_model(name: str, shift: dict, field: Any, factor: float) -> None:
    np.testing.assert_allclose(field(model_of(make(name, shift=shift))), field(model_of(make(name))) * factor)


def test_patterns_reach_only_what_they_name() -> None:
    plain, shifted = model_of(make("HalfCheetah")), model_of(make("HalfCheetah", shift={"mass": {"b*": 2.0}}))
    names = [plain.body(i).name for i in range(plain.nbody)]
    ratio = shifted.body_mass[1:] / plain.body_mass[1:]
    assert [name for name, r in zip(names[1:], ratio, strict=True) if r == 2.0] == ["bthigh", "bshin", "bfoot"]
    assert set(ratio) == {1.0, 2.0}


def test_wind_and_density() -> None:
    model = model_of(make("Ant", shift={"density": 1.2, "wind": [3, 0, -1]}))
    assert model.opt.density == 1.2
    np.testing.assert_array_equal(model.opt.wind, [3, 0, -1])


def test_joint_ranges_shrink_about_the_rest_position() -> None:
    plain, shifted = model_of(make("Ant")), model_of(make("Ant", shift={"joint_range": {"hip_1": 0.1, "ankle_1": 0.5}}))
    np.testing.assert_allclose(shifted.joint("hip_1").range, np.radians([-3, 3]))
    np.testing.assert_allclose(shifted.joint("ankle_1").range, np.radians([30, 50]))  # rests at the end of its range
    np.testing.assert_array_equal(shifted.joint("hip_2").range, plain.joint("hip_2").range)


def test_limbs_keep_attached() -> None:
    plain, shifted = model_of(make("HalfCheetah")), model_of(make("HalfCheetah", shift={"limb_size": {"bshin": 0.5}}))
    np.testing.assert_allclose(shifted.geom("bshin").size[:2], plain.geom("bshin").size[:2] * 0.5)
    np.testing.assert_allclose(shifted.body("bfoot").pos, plain.body("bfoot").pos * 0.5)
    np.testing.assert_array_equal(shifted.body("bshin").pos, plain.body("bshin").pos)
    assert shifted.body("bshin").mass < plain.body("bshin").mass


@pytest.mark.parametrize(("scale", "legs"), [(0.8, 0.8), ({"torso": 0.8}, 0.8), ({"head": 0.8}, 1.0)])
def test_legs_follow_the_limb_they_are_attached_to(scale: Any, legs: float) -> None:
    plain, shifted = model_of(make("HalfCheetah")), model_of(make("HalfCheetah", shift={"limb_size": scale}))
    for body in ("bthigh", "fthigh"):
        np.testing.assert_allclose(shifted.body(body).pos, plain.body(body).pos * legs)


def test_draws_of_the_offset() -> None:
    offsets = {
        draw: rollout(make("HalfCheetah", shift={"observation_offset": 0.5, "observation_draw": draw}))[0, :-1]
        for draw in (0, 1)
    }
    plain = rollout(make("HalfCheetah"))[0, :-1]
    assert abs(np.corrcoef(offsets[0] - plain, offsets[1] - plain)[0, 1]) < 0.6
    with pytest.raises(TaskError, match="observation_draw: expected a whole number"):
        make("HalfCheetah", shift={"observation_draw": 0.5})


def test_observation_shift() -> None:
    plain = rollout(make("HalfCheetah"))[:, :-1]
    offset = rollout(make("HalfCheetah", shift={"observation_offset": 0.5, "observation_scale": 2.0}))[:, :-1]
    difference = offset - 2 * plain
    np.testing.assert_allclose(difference, np.broadcast_to(difference[0], difference.shape), atol=1e-12)
    assert 0.2 < difference[0].std() < 1.0
    noisy = rollout(make("HalfCheetah", shift={"observation_noise": 0.1}), steps=300)[:, :-1]
    assert (noisy - rollout(make("HalfCheetah"), steps=300)[:, :-1]).std() == pytest.approx(0.1, rel=0.1)


def test_action_delay() -> None:
    env, late = make("HalfCheetah"), make("HalfCheetah", shift={"action_delay": 2})
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (10, 6)).astype(np.float32)
    env.reset(seed=0)
    late.reset(seed=0)
    expected = [env.step(a)[0] for a in [np.zeros(6, np.float32)] * 2 + list(actions[:-2])]
    np.testing.assert_array_equal(expected, [late.step(a)[0] for a in actions])


@pytest.mark.parametrize("vec", ["auto", "threads", "workers"])
def test_vec_envs_agree(vec: str) -> None:
    def play(venv: VecEnv) -> np.ndarray:
        rng = np.random.default_rng(0)
        rows = [venv.reset()]
        for _ in range(20):
            rows.append(venv.step(rng.uniform(-1, 1, (2, 6)).astype(np.float32))[0])
        venv.close()
        return np.array(rows)

    reference = play(make_vec("HalfCheetah-shifted", num_envs=2, seed=7, vec="dummy"))
    assert reference.shape == (21, 2, 17)
    np.testing.assert_array_equal(reference, play(make_vec("HalfCheetah-shifted", num_envs=2, seed=7, vec=vec)))
    np.testing.assert_array_equal(reference[0, 1], make("HalfCheetah-shifted").reset(seed=8)[0])


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize(("task", "workers_from"), [("Door", 2), ("SafetyPointGoal", 3), ("SafetyAntGoal1-v0", 3)])
def test_workers_are_chosen_where_cores_are(
    task: str, workers_from: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daft_rl.envs.registry.usable_cores", lambda: cores)
    monkeypatch.setattr("daft_rl.envs.registry.check_installed", lambda package: None)
    monkeypatch.setattr("stable_baselines3.common.vec_env.DummyVecEnv", lambda fns: "dummy")
    monkeypatch.setattr("daft_rl.envs.batch.workers.WorkerVecEnv", lambda fns: "workers")
    assert make_vec(task) == ("workers" if cores >= workers_from else "dummy")


@pytest.mark.parametrize(
    ("name", "shift", "message"),
    [
        ("Nope", None, "Unknown task 'Nope'. What exists: Ant, Ant-shifted"),
        ("ant-shifted", None, "Did you mean 'Ant-shifted'"),
        ("Ant", "gravty-0.5", "Did you mean 'gravity-0.5'"),
        ("Ant", {"nope": 1}, "What exists: observation_noise"),
        ("Ant", {"mass": -1}, "must be above 0"),
        ("Ant", {"mass": {"torso": 0}}, "mass.torso"),
        ("Ant", {"friction": -0.1}, "at least 0"),
        ("Ant", {"gravity": float("nan")}, "finite number"),
        ("Ant", {"gravity": "half"}, "finite number"),
        ("Ant", {"action_delay": 1.5}, "whole number"),
        ("Ant", {"joint_range": {"knee": 0.5}}, "What exists: ankle_1"),
        ("Ant", {"wind": [1, 2]}, "three velocities"),
        ("Ant", {"wind": 3, "density": 1.2}, "three velocities"),
        ("Ant", 2, "expected the name of a level or fields"),
        ("Ant", {"wind": [1, 0, 0]}, "shift.density"),
    ],
)
def test_mistakes_are_told(name: str, shift: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message.replace("[", r"\[")):
        make(name, shift=shift)


def test_other_mistakes_are_told() -> None:
    with pytest.raises(TaskError, match="dummy"):
        make_vec("Ant", vec="quantum")
    with pytest.raises(TaskError, match="num_envs"):
        make_vec("Ant", num_envs=0)
    with pytest.raises(TaskError, match="Put the shift in there"):
        make_vec(lambda: make("Ant"), shift={"gravity": 0.5})
    with pytest.raises(TaskError, match="floating-point"):
        ObservationShift(FakeImageEnv(), noise=0.1)
    with pytest.raises(TaskError, match="MujocoShift"):
        read_shift("Ant", Shift())


@settings(deadline=None, max_examples=50)
@given(
    scale=st.dictionaries(st.sampled_from(["a*", "b", "*", "ab"]), st.floats(0.1, 10), max_size=4),
)
def test_patterns_multiply(scale: dict[str, float]) -> None:
    factors = resolve_pattern("mass", scale, ["ab", "b", "c"])
    fits = {"ab": ["a*", "*", "ab"], "b": ["b", "*"], "c": ["*"]}
    for name, patterns in fits.items():
        expected = np.prod([scale.get(pattern, 1.0) for pattern in patterns])
        assert factors.get(name, 1.0) == pytest.approx(expected)


@settings(deadline=None, max_examples=30)
@given(gravity=st.floats(-2, 5), friction=st.floats(0, 10), noise=st.floats(0, 1), delay=st.integers(0, 5))
def test_changes_rebuild_the_shift(gravity: float, friction: float, noise: float, delay: int) -> None:
    shift = MujocoShift(gravity=gravity, friction=friction, observation_noise=noise, action_delay=delay)
    assert MujocoShift.from_dict(shift.changes()) == shift
    assert read_shift("Ant", shift.changes()) == shift


def test_delayed_actions_of_a_discrete_space_are_numbers() -> None:
    """FrozenLake looks them up."""
    env = ActionDelay(gym.make("FrozenLake-v1", is_slippery=False), 1)
    env.reset(seed=0)
    assert [int(env.step(action)[0]) for action in (np.int64(2), 1, np.array(0))] == [0, 1, 5]


def test_numbers_of_numpy_are_numbers() -> None:
    shift = read_shift("Ant", {"gravity": np.float32(0.5), "action_delay": np.int64(2)})
    assert shift.changes() == {"gravity": 0.5, "action_delay": 2}
    assert [type(value) for value in shift.changes().values()] == [int, float]
