"""Transfers on faulty environments: none may end in a traceback, hang, or leave garbage.

    python -m benchmarks.faults.environments --out environments.jsonl

Run it from the top of the repository. Each fault of ``tests/envs/faulty.py`` is met by a small transfer in a process of
its own: of PPO with the environments in this process, of TD3 likewise, and, for some, with worker processes. A line of
JSON says how it ended: ``finished``, ``refused`` (one message of ours, about an environment), ``traceback``, ``hung``,
``died``, or ``unrelated`` (another message). A second start goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stable_baselines3 import PPO, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.errors import DaftError
from daft_rl.transfer import transfer
from tests.envs.faulty import ENDS, Faulty, faults

SECONDS = 60
"""Time of one transfer."""

TINY = {
    "num_envs": 2,
    "calibration.steps": 64,
    "calibration.held_out": 16,
    "evaluation.episodes": 1,
    "evaluation.episodes_during": 1,
    "evaluation.every": 128,
    "progress_bar": False,
    "env.step_timeout": 2,
}
AT = {"early": 5, "learning": 90}
"""Step of an environment's life at which it becomes faulty: while the source is played, or while the policy learns."""


def make(fault: str, at: int) -> Any:
    """A faulty environment with a time limit."""
    from gymnasium.wrappers import TimeLimit

    return TimeLimit(Faulty(fault, at), 20)


def cases() -> list[tuple[str, str, str, str]]:
    """Fault, when, algorithm, and kind of batch."""
    found = [(fault, "early", "PPO", "dummy") for fault in faults()]
    found += [(fault, "learning", "TD3", "dummy") for fault in faults() if fault.startswith("step")]
    found += [
        (fault, "learning", "PPO", "workers") for fault in faults() if fault.endswith(("KeyError", "nan", "None"))
    ]
    return found + [(f"step ends: {what}", "learning", "PPO", "workers") for what in ENDS]


def run(source: BaseAlgorithm, fault: str, when: str, vec: str) -> None:
    """One transfer, as the command line would run it: prints one message of ours, or a traceback."""
    for_algorithm = {"n_steps": 32, "batch_size": 32} if isinstance(source, PPO) else {"learning_starts": 20}
    settings = TINY | {"vec": vec} | {f"algo.settings.{key}": value for key, value in for_algorithm.items()}
    with TemporaryDirectory() as folder:
        run_folder = Path(folder) / "run"
        try:
            transfer(
                partial(make, fault, AT[when]),
                "daft",
                source,
                total_timesteps=256,
                output_dir=run_folder,
                settings=settings,
            )
        except DaftError as error:
            print(str(error).replace(folder, "."), file=sys.stderr)
            sys.exit(2)
        text = (run_folder / "results.json").read_text()
        json.loads(text, parse_constant=lambda name: sys.exit(f"results.json holds {name}"))


def run_in_fork(source: BaseAlgorithm, fault: str, when: str, vec: str) -> tuple[str, str]:
    """Run a case in a process of its own.

    :return: how it ended, and the last line that it wrote
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write_end, 2)
        warnings.simplefilter("ignore")
        code = 1
        try:
            run(source, fault, when, vec)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 3
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        os._exit(code)
    os.close(write_end)
    text = _read(read_end, pid).decode("utf-8", "replace")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    last = text.strip().splitlines()[-1:] or [""]
    if "Traceback" in text:
        return "traceback", last[0]
    if code == 2 and "nvironment" not in last[0]:
        return "unrelated", last[0]
    return {0: "finished", 2: "refused", 3: "garbage", -signal.SIGKILL: "hung"}.get(code, "died"), last[0]


def _read(descriptor: int, pid: int) -> bytes:
    """What a process writes until it ends. It is killed if that takes too long."""
    deadline, parts = time.monotonic() + SECONDS, [b""]
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = file.read(2**16)
            if not part:
                return b"".join(parts)
            parts.append(part)
    os.kill(pid, signal.SIGKILL)
    return b"".join(parts)


def main() -> None:
    """Run what has not run yet, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("environments.jsonl"))
    options = parser.parse_args()
    healthy = partial(make, "none: none", 1)
    sources: dict[str, BaseAlgorithm] = {
        "PPO": PPO("MlpPolicy", healthy(), n_steps=32, batch_size=32, policy_kwargs={"net_arch": [8]}, device="cpu"),
        "TD3": TD3("MlpPolicy", healthy(), learning_starts=20, policy_kwargs={"net_arch": [8]}, device="cpu"),
    }
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {tuple(line["case"]) for line in lines}
    for case in cases():
        if case in done:
            continue
        fault, when, algorithm, vec = case
        started = time.perf_counter()
        outcome, last = run_in_fork(sources[algorithm], fault, when, vec)
        seconds = round(time.perf_counter() - started, 1)
        lines.append({"case": case, "outcome": outcome, "seconds": seconds, "message": last[:600]})
        with options.out.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    print(dict(Counter(line["outcome"] for line in lines)))
    for line in lines:
        if line["outcome"] not in ("finished", "refused"):
            print(line["outcome"], line["case"], line["message"])


if __name__ == "__main__":
    main()
