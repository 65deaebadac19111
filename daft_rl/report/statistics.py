"""Statistics over targets and seeds with rliable (Agarwal et al., NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from rliable import library, metrics
from scipy import stats

from daft_rl.errors import ReportError
from daft_rl.report.cells import Cell, Floats
from daft_rl.report.scales import Scale

__all__ = [
    *("Comparison", "Estimate", "aggregate", "compare", "difference", "efficiency", "improvement", "profile"),
    "score_matrices",
]

REPETITIONS = 10_000
"""Bootstrap repetitions of the intervals in tables."""
BAND_REPETITIONS = 2_000
"""Bootstrap repetitions of the bands in figures, which need an interval at each point."""
CONFIDENCE = 0.95
Metric = Callable[[Floats], float]
"""Turns scores of shape ``(seeds, targets)`` into one number."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval from a stratified bootstrap."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def score_matrices(cells: list[Cell], scales: Mapping[str, Scale]) -> dict[str, Floats]:
    """Normalised final returns on the target.

    :param cells: finished transfers
    :param scales: target -> scale
    :return: method -> array ``(seeds, targets)``, both sorted
    :raises ReportError: a run is missing. Statistics without it would favor some method
    """
    return _matrices(cells, scales, Cell.mean)


def _check_complete(finished: Collection[tuple[str, int, str]], wanted: Iterable[tuple[str, int, str]]) -> None:
    """Check that every wanted run has finished. A run is its method, seed and target."""
    holes = [key for key in wanted if key not in finished]
    if holes:
        named = "; ".join(f"{target}, {method}, seed {seed}" for method, seed, target in holes[:5])
        more = f" and {len(holes) - 5} more" if len(holes) > 5 else ""
        raise ReportError(
            f"These runs are missing or have not finished: {named}{more}. Start the benchmark again: it runs only what "
            "is missing."
        )


def _matrices(cells: list[Cell], scales: Mapping[str, Scale], returns: Callable[[Cell], Any]) -> dict[str, Floats]:
    """Scores like :func:`score_matrices`, of any returns of a cell.

    :param returns: gives a number, or an array of shape ``(n,)``, which makes matrices ``(seeds, targets, n)``
    """
    targets = sorted({cell.target for cell in cells})
    seeds = sorted({cell.seed for cell in cells})
    methods = sorted({cell.method for cell in cells})
    by_key = {(cell.method, cell.seed, cell.target): cell for cell in cells}
    _check_complete(by_key.keys(), product(methods, seeds, targets))

    def score(method: str, seed: int, target: str) -> Any:
        return scales[target].score(returns(by_key[method, seed, target]))

    return {
        method: np.array([[score(method, seed, target) for target in targets] for seed in seeds]) for method in methods
    }


def _intervals(
    scores: Mapping[str, Any], function: Callable[..., Floats], repetitions: int
) -> dict[str, list[Estimate]]:
    np.random.seed(0)  # rliable draws from the global generator
    values, intervals = library.get_interval_estimates(
        scores, function, reps=repetitions, confidence_interval_size=CONFIDENCE
    )
    return {
        name: [Estimate(*map(float, row)) for row in zip(np.atleast_1d(value), *intervals[name], strict=True)]
        for name, value in values.items()
    }


def aggregate(matrices: Mapping[str, Floats], metric: Metric = metrics.aggregate_iqm) -> dict[str, Estimate]:
    """A metric of each method's scores. The default is the interquartile mean."""
    found = _intervals(matrices, lambda x: np.array([metric(x)]), REPETITIONS)
    return {method: estimates[0] for method, estimates in found.items()}


def efficiency(cells: list[Cell], scales: Mapping[str, Scale]) -> tuple[Floats, dict[str, list[Estimate]]] | None:
    """Sample efficiency: interquartile means at each evaluation during learning.

    :return: target steps at which all runs evaluated, and method -> an estimate at each of them; ``None`` if there are
        none but the first
    """
    learning = [cell for cell in cells if len(cell.result.curve) > 1]
    common = sorted(set.intersection(*({*cell.curve[0]} for cell in learning))) if learning else []
    if len(common) < 2:
        return None
    matrices = _matrices(learning, scales, lambda cell: cell.curve[1][np.isin(cell.curve[0], common)])
    estimates = _intervals(
        matrices, lambda x: stats.trim_mean(x.reshape(-1, x.shape[-1]), 0.25, axis=0), BAND_REPETITIONS
    )
    return np.array(common), estimates


def difference(
    matrices: Mapping[str, Floats], baseline: str, metric: Metric = metrics.aggregate_iqm
) -> dict[str, Estimate]:
    """Difference between the metric of each method and the metric of the baseline."""
    pairs = {method: [scores, matrices[baseline]] for method, scores in matrices.items() if method != baseline}
    found = _intervals(pairs, lambda x, y: np.array([metric(x) - metric(y)]), REPETITIONS)
    return {method: estimates[0] for method, estimates in found.items()}


def improvement(matrices: Mapping[str, Floats], baseline: str) -> dict[str, Estimate]:
    """Probability that a run of a method scores higher than a run of the baseline on the same target."""
    pairs = {method: [scores, matrices[baseline]] for method, scores in matrices.items() if method != baseline}
    found = _intervals(pairs, lambda x, y: np.array([_share_of_wins(x, y)]), REPETITIONS)
    return {method: estimates[0] for method, estimates in found.items()}


def _share_of_wins(x: Floats, y: Floats) -> float:
    """Share of all pairs of runs on one target in which ``x`` is higher; ties count half.

    This equals rliable's ``probability_of_improvement``, which is slower because it makes a rank test per target.

    :param x: scores, shape ``(seeds, targets)``
    :param y: scores with the same targets; the number of seeds may differ
    """
    ahead = x[:, None] - y
    return float(np.mean((ahead > 0) + 0.5 * (ahead == 0)))


def profile(matrices: Mapping[str, Floats], thresholds: Floats) -> dict[str, list[Estimate]]:
    """Performance profile: the share of runs that score above each threshold."""
    return _intervals(matrices, lambda x: np.mean(x[..., None] > thresholds, axis=(0, 1)), BAND_REPETITIONS)


@dataclass(frozen=True)
class Comparison:
    """Statistics of all methods over all targets, and their differences from a baseline.

    The fields map methods to estimates. Differences and improvement are empty if there is nothing to compare.
    """

    baseline: str
    iqm: dict[str, Estimate]
    """Interquartile means."""
    mean: dict[str, Estimate]
    iqm_difference: dict[str, Estimate]
    """Interquartile mean of a method minus that of the baseline."""
    mean_difference: dict[str, Estimate]
    improvement: dict[str, Estimate]
    """See :func:`improvement`."""

    @property
    def ranked(self) -> list[str]:
        """Methods, the highest interquartile mean first."""
        return sorted(self.iqm, key=lambda method: -self.iqm[method].value)


def compare(matrices: Mapping[str, Floats], baseline: str) -> Comparison:
    """Compute all statistics of the summary.

    :param matrices: see :func:`score_matrices`
    :param baseline: the method that the others are compared with; it need not be among them
    """
    comparable = baseline in matrices and len(matrices) > 1
    return Comparison(
        baseline=baseline,
        iqm=aggregate(matrices),
        mean=aggregate(matrices, np.mean),
        iqm_difference=difference(matrices, baseline) if comparable else {},
        mean_difference=difference(matrices, baseline, np.mean) if comparable else {},
        improvement=improvement(matrices, baseline) if comparable else {},
    )
