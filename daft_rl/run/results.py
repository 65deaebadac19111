"""What a run leaves behind: ``results.json``, and the table at its end."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from daft_rl.files import write_json
from daft_rl.rollout.evaluation import Returns

__all__ = ["TransferResult", "machine"]

PACKAGES = ("daft-rl", "torch", "stable-baselines3", "gymnasium", "mujoco")


def _processor() -> str:
    """Its name as Linux tells it, or what kind of processor it is."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """This machine and the versions of what runs on it."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


@dataclass(frozen=True, kw_only=True)
class TransferResult:
    """Returns before and after a transfer, and how it went."""

    task: str
    source: str
    """The archive of the source policy."""
    method: str
    algo: str
    seed: int
    timesteps: int
    """Target steps that were learnt from."""
    wall_seconds: float
    phases: dict[str, float]
    """Seconds by what was done; what comes before the first environment is in none of them."""
    seconds_beside: float
    """How long other processes evaluated meanwhile."""
    shift: dict[str, Any]
    """The fields of the shift that change something."""
    zero_shot: dict[str, Returns]
    """Returns of the source policy on ``target`` and ``source``, and by level elsewhere."""
    final: dict[str, Returns]
    """Returns of the tuned policy there."""
    realigned: dict[str, Any] | None = None
    """What :class:`~daft_rl.finetune.realignment.Realignment` says, if the method realigns."""
    curve: list[dict[str, Any]]
    """Evaluations during learning."""
    distortion: dict[str, dict[str, float]]
    """Distances from the start, by layer and by parameter, on target states held out from learning."""
    distortion_on_source: dict[str, dict[str, float]]
    """The same on states of the source."""
    compared: str
    """A digest of the settings that runs of different methods and seeds must share to be compared."""
    method_digest: str
    """A digest of the method's settings: runs may call different ones by one name."""
    machine: dict[str, Any]
    """Where it ran, and versions of what it ran with."""
    folder: Path
    """The run folder."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in ``results.json``. Equal for equal seeds on one machine, but for the times."""
        data = {key: value for key, value in vars(self).items() if key != "folder"}
        for key in ("zero_shot", "final"):
            data[key] = {name: returns.as_dict() for name, returns in data[key].items()}
        return data

    def save(self) -> None:
        """Write ``results.json`` into the run folder."""
        write_json(self.folder / "results.json", self.as_dict())

    def print(self) -> None:
        """Show the table."""
        table = Table(title=f"{self.method}: {self.task}, {self.algo}, seed {self.seed}")
        has_cost = self.final["target"].costs is not None
        for column in ("return", "on", "mean", "std", "episodes", *(["cost"] if has_cost else [])):
            table.add_column(column, justify="left" if column in ("return", "on") else "right")
        for when, by_env in (("zero-shot", self.zero_shot), ("final", self.final)):
            for name, result in by_env.items():
                cost = [] if result.mean_cost is None else [f"{result.mean_cost:.1f}"]
                table.add_row(when, name, f"{result.mean:.1f}", f"{result.std:.1f}", str(len(result.returns)), *cost)
        console = Console()
        console.print(table)
        if self.realigned is not None:
            told = "{moved} of {inputs} inputs realigned: reward of first steps {before:.3g} -> {after:.3g}"
            told += "" if self.realigned["moved"] else " is not enough to tell"
            console.print(told.format(**self.realigned), highlight=False, soft_wrap=True)
        shares = ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in self.phases.items() if seconds >= 0.5)
        if self.seconds_beside >= 0.5:
            shares += f"; meanwhile, in another process, evaluation {self.seconds_beside:.0f}"
        console.print(
            f"{self.timesteps} target steps in {self.wall_seconds:.0f} s ({shares})", highlight=False, soft_wrap=True
        )
        console.print(f"run folder   {self.folder}", highlight=False, soft_wrap=True)
        console.print(
            f"TensorBoard  tensorboard --logdir {self.folder / 'tensorboard'}", highlight=False, soft_wrap=True
        )
