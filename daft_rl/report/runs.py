"""The table of runs that are no grid: one row per task, shift, agent and method, without scores or statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import mean

from daft_rl.report.cells import Cell, When
from daft_rl.report.comparable import check_unique
from daft_rl.report.storage import agent_name
from daft_rl.report.tables import Table, spread

__all__ = ["run_table"]

RETURNS: dict[str, tuple[str, When]] = {
    "source before": ("source", "zero_shot"),
    "target zero-shot": ("target", "zero_shot"),
    "target final": ("target", "final"),
    "source final": ("source", "final"),
}
"""Columns with returns."""


def run_table(cells: Sequence[Cell]) -> Table:
    """Mean returns, and costs where a task has them, ± standard deviation over seeds.

    :param cells: finished transfers, with any settings
    :return: rows by task, shift, agent and algorithm, the best return on the target first
    :raises ReportError: one seed is there twice in a row
    """
    check_unique(cells, _names)
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (*_names(cell), cell.seed)):
        groups.setdefault(_names(cell), []).append(cell)
    order = sorted(groups, key=lambda names: (*names[:4], -mean(cell.mean() for cell in groups[names])))
    columns = ("task", "shift", "agent", "algorithm", "method", "steps")
    return [
        dict(zip(columns, names, strict=True))
        | {"seeds": str(len(groups[names]))}
        | {column: _returns(groups[names], role, when) for column, (role, when) in RETURNS.items()}
        for names in order
    ]


def _names(cell: Cell) -> tuple[str, ...]:
    """What the runs of one row have in common."""
    result = cell.result
    agent = agent_name(result.source)
    return result.task, json.dumps(result.shift), agent, result.algo, result.method, str(result.timesteps)


def _returns(cells: list[Cell], role: str, when: When) -> str:
    """Empty if the runs did not evaluate there."""
    found = [cell.returns(when)[role] for cell in cells if role in cell.returns(when)]
    if len(found) < len(cells):
        return ""
    text = spread([returns.mean for returns in found], digits=1)
    costs = [returns.mean_cost for returns in found if returns.mean_cost is not None]
    return f"{text}, cost {spread(costs, digits=1)}" if costs else text
