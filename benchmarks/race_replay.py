"""What a race of methods would have won in the grid of the preset ``mujoco``, read from its learning curves.

    python -m benchmarks.race_replay

A rule is a list of arms, the preferred one first, whether cheap signs come first, a rung, and by how much a later arm
has to be ahead there. The arms that are left are compared at the rung in their learning curves (5 episodes), and the
winner ends where its curve is when all arms together have taken 100 thousand steps. One arm that is left alone has its
final return (20 episodes). A curve is that of a run whose rates decayed over 100 thousand steps, so that races of
several arms look worse here than they are.

Signs: an arm that changes the policy before it learns stays if that raises the return, and if no other such arm starts
above it; the start of ``ft``, whose updates see batch statistics, is that of ``adabn``. If such an arm stays, arms that
leave the policy as it is race against it, or, where signs decide, fall away. Of arms that compute the same before and
while they learn, as ``ft_eval`` and ``daft`` do with PPO, the first stays.

Regret is the distance from the best final return among four methods with the same seed, in scores of the report: 0 is a
random policy, 1 training from scratch. The last lines choose the rule on all targets but one, and judge it there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from daft_rl.report.cells import Cell
from daft_rl.report.scales import scales_by_reference
from daft_rl.report.storage import read_cells

HERE = Path(__file__).parent
JUDGED = ("ft", "ft_eval", "daft", "daft_realign")
STEPS = 100_000
START = {"ft": "adabn", "daft_realign": "daft_realign"}
"""Arms that change the policy before it learns -> the method in whose curve their start is seen."""
SURE = 0.1
"""Scores by which such an arm has to start above the source: 5 episodes have no standard errors here."""
LISTS = (
    *(("ft_eval",), ("daft",), ("daft_realign",)),
    *(("ft_eval", "daft_realign"), ("daft_realign", "ft_eval"), ("ft_eval", "ft")),
    *(("ft_eval", "daft", "daft_realign", "ft"), ("daft", "daft_realign", "ft")),
)
Signs = Literal["", "signs", "signs decide"]
SHIPPED = "ft_eval daft daft_realign ft, signs decide, rung 20k, ahead by 0.1"


@dataclass(frozen=True)
class Rule:
    """How to choose among methods."""

    arms: tuple[str, ...]
    signs: Signs
    rung: int
    ahead: float

    def __str__(self) -> str:
        name = " ".join(self.arms) + (f", {self.signs}" if self.signs else "")
        return name if len(self.arms) == 1 else f"{name}, rung {self.rung // 1000}k, ahead by {self.ahead:g}"


class Grid:
    """The scores of all runs."""

    def __init__(self) -> None:
        cells = read_cells([HERE / "results" / "mujoco.jsonl.gz"])
        scales = scales_by_reference(cells, json.loads((HERE / "references.json").read_text("utf-8")))
        self.cells: dict[tuple[str, int, str], Cell] = {(cell.target, cell.seed, cell.method): cell for cell in cells}
        self.scales = scales
        self.targets = sorted({target for target, _, _ in self.cells})
        self.seeds = sorted({seed for _, seed, _ in self.cells})

    def at(self, target: str, seed: int, method: str, step: int) -> float:
        """Score of a method at a step of its curve; at the last one, that of its final episodes."""
        cell = self.cells[target, seed, method]
        steps, returns = cell.curve
        value = cell.mean() if step >= STEPS else returns[list(steps).index(step)]
        return float(self.scales[target].score(value))

    def best(self, target: str, seed: int) -> float:
        """The best of the four methods."""
        return max(self.at(target, seed, method, STEPS) for method in JUDGED)

    def left(self, rule: Rule, target: str, seed: int) -> list[str]:
        """The arms that race."""
        if not rule.signs:
            return list(rule.arms)
        source = self.at(target, seed, "ft_eval", 0)
        starts = {arm: self.at(target, seed, START[arm], 0) for arm in rule.arms if arm in START}
        least = max([source + 2 * SURE, *starts.values()]) - SURE
        decided = rule.signs == "signs decide" and any(start >= least for start in starts.values())
        left: list[str] = []
        for arm in rule.arms:
            same = arm in ("daft", "ft_eval") and {"daft", "ft_eval"} & {*left}
            if not same and starts.get(arm, source if decided else least) >= least:
                left.append(arm)
        return left or [rule.arms[0]]

    def score(self, rule: Rule, target: str, seed: int) -> float:
        """What the rule ends with."""
        left = self.left(rule, target, seed)
        there = [self.at(target, seed, arm, rule.rung) for arm in left]
        winner = next(arm for arm, score in zip(left, there, strict=True) if score >= max(there) - rule.ahead)
        return self.at(target, seed, winner, STEPS - (len(left) - 1) * rule.rung)

    def regrets(self, rule: Rule) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Targets x seeds."""
        return np.array([[self.best(t, s) - self.score(rule, t, s) for s in self.seeds] for t in self.targets])


def rules() -> Iterator[Rule]:
    """All that are tried."""
    for arms in LISTS:
        if len(arms) == 1:
            yield Rule(arms, "", 20_000, 0.0)
            continue
        for signs, rung, ahead in product(get_args(Signs), (20_000, 40_000), (0.0, 0.1, 0.2, 0.4)):
            if signs or (len(arms) - 1) * rung <= STEPS - 2 * rung:
                yield Rule(arms, signs, rung, ahead)


def main() -> None:
    """Print a table of rules, and the choice by leaving out one target."""
    grid = Grid()
    best = np.array([[grid.best(t, s) for s in grid.seeds] for t in grid.targets])
    regrets = {str(rule): grid.regrets(rule) for rule in rules()}
    print(f"best of {', '.join(JUDGED)}, seed by seed: {best.mean():.2f}\n")
    print("| rule | score | regret: mean | largest | by target |\n| --- | --- | --- | --- | --- |")
    for name, found in sorted(regrets.items(), key=lambda item: item[1].mean()):
        by_target = ", ".join(f"{value:.2f}" for value in found.mean(1))
        print(f"| {name} | {best.mean() - found.mean():.2f} | {found.mean():.3f} | {found.max():.2f} | {by_target} |")
    print(f"\nTargets: {'; '.join(grid.targets)}\n\nChosen without one target, judged on it:\n")
    judged = []
    for index, target in enumerate(grid.targets):
        others = [number for number in range(len(grid.targets)) if number != index]
        name = min(regrets, key=lambda rule: regrets[rule][others].mean())
        judged.append(regrets[name][index].mean())
        print(f"- {target}: {name}: regret {judged[-1]:.2f}")
    print(f"\nMean regret of these choices: {np.mean(judged):.3f}; of the shipped rule: {regrets[SHIPPED].mean():.3f}")


if __name__ == "__main__":
    main()
