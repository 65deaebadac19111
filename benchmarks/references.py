"""Measure the returns that have the scores 0 and 1: of random actions, and of an agent trained on the target.

    python benchmarks/references.py --targets HalfCheetah:gravity-0.5 Ant:morphology-medium --steps 1000000

Each target is written to the file as soon as it is measured. A target that is in the file is not measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from daft_rl.envs import make
from daft_rl.envs.domain import Domain
from daft_rl.envs.registry import read_shift
from daft_rl.files import write_json
from daft_rl.report.cells import target_name
from daft_rl.transfer import transfer

EPISODES = 20
REFERENCES = Path(__file__).resolve().with_name("references.json").resolve()  # lies in the package, and is a link here


def random_return(domain: Domain) -> float:
    """Mean return of uniformly random actions."""
    returns = []
    for episode in range(EPISODES):
        env = make(domain.name, shift=domain.shift, seed=10_000 + episode)
        env.reset(seed=10_000 + episode)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, over = total + float(reward), terminated or truncated
        env.close()
        returns.append(total)
    return float(np.mean(returns))


def main() -> None:
    """Measure the targets that are not in the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", required=True, help="TASK:LEVEL, or TASK for its default shift")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the training from scratch")
    parser.add_argument("--out", type=Path, default=REFERENCES)
    arguments = parser.parse_args()
    data = json.loads(arguments.out.read_text("utf-8")) if arguments.out.exists() else {}
    for target in arguments.targets:
        task, _, level = target.partition(":")
        name = f"{task}-shifted"
        domain = Domain(name, read_shift(name, level or None))
        label = target_name(name, domain.changes)
        if label in data:
            continue
        result = transfer(
            name,
            "scratch",
            total_timesteps=arguments.steps,
            shift=level or None,
            output_dir=Path("runs/references") / target.replace(":", "-"),
            settings={"progress_bar": False, "evaluation.every": arguments.steps // 5},
        )
        data[label] = {
            "random": random_return(domain),
            "expert": result.final["target"].mean,
            "command": f"python benchmarks/references.py --targets {target} --steps {arguments.steps}",
        }
        write_json(arguments.out, data)
        print(label, data[label], flush=True)


if __name__ == "__main__":
    main()
