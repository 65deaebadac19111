"""``python -m daft_rl.benchmark preset=mujoco``: a grid of transfers that can be killed and started again.

Each cell is one ordinary transfer in a folder of its own, which is named by the settings of the cell. A cell that is
finished is not run again; one that failed leaves its error behind, does not stop the others, and is tried again the
next time. The grid is Hydra's multirun, so its launchers put the cells on as many cores or machines as there are.
"""

from __future__ import annotations

import hashlib
import json
import resource
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import open_dict

from daft_rl.cli import plain, run_command
from daft_rl.transfer import run

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["cell_folder", "run_cell"]

IRRELEVANT = {"benchmark", "output_dir", "progress_bar", "render", "render_steps", "device", "vec", "torch_threads"}
"""Settings that a cell's returns do not depend on, or not on purpose."""


def cell_folder(cfg: DictConfig) -> Path:
    """Where a cell belongs: equal settings, equal folder.

    :param cfg: the composed configuration of one cell
    """
    settings = {key: plain(cfg[key]) for key in cfg if key not in IRRELEVANT}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    return Path(cfg.benchmark.folder) / cfg.env.name / cfg.method.name / f"seed-{cfg.seed}-{key}"


def run_cell(cfg: DictConfig) -> dict[str, Any]:
    """Run one cell, unless it is finished.

    :return: what stands in its ``cell.json``: ``status`` (``finished`` or ``failed``), ``error``, ``peak_memory_mb``
    """
    from daft_rl.results import write_json

    folder = cell_folder(cfg)
    done = folder / "cell.json"
    if done.exists():
        cell = json.loads(done.read_text("utf-8"))
        if cell["status"] == "finished":
            return cell
    with open_dict(cfg):
        cfg.output_dir = str(folder)
    try:
        run(cfg, played=Path(cfg.benchmark.folder) / "zero_shot")
        cell = {"status": "finished"}
    except Exception as error:  # whatever it is, the other cells go on
        cell = {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    cell["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    write_json(done, cell)
    print(f"{cell['status']}: {folder}")
    return cell


if __name__ == "__main__":
    run_command("benchmark", run_cell)
