"""``python -m daft_rl.benchmark preset=mujoco``: a grid of transfers that can be killed and started again.

Each cell is one ordinary transfer in a folder of its own, which is named by the settings of the cell. A cell that is
finished is not run again; one that failed leaves its error behind, does not stop the others, and is tried again the
next time. The grid is Hydra's multirun, so its launchers put the cells on as many cores or machines as there are.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import json
import resource
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import open_dict

from daft_rl.archives import find_agent
from daft_rl.cli import plain, run_command
from daft_rl.envs.domain import read_domains
from daft_rl.run.fingerprints import digest, digest_agent, digest_settings
from daft_rl.transfer import run

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["Summary", "cell_folder", "run_cell"]


def cell_folder(cfg: DictConfig) -> Path:
    """Where a cell belongs: equal settings, equal folder.

    :param cfg: the composed configuration of one cell
    """
    name = f"seed-{cfg.seed}-{digest_settings(cfg)[:10]}"
    return Path(cfg.benchmark.folder) / cfg.env.name / cfg.method.name / name


def run_cell(cfg: DictConfig) -> dict[str, Any]:
    """Run one cell, unless it is finished.

    Two processes never run one cell at once: workers of a grid that was killed may live on for a while.

    :return: what stands in its ``cell.json``: ``status`` (``finished`` or ``failed``), ``error``, ``peak_memory_mb``,
        and ``content``, a digest of what the settings only name
    """
    folder = cell_folder(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed when the process ends, however it ends
        return _run_cell(cfg, folder / "cell.json")


def _run_cell(cfg: DictConfig, noted: Path) -> dict[str, Any]:
    from daft_rl.files import write_json

    with open_dict(cfg):
        cfg.output_dir = str(noted.parent)
    cell: dict[str, Any] = {"content": None}
    before: dict[str, Any] = {}
    with suppress(FileNotFoundError, json.JSONDecodeError):
        before = json.loads(noted.read_text("utf-8"))
    fresh = _forget_peak()
    try:
        cell["content"] = _digest_content(cfg)
        if before.get("status") == "finished" and before.get("content") == cell["content"]:
            return before
        write_json(noted, {"status": "unfinished", "error": "It is running, or was killed."})
        run(cfg, played=Path(cfg.benchmark.folder) / "zero_shot")
        cell["status"] = "finished"
    except Exception as error:  # whatever it is, the other cells go on
        if cell["content"] is None and before.get("status") == "finished":
            return before  # what was measured stays, though its agent or simulator is gone
        cell |= {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    cell["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 if fresh else None
    write_json(noted, cell)
    print(f"{cell['status']}: {noted.parent}")
    return cell


class Summary(Callback):
    """At the end of a grid: how many cells its folder has, and what went wrong in those that failed."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """The folder is named by the preset, which Hydra tells in jobs only: launchers need it before."""
        HydraConfig.instance().set_config(config)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Ends the process with status 1 if a cell has failed."""
        notes = sorted(Path(config.benchmark.folder).rglob("cell.json"))
        cells = [(path.parent, json.loads(path.read_text("utf-8"))) for path in notes]
        failed = [(folder, cell["error"]) for folder, cell in cells if cell["status"] == "failed"]
        finished = sum(cell["status"] == "finished" for _, cell in cells)
        print(f"{config.benchmark.folder}: {finished} finished, {len(failed)} failed")
        for folder, error in failed:
            print(f"failed: {folder}: {error}")
        if failed:
            sys.exit(1)


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


def _digest_content(cfg: DictConfig) -> str:
    """Of the agent's files, and of what the names of levels stand for."""
    domains = read_domains(plain(cfg.env), cfg.evaluation.elsewhere)
    agent = find_agent(domains["source"].name, cfg.algo.name, cfg.agent.path)
    return digest([digest_agent(agent), {role: domain.changes for role, domain in domains.items()}])


if __name__ == "__main__":
    run_command("benchmark", run_cell)
