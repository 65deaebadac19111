"""What every batch of worlds does: ends and restarts of episodes, delays, shifts of observations, guards."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from daft_rl.errors import SimulationError
from tests.envs.cuda.locomotion_tasks import Twins, blueprint, make_worlds, random_actions


def test_a_time_limit_truncates_and_a_new_episode_begins() -> None:
    worlds = make_worlds(replace(blueprint("HalfCheetah"), time_limit=3), num_worlds=2)
    worlds.reset()
    for t, action in enumerate(random_actions(worlds, 7)):
        step = worlds.step(action)
        assert step.truncated.tolist() == [t % 3 == 2] * 2
        assert not step.terminated.any()
        assert torch.equal(step.observation, step.final_observation) == (t % 3 != 2)
    assert not torch.equal(step.observation[0], step.observation[1])


def test_an_episode_that_the_task_ends_restarts_and_others_go_on() -> None:
    worlds = make_worlds(blueprint("Ant"), num_worlds=3)
    worlds.reset()
    actions = random_actions(worlds, 3)
    worlds.step(actions[0])
    worlds.physics.field("qpos")[1, 2] = 3.0  # too high to be healthy
    twins_state = worlds.physics.field("qpos").clone()
    step = worlds.step(actions[1])
    assert step.terminated.tolist() == [False, True, False]
    assert not step.truncated.any()
    assert step.final_observation[1, 0] > 2.5
    assert 0.6 < float(step.observation[1, 0]) < 0.9
    assert not step.observation[1, 27:].any()  # no contact force at the first observation
    assert torch.equal(step.observation[[0, 2]], step.final_observation[[0, 2]])
    assert not torch.equal(worlds.physics.field("qpos")[0], twins_state[0])
    following = worlds.step(actions[2])
    assert float(following.reward[1].abs()) < 20  # the speed is measured from where the new episode begins


def test_delays_and_shifts_of_observations_are_those_of_the_wrappers() -> None:
    shifts: list[dict[str, Any]] = [
        {},
        {"action_delay": 2},
        {"action_delay": 1, "observation_offset": 0.2, "observation_scale": 1.5, "observation_draw": 3},
    ]
    worlds = make_worlds(*[replace(blueprint("HalfCheetah", shift), time_limit=5) for shift in shifts])
    first = worlds.reset()
    twins = Twins(worlds, "HalfCheetah")
    last: Any = twins.envs[2]
    assert worlds.observation_space == last.observation_space
    np.testing.assert_allclose(first[2], last.observation(last.unwrapped._get_obs()), rtol=1e-5, atol=1e-5)
    for action in random_actions(worlds, 8):
        step, results = twins.step(action)
        np.testing.assert_allclose(step.final_observation, [result[0] for result in results], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(step.reward, [result[1] for result in results], rtol=1e-4, atol=1e-4)


def test_noise_of_observations_has_its_size_and_its_worlds() -> None:
    plans = [blueprint("HalfCheetah", shift) for shift in ({}, {"observation_noise": 0.5})]
    worlds = make_worlds(*plans, num_worlds=400)
    observed, true = worlds.reset().numpy(), worlds.physics.field("qpos").numpy()[:, 1:]
    noise = observed[:, :8] - true
    assert not noise[::2].any()
    np.testing.assert_allclose(noise[1::2].std(), 0.5, rtol=0.05)


def test_a_state_that_is_not_finite_ends_the_episode_and_is_not_observed() -> None:
    worlds = make_worlds(blueprint("HalfCheetah"), num_worlds=3)
    worlds.reset()
    actions = random_actions(worlds, 3)
    worlds.step(actions[0])
    worlds.physics.field("qvel")[1, 3] = torch.nan
    step = worlds.step(actions[1])
    assert step.terminated.tolist() == [False, True, False]
    for values in (step.observation, step.final_observation, step.reward):
        assert torch.isfinite(values).all()
    assert worlds.failures() == 1
    assert not worlds.step(actions[2]).terminated.any()


def test_equal_seeds_give_equal_episodes() -> None:
    runs = []
    for seed in (1, 1, 2):
        worlds = make_worlds(blueprint("HalfCheetah", {"observation_noise": 0.1}), num_worlds=3, seed=seed)
        first = worlds.reset()
        runs.append((first, worlds.step(random_actions(worlds, 1)[0]).observation))
    assert all(torch.equal(one, other) for one, other in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0][0], runs[2][0])


def test_worlds_can_be_made_from_pickled_blueprints() -> None:
    plan = blueprint("HalfCheetah", {"gravity": 0.5})
    original, copy = make_worlds(plan), make_worlds(pickle.loads(pickle.dumps(plan)))
    assert torch.equal(original.reset(), copy.reset())
    action = random_actions(original, 1)[0]
    assert torch.equal(original.step(action).observation, copy.step(action).observation)


def test_lost_contacts_are_reported(monkeypatch: Any) -> None:
    from daft_rl.envs.cuda import locomotion
    from daft_rl.envs.mujoco.rules import HalfCheetahRules

    monkeypatch.setitem(locomotion.MEMORY, HalfCheetahRules, (1, 4))
    worlds = make_worlds(blueprint("HalfCheetah"), num_worlds=2)
    worlds.reset()
    worlds.check()
    for action in random_actions(worlds, 15):
        worlds.step(action)
    with pytest.raises(SimulationError, match="of 2 worlds contacts or constraints did not fit"):
        worlds.check()
