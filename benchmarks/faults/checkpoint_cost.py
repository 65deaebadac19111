"""What checkpoints cost: seconds and bytes of a default run, and of replay buffers.

    python benchmarks/faults/checkpoint_cost.py --out runs/checkpoint_cost

transfers PPO to Ant with all defaults, and writes and reads replay buffers of Ant's observations. Each result is a line
of JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from daft_rl import transfer
from daft_rl.checkpoint import CheckpointStore
from daft_rl.checkpoint.replay_buffer import BufferParts

OBSERVATION, ACTION, NUM_ENVS = 105, 8, 16
EVERY = 20_000


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure_run(folder: Path, steps: int) -> dict[str, Any]:
    """A default transfer; its checkpoints are measured right before they are deleted."""
    sizes: list[int] = []
    clear = CheckpointStore.clear

    def measure_and_clear(store: CheckpointStore) -> None:
        sizes.append(size_of(store.folder))
        clear(store)

    CheckpointStore.clear = measure_and_clear  # type: ignore[method-assign, assignment]
    result = transfer("Ant-shifted", "daft", total_timesteps=steps, output_dir=folder, settings={"overwrite": True})
    CheckpointStore.clear = clear  # type: ignore[method-assign]
    seconds = result.seconds_by_activity.get("checkpoint", 0.0)
    return {
        "what": "Ant-shifted, PPO",
        "steps": steps,
        "wall_seconds": round(result.wall_seconds, 1),
        "checkpoint_seconds": round(seconds, 3),
        "share": round(seconds / result.wall_seconds, 5),
        "megabytes": round(sizes[-1] / 1e6, 1),
    }


def measure_buffer(folder: Path, size: int) -> dict[str, Any]:
    """Fill a replay buffer, write what 20 000 steps add, then read everything."""
    box = spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float64)
    buffer = ReplayBuffer(size, box, spaces.Box(-1, 1, (ACTION,)), "cpu", n_envs=NUM_ENVS)
    draw, rows = np.random.default_rng(0), buffer.buffer_size
    for array in (buffer.observations, buffer.actions):
        array[:] = draw.standard_normal(array.shape, dtype=np.float32)
    buffer.next_observations[:-1] = buffer.observations[1:]
    buffer.pos, buffer.full = 0, True
    parts, added = BufferParts(folder), EVERY // NUM_ENVS
    started = time.perf_counter()
    parts.write(buffer, rows)
    whole = time.perf_counter() - started
    buffer.pos = added
    started = time.perf_counter()
    state = parts.write(buffer, rows + added)
    step = time.perf_counter() - started
    parts.prune(added)
    started = time.perf_counter()
    parts.load(buffer, state)
    read = time.perf_counter() - started
    return {
        "what": "replay buffer of Ant",
        "steps": size,
        "seconds_of_20000_steps": round(step, 3),
        "seconds_of_all": round(whole, 2),
        "seconds_to_read": round(read, 2),
        "megabytes": round(size_of(folder) / 1e6),
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/checkpoint_cost"))
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--buffers", type=int, nargs="*", default=[100_000, 1_000_000])
    given = parser.parse_args()
    for size in given.buffers:
        print(json.dumps(measure_buffer(given.out / "buffer", size)), flush=True)
        shutil.rmtree(given.out / "buffer")
    if given.steps:
        print(json.dumps(measure_run(given.out / "run", given.steps)), flush=True)


if __name__ == "__main__":
    main()
