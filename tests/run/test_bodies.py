"""Shipped sources move to other bodies by name: also to bodies that nobody named."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.mujoco import mujoco_env
from stable_baselines3.common.vec_env import DummyVecEnv

from daft_rl import load_agent
from daft_rl.archives import find_agent
from daft_rl.correspondence import Correspondence
from daft_rl.envs.domain import Domain, read_domains
from daft_rl.errors import TaskError
from daft_rl.run.bodies import find_correspondence, measure_new_entries
from daft_rl.transfer import transfer
from tests.conftest import parse

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


def test_joints_in_another_order_are_found_by_their_names(tmp_path: Path) -> None:
    archive = find_agent("HalfCheetah", "crossq")
    domains = read_domains(
        {"name": "HalfCheetah-v5", "kwargs": {"xml_file": str(reordered(tmp_path))}, "source_kwargs": {}}
    )
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
        ("Ant-fivelegs", None, "Ant-ppo", 100),
        ("Ant", "leg-less", "Ant-ppo", -100),  # the source's fourth leg hangs now
        ("HalfCheetah-threelegs", None, None, 100),
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
    monkeypatch.setattr("daft_rl.run.bodies.STEPS", 64)
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
