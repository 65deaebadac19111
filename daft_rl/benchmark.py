"""``python -m daft_rl.benchmark preset=mujoco``: a grid of transfers that can be killed and started again.

Each cell is one ordinary transfer in a folder of its own, which is named by the settings of the cell. A cell that is
finished is not run again. One that was killed goes on from its last checkpoint. One that failed leaves its error,
does not stop the others, and is tried again the next time. The grid is Hydra's multirun: its launchers put the cells on
as many cores or machines as there are.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import resource
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback

from daft_rl.archives import find_agent
from daft_rl.correspondence import CHOICES, read_content
from daft_rl.envs.domain import read_domains
from daft_rl.errors import DaftError
from daft_rl.files import write_json
from daft_rl.report.storage import read_note
from daft_rl.run.fingerprints import fingerprint, fingerprint_agent, fingerprint_settings
from daft_rl.run.results import RESULTS_FILE
from daft_rl.settings import TransferSettings
from daft_rl.transfer import run
from daft_rl.validation import plain_data

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["Summary", "cell_folder", "run_cell"]


def cell_folder(settings: TransferSettings) -> Path:
    """Where a cell belongs: equal settings have one folder.

    :param settings: of one cell; ``output_dir`` is the folder of the grid
    """
    name = f"seed-{settings.seed}-{fingerprint_settings(settings)[:10]}"
    return _grid_folder(settings) / settings.env.name / settings.method.name / name


def run_cell(settings: TransferSettings) -> dict[str, Any]:
    """Run one cell, unless it is finished.

    Two processes never run one cell at once: workers of a grid that was killed may live on for a while.

    :param settings: of one cell; ``output_dir`` is the folder of the grid
    :return: what its ``cell.json`` holds: ``status`` (``finished`` or ``failed``), ``error``, ``peak_memory_mb``, and
        ``content``, a fingerprint of what the settings only name
    """
    settings = replace(settings, output_dir=_grid_folder(settings).absolute())
    folder = cell_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed when the process ends, however it ends
        return _run_cell(replace(settings, output_dir=folder), folder, _grid_folder(settings) / "zero_shot")


def _grid_folder(settings: TransferSettings) -> Path:
    assert settings.output_dir is not None  # configs/benchmark.yaml has a default
    return Path(settings.output_dir)


def _run_cell(settings: TransferSettings, folder: Path, zero_shot_cache: Path) -> dict[str, Any]:
    note = folder / "cell.json"
    cell: dict[str, Any] = {"content": None}
    before: dict[str, Any] = {}
    with suppress(DaftError):  # without a note, or with a damaged one, the cell is run again
        before = read_note(note)
    fresh = _forget_peak()
    try:
        cell["content"] = _fingerprint_content(settings)
        if before.get("status") == "finished" and before.get("content") == cell["content"]:
            return before
        results = folder / RESULTS_FILE
        same = before.get("content") == cell["content"]
        if not same or before.get("status") == "failed":
            results.unlink(missing_ok=True)  # first: the note tells that what lies here is of this content
        unfinished = {"status": "unfinished", "error": "It is running, or was killed.", "content": cell["content"]}
        write_json(note, unfinished)
        if results.exists():  # killed before the note, or gone on with by itself: transfer resume=CELL
            from daft_rl.checkpoint import CheckpointStore  # PyTorch takes seconds to import

            CheckpointStore(folder / "checkpoints", keep=1).clear()
        else:
            run(replace(settings, overwrite=not same), zero_shot_cache=zero_shot_cache)
        cell["status"] = "finished"
    except Exception as error:  # whatever it is, the other cells go on
        if cell["content"] is None and before.get("status") == "finished":
            return before  # what was measured stays, though its agent or simulator is gone
        cell["content"] = cell["content"] or before.get("content")  # what lies here may go on when its agent is back
        cell |= {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    cell["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 if fresh else None
    write_json(note, cell)
    print(f"{cell['status']}: {note.parent}")
    return cell


def refuse_cell(config: dict[str, Any], error: DaftError) -> None:
    """Note a cell whose settings are impossible as failed, so that the other cells go on.

    :param config: the composed configuration
    """
    folder = Path(config["output_dir"]) / "refused" / fingerprint(config)
    write_json(folder / "cell.json", {"status": "failed", "error": f"{type(error).__name__}: {error}"})
    print(f"failed: {folder}")


class Summary(Callback):
    """At the end of a grid: how many cells its folder has, and what went wrong in those that failed."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """The folder is named by the preset, which Hydra tells in jobs only: launchers need it before."""
        HydraConfig.instance().set_config(config)
        self.folder = Path(config.benchmark.folder).absolute()

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Ends the process with status 1 if a cell has failed."""
        notes = sorted(self.folder.rglob("cell.json"))
        cells = [(path.parent, _read_note(path)) for path in notes]
        failed = [(folder, cell.get("error", "")) for folder, cell in cells if cell["status"] == "failed"]
        finished = sum(cell["status"] == "finished" for _, cell in cells)
        print(f"{config.benchmark.folder}: {finished} finished, {len(failed)} failed")
        for folder, error in failed:
            print(f"failed: {folder}: {error}")
        if failed:
            sys.exit(1)


def _read_note(path: Path) -> dict[str, Any]:
    """A damaged note counts as that of a cell that failed."""
    try:
        return read_note(path)
    except DaftError as error:
        return {"status": "failed", "error": str(error)}


def _forget_peak() -> bool:
    """Give back what earlier cells of this process have freed, and measure the peak anew (on Linux with glibc).

    :return: whether that could be done
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def _fingerprint_content(settings: TransferSettings) -> str:
    """Of the agent's files, of what the names of levels stand for, and of what a correspondence's file says."""
    domains = read_domains(vars(settings.env), settings.evaluation.elsewhere)
    agent = find_agent(domains["source"].name, settings.algo.name, settings.agent.path)
    changes = {role: plain_data(domain.changes) for role, domain in domains.items()}
    given = settings.agent.correspondence
    file = [read_content(given)] if isinstance(given, str) and given not in CHOICES else []
    return fingerprint([fingerprint_agent(agent, settings.agent.vecnormalize), changes, *file])


if __name__ == "__main__":
    from daft_rl.cli import run_command
    from daft_rl.resume import stoppable

    with stoppable("daft_rl.benchmark"):
        run_command("benchmark", run_cell, refuse_cell)
