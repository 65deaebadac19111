"""Damaged files of every kind that is read: only our own error, memory under 1 GB, no hang.

    python -m benchmarks.faults.mutations --count 10000 --out mutations.jsonl

Run it from the top of the repository. Each kind has its own mutations, numbered, and the same number is always the
same mutation. A process of its own reads 250 of them and writes one line of JSON: how many were read, how many were
refused in our words, everything else, its peak of memory, and the slowest. A second start goes on where the first one
stopped.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import pickle
import random
import resource
import signal
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl.archives import load_agent, read_multiplier, read_vecnormalize
from daft_rl.errors import DaftError
from tests.conftest import PointMass

CHUNK = 250
SECONDS = 20
"""Longest time that one file may take."""


class HangError(BaseException):
    """A file took too long; no reader catches it."""


# -- the files, and how they are read ------------------------------------------------------------------------


def archives() -> list[bytes]:
    """Two small agents, whose archives between them have every kind of entry."""
    found = []
    for model in (
        PPO("MlpPolicy", PointMass(), n_steps=8, batch_size=8, policy_kwargs={"net_arch": [3]}, device="cpu"),
        SAC("MlpPolicy", PointMass(), buffer_size=9, learning_starts=2, policy_kwargs={"net_arch": [3]}, device="cpu"),
    ):
        buffer = io.BytesIO()
        model.learn(8).save(buffer)
        found.append(buffer.getvalue())
    return found


def older_archives() -> list[bytes]:
    """The same with the tensors of PyTorch before 1.6."""
    found = []
    for raw in archives():
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(raw)) as archive, zipfile.ZipFile(buffer, "w") as older:
            for name in archive.namelist():
                content = io.BytesIO(archive.read(name))
                if name.endswith(".pth"):
                    tensors, content = torch.load(content, weights_only=True), io.BytesIO()
                    torch.save(tensors, content, _use_new_zipfile_serialization=False)
                older.writestr(name, content.getvalue())
        found.append(buffer.getvalue())
    return found


def statistics() -> list[bytes]:
    """The statistics of two wrappers."""
    venv = VecNormalize(DummyVecEnv([PointMass]))
    venv.reset()
    return [pickle.dumps(venv, protocol) for protocol in (2, 4)]


def constraints() -> list[bytes]:
    """What a limit on costs leaves beside an agent."""
    return [json.dumps({"limit": 25.0, "rate": 0.1, "multiplier": 0.7, "mean_cost": None}).encode()]


def report_lines() -> list[bytes]:
    """Some lines of a saved report."""
    with gzip.open("benchmarks/results/mujoco.jsonl.gz") as lines:
        return [b"".join(line for line, _ in zip(lines, range(4), strict=False))]


def read_report(path: Path) -> Any:
    """As a report reads what was saved."""
    from daft_rl.report.storage import read_cells

    packed = path.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return [cell.result.as_dict() for cell in read_cells([packed])]


KINDS: dict[str, tuple[Callable[[], list[bytes]], str, Callable[[Path], Any]]] = {
    "archive": (archives, "agent.zip", lambda path: load_agent(path, device="cpu")),
    "older_archive": (older_archives, "agent.zip", lambda path: load_agent(path, device="cpu")),
    "vecnormalize": (statistics, "vecnormalize.pkl", read_vecnormalize),
    "constraint": (constraints, "constraint.json", lambda path: read_multiplier(path.with_name("agent.zip"))),
    "report": (report_lines, "cells", read_report),
}
"""Kind -> sound files, the name of a file, and its reader."""


# -- mutations -----------------------------------------------------------------------------------------------


def mutate_bytes(raw: bytes, draw: random.Random) -> bytes:
    """Change, drop, repeat or insert some bytes."""
    changed = bytearray(raw)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        start = draw.randrange(len(changed) + 1)
        length = min(draw.choice((1, 1, 4, 50)), len(changed) - start)
        match draw.randrange(5):
            case 0:
                changed[start : start + length] = draw.randbytes(length)
            case 1:
                del changed[start : start + length]
            case 2:
                changed[start:start] = changed[start : start + length] * draw.choice((1, 2, 1000))
            case 3:
                changed[start : start + length] = bytes([draw.choice((0, 255, 127))]) * length
            case _ if draw.random() < 0.1:
                del changed[start:]
    return bytes(changed)


def mutate_value(value: Any, draw: random.Random) -> Any:
    """Replace one value somewhere in plain data."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value))
        changed = dict(value)
        if draw.random() < 0.15:
            del changed[key]
        else:
            changed[key] = mutate_value(value[key], draw)
        return changed
    if isinstance(value, list) and value and draw.random() < 0.8:
        i = draw.randrange(len(value))
        return [*value[:i], mutate_value(value[i], draw), *value[i + 1 :]]
    odd: tuple[Any, ...] = (None, True, -1, 0, 10**12, 10**400, 1e308, float("nan"), float("inf"))
    odd += ("", "abc", "x" * 10_000, [], [[]], {})
    return draw.choice((*odd, {"a": 1}, [1] * 1000, "<class 'os.system'>", "[inf ... 1]", "auto_0", "\ud800"))


