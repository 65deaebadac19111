"""What the project is installed from is public: no file names a machine, and the locked versions name no place."""

from __future__ import annotations

import gzip
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDERS_OF_A_MACHINE = re.compile(rb"(?<![\w./:-])/(?:home|root|opt|mnt|work|srv|Users)/\w|file:///\w")
OWN_INDEX = re.compile(rb"(?:index-url|find-links|index-strategy)\s*[=:]?\s*[\"']?(?:https?:)?/")


def project_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("git does not know the project's files")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


@pytest.mark.parametrize("pattern", [FOLDERS_OF_A_MACHINE, OWN_INDEX], ids=["folder", "package index"])
def test_no_file_names_a_machine(pattern: re.Pattern[bytes]) -> None:
    found = {str(path.relative_to(ROOT)): pattern.search(content(path)) for path in project_files()}
    named = {name: match[0] for name, match in found.items() if match}
    assert not named


def test_the_lock_has_one_version_of_every_dependency_and_no_place() -> None:
    """A version may depend on Python's."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()[1:]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+( ; python_full_version [<>=]+ '[\d.*]+'.*)?", line) for line in lines)
    named = {line.partition("==")[0] for line in lines}
    assert len(named) > 100
    assert named >= {"torch", "gymnasium", "mujoco", "robosuite", "stable-baselines3", "safety-gymnasium", "pytest"}


def test_the_workflow_runs_the_oldest_and_the_newest_python() -> None:
    bounds = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert bounds
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    check = workflow["jobs"]["check"]
    assert check["strategy"]["matrix"]["python"] == [f"3.{bounds[1]}", f"3.{int(bounds[2]) - 1}"]
    assert {"run": ".ci/run"} in check["steps"]
