"""The folder of checkpoints: the newest are kept, a damaged one is skipped, a replay buffer is written in parts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from daft_rl.checkpoint import CheckpointStore
from daft_rl.checkpoint.replay_buffer import BufferParts
from daft_rl.errors import CheckpointError, DaftWarning
from tests.conftest import build

BOX = spaces.Box(-1, 1, (3,))
FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def add(buffer: ReplayBuffer, start: int, rows: int) -> None:
    """Add rows whose next observation is the next row's observation, but at the end of episodes."""

    def observation(row: int) -> Any:
        values = np.full((2, 3), row, dtype=np.float32)
        return {"one": values, "two": -values} if isinstance(buffer, DictReplayBuffer) else values

    for row in range(start, start + rows):
        done = np.array([row % 5 == 4, False])
        following = observation(row + 1)
        for array in following.values() if isinstance(following, dict) else [following]:
            array[done] += 0.5
        infos = [{"TimeLimit.truncated": bool(end)} for end in done]
        buffer.add(observation(row), following, np.full((2, 1), row), np.full(2, row), done, infos)


def arrays(buffer: ReplayBuffer) -> list[NDArray[Any]]:
    found = [getattr(buffer, name) for name in FIELDS if hasattr(buffer, name)]
    return [array for entry in found for array in (entry.values() if isinstance(entry, dict) else [entry])]


def make_buffer(kind: str) -> ReplayBuffer:
    if kind == "dictionaries":
        return DictReplayBuffer(20, spaces.Dict({"one": BOX, "two": BOX}), spaces.Box(-1, 1, (1,)), "cpu", n_envs=2)
    saving = {"optimize_memory_usage": True, "handle_timeout_termination": False} if kind == "saving" else {}
    return ReplayBuffer(20, BOX, spaces.Box(-1, 1, (1,)), "cpu", n_envs=2, **saving)


@pytest.mark.parametrize("kind", ["arrays", "dictionaries", "saving"])
@pytest.mark.parametrize("sizes", [(3,), (3, 4), (7, 3), (4, 4, 4), (6, 6, 6, 6), (25,), (3, 20), (2, 13)])
def test_a_buffer_is_read_as_it_was_at_each_checkpoint(kind: str, sizes: tuple[int, ...], tmp_path: Path) -> None:
    """The buffer has room for ten rows, so that most of these go around."""
    buffer, parts, rows = make_buffer(kind), BufferParts(tmp_path), 0
    for size in sizes:
        add(buffer, rows, size)
        rows += size
        state = parts.write(buffer, rows)
        parts.prune(rows - buffer.buffer_size)
        again = make_buffer(kind)
        parts.load(again, state)
        assert (again.pos, again.full) == (buffer.pos, buffer.full)
        for one, other in zip(arrays(again), arrays(buffer), strict=True):
            np.testing.assert_array_equal(one, other)
    assert sum(int(path.stem[13:]) - int(path.stem[:12]) for path in tmp_path.iterdir()) <= 10 + max(sizes)


def test_a_missing_part_is_told(tmp_path: Path) -> None:
    buffer, parts = make_buffer("arrays"), BufferParts(tmp_path)
    for rows in (3, 6):
        add(buffer, rows - 3, 3)
        state = parts.write(buffer, rows)
    next(tmp_path.glob("*-000000000003.zip")).unlink()
    with pytest.raises(CheckpointError, match="rows from 0 on of 6 are missing"):
        parts.load(make_buffer("arrays"), state)


def learner(steps: int) -> DQN:
    model: Any = build("DQN")
    for _ in range(steps):
        model.num_timesteps += 1
        model.replay_buffer.add(np.zeros((1, 3)), np.ones((1, 3)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    return model


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for steps in (10, 20, 30):
        store.write(learner(steps), {"step": steps})
    assert store.steps() == [30, 20]
    found = store.read()
    assert found is not None
    assert found["step"] == 30
    store.clear()
    assert store.read() is None


@pytest.mark.parametrize("damaged", ["000000000030.zip", "replay/000000000020-000000000030.zip"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(damaged: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for steps in (10, 20, 30):
        store.write(learner(steps), {"step": steps})
    os.truncate(tmp_path / damaged, 100)
    with pytest.warns(DaftWarning, match="A checkpoint is skipped: .*is damaged"):
        found = store.read()
    assert found is not None
    assert found["step"] == 20
    store.write(learner(30), {"step": 30})  # the part of the skipped one is written again
    found = store.read()
    assert found is not None
    assert found["step"] == 30


def test_a_write_that_fails_leaves_the_checkpoints_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.write(learner(10), {"step": 10})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(learner(20), {"step": 20})
    monkeypatch.undo()
    assert not list(tmp_path.rglob(".unfinished-*"))
    found = store.read()
    assert found is not None
    assert found["step"] == 10
