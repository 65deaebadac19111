"""A correspondence of names: what a file may say, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from daft_rl.correspond import as_file, correspond, main, names_of_task
from daft_rl.correspondence import Correspondence, by_names, read_exceptions
from daft_rl.envs.names import Names
from daft_rl.errors import ConfigError

SOURCE = Names(("torso.z", "hip.position", "knee.position"), ("hip", "knee"))
TARGET = Names(("trunk.z", "tail.position", "knee.position", "hip.position"), ("tail", "knee", "hip"))


def read(tmp_path: Path, text: str) -> Correspondence:
    """The correspondence that a file says."""
    path = tmp_path / "robot.yaml"
    path.write_text(text, encoding="utf-8")
    return by_names(SOURCE, TARGET, read_exceptions(path))


def test_equal_names_correspond_and_a_file_adds_exceptions(tmp_path: Path) -> None:
    plain, named = by_names(SOURCE, TARGET), read(tmp_path, "observation: {trunk.z: torso.z}\naction: {hip: zero}\n")
    assert plain.observation.origin == (None, None, 2, 1)
    assert plain.action.origin == (None, 1, 0)
    assert named.observation.origin == (0, None, 2, 1)
    assert named.action.origin == (None, 1, None)
    assert named.action.removed == [0]
    assert "3 of 4; new: tail.position" in named.describe()


def test_a_limb_may_be_like_another(tmp_path: Path) -> None:
    copied = read(tmp_path, "like: {tail: hip}")
    assert copied.observation.origin == (None, 1, 2, 1)
    assert copied.action.origin == (0, 1, 0)
    assert read(tmp_path, "like: {tail.position: hip.position}").action.origin == (None, 1, 0)


def test_the_sibling_stands_for_the_source_entry_though_its_copy_comes_first(tmp_path: Path) -> None:
    copied = read(tmp_path, "like: {tail: hip}")
    assert copied.action.heirs == [2, 1]
    assert copied.action.copies == {"tail": "hip"}


def test_a_written_file_says_the_same_of_copies(tmp_path: Path) -> None:
    copied = read(tmp_path, "observation: {trunk.z: torso.z}\nlike: {tail: hip}")
    assert read(tmp_path, as_file(copied, "source to target")) == copied


def test_a_sibling_of_another_name_stands_for_the_source_entry_too(tmp_path: Path) -> None:
    copied = read(tmp_path, "action: {hip: zero, knee: hip}\nlike: {tail: knee}")
    assert copied.action.origin == (0, 0, None)
    assert copied.action.heirs == [1, None]
    assert copied.action.copies == {"tail": "knee"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("observation: {trunk.y: torso.z}", "the target has no 'trunk.y'. Did you mean 'trunk.z'"),
        ("observation: {trunk.z: torso.q, tail.position: hipp}", "the source has no 'torso.q', 'hipp'"),
        ("action: {tail: hip}", "'tail' and 'hip' both correspond to 'hip'.*say like: {hip: tail}"),
        ("like: {tail: fin}", "'tail.position' of the observation would copy 'fin.position', which the target lacks"),
        ("like: {hip: knee}", "'hip.position' of the observation is no new entry"),
        ("like: {fin: hip}", "like: the target has no 'fin'"),
        ("like: {tail: trunk.z}", "would copy 'trunk.z.position', which the target lacks"),
        ("actions: {tail: hip}", "correspondence.actions does not exist. Did you mean 'action'"),
        ("action: [tail]", "correspondence.action: expected names with values"),
        ("nothing", "holds no names with values"),
    ],
)
def test_a_wrong_or_incomplete_one_is_refused_in_one_line_that_names_the_entries(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        read(tmp_path, text)
    assert "\n" not in str(refusal.value)


def test_bodies_without_a_common_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"No entry of the observation corresponds.*torso.z.*a, b"):
        by_names(SOURCE, Names(("a", "b"), ("hip",)))


@pytest.mark.parametrize("side", ["source", "target"])
def test_names_that_are_there_twice_are_refused(side: str) -> None:
    twice = Names(("a", "b", "a"), ("hip",))
    bodies = (twice, Names(("a", "b"), ("hip",))) if side == "source" else (Names(("a", "b"), ("hip",)), twice)
    with pytest.raises(ConfigError, match=rf"{side}.observation: 'a' is there twice"):
        by_names(*bodies)


def test_a_missing_file_is_named() -> None:
    nothing: Any = "nothing.yaml"
    with pytest.raises(ConfigError, match=r"'nothing.yaml': there is no such file. Expected auto, names, positions"):
        read_exceptions(nothing)


def test_the_program_prints_both_bodies_and_writes_a_file_that_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "robot.yaml"
    main(["HalfCheetah", "HalfCheetah-threelegs", "--write", str(path)])
    printed = capsys.readouterr().out
    assert "17 of 23; new: bthigh2.position" in " ".join(printed.split())
    assert read_exceptions(path).action == {"bthigh2": "zero", "bshin2": "zero", "bfoot2": "zero"}
    bodies = names_of_task("HalfCheetah"), names_of_task("HalfCheetah-threelegs")
    assert by_names(*bodies, read_exceptions(path)) == by_names(*bodies)


def test_a_file_that_was_edited_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("action: {}\n")
    with pytest.raises(SystemExit):
        main(["Pendulum-v1", "Pendulum-v1", "--write", str(path)])
    assert f"{path} is there already. Name another file, or pass --overwrite" in capsys.readouterr().err
    assert path.read_text() == "action: {}\n"


def test_the_program_takes_names_from_a_file_and_writes_them(tmp_path: Path) -> None:
    text = "source: {observation: [x, y, z], action: [push]}\ntarget: {observation: [y, z, w], action: [push]}\n"
    (tmp_path / "names.yaml").write_text(text)
    main(["Pendulum-v1", "Pendulum-v1", "--file", str(tmp_path / "names.yaml"), "--write", str(tmp_path / "all.yaml")])
    found = [correspond("Pendulum-v1", "Pendulum-v1", tmp_path / name) for name in ("names.yaml", "all.yaml")]
    assert found[0] == found[1]
    assert found[0].observation.origin == (1, 2, None)


def test_the_program_prints_names_with_brackets_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = Names(("pos[x]", "pos[y]"), ("hip",))
    monkeypatch.setattr("daft_rl.correspond.names_of_task", lambda *_: names)
    main(["Ant", "HalfCheetah"])
    assert capsys.readouterr().out.count("pos[x]") == 2


def test_the_program_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["HalfCheetah", "Pendulum-v1"])
    assert capsys.readouterr().err.count("\n") == 1
