"""Look at other processes."""

from __future__ import annotations

import time
from pathlib import Path

DEADLINE = 30.0


def alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def await_end(pids: list[int]) -> None:
    """Wait until none of the processes runs."""
    deadline = time.monotonic() + DEADLINE
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, f"still alive: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.02)


def worker_processes() -> list[int]:
    """Workers that this process started, zombies among them."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            if b"daft_rl.envs.batch.worker_process" in Path(f"/proc/{pid}/cmdline").read_bytes() or not alive(pid):
                found.append(pid)
    return found
