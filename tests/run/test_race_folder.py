"""The folder of a race gives each arm a folder of its own, and moves the winner to the run folder."""

from __future__ import annotations

from pathlib import Path

from daft_rl.run.race_folder import RaceFolder


def test_arms_whose_names_are_alike_as_paths_have_folders_of_their_own(tmp_path: Path) -> None:
    names = ["a b", "a-b", "a_b", "race.json", "x" * 70, "x" * 80]
    folder = RaceFolder(tmp_path, names)
    folder.write({})
    for name in names:
        folder.of(name).mkdir()
    assert folder.of("a b") == tmp_path / "race" / "a-b"


def test_what_the_winner_has_learnt_goes_where_files_of_others_lie(tmp_path: Path) -> None:
    folder = RaceFolder(tmp_path, ["one", "other"])
    for arm in ("one", "other"):
        for name in ("tensorboard/events.1", "checkpoints/000000000096.zip", "best.zip", "config.yaml"):
            path = folder.of(arm) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(arm)
    for name in ("tensorboard/notes.txt", "checkpoints/notes.txt", "config.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    folder.promote("one")
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {
        **{"tensorboard/events.1": "one", "checkpoints/000000000096.zip": "one", "best.zip": "one"},
        **{"tensorboard/notes.txt": "mine", "checkpoints/notes.txt": "mine", "config.yaml": "mine"},
        **{"race/other/tensorboard/events.1": "other", "race/other/config.yaml": "other"},
    }
