"""Normalize returns: which return counts as 0 on a target, and which as 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from daft_rl.errors import ReportError
from daft_rl.report.cells import Cell

__all__ = ["MEANINGS", "Scale", "choose_scales", "scales_by_recovery", "scales_by_reference"]

MEANINGS = {
    "references": "0 is a random policy, 1 one run of training from scratch on the target",
    "recovered": "0 is the source policy on the target before the transfer, 1 the source policy on the source: the "
    "share of the loss by the shift that is recovered, above 1 if the target allows higher returns",
}
"""Kinds of scores. The text completes the sentence ``Scores: ...``."""


@dataclass(frozen=True)
class Scale:
    """The returns on one target that have the scores 0 and 1."""

    zero: float
    one: float
    measured: str
    """How these returns were measured."""

    def score(self, returns: Any) -> Any:
        """Scores of returns of any shape."""
        return (np.asarray(returns) - self.zero) / (self.one - self.zero)

    def return_at(self, score: float) -> float:
        """The return that has a score."""
        return self.zero + score * (self.one - self.zero)


def scales_by_reference(cells: list[Cell], references: Mapping[str, Any]) -> dict[str, Scale]:
    """Scales from two reference returns per target, which were measured before.

    :param cells: finished transfers
    :param references: target -> ``random`` and ``expert`` return, and the ``command`` that measured them
    :return: target -> scale
    :raises ReportError: a target has no reference, or its expert is no better than random actions
    """
    targets = sorted({cell.target for cell in cells})
    missing = [target for target in targets if target not in references]
    if missing:
        raise ReportError(
            f"No reference returns for {', '.join(missing)}: measure them with python benchmarks/references.py, or use "
            "--scores recovered, which needs none."
        )
    found = {}
    for target in targets:
        pair = references[target]
        if pair["expert"] <= pair["random"]:
            raise ReportError(
                f"{target}: the reference {pair['expert']:g} from scratch is not above the random {pair['random']:g}. "
                "Measure it again with more steps, or use --scores recovered."
            )
        found[target] = Scale(pair["random"], pair["expert"], pair["command"])
    return found


def scales_by_recovery(cells: list[Cell]) -> dict[str, Scale]:
    """Scales from the cells themselves: 0 and 1 are the returns of the source policy on target and source.

    :param cells: finished transfers
    :return: target -> scale
    :raises ReportError: a run did not evaluate on the source, or the shift does not lower the return
    """
    found = {}
    for target in sorted({cell.target for cell in cells}):
        before = [cell.returns("zero_shot") for cell in cells if cell.target == target]
        if any("source" not in returns for returns in before):
            raise ReportError(
                f"{target}: scores of recovery need returns on the source, which some runs lack. Use --scores "
                "references."
            )
        zero, one = (fmean(returns[role].mean for returns in before) for role in ("target", "source"))
        if one <= zero:
            raise ReportError(
                f"{target}: the source policy gets {zero:g} on the target and {one:g} on the source, so there is "
                "nothing to recover. Measure references with python benchmarks/references.py."
            )
        found[target] = Scale(zero, one, "the runs before learning")
    return found


def choose_scales(
    cells: list[Cell], references: Mapping[str, Any], kind: str | None = None
) -> tuple[str, dict[str, Scale]]:
    """Choose the kind of scores.

    :param cells: finished transfers
    :param references: see :func:`scales_by_reference`
    :param kind: one of :data:`MEANINGS`; ``None`` chooses references if at least one target has one
    :return: the kind, and target -> scale
    :raises ReportError: see :func:`scales_by_reference` and :func:`scales_by_recovery`
    """
    if kind is None:
        kind = "references" if any(cell.target in references for cell in cells) else "recovered"
    return kind, scales_by_reference(cells, references) if kind == "references" else scales_by_recovery(cells)
