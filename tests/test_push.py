"""What is published of a transfer: names that other libraries look for, and a card that the hub reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from daft_rl.archives import find_agent, find_vecnormalize
from daft_rl.errors import ConfigError
from daft_rl.push import main, prepare, push

RESULT = {
    "task": "Ant-shifted",
    "source": "Ant-ppo",
    "method": "daft",
    "algo": "ppo",
    "seed": 0,
    "timesteps": 100,
    "wall_seconds": 1.0,
    "shift": {"gravity": 0.5},
    "zero_shot": {"target": {"returns": [0.5, 1.5], "lengths": [5, 5]}},
    "final": {"target": {"returns": [1.0, 3.0], "lengths": [5, 5]}},
    "curve": [],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(RESULT))
    shutil.copy(find_agent("Ant", "ppo"), folder / "final.zip")
    shutil.copy(find_agent("Ant", "ppo").with_name("vecnormalize.pkl"), folder / "vecnormalize.pkl")
    return folder


def test_names_are_those_of_rl_zoo(run: Path, tmp_path: Path) -> None:
    archive = prepare(run, tmp_path / "out")
    assert archive.name == "ppo-Ant-shifted.zip"
    assert {path.name for path in archive.parent.iterdir()} == {
        "README.md",
        "ppo-Ant-shifted.zip",
        "results.json",
        "vec_normalize.pkl",
    }
    assert find_vecnormalize(archive, "auto") == archive.with_name("vec_normalize.pkl")


def test_the_hub_reads_the_card(run: Path, tmp_path: Path) -> None:
    prepare(run, tmp_path / "out")
    data: Any = ModelCard.load(tmp_path / "out" / "README.md").data
    assert data.library_name == "stable-baselines3"
    assert [(item.dataset_name, item.metric_value) for item in data.eval_results] == [("Ant-shifted", "2.00 +/- 1.00")]


def test_the_card_tells_which_method_the_run_chose(run: Path, tmp_path: Path) -> None:
    chosen = {"method": "auto", "race": {"winner": "daft_realign"}}
    (run / "results.json").write_text(json.dumps(RESULT | chosen))
    prepare(run, tmp_path / "out")
    told = (tmp_path / "out" / "README.md").read_text()
    assert "by the method `auto`, which chose `daft_realign`:" in told


def test_a_folder_is_uploaded_as_it_was_prepared(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        """In place of the hub: a folder."""

        def create_repo(self, repository: str, private: bool, exist_ok: bool) -> str:
            return f"somewhere/{repository}"

        def upload_folder(self, repo_id: str, folder_path: str, **_: Any) -> None:
            shutil.copytree(folder_path, tmp_path / repo_id)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push(run, "me/ant") == "somewhere/me/ant"
    assert (tmp_path / "me" / "ant" / "ppo-Ant-shifted.zip").read_bytes() == (run / "final.zip").read_bytes()


def test_what_cannot_be_published_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="ORG/NAME"):
        push(run, "nobody")
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "me/ant", "--out", str(tmp_path / "out")])
    assert "holds no finished transfer" in capsys.readouterr().err
