"""Run a module of the benchmarks here, or with an interpreter that has sbx.

sbx needs other versions of NumPy than robosuite, so it cannot be installed beside daft_rl's simulators. Without an
interpreter of its own, ``uv run`` makes an environment with sbx and daft_rl, and keeps what it downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["run_module"]

ROOT = Path(__file__).resolve().parents[2]
SBX = "sbx-rl==0.28.0"
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}


def interpreter(sbx: bool, sbx_python: Path | None) -> list[str]:
    """The beginning of a command.

    :param sbx: whether the module needs sbx
    :param sbx_python: an interpreter that has sbx and the requirements of the module
    """
    if not sbx:
        return [sys.executable]
    if sbx_python is not None:
        return [str(sbx_python)]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [
        "uv",
        "run",
        "--isolated",
        "--no-project",
        "--python",
        python,
        "--with",
        SBX,
        "--with-editable",
        str(ROOT),
        "python",
    ]


def run_module(module: str, arguments: list[str], sbx: bool, sbx_python: Path | None) -> dict[str, Any]:
    """The JSON that a module prints in its last line.

    :raises subprocess.CalledProcessError: the module failed; its messages are on standard error
    """
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)}
    command = [*interpreter(sbx, sbx_python), "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]
