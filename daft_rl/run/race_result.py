"""What a race of methods has found out, as ``results.json`` and the printed table show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from daft_rl.rollout.returns import Returns

if TYPE_CHECKING:
    from stable_baselines3.common.logger import Logger

__all__ = ["RaceResult", "race_table"]


@dataclass(frozen=True)
class RaceResult:
    """A race that is decided."""

    rung: int
    """Steps of each arm before the comparison; 0 if only one arm was left, and no race was held."""
    spent: int
    """Steps of the arms that lost."""
    seconds: float
    """How long the race took, with the winner's part."""
    seconds_of_others: float
    """The same without the winner's learning."""
    zero_shot: dict[str, Returns]
    """The source's returns by role."""
    summary: dict[str, Any]
    """Plain data: the rule, ``arms`` by name, ``winner``, and ``why``."""

    def axis(self, step: int) -> int:
        """Steps on the target until the winner had learnt from ``step`` of them, with those of the other arms."""
        return step if step <= self.rung else step + self.spent

    def log(self, logger: Logger) -> None:
        """Write what each arm returned at the rung, with standard errors, at the rung's step."""
        for name, arm in self.summary["arms"].items():
            for role, data in arm.get("returns", {}).items():
                returns = Returns.from_dict(data)
                logger.record(f"race/{name}_{role}_return", returns.mean)
                logger.record(f"race/{name}_{role}_return_error", returns.standard_error)
        logger.dump(self.rung)


def race_table(race: dict[str, Any]) -> Table:
    """What each arm returned at the rung, or why it did not take part.

    :param race: ``race`` of ``results.json``
    """
    table = Table(title=f"race to step {race['rung']}, {race['episodes']} episodes" if race["rung"] else "race")
    roles = list(dict.fromkeys(role for arm in race["arms"].values() for role in arm.get("returns", ())))
    for column in ("arm", *roles, "verdict"):
        table.add_column(column, justify="right" if column in roles else "left")
    for name, arm in race["arms"].items():
        cells = []
        for role in roles:
            one = Returns.from_dict(arm["returns"][role]) if role in arm.get("returns", ()) else None
            cells.append("" if one is None else f"{one.mean:.1f} ± {one.standard_error:.1f}")
        won = f"won: {race['why']}" if name == race["winner"] else ""
        table.add_row(name, *cells, arm.get("left_out") or won)
    return table
