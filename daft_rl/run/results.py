"""The result of a transfer: ``results.json`` in the run folder, and the table that is printed at the end."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from daft_rl.files import write_json
from daft_rl.rollout.returns import Returns, ReturnSummary
from daft_rl.run.race_result import race_table

__all__ = ["RESULTS_FILE", "TransferResult", "machine"]

VERSIONS_OF = ("daft-rl", "torch", "stable-baselines3", "gymnasium", "mujoco")
RESULTS_FILE = "results.json"

JSON_NAMES = {
    "seconds_by_activity": "phases",
    "seconds_in_background": "seconds_beside",
    "settings_fingerprint": "compared",
    "method_fingerprint": "method_digest",
}
"""Names in ``results.json`` of fields that are named differently in Python."""


def _processor() -> str:
    """Name of the processor in Linux, or else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """This machine, and the versions of the packages that decide results and speed."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONS_OF},
    }


@dataclass(frozen=True, kw_only=True)
class TransferResult:
    """Returns before and after a transfer, what happened in between, and how long it took."""

    task: str
    source: str
    """Path of the source policy's archive, or its class. Empty if it is not known."""
    method: str
    algo: str
    seed: int
    timesteps: int
    """Target steps that the policy learned from."""
    wall_seconds: float
    seconds_by_activity: dict[str, float]
    """Seconds by activity, such as ``update``. The time before the first environment is made is not counted."""
    seconds_in_background: float
    """Seconds of evaluations in other processes while this one learned."""
    shift: dict[str, Any]
    """Fields of the shift that change something."""
    zero_shot: dict[str, Returns]
    """Returns of the source policy on ``target``, on ``source``, and on other levels by name."""
    final: dict[str, Returns]
    """Returns of the fine-tuned policy on the same."""
    statistics: dict[str, Any] | None = None
    """The source's ``VecNormalize``, if it has one: ``file`` that held it, from the archive's folder, and whether it
    scales rewards (``norm_reward``)."""
    realigned: dict[str, Any] | None = None
    """Data of :class:`~daft_rl.finetune.realignment.Realignment`, if the method realigns."""
    race: dict[str, Any] | None = None
    """If the method is a race: its rule, ``rung`` in steps (0 if one arm was left, and none learnt for nothing), what
    each of ``arms`` returned there or why it was ``left_out``, ``winner``, and ``why``; and its ``ending``
    (:mod:`daft_rl.run.ending`)."""
    curve: list[dict[str, Any]]
    """Evaluations during learning: ``timesteps``, and mean returns and distances at that step."""
    distortion: dict[str, dict[str, float]]
    """Distances from the start of learning by layer and by parameter, on held-out target states."""
    distortion_on_source: dict[str, dict[str, float]]
    """The same distances on states of the source."""
    settings_fingerprint: str | None
    """Fingerprint of the settings that runs of different methods and seeds must share to be comparable. ``None`` if it
    is not known."""
    method_fingerprint: str | None
    """Fingerprint of the method's settings, because two methods may have one name. ``None`` if it is not known."""
    machine: dict[str, Any]
    """Machine and package versions, see :func:`machine`."""
    folder: Path
    """The run folder."""

    @property
    def worse_than_zero_shot(self) -> bool:
        """Whether the policy returns less on the target than the source did, beyond the noise of episodes."""
        return self.final["target"].is_below(self.zero_shot["target"])

    @property
    def on_the_way(self) -> dict[str, float] | None:
        """What learning cost while it went on: the ``mean`` return on the target over all steps (the area under the
        curve, divided by its length), and the ``lowest`` one with its ``timesteps``. ``None`` without a curve."""
        if len(self.curve) < 2:
            return None
        steps, returns = (np.array([point[name] for point in self.curve], float) for name in ("timesteps", "target"))
        area = ((returns[1:] + returns[:-1]) / 2 * np.diff(steps)).sum()
        lowest = int(returns.argmin())
        return {
            "mean": float(area / (steps[-1] - steps[0])),
            "lowest": float(returns[lowest]),
            "timesteps": int(steps[lowest]),
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in ``results.json``. On one machine, runs with equal seeds differ in times only."""
        data = {JSON_NAMES.get(name, name): value for name, value in vars(self).items() if name != "folder"}
        for when in ("zero_shot", "final"):
            data[when] = {role: returns.as_dict() for role, returns in data[when].items()}
        return data | {"worse_than_zero_shot": self.worse_than_zero_shot, "on_the_way": self.on_the_way}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], folder: Path) -> TransferResult:
        """Read what :meth:`as_dict` returned, or the same from an older version of daft_rl.

        Fields that an older version did not write get empty values. Keys that are no field are ignored. Returns may
        consist of ``mean``, ``std`` and ``mean_cost`` alone.

        :param folder: where the data was found
        """
        found: dict[str, Any] = {field.name: data.get(JSON_NAMES.get(field.name, field.name)) for field in fields(cls)}
        empty: dict[str, Any] = {
            "source": "",
            "seconds_by_activity": {},
            "seconds_in_background": 0.0,
            "distortion": {},
            "distortion_on_source": {},
            "machine": {},
        }
        for name, value in empty.items():
            found[name] = value if found[name] is None else found[name]
        for when in ("zero_shot", "final"):
            found[when] = {role: _read_returns(returns) for role, returns in data[when].items()}
        return cls(**found | {"folder": folder})

    @classmethod
    def load(cls, path: Path) -> TransferResult:
        """Read a file ``results.json``."""
        return cls.from_dict(json.loads(path.read_text("utf-8")), path.parent)

    def save(self) -> None:
        """Write ``results.json`` into the run folder."""
        write_json(self.folder / RESULTS_FILE, self.as_dict())

    def print(self) -> None:
        """Print returns, times and where the files are."""
        console = Console()
        if self.race is not None:
            console.print(race_table(self.race))
        console.print(self._table())
        for line in self._lines():
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(title=f"{self.method}: {self.task}, {self.algo}, seed {self.seed}")
        has_cost = self.final["target"].costs is not None
        for column in ("return", "on", "mean", "std", "episodes", *(["cost"] if has_cost else [])):
            table.add_column(column, justify="left" if column in ("return", "on") else "right")
        for when, by_role in (("zero-shot", self.zero_shot), ("final", self.final)):
            for role, returns in by_role.items():
                cost = [] if returns.mean_cost is None else [f"{returns.mean_cost:.1f}"]
                numbers = f"{returns.mean:.1f}", f"{returns.std:.1f}", str(len(returns.returns))
                table.add_row(when, role, *numbers, *cost)
        return table

    def _lines(self) -> Iterator[str]:
        """What stands below the table."""
        if self.realigned is not None:
            text = "{moved} of {inputs} inputs realigned: reward of first steps {before:.3g} -> {after:.3g}"
            text += "" if self.realigned["moved"] else " is not enough to tell"
            yield text.format(**self.realigned)
        if self.race is not None and (ending := self.race.get("ending")) and ending["taken"] == "best":
            yield f"final.zip is the policy of step {ending['best_step']}, not the last one: {ending['why']}"
        times = ", ".join(
            f"{name} {seconds:.0f}" for name, seconds in self.seconds_by_activity.items() if seconds >= 0.5
        )
        if self.seconds_in_background >= 0.5:
            times += f"; meanwhile, in another process, evaluation {self.seconds_in_background:.0f}"
        if self.on_the_way is not None:
            text = "on the way the target returned {mean:.1f} in the mean, at least {lowest:.1f} (step {timesteps})"
            yield text.format(**self.on_the_way)
        if self.worse_than_zero_shot:
            yield self._harm()
        yield f"{self.timesteps} target steps in {self.wall_seconds:.0f} s ({times})"
        yield f"run folder   {self.folder}"
        yield f"TensorBoard  tensorboard --logdir {quote(str(self.folder))}"

    def _harm(self) -> str:
        """What to do with a policy that has become worse."""
        before, after = self.zero_shot["target"].mean, self.final["target"].mean
        text = f"WORSE THAN BEFORE: on the target the policy returns {after:.1f}, the source returned {before:.1f}. "
        if not self.curve or "target_cost" in self.curve[0]:
            return text
        ending = (self.race or {}).get("ending")
        if ending and ending["taken"] == "best":
            return text + "It is the best one on the way, best.zip."
        if ending and not ending["returns"]:  # best.zip cannot be read
            return text
        best = max(self.curve, key=lambda point: point["target"])
        return text + f"best.zip is the policy of step {best['timesteps']}, which returned {best['target']:.1f}."


def _read_returns(data: Mapping[str, Any]) -> Returns:
    return Returns.from_dict(data) if "returns" in data else ReturnSummary(data)
