"""What is 0 and what is 1 in a score of a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from daft_rl.errors import ReportError
from daft_rl.report.cells import Cell

__all__ = ["MEANINGS", "Scale", "choose", "recovered", "referred"]

MEANINGS = {
    "references": "0 is a random policy, 1 one run of training from scratch in the target",
    "recovered": "0 is the source in the target before the transfer, 1 the source where it comes from: the share that "
    "is won back of what the shift costs, above 1 where the target allows more than that",
}
"""Kinds of scores."""


@dataclass(frozen=True)
class Scale:
    """Returns that are 0 and 1 in a score."""

    zero: float
    one: float
    measured: str
    """How these returns were measured."""

    def score(self, returns: Any) -> Any:
        """Returns, in any shape, as scores."""
        return (np.asarray(returns) - self.zero) / (self.one - self.zero)

    def at(self, score: float) -> float:
        """The return of a score."""
        return self.zero + score * (self.one - self.zero)


def referred(cells: list[Cell], references: Mapping[str, Any]) -> dict[str, Scale]:
    """Scales by returns that were measured once per target.

    :param cells: finished transfers
    :param references: target -> ``random`` and ``expert`` return, and the ``command`` that measured them
    :raises ReportError: a target has none, or the expert is no better than random actions
    """
    targets = sorted({cell.target for cell in cells})
    missing = [target for target in targets if target not in references]
    if missing:
        raise ReportError(
            f"No reference returns for {', '.join(missing)}: measure them by python benchmarks/references.py, or take "
            "--scores recovered, which needs none."
        )
    found = {}
    for target in targets:
        pair = references[target]
        if pair["expert"] <= pair["random"]:
            raise ReportError(
                f"{target}: the reference {pair['expert']:g} from scratch is not above the random {pair['random']:g}."
            )
        found[target] = Scale(pair["random"], pair["expert"], pair["command"])
    return found


def recovered(cells: list[Cell]) -> dict[str, Scale]:
    """Scales by what the cells hold themselves: the source's returns before the transfer.

    :param cells: finished transfers
    :raises ReportError: a source was not played where it comes from, or the shift does not cost it anything
    """
    found = {}
    for target in sorted({cell.target for cell in cells}):
        before = [cell.data["zero_shot"] for cell in cells if cell.target == target]
        if any("source" not in returns for returns in before):
            raise ReportError(f"{target}: scores of what is recovered need the returns on the source.")
        zero, one = (fmean(returns[role]["mean"] for returns in before) for role in ("target", "source"))
        if one <= zero:
            raise ReportError(
                f"{target}: the source gets {zero:g} there and {one:g} where it comes from, so there is nothing to "
                "recover. Measure references by python benchmarks/references.py."
            )
        found[target] = Scale(zero, one, "the runs before learning")
    return found


def choose(cells: list[Cell], references: Mapping[str, Any], kind: str | None = None) -> tuple[str, dict[str, Scale]]:
    """The kind of scores, and target -> scale.

    :param cells: finished transfers
    :param references: see :func:`referred`
    :param kind: one of :data:`MEANINGS`; ``None`` takes references unless no target has one
    :raises ReportError: see :func:`referred` and :func:`recovered`
    """
    if kind is None:
        kind = "references" if any(cell.target in references for cell in cells) else "recovered"
    return kind, referred(cells, references) if kind == "references" else recovered(cells)
