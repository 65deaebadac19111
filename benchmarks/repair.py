"""Policies between source and fine-tuned policy, with the statistics of BatchNorm on the path, or measured anew.

    python -m benchmarks.repair RUN_FOLDER ... --out benchmarks/results/repair.jsonl

REPAIR (arXiv 2211.08403) measures the statistics of an interpolated network anew. Here each policy on the path visits
``--steps`` states of the target, and its layers take their statistics (``refreshed``), or keep those on the path
(``path``). Both play ``--episodes`` deterministic episodes on target and source. Each point is a line of the file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.archives import load_agent
from daft_rl.envs.domain import Domain, read_domains
from daft_rl.policy.anatomy import Anatomy
from daft_rl.resume import read_run
from daft_rl.rollout.evaluation import evaluate, visit
from daft_rl.run.path import PolicyPath
from daft_rl.settings import TransferSettings

EPISODE_SEED, VISIT_SEED = 10_000, 1


def play(model: BaseAlgorithm, domains: dict[str, Domain], episodes: int) -> dict[str, float]:
    """Mean returns by role."""
    found = {}
    for role in ("target", "source"):
        venv = domains[role].make_vec(episodes, "auto")
        found[role] = round(evaluate(model, venv, episodes, seed=EPISODE_SEED).mean, 1)
        venv.close()
    return found


def refresh(model: BaseAlgorithm, target: Domain, steps: int) -> None:
    """Give the layers the statistics of states that the policy visits in the target."""
    anatomy, venv = Anatomy(model.policy), target.make_vec(16, "auto")
    anatomy.apply(anatomy.measure(anatomy.batches(*visit(model, venv, steps, VISIT_SEED))), preserve_function=False)
    venv.close()


def main() -> None:
    """Measure, and print each line that is written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=8192)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for run in given.runs:
        settings = read_run(TransferSettings, run, False)
        path = PolicyPath(*(load_agent(run / f"{end}.zip", device="cpu") for end in ("start", "final")))
        domains = read_domains(vars(settings.env))
        for alpha in (0.25, 0.5, 0.75, 1.0):
            line: dict[str, Any] = {"task": settings.env.name, "seed": settings.seed, "alpha": alpha}
            line["path"] = play(path.go_to(alpha), domains, given.episodes)
            refresh(path.model, domains["target"], given.steps)
            line["refreshed"] = play(path.model, domains, given.episodes)
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)


if __name__ == "__main__":
    main()
