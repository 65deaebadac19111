"""Compute all that a report shows: from finished transfers to statistics, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daft_rl.errors import ReportError
from daft_rl.report import figures, statistics, tables
from daft_rl.report.cells import Cell, Failure, Floats, level_name
from daft_rl.report.comparable import check_comparable
from daft_rl.report.scales import MEANINGS, Scale, choose_scales
from daft_rl.report.storage import read_cells, read_failures
from daft_rl.report.tables import Table

__all__ = ["ReportContent", "TargetContent", "build_report"]

Figures = dict[str, bytes]
"""Name -> PNG file."""


@dataclass(frozen=True)
class TargetContent:
    """The part of a report about one target."""

    target: str
    rows: Table
    figures: Figures
    races: Table
    """How runs chose their method, if it is a race."""
    layers: dict[str, Table]
    """``target`` or ``source`` -> feature distortion by layer on states of it."""


@dataclass(frozen=True)
class ReportContent:
    """All that a report shows. The fields are the variables of ``page.html``."""

    summary: Table
    scores: Table
    legend: dict[str, str]
    """Level -> target, where a table names the level."""
    baseline: str
    figures: Figures
    targets: list[TargetContent]
    failures: list[Failure]
    meaning: str
    """What the scores 0 and 1 mean."""
    scales: dict[str, Scale]
    runs: int
    shape: str
    """Numbers of targets, methods and seeds in words."""
    machines: list[str]


def _cells_of_targets(paths: Sequence[Path], only: str) -> list[Cell]:
    """The finished transfers to targets whose names begin with ``only``."""
    everything = check_comparable(read_cells(paths))
    cells = [cell for cell in everything if cell.target.startswith(only)]
    if not cells:
        targets = ", ".join(sorted({cell.target for cell in everything}))
        raise ReportError(f"No target begins with '{only}'. What exists: {targets}.")
    return cells


def _by_target(cells: list[Cell]) -> dict[str, list[Cell]]:
    """Target -> the transfers to it, sorted by the target's name."""
    return {
        target: [cell for cell in cells if cell.target == target] for target in sorted({cell.target for cell in cells})
    }


def build_report(
    paths: Sequence[Path],
    references: Mapping[str, Any],
    baseline: str | None = None,
    kind: str | None = None,
    only: str = "",
) -> ReportContent:
    """Read finished transfers and compute a report.

    :param paths: see :func:`daft_rl.report.storage.read_cells`
    :param references: target -> ``random`` and ``expert`` return, and the ``command`` that measured them
    :param baseline: the method that the others are compared with; ``None`` is ``ft`` if it was run
    :param kind: of scores, see :func:`daft_rl.report.scales.choose_scales`
    :param only: report only targets whose names begin with this, such as ``Ant`` or ``Ant: gravity``
    :raises ReportError: runs are missing or cannot be compared, scores have no 0 and 1, or no run fits ``baseline``
        or ``only``
    """
    cells = _cells_of_targets(paths, only)
    kind, scales = choose_scales(cells, references, kind)
    matrices = statistics.score_matrices(cells, scales)
    if baseline is not None and baseline not in matrices:
        raise ReportError(f"No runs of '{baseline}' to compare with. What exists: {', '.join(matrices)}.")
    comparison = statistics.compare(matrices, baseline or "ft")
    by_target = _by_target(cells)
    names = {target: level_name(target, group[0].result) for target, group in by_target.items()}
    return ReportContent(
        summary=tables.summary_table(cells, matrices, comparison),
        scores=tables.score_table(comparison.ranked, list(names.values()), matrices),
        legend={name: target for target, name in names.items() if name != target},
        baseline=comparison.baseline,
        figures=_overall_figures(cells, scales, matrices, comparison),
        targets=[_target_content(target, group, scales[target]) for target, group in by_target.items()],
        failures=read_failures(paths),
        meaning=MEANINGS[kind],
        scales=scales,
        runs=len(cells),
        shape=_shape(len(by_target), matrices),
        machines=sorted({_machine_in_words(cell.result.machine) for cell in cells if cell.result.machine}),
    )


def _overall_figures(
    cells: list[Cell],
    scales: Mapping[str, Scale],
    matrices: Mapping[str, Floats],
    comparison: statistics.Comparison,
) -> Figures:
    """Figures over all targets."""
    drawn = {"aggregate": figures.interval_bars(comparison.iqm, "interquartile mean of normalised scores")}
    if comparison.iqm_difference:
        label = f"interquartile mean less that of {comparison.baseline}"
        drawn["difference"] = figures.interval_bars(comparison.iqm_difference, label, 0.0)
    scores = np.concatenate([matrix.ravel() for matrix in matrices.values()])
    thresholds = np.linspace(min(0.0, float(scores.min())), max(1.2, float(scores.max())), 50)
    labels = "normalised score", "share of runs above it"
    drawn["profiles"] = figures.estimate_lines(statistics.profile(matrices, thresholds), thresholds, labels)
    efficiency = statistics.efficiency(cells, scales)
    if efficiency is not None:
        steps, estimates = efficiency
        labels = "target steps (thousands)", "interquartile mean of normalised scores"
        drawn["sample efficiency"] = figures.estimate_lines(estimates, steps / 1000, labels)
    return {name: figures.as_png(figure) for name, figure in drawn.items()}


def _target_content(target: str, cells: list[Cell], scale: Scale) -> TargetContent:
    return TargetContent(
        target=target,
        rows=tables.target_table(cells, scale),
        figures=_target_figures(target, cells),
        races=tables.race_table(cells),
        layers={role: tables.layer_table(cells, role) for role in ("target", "source")},
    )


def _target_figures(target: str, cells: list[Cell]) -> Figures:
    """Figures about one target. A scatter plot is left out if no run has the value on its horizontal axis."""

    def actor_cosine(cell: Cell) -> float | None:
        return cell.last_distance("distortion_actor_cosine")

    drawn = {"learning curves": figures.learning_curves(cells), "final returns": figures.final_return_bars(cells)}
    for name, value, label, title in (
        ("in and out of distribution", Cell.mean_elsewhere, "mean return under other shifts", "in and out"),
        ("distortion and return", actor_cosine, "cosine of the actor's features", "distortion"),
    ):
        if any(value(cell) is not None for cell in cells):
            drawn[name] = figures.run_scatter(cells, value, label, f"{target}: {title}")
    return {name: figures.as_png(figure) for name, figure in drawn.items()}


def _shape(targets: int, matrices: Mapping[str, Floats]) -> str:
    seeds = len(next(iter(matrices.values())))
    counted = f"{seeds} seeds" if seeds > 1 else "1 seed, which is an anecdote: its intervals mean nothing"
    return f"{targets} target{'s' * (targets > 1)} x {len(matrices)} methods x {counted}"


def _machine_in_words(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}; {versions}"
