"""Run transfers in bad places: full and read-only disks, no home, odd paths, closed outputs, foreign encodings.

    sudo python -m benchmarks.faults.places --out benchmarks/results/places.jsonl

Each line tells what was done, how the run ended and what it printed, and whether what is left is whole: no unfinished
file, strict JSON, archives that open, and results equal to those of the run in an ordinary place. Disks are file
systems in memory, which only root can mount.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.faults.trials import ANT, TASK, Place, Runner, disk

ODD = {
    "signs": "my, run #1: lr=0.1 100%s [a]{b}",
    "unicode": "größe-データ-🙂",
    "quotes": 'it\'s "mine"',
    "newline": "two\nlines",
    "dollar": "${seed}",
    "backslash": "a\\b",
    "leading dash": "-x",
    "not UTF-8": os.fsdecode(b"caf\xe9"),
}


def odd_paths(runner: Runner) -> None:
    """Odd names of the run folder, of the folder with the agent, and of the folder where the run is started."""
    for kind, odd in ODD.items():
        name = f"{kind} in output_dir, agent and cwd"
        if name in runner.known:
            continue
        place = runner.place(name)
        cwd = place.cwd / odd
        cwd.mkdir()
        agent = cwd / "source.zip"
        shutil.copy(runner.sources / "PPO-Pendulum.zip", agent)
        place.cwd, place.folder = cwd, cwd / "run"
        place.command = runner.command(place.folder, agent)
        runner.note(name, place)


def environments(runner: Runner) -> None:
    """Missing and unwritable folders of the user, foreign encodings, and a mask of permissions."""
    nowhere = {
        "HOME": "/proc/none",
        "TMPDIR": "/proc/none",
        "XDG_CACHE_HOME": "/proc/none",
        "MPLCONFIGDIR": "/proc/none",
    }
    changes: dict[str, tuple[Mapping[str, str | None], tuple[str, ...]]] = {
        "HOME unset": ({"HOME": None}, TASK),
        "HOME unwritable": ({"HOME": "/proc/none"}, TASK),
        "TMPDIR unwritable": ({"TMPDIR": "/proc/none"}, TASK),
        "HOME, TMPDIR and caches unwritable": (nowhere, TASK),
        "HOME, TMPDIR and caches unwritable, Ant": (nowhere, ANT),
        "LANG=C without UTF-8 mode": (
            {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            TASK,
        ),
        "Latin-1": ({"LC_ALL": "en_US.ISO-8859-1", "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}, TASK),
        "ASCII output": ({"PYTHONIOENCODING": "ascii"}, TASK),
        "no TERM": ({"TERM": None}, TASK),
        "empty environment": (dict.fromkeys(os.environ) | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}, TASK),
    }
    for name, (change, task) in changes.items():
        if name in runner.known:
            continue
        place = runner.place(name, task)
        for key, value in change.items():
            place.environment.pop(key, None)
            if value is not None:
                place.environment[key] = value
        runner.note(name, place, task)


def outputs(runner: Runner) -> None:
    """Closed outputs, broken pipes, a full device, a deleted folder, permissions, limits."""
    shells = {
        "stdout closed": '"$@" >&-',
        "stderr closed": '"$@" 2>&-',
        "stdin, stdout and stderr closed": '"$@" <&- >&- 2>&-',
        "stdout is a broken pipe": '"$@" | true; exit ${PIPESTATUS[0]}',
        "stdout and stderr are a broken pipe": '"$@" 2>&1 | true; exit ${PIPESTATUS[0]}',
        "stdout to /dev/full": '"$@" >/dev/full',
        "stdout and stderr to /dev/full": '"$@" >/dev/full 2>&1',
        "progress bar without a terminal": '"${@/progress_bar=false/progress_bar=true}"',
        "progress bar on a closed stdout and stderr": '"${@/progress_bar=false/progress_bar=true}" >&- 2>&-',
        "cwd deleted": 'mkdir gone && cd gone && rmdir ../gone && "$@"',
        "umask 077": 'umask 077; "$@"',
        "files of at most 100 KB": 'ulimit -f 100; "$@"',
        "32 file descriptors": 'ulimit -n 32; "$@"',
    }
    for name, shell in shells.items():
        if name in runner.known:
            continue
        place = runner.place(name)
        place.shell = shell
        runner.note(name, place)


def disks(runner: Runner) -> None:
    """Full and read-only disks; and that a run stopped by one goes on when there is space."""
    for name, options in {
        "disk of 100 KB": "size=100k",
        "disk of 300 KB": "size=300k",
        "disk of 500 KB": "size=500k",
        "disk of 20 inodes": "size=50m,nr_inodes=20",
        "disk of 14 inodes": "size=50m,nr_inodes=14",
    }.items():
        if name in runner.known:
            continue
        place = runner.place(name)
        with disk(place.cwd / "disk", options) as folder:
            place.folder = folder / "run"
            place.command = runner.command(place.folder)
            runner.note(name, place)
            _goes_on(runner, f"{name}, then space", place, folder)
    name = "read-only disk"
    if name not in runner.known:
        place = runner.place(name)
        with disk(place.cwd / "disk", "size=10m,ro") as folder:
            place.folder, place.command = folder / "run", runner.command(folder / "run")
            runner.note(name, place)
    for step in (512, 1024):
        _fills_up(runner, f"disk fills up after {step} steps", step)


def _goes_on(runner: Runner, name: str, place: Place, mounted: Path) -> None:
    """Give the disk space, and go on with what was stopped there."""
    subprocess.run(["mount", "-o", "remount,size=50m,nr_inodes=10000", str(mounted)], check=True)
    filler = mounted / "filler"
    filler.unlink(missing_ok=True)
    if (place.folder / "results.json").is_file():
        return
    if (place.folder / "config.yaml").is_file():
        place.command = [sys.executable, "-m", "daft_rl.transfer", f"resume={place.folder}"]
    checkpoints = len(list(place.folder.glob("checkpoints/*.zip")))
    runner.note(name, place, went_on_from_checkpoints=checkpoints)


def _fills_up(runner: Runner, name: str, step: int) -> None:
    """A disk that somebody else fills while a run learns."""
    if name in runner.known:
        return
    place = runner.place(name)
    with disk(place.cwd / "disk", "size=10m") as folder:
        place.folder, place.command = folder / "run", runner.command(folder / "run")
        place.shell = (
            f'(while [ ! -e "{place.folder}/checkpoints/{step:012d}.zip" ]; do sleep 0.05; done; '
            f'head -c 20m /dev/zero >"{folder}/filler" 2>/dev/null) & "$@"; code=$?; kill %1 2>/dev/null; exit $code'
        )
        runner.note(name, place)
        place.shell = ""
        _goes_on(runner, f"{name}, then space", place, folder)


def main() -> None:
    """Try all places that have no line yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/places/places.jsonl"))
    parser.add_argument("--folder", type=Path, default=Path("runs/places"))
    kinds = {"disks": disks, "outputs": outputs, "environments": environments, "odd_paths": odd_paths}
    parser.add_argument("--kinds", nargs="*", default=list(kinds), choices=list(kinds))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    runner = Runner(given.folder.resolve(), given.out)
    for task in (TASK, ANT):
        runner.reference(task)
    for kind in given.kinds:
        kinds[kind](runner)


if __name__ == "__main__":
    main()
