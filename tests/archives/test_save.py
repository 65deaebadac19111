"""When an agent is saved over another, the files always hold the old one or the new one, never a mixture."""

from __future__ import annotations

import base64
import json
import os
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl import load_agent
from daft_rl.archives import save_agent
from tests.conftest import PointMass


def build(seed: int) -> PPO:
    """Agents of different seeds, in normalized environments with the same statistics."""
    venv: Any = VecNormalize(DummyVecEnv([PointMass]))
    venv.obs_rms.mean, venv.obs_rms.var = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    return PPO("MlpPolicy", venv, n_steps=8, batch_size=8, seed=seed, device="cpu")


def act(model: Any) -> NDArray[Any]:
    raw = np.arange(12, dtype=np.float32).reshape(4, 3)
    return model.predict(model.get_vec_normalize_env().normalize_obs(raw), deterministic=True)[0]


def test_content_reaches_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut there is the old agent or the new one, no empty file."""
    synced: list[int] = []
    replace, fsync = Path.replace, os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def replace_synced(path: Path, target: Path) -> Path:
        assert path.stat().st_ino in synced
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "replace", replace_synced)
    save_agent(build(0), tmp_path / "best.zip", prefix="best_")
    assert synced[-1] == tmp_path.stat().st_ino
    assert {path.stat().st_ino for path in tmp_path.iterdir()} < {*synced}


@pytest.mark.parametrize("failing", ["save", 0, 1])
def test_an_interruption_leaves_the_old_agent(
    failing: str | int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``save``: while the statistics are written. A number: before that file is put in place."""
    old, new = build(0), build(1)
    save_agent(old, tmp_path / "best.zip", prefix="best_")
    calls = iter(range(9))
    replace = Path.replace

    def interrupted(path: Path, target: Path) -> Path:
        if next(calls) == failing:
            raise KeyboardInterrupt
        return replace(path, target)

    def unsaved(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        if failing == "save":
            patch.setattr(VecNormalize, "__getstate__", unsaved)
        with pytest.raises(KeyboardInterrupt):
            save_agent(new, tmp_path / "best.zip", prefix="best_")
    np.testing.assert_array_equal(act(load_agent(tmp_path / "best.zip", DummyVecEnv([PointMass]))), act(old))
    save_agent(new, tmp_path / "best.zip", prefix="best_")
    np.testing.assert_array_equal(act(load_agent(tmp_path / "best.zip", DummyVecEnv([PointMass]))), act(new))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.zip", "best_vecnormalize.pkl"]


def test_side_files_of_the_old_agent_are_removed(tmp_path: Path) -> None:
    save_agent(build(0), tmp_path / "best.zip", prefix="best_")
    save_agent(PPO("MlpPolicy", PointMass(), device="cpu"), tmp_path / "best.zip", prefix="best_")
    assert [path.name for path in tmp_path.iterdir()] == ["best.zip"]


def test_both_versions_of_numpy_have_the_modules_that_pickles_name(tmp_path: Path) -> None:
    """Protocol 5 names ``numpy._core.numeric``, which is new in NumPy 2, as is the way to pickle generators."""
    model = build(0)
    drawn = model.action_space.np_random
    save_agent(model, tmp_path / "agent.zip")
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        data = json.loads(archive.read("data"))
    pickles = [base64.b64decode(item[":serialized:"]) for item in data.values() if ":serialized:" in str(item)]
    pickles.append((tmp_path / "vecnormalize.pkl").read_bytes())
    assert len(pickles) > 3
    for content in pickles:
        named = [value for _, value, _ in pickletools.genops(content) if isinstance(value, str)]
        assert not any(name.startswith(("numpy._core.numeric", "numpy.core.numeric", "numpy.random")) for name in named)
    assert model.action_space.np_random is drawn
    loaded = PPO.load(tmp_path / "agent.zip", device="cpu")
    raw = np.zeros((4, 3), np.float32)
    assert np.array_equal(loaded.predict(raw, deterministic=True)[0], model.predict(raw, deterministic=True)[0])
