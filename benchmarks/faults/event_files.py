"""How large TensorBoard's file of a run becomes: with Stable-Baselines3's writer, and with the run's own logger.

    python -m benchmarks.faults.event_files --out benchmarks/results/event_files.jsonl

Nothing learns: both get the scalars of a PPO transfer, at the steps at which it would log them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat

from daft_rl.run.logger import ScalarFile, SparseLogger, interval

STEPS = 2_000_000
ROLLOUTS = {"16 environments, 128 steps": 2048, "16 environments, 64 steps": 1024, "1 environment, 64 steps": 64}
NAMES = (
    *(f"learning_rate/{part}_{half}" for part in ("actor", "critic") for half in ("encoder", "head")),
    *(f"rollout/{name}" for name in ("ep_len_mean", "ep_rew_mean")),
    *(f"time/{name}" for name in ("fps", "iterations", "time_elapsed", "total_timesteps")),
    *(f"train/{name}" for name in ("approx_kl", "clip_fraction", "clip_range", "entropy_loss", "explained_variance")),
    *(f"train/{name}" for name in ("first_minibatch_kl", "loss", "n_updates", "policy_gradient_loss", "std")),
    "train/value_loss",
)

Make = Callable[[Path], Logger]


def stable_baselines(folder: Path) -> Logger:
    """What SB3 makes."""
    return Logger(str(folder), [TensorBoardOutputFormat(str(folder))])


def own(folder: Path) -> Logger:
    """What a run makes."""
    writers: list[KVWriter] = [ScalarFile(folder)]
    return SparseLogger(str(folder), writers, interval("auto", STEPS))


def write(make: Make, rollout: int) -> dict[str, float]:
    """Log a run.

    :param rollout: steps between two points
    """
    with TemporaryDirectory() as name:
        logger, started = make(Path(name)), time.perf_counter()
        for step in range(rollout, STEPS + 1, rollout):
            for scalar in NAMES:
                logger.record(scalar, step / 7)
            logger.dump(step)
        logger.close()
        seconds = time.perf_counter() - started
        size = sum(path.stat().st_size for path in Path(name).iterdir())
    return {"megabytes": round(size / 1024**2, 2), "seconds": round(seconds, 1)}


def main() -> None:
    """Write each file, and a line about it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    with parser.parse_args().out.open("w") as file:
        for name, rollout in ROLLOUTS.items():
            for make in (stable_baselines, own):
                line = {"steps": STEPS, "rollout": name, "scalars": len(NAMES), "points": STEPS // rollout}
                line |= {"writer": make.__name__, **write(make, rollout)}
                file.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
