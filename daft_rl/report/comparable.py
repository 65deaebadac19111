"""Refuse runs that cannot be compared, before any number is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from daft_rl.errors import ReportError
from daft_rl.report.cells import Cell

__all__ = ["check_comparable", "check_unique"]


def check_comparable(cells: Sequence[Cell]) -> list[Cell]:
    """Check that runs differ in method and seed only, and sort them.

    :return: the cells by target, method and seed
    :raises ReportError: one seed of one method is there twice, or runs on one target have different settings
    """
    check_unique(cells, lambda cell: (cell.target, cell.method))
    _check_equal(
        cells,
        lambda cell: cell.result.settings_fingerprint,
        lambda cell: cell.target,
        "in more than method and seed (see their config.yaml)",
    )
    _check_equal(
        cells,
        lambda cell: cell.content,
        lambda cell: cell.target,
        "in the agent's file, or in what a level's name stands for",
    )
    _check_equal(
        cells,
        lambda cell: cell.result.method_fingerprint,
        lambda cell: (cell.target, cell.method),
        "in the method's settings, not its name",
    )
    return sorted(cells, key=lambda cell: (cell.target, cell.method, cell.seed))


def check_unique(cells: Sequence[Cell], group: Callable[[Cell], tuple[str, ...]]) -> None:
    """Check that no seed is there twice in one group.

    :param group: the names that runs of a group share
    :raises ReportError: a seed is there twice
    """
    first: dict[Hashable, Cell] = {}
    for cell in cells:
        names = group(cell)
        other = first.setdefault((names, cell.seed), cell)
        if other is not cell:
            raise ReportError(
                f"{', '.join(names)}, seed {cell.seed} is in {other.folder} and in {cell.folder}. A report takes each "
                "run once, and only runs with the same settings: pass fewer folders."
            )


def _check_equal(
    cells: Sequence[Cell], fingerprint: Callable[[Cell], str | None], group: Callable[[Cell], Hashable], difference: str
) -> None:
    """Check that cells of one group have one fingerprint. Older versions of daft_rl did not write all fingerprints."""
    first: dict[Hashable, Cell] = {}
    for cell in cells:
        if fingerprint(cell) is None:
            continue
        other = first.setdefault(group(cell), cell)
        if fingerprint(other) != fingerprint(cell):
            raise ReportError(
                f"{cell.target}: {other.folder} and {cell.folder} differ {difference}: they cannot be compared."
            )
