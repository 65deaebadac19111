"""Statistics over tasks and seeds, by rliable (Agarwal et al., NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from rliable import library, metrics
from scipy import stats

from daft_rl.errors import ReportError
from daft_rl.report.cells import Cell
from daft_rl.report.scales import Scale

__all__ = ["Estimate", "aggregate", "difference", "efficiency", "improvement", "profile", "score_matrices"]

REPETITIONS = 10_000
FOR_BANDS = 2_000
"""Repetitions for the intervals that figures show as bands, one of each kind per method."""
LEVEL = 0.95
Metric = Callable[[np.ndarray], float]
"""Scores, shape ``(seeds, targets)``, as one number."""


@dataclass(frozen=True)
class Estimate:
    """A number with the interval of its stratified bootstrap."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def score_matrices(cells: list[Cell], scales: Mapping[str, Scale]) -> dict[str, np.ndarray]:
    """Normalised final returns on the target.

    :param cells: finished transfers
    :param scales: target -> what is 0 and 1 there
    :return: method -> ``(seeds, targets)``
    :raises ReportError: the grid has holes, since leaving out what is missing would favour some method
    """
    return _matrices(cells, scales, Cell.mean)


def _matrices(cells: list[Cell], scales: Mapping[str, Scale], returns: Callable[[Cell], Any]) -> dict[str, np.ndarray]:
    """As :func:`score_matrices`, of other returns of a cell; of a list of them, ``(seeds, targets, list)``."""
    targets = sorted({cell.target for cell in cells})
    seeds = sorted({cell.seed for cell in cells})
    methods = sorted({cell.method for cell in cells})
    by_key = {(cell.method, cell.seed, cell.target): cell for cell in cells}
    holes = [key for key in product(methods, seeds, targets) if key not in by_key]
    if holes:
        named = "; ".join(f"{target}, {method}, seed {seed}" for method, seed, target in holes[:5])
        more = f" and {len(holes) - 5} more" if len(holes) > 5 else ""
        raise ReportError(
            f"The grid has holes, not finished are {named}{more}. Run the benchmark again: it runs what is missing."
        )

    def score(method: str, seed: int, target: str) -> Any:
        return scales[target].score(returns(by_key[method, seed, target]))

    return {
        method: np.array([[score(method, seed, target) for target in targets] for seed in seeds]) for method in methods
    }


def _intervals(
    scores: Mapping[str, Any], function: Callable[..., np.ndarray], repetitions: int
) -> dict[str, list[Estimate]]:
    np.random.seed(0)  # what rliable draws from
    values, intervals = library.get_interval_estimates(
        scores, function, reps=repetitions, confidence_interval_size=LEVEL
    )
    return {
        name: [Estimate(*map(float, row)) for row in zip(np.atleast_1d(value), *intervals[name], strict=True)]
        for name, value in values.items()
    }


def aggregate(matrices: Mapping[str, np.ndarray], metric: Metric = metrics.aggregate_iqm) -> dict[str, Estimate]:
    """A metric of each method's scores, by default their interquartile mean."""
    found = _intervals(matrices, lambda x: np.array([metric(x)]), REPETITIONS)
    return {method: estimates[0] for method, estimates in found.items()}


def efficiency(cells: list[Cell], scales: Mapping[str, Scale]) -> tuple[np.ndarray, dict[str, list[Estimate]]] | None:
    """Interquartile means at each evaluation during learning (sample efficiency).

    :return: target steps, and method -> an estimate for each; ``None`` if runs were evaluated at different steps
    """
    learning = [cell for cell in cells if len(cell.data["curve"]) > 1]
    if len({tuple(cell.curve[0]) for cell in learning}) != 1:
        return None
    matrices = _matrices(learning, scales, lambda cell: cell.curve[1])
    estimates = _intervals(matrices, lambda x: stats.trim_mean(x.reshape(-1, x.shape[-1]), 0.25, axis=0), FOR_BANDS)
    return learning[0].curve[0], estimates


def difference(
    matrices: Mapping[str, np.ndarray], baseline: str, metric: Metric = metrics.aggregate_iqm
) -> dict[str, Estimate]:
    """:func:`aggregate` of each method less that of the baseline."""
    pairs = {method: [scores, matrices[baseline]] for method, scores in matrices.items() if method != baseline}
    found = _intervals(pairs, lambda x, y: np.array([metric(x) - metric(y)]), REPETITIONS)
    return {method: estimates[0] for method, estimates in found.items()}


def improvement(matrices: Mapping[str, np.ndarray], baseline: str) -> dict[str, Estimate]:
    """Probability that a run of a method scores higher than one of the baseline on the same target."""
    pairs = {method: [scores, matrices[baseline]] for method, scores in matrices.items() if method != baseline}
    found = _intervals(pairs, lambda x, y: np.array([_share_of_wins(x, y)]), REPETITIONS)
    return {method: estimates[0] for method, estimates in found.items()}


def _share_of_wins(x: np.ndarray, y: np.ndarray) -> float:
    """rliable's ``probability_of_improvement``, which makes a rank test per target, in one comparison of all pairs.

    :param x: scores, shape ``(seeds, targets)``
    :param y: likewise; the number of seeds may differ
    """
    ahead = x[:, None] - y
    return float(np.mean((ahead > 0) + 0.5 * (ahead == 0)))


def profile(matrices: Mapping[str, np.ndarray], thresholds: np.ndarray) -> dict[str, list[Estimate]]:
    """Share of runs that score above each threshold (a performance profile)."""
    return _intervals(matrices, lambda x: np.mean(x[..., None] > thresholds, axis=(0, 1)), FOR_BANDS)
