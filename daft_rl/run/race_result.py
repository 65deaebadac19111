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
    """Steps of the winner before the comparison; 0 if only one arm was left, and no race was held."""
    spent: int
    """Steps of the arms that lost. One that diverged counts as if it had come to the rung."""
    seconds: float
    """How long the race took, with the winner's part."""
    seconds_of_others: float
    """The same without the winner's learning."""
    zero_shot: dict[str, Returns]
    """The source's returns by role."""
    summary: dict[str, Any]
    """Plain data: the rule, ``arms`` by name, ``winner``, and ``why``."""
    ending: dict[str, Any] | None = None
    """Whether the ``best`` policy on the way was ``taken`` or the ``last``, ``why``, and what both returned (nothing
    if ``best.zip`` cannot be read); ``None`` where they are the same."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in ``results.json``."""
        return self.summary | {"ending": self.ending}

    def axis(self, step: int) -> int:
        """Steps on the target until the winner had learnt from ``step`` of them, with those of the other arms."""
        return step if step <= self.rung else step + self.spent

    def log(self, logger: Logger) -> None:
        """Write what each arm returned at the rung, with standard errors, at its step; nothing if none learnt."""
        if not self.rung:
            return
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
    played = {
        name: {role: Returns.from_dict(data) for role, data in arm.get("returns", {}).items()}
        for name, arm in race["arms"].items()
    }
    roles = list(dict.fromkeys(role for returns in played.values() for role in returns))
    has_cost = any(returns["target"].costs is not None for returns in played.values() if returns)
    numbers = [*roles, *(["cost"] if has_cost else [])]
    for column in ("arm", *numbers, "verdict"):
        table.add_column(column, justify="right" if column in numbers else "left")
    for name, returns in played.items():
        cells = {role: f"{one.mean:.1f} ± {one.standard_error:.1f}" for role, one in returns.items()}
        if returns and returns["target"].mean_cost is not None:
            cells["cost"] = f"{returns['target'].mean_cost:.1f}"
        won = f"won: {race['why']}" if name == race["winner"] else ""
        table.add_row(name, *(cells.get(column, "") for column in numbers), race["arms"][name].get("left_out") or won)
    return table
