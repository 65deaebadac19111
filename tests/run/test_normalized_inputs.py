"""An off-policy agent that learnt from normalized observations tells so by what it observed last."""

from __future__ import annotations

import base64
import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.wrappers import TransformObservation
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl import transfer
from daft_rl.archives.last_observations import read_last_observations
from daft_rl.errors import DaftWarning
from tests.conftest import PointMass, parse
from tests.envs.test_domain import OFF_POLICY, TINY

EPISODE = 20


def far_away() -> TransformObservation[Any, Any, Any]:
    """Observations far from 0, on a scale of their own."""
    env = PointMass()
    return TransformObservation(env, lambda seen: (0.2 * seen + 30.0).astype(np.float32), env.observation_space)


def trained(normalized: bool, steps: int, kind: type[Any] = SAC) -> Any:
    venv: Any = DummyVecEnv([far_away] * 2)
    env = VecNormalize(venv) if normalized else venv
    net: dict[str, Any] = {"net_arch": [16]}
    model = kind("MlpPolicy", env, learning_starts=10, buffer_size=100, policy_kwargs=net, seed=0, device="cpu")
    return model.learn(2 * steps)


def told(source: Any, folder: Path, env: Any = far_away, **settings: Any) -> int:
    """How many warnings say that the statistics are missing."""
    given = parse([*TINY, *OFF_POLICY]) | {"calibration.held_out": 128} | settings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        transfer(env, "zero_shot", source, output_dir=folder, settings=given)
    return sum(
        isinstance(one.message, DaftWarning) and "learnt inside of a VecNormalize" in str(one.message) for one in caught
    )


@pytest.mark.parametrize("kind", [SAC, TD3])
@pytest.mark.parametrize("steps", [EPISODE + 7, 2 * EPISODE], ids=["within an episode", "at the end of one"])
@pytest.mark.parametrize("normalized", [True, False])
def test_it_is_told_if_its_statistics_are_missing(
    normalized: bool, steps: int, kind: type[Any], tmp_path: Path
) -> None:
    trained(normalized, steps, kind).save(tmp_path / "agent.zip")
    assert told(tmp_path / "agent.zip", tmp_path / "run") == normalized
    assert told(tmp_path / "agent.zip", tmp_path / "none", **{"agent.vecnormalize": "none"}) == 0


def test_an_agent_with_its_statistics_is_transferred_without_a_word(tmp_path: Path) -> None:
    model = trained(True, EPISODE + 7)
    assert told(model, tmp_path / "object") == 0
    model.save(tmp_path / "agent.zip")
    model.get_vec_normalize_env().save(str(tmp_path / "vecnormalize.pkl"))
    assert told(tmp_path / "agent.zip", tmp_path / "run") == 0


def test_an_object_without_them_is_told_of(tmp_path: Path) -> None:
    trained(True, EPISODE + 7).save(tmp_path / "agent.zip")
    assert told(SAC.load(tmp_path / "agent.zip", device="cpu"), tmp_path / "run") == 1


def test_nothing_is_told_where_entries_have_moved(tmp_path: Path) -> None:
    def flipped() -> TransformObservation[Any, Any, Any]:
        env = far_away()
        shift = np.array([0.0, 0.0, 1000.0], np.float32)
        return TransformObservation(env, lambda seen: (seen + shift)[::-1], env.observation_space)

    model = trained(False, EPISODE + 7)
    for name in ("_last_obs", "_last_original_obs"):
        getattr(model, name)[:, 2] += 1000.0
    model._last_original_obs[:, 0] += 500.0  # a step of the entry that is another one now
    model.save(tmp_path / "agent.zip")
    moved = {
        "source": {"observation": ["a", "b", "c"], "action": ["u", "v"]},
        "target": {"observation": ["c", "b", "a"], "action": ["u", "v"]},
    }
    assert told(tmp_path / "agent.zip", tmp_path / "run", flipped, **{"agent.correspondence": moved}) == 0


class Hostile:
    """Would run a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


def test_nothing_of_the_archive_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained(True, EPISODE + 7).save("agent.zip")
    with zipfile.ZipFile("agent.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(content["data"])
    data["_last_obs"][":serialized:"] = base64.b64encode(pickle.dumps(Hostile())).decode()
    with zipfile.ZipFile("agent.zip", "w") as archive:
        for name, raw in (content | {"data": json.dumps(data).encode()}).items():
            archive.writestr(name, raw)
    assert read_last_observations(tmp_path / "agent.zip") is None
    assert not Path("harmed").exists()
