"""The workers of a grid or a sweep end with the program that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.envs.processes import DEADLINE, await_end

PROGRAM = """
import os, sys, time
import joblib
from daft_rl.run import orphans
orphans.LOOK_SECONDS = 0.05

def cell(number):
    launcher = os.getppid()
    if sys.argv[1] == "late":
        print(os.getpid(), flush=True)
        while os.getppid() == launcher:
            time.sleep(0.02)
    orphans.end_with_launcher()
    orphans.end_with_launcher()  # as in the next cell
    print(os.getpid(), flush=True)
    time.sleep(600)

orphans.end_with_launcher()  # in the program itself it does nothing
joblib.Parallel(n_jobs=2)(joblib.delayed(cell)(number) for number in range(2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
@pytest.mark.parametrize(
    ("number", "when"), [(signal.SIGKILL, "early"), (signal.SIGTERM, "early"), (signal.SIGKILL, "late")]
)
def test_workers_end_with_their_launcher(number: int, when: str, tmp_path: Path) -> None:
    """Also those that hear of it late, since they still import PyTorch when it ends."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PROGRAM, when]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    assert launcher.stdout is not None
    workers = [int(launcher.stdout.readline()) for _ in range(2)]
    assert len({launcher.pid, *workers}) == 3
    launcher.send_signal(number)
    launcher.wait(DEADLINE)
    await_end(workers)
