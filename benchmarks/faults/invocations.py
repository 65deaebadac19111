"""Run every wrong invocation of ``invocations.txt`` as a process of its own, and count how they end.

    python benchmarks/faults/invocations.py invocations.jsonl

An invocation that stands in the file already is not run again. At most two run at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.invocations import Invocation, read_table, write_files  # noqa: E402

AT_ONCE = 2
MOST_SECONDS = 60


def run(invocation: Invocation, files: Path) -> dict[str, Any]:
    """Run one invocation in an empty folder.

    :return: exit code, seconds, lines on standard error, whether the message is there, and what was left on disk
    """
    command = [sys.executable, "-m", f"daft_rl.{invocation.program}", *invocation.with_files(files)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS, check=False
        )
        return {
            "line": invocation.line,
            "code": done.returncode,
            "seconds": round(time.perf_counter() - started, 2),
            "lines": len(done.stderr.strip().splitlines()),
            "usage": "usage:" in done.stderr,
            "traceback": "Traceback" in done.stderr,
            "named": invocation.message in done.stderr,
            "left": sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*")),
        }


def is_right(result: dict[str, Any]) -> bool:
    """Whether an invocation ended as it should."""
    one_message = result["lines"] == 1 or result["usage"]
    return result["code"] == 2 and one_message and result["named"] and not result["traceback"] and not result["left"]


def main() -> None:
    """Run what has not been run, and print counts."""
    path = Path(sys.argv[1])
    text = path.read_text("utf-8") if path.exists() else ""
    results = {result["line"]: result for result in map(json.loads, text.splitlines())}
    writing = Lock()

    with TemporaryDirectory() as folder:
        files = Path(folder)
        write_files(files)

        def run_and_keep(invocation: Invocation) -> None:
            result = run(invocation, files)
            with writing, path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(result) + "\n")
                results[invocation.line] = result

        left = [invocation for invocation in read_table() if invocation.line not in results]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(run_and_keep, left))

    wrong = [result for result in results.values() if not is_right(result)]
    seconds = sorted(result["seconds"] for result in results.values())
    print(f"{len(results)} invocations, {len(results) - len(wrong)} right")
    print(f"seconds: median {seconds[len(seconds) // 2]}, longest {seconds[-1]}")
    for result in wrong:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
