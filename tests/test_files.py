"""Files that are written whole have the permissions of other files; names in files that are read are there once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daft_rl.envs.registry import CONFIGS, levels
from daft_rl.errors import ConfigError
from daft_rl.files import read_mapping, write_text


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_is_as_private_as_the_user_wants(mask: int, expected: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file", "text")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == expected


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_text("observation: {a: x}\nlike: {b: c}\nobservation: {d: y}\n")
    with pytest.raises(ConfigError, match=r"robot\.yaml cannot be read: 'observation' is there twice"):
        read_mapping(tmp_path / "robot.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_no_name_of_a_shipped_file_hides_another(path: Path) -> None:
    assert read_mapping(path)


def test_an_arm_in_task_space_has_neither_joints_nor_gripper() -> None:
    assert levels("Door-UR5e")["task-space"] == {"missing_sensors": ["robot0_joint_*", "gripper0_*"]}
    assert levels("Wipe-UR5e")["task-space"] == {"missing_sensors": ["robot0_joint_*"]}
