"""How methods did on agents of others: scores of the lines that :mod:`benchmarks.public_grid` wrote.

    python -m benchmarks.public_scores results/public_grid.jsonl

A score is the final return on the target, or at home with ``--role source``: 0 is a policy that acts at random in the
agent's own task, 1 the agent there. Targets where some method lacks a seed are left out, and named. Intervals are those
of the report (95 %, stratified bootstrap over seeds).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from daft_rl.report.statistics import compare

Key = tuple[str, str]
"""An agent's archive, and a shift."""
EPISODES = 20


@cache
def random_return(task: str) -> float:
    """Mean return of uniformly random actions."""
    env = gym.make(task)
    env.action_space.seed(0)
    total = 0.0
    for seed in range(EPISODES):
        env.reset(seed=seed)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total += float(reward)
            over = terminated or truncated
    return total / EPISODES


def home_return(lines: list[dict[str, Any]]) -> float:
    """What an agent returned in its own task before any transfer."""
    return float(np.mean(next(line["zero_shot"]["source"] for line in lines if "zero_shot" in line)))


def score_matrices(
    lines: list[dict[str, Any]], role: str
) -> tuple[dict[str, np.ndarray[Any, Any]], list[Key], list[Key]]:
    """Scores, ``(seeds, targets)`` for each method.

    :param role: where the policies are played, ``target`` or ``source``
    :return: the matrices, the targets that are in them, and those that lack something
    """
    by_target: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        by_target[line["agent"], line["shift"]].append(line)
    methods, seeds = sorted({line["method"] for line in lines}), sorted({line["seed"] for line in lines})
    complete, missing = [], []
    columns: dict[str, list[list[float]]] = {method: [] for method in methods}
    for key, those in sorted(by_target.items()):
        final = {(line["method"], line["seed"]): float(np.mean(line["final"][role])) for line in those}
        if len(final) < len(methods) * len(seeds):
            missing.append(key)
            continue
        complete.append(key)
        low, high = random_return(those[0]["task"]), home_return(those)
        for method in methods:
            columns[method].append([(final[method, seed] - low) / (high - low) for seed in seeds])
    return {method: np.array(column).T for method, column in columns.items()}, complete, missing


def main() -> None:
    """Print the scores of each target, their aggregate, and differences from the baseline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--without", nargs="+", default=[], help="no archives whose path contains one of these")
    parser.add_argument("--role", choices=("target", "source"), default="target")
    parser.add_argument("--baseline", default="sb3_continue")
    given = parser.parse_args()
    lines = [json.loads(line) for line in given.file.read_text("utf-8").splitlines()]
    wanted = given.methods or sorted({line["method"] for line in lines})
    lines = [line for line in lines if not any(part in line["agent"] for part in given.without)]
    matrices, complete, missing = score_matrices([line for line in lines if line["method"] in wanted], given.role)
    for column, (agent, shift) in enumerate(complete):
        scores = ", ".join(f"{method} {matrices[method][:, column].mean():.2f}" for method in wanted)
        print(f"{agent}, {shift}: {scores}")
    print(f"Not complete: {', '.join(' '.join(key) for key in missing) or 'none'}")
    agents = len({agent for agent, _ in complete})
    print(f"{agents} agents, {len(complete)} targets, {len(matrices[wanted[0]])} seeds")
    found = compare(matrices, given.baseline)
    for method in found.ranked:
        print(f"{method}: interquartile mean {found.iqm[method]}, mean {found.mean[method]}")
    for method, gain in found.mean_difference.items():
        print(f"{method} - {given.baseline}: interquartile mean {found.iqm_difference[method]}, mean {gain}")


if __name__ == "__main__":
    main()