def mutate_zip(raw: bytes, draw: random.Random) -> bytes:
    """Damage one member; the zip around it stays sound. Tensors are zips themselves."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(sorted(members))
    if name == "data" and draw.random() < 0.8:
        members[name] = json.dumps(mutate_value(json.loads(members[name]), draw)).encode("utf-8", "surrogatepass")
    elif name.endswith(".pth") and zipfile.is_zipfile(io.BytesIO(members[name])) and draw.random() < 0.7:
        members[name] = mutate_zip(members[name], draw)
    elif draw.random() < 0.1:
        members[draw.choice(sorted(members))] = members.pop(name)
    else:
        members[name] = mutate_bytes(members[name], draw)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, content in members.items():
            archive.writestr(key, content)
    return buffer.getvalue()


def mutate(kind: str, sound: list[bytes], number: int) -> bytes:
    """Mutation ``number`` of a kind."""
    draw = random.Random(f"{kind} {number}")
    raw = draw.choice(sound)
    if kind.endswith("archive") and draw.random() < 0.7:
        return mutate_zip(raw, draw)
    if kind in ("constraint", "report") and draw.random() < 0.6:
        lines = [json.loads(line) for line in raw.splitlines()]
        i = draw.randrange(len(lines))
        lines[i] = mutate_value(lines[i], draw)
        return "\n".join(map(json.dumps, lines)).encode("utf-8", "surrogatepass")
    return mutate_bytes(raw, draw)


# -- running -------------------------------------------------------------------------------------------------


def read_chunk(kind: str, first: int, count: int) -> dict[str, Any]:
    """Read mutations, in this process."""
    make, name, read = KINDS[kind]
    sound, outcomes, others, slowest = make(), Counter[str](), [], 0.0
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        for number in range(first, first + count):
            path.write_bytes(mutate(kind, sound, number))
            started = time.perf_counter()
            signal.alarm(SECONDS)
            try:
                read(path)
                outcomes["read"] += 1
            except DaftError:
                outcomes["refused"] += 1
            except (Exception, HangError) as error:
                outcomes["other"] += 1
                others.append(f"{number}: {type(error).__name__}: {str(error)[:200]}")
            finally:
                signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"kind": kind, "first": first, "count": count, **outcomes, "others": others, "peak_mb": peak,
            "slowest_s": round(slowest, 2)}  # fmt: skip


def read_in_fork(kind: str, first: int, count: int) -> dict[str, Any]:
    """The same in a process of its own, which a reader may kill."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        warnings.simplefilter("ignore")
        np.seterr(all="ignore")

        def stop(*_: Any) -> None:
            raise HangError(f"more than {SECONDS} s")

        signal.signal(signal.SIGALRM, stop)
        with os.fdopen(write_end, "w") as file:
            json.dump(read_chunk(kind, first, count), file)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    if not text:
        return {"kind": kind, "first": first, "count": count, "died": os.waitstatus_to_exitcode(status)}
    return dict(json.loads(text))


def main() -> None:
    """Read what is not read yet, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="mutations of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, default=Path("mutations.jsonl"))
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(line["kind"], line["first"]) for line in lines}
    for kind in options.kinds:
        for first in range(0, options.count, CHUNK):
            if (kind, first) in done:
                continue
            lines.append(read_in_fork(kind, first, min(CHUNK, options.count - first)))
            with options.out.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    for kind in options.kinds:
        own = [line for line in lines if line["kind"] == kind]
        counts = {key: sum(line.get(key, 0) for line in own) for key in ("count", "read", "refused", "other")}
        died = sum("died" in line for line in own)
        peak, slowest = (max(line.get(key, 0) for line in own) for key in ("peak_mb", "slowest_s"))
        print(f"{kind}: {counts}, chunks that died {died}, peak {peak} MB, slowest {slowest} s")


if __name__ == "__main__":
    main()
