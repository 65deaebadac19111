"""A report says what the cells say: made-up ones here, with known scores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from daft_rl.errors import ReportError
from daft_rl.report import statistics
from daft_rl.report.__main__ import main
from daft_rl.report.cells import read_cells, read_failures

TARGETS = [{"gravity": 0.5}, {"friction": 2.0}]
REFERENCES = {
    name: {"random": 0.0, "expert": 1000.0, "command": "made up"} for name in ("Ant: gravity 0.5", "Ant: friction 2")
}


def make_cell(folder: Path, method: str, seed: int, shift: dict, final: float) -> None:
    returns = {"mean": final, "std": 1.0, "returns": [final], "lengths": [1000]}
    points = [{"timesteps": step, "target": share * final} for step, share in ((0, 0.0), (500, 0.5), (1000, 1.0))]
    data = {
        "task": "Ant-shifted", "shift": shift, "method": method, "seed": seed, "algo": "ppo", "timesteps": 1000,
        "wall_seconds": 9.0, "curve": points,
        "zero_shot": {"target": {**returns, "mean": 100.0}, "source": returns},
        "final": {"target": returns, "source": returns, "gravity-2.0": {**returns, "mean": final / 2}},
        "phases": {"update": 1.0},
        "distortion": {"net.1": {"cosine": 0.51, "l2": 2.0, "cka": 0.9}, "net.1.weight": {"weight_l2": 1.0}},
        "distortion_on_source": {},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(data))
    (folder / "cell.json").write_text(json.dumps({"status": "finished", "peak_memory_mb": 321}))


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "REPETITIONS", 500)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """``daft`` is 200 better than ``ft`` everywhere; seeds differ by 10."""
    for method, base in (("ft", 300.0), ("daft", 500.0)):
        for seed in range(3):
            for i, shift in enumerate(TARGETS):
                make_cell(tmp_path / "cells" / f"{method}-{seed}-{i}", method, seed, shift, base + 100 * i + 10 * seed)
    return tmp_path / "cells"


def test_cells(grid: Path) -> None:
    cells = read_cells([grid])
    assert len(cells) == 12
    cell = next(c for c in cells if (c.target, c.method, c.seed) == ("Ant: gravity 0.5", "daft", 2))
    assert cell.mean() == 520
    assert cell.elsewhere == 260
    assert cell.area == pytest.approx(260)
    assert cell.steps_to(260) == 500
    assert cell.steps_to(521) is None


def test_statistics(grid: Path) -> None:
    matrices = statistics.score_matrices(read_cells([grid]), REFERENCES)
    assert matrices["ft"].shape == (3, 2)
    np.testing.assert_allclose(matrices["daft"] - matrices["ft"], 0.2)
    difference = statistics.difference(matrices, "ft")["daft"]
    assert difference.value == pytest.approx(0.2)
    assert 0.15 < difference.low <= difference.value <= difference.high < 0.25
    assert statistics.improvement(matrices, "ft")["daft"].value == 1.0
    again = statistics.difference(matrices, "ft")["daft"]
    assert again == difference  # the same page each time
    shares = statistics.profile(matrices, np.array([0.0, 0.45, 2.0]))["daft"]
    assert [share.value for share in shares] == [1.0, 1.0, 0.0]


def test_holes_are_not_left_out_in_silence(grid: Path) -> None:
    (grid / "ft-1-0" / "results.json").unlink()
    with pytest.raises(ReportError, match=r"gravity 0.5, ft, seed 1"):
        statistics.score_matrices(read_cells([grid]), REFERENCES)


def test_missing_references_are_told(grid: Path) -> None:
    with pytest.raises(ReportError, match="friction 2"):
        statistics.score_matrices(read_cells([grid]), {"Ant: gravity 0.5": {"random": 0.0, "expert": 1.0}})


def test_without_references_the_command_says_so(grid: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daft_rl.report", str(grid)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "benchmarks/references.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_do_not_mix(grid: Path) -> None:
    make_cell(grid / "other", "ft", 0, TARGETS[0], 1.0)
    with pytest.raises(ReportError, match="different settings"):
        read_cells([grid])


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"daft_rl\.benchmark"):
        read_cells([tmp_path])


def test_page(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "references.json").write_text(json.dumps(REFERENCES))
    (grid / "broken").mkdir()
    (grid / "broken" / "cell.json").write_text(json.dumps({"status": "failed", "error": "ValueError: <no>"}))
    assert [failure.error for failure in read_failures([grid])] == ["ValueError: <no>"]
    saved = tmp_path / "results" / "cells.jsonl.gz"

    def report(cells: Path, out: Path, *options: str) -> None:
        options += ("--out", str(out), "--references", str(tmp_path / "references.json"))
        monkeypatch.setattr(sys, "argv", ["report", str(cells), *options])
        main()

    report(grid, tmp_path / "out", "--save", str(saved))
    assert "12 runs, 1 failed" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "ValueError: &lt;no&gt;" in page
    assert page.count("data:image/png;base64,") >= 7
    assert "500 (3 of 3)" in page  # daft at half the steps has a score of 0.25
    assert "(0 of 3)" in page  # nobody reaches 0.75
    assert 'src="http' not in page  # it needs nothing else
    assert "0.51 / 2 / 0.9" in page
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| 321 ± 0 |" in text
    report(saved, tmp_path / "again")
    assert "12 runs, 1 failed" in capsys.readouterr().out
    assert (tmp_path / "again" / "report.md").read_text() == text
    first = saved.read_bytes()
    report(saved, tmp_path / "again", "--save", str(saved))
    assert saved.read_bytes() == first
    assert "| daft | 6 | 0.56" in text
    assert "| daft | 3 | 510 ± 10 |" in text
