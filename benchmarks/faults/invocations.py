"""Run every wrong invocation of ``invocations.txt`` as a process of its own, and count how they end.

    python benchmarks/faults/invocations.py invocations.jsonl

An invocation that stands in the file already is not run again. They run one after the other, so that seconds of the
processor, which count its child processes too, are their own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.invocations import Invocation, read_table, write_files  # noqa: E402

MOST_SECONDS = 60


def run(invocation: Invocation, files: Path) -> dict[str, Any]:
    """Run one invocation in an empty folder.

    :return: exit code, seconds by the clock and of the processor, lines on standard error, whether the message is
        there, and what was left on disk
    """
    command = [sys.executable, "-m", f"daft_rl.{invocation.program}", *invocation.with_files(files)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with TemporaryDirectory() as folder:
        started, before = time.perf_counter(), _processor_seconds()
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS, check=False
        )
        return {
            "line": invocation.line,
            "code": done.returncode,
            "seconds": round(time.perf_counter() - started, 2),
            "processor_seconds": round(_processor_seconds() - before, 2),
            "lines": len(done.stderr.strip().splitlines()),
            "usage": "usage:" in done.stderr,
            "traceback": "Traceback" in done.stderr,
            "named": invocation.message in done.stderr,
            "left": sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*")),
        }


def _processor_seconds() -> float:
    """Of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def is_right(result: dict[str, Any]) -> bool:
    """Whether an invocation ended as it should."""
    one_message = result["lines"] == 1 or result["usage"]
    return result["code"] == 2 and one_message and result["named"] and not result["traceback"] and not result["left"]


def main() -> None:
    """Run what has not been run, and print counts."""
    path = Path(sys.argv[1])
    text = path.read_text("utf-8") if path.exists() else ""
    results = {result["line"]: result for result in map(json.loads, text.splitlines())}
    with TemporaryDirectory() as folder:
        write_files(Path(folder))
        for invocation in read_table():
            if invocation.line not in results:
                result = results[invocation.line] = run(invocation, Path(folder))
                with path.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(result) + "\n")

    wrong = [result for result in results.values() if not is_right(result)]
    for name in ("seconds", "processor_seconds"):
        seconds = [result[name] for result in results.values()]
        print(f"{name}: median {median(seconds):.2f}, longest {max(seconds):.2f}")
    for result in wrong:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
