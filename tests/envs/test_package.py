"""The package as it is imported after installation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# An editable install and PYTHONPATH put the repository on the path, where ``envs`` lies beside ``daft_rl``.
INSTALLED = """
import importlib, os, sys
sys.path[:] = [sys.argv[1]] + [p for p in sys.path[1:] if not os.path.exists(os.path.join(p, "daft_rl"))]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import daft_rl.envs
print(daft_rl.envs.__file__, daft_rl.envs.task_names()[0])
for name in ("envs", "agents", "configs"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        print("no", name)
"""
LIGHT = """
import sys
from daft_rl.envs import levels, read_shift, task_names
for name in task_names():
    for level in levels(name):
        read_shift(name, level)
print({"mujoco", "robosuite", "safety_gymnasium", "stable_baselines3", "torch"} & set(sys.modules))
"""


def run_python(*arguments: str, folder: Path) -> str:
    """Run Python in a folder and return its output."""
    done = subprocess.run([sys.executable, "-c", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_bare_import_of_envs_fails_after_installation(tmp_path: Path) -> None:
    """As after an installation, the folder on the path has ``daft_rl`` and nothing else."""
    (tmp_path / "daft_rl").symlink_to(ROOT / "daft_rl")
    first, *rest = run_python(INSTALLED, str(tmp_path), folder=tmp_path).splitlines()
    assert first == f"{tmp_path / 'daft_rl' / 'envs' / '__init__.py'} Ant"
    assert rest == ["no envs", "no agents", "no configs"]


def test_reading_tasks_and_shifts_imports_no_simulator_and_no_pytorch() -> None:
    assert run_python(LIGHT, folder=ROOT) == "set()\n"
