"""A report shows what its runs hold: here made-up runs with known scores."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rliable import metrics

from daft_rl.errors import ReportError
from daft_rl.report import figures, statistics
from daft_rl.report.__main__ import main
from daft_rl.report.cells import Cell, Floats, target_name
from daft_rl.report.comparable import check_comparable
from daft_rl.report.content import build_report
from daft_rl.report.page import write_report
from daft_rl.report.scales import Scale, choose_scales, scales_by_recovery, scales_by_reference
from daft_rl.report.storage import read_cells, read_failures, save_cells
from daft_rl.rollout.returns import Returns

TARGETS = [{"gravity": 0.5}, {"friction": 2.0}]
REFERENCES: dict[str, dict[str, Any]] = {
    "Ant: gravity 0.5": {"random": -100.0, "expert": 900.0, "command": "made up"},
    "Ant: friction 2": {"random": 200.0, "expert": 2200.0, "command": "made up"},
}
SCALES = {
    target: Scale(pair["random"], pair["expert"], "made up")  # type: ignore[arg-type]
    for target, pair in REFERENCES.items()
}
RACE: dict[str, Any] = {
    "rung": 200,
    "winner": "ft_eval",
    "why": "it is ahead of ft by 9 ± 2",
    "arms": {
        "ft_eval": {"returns": {"target": {"mean": 20.0, "std": 4.0, "returns": [16.0, 24.0], "lengths": [9, 9]}}},
        "ft": {"returns": {"target": {"mean": 11.0, "std": 0.0, "returns": [11.0, 11.0], "lengths": [9, 9]}}},
        "daft": {"left_out": "does the same as ft_eval here"},
    },
}
MACHINE = {"processor": "x86_64", "cores": 2, "python": "3.11", "versions": {"torch": "2.13.0"}}


def written_returns(mean: float) -> dict[str, Any]:
    """Returns as in ``results.json``."""
    return {"mean": mean, "std": 0.0, "returns": [mean], "lengths": [1000], "mean_cost": 7.5, "costs": [7.5]}


def write_run(folder: Path, method: str, seed: int, shift: dict[str, Any], final: float) -> None:
    """A run folder of a benchmark."""
    distances = {"distortion_actor_cosine": 0.25, "distortion_critic_cosine": 0.125, "batchnorm_mean_drift": 0.625}
    points = [
        {"timesteps": step, "target": share * final, **distances} for step, share in ((0, 0.0), (200, 0.8), (1000, 0.5))
    ]
    data = {
        "task": "Ant-shifted", "shift": shift, "method": method, "seed": seed, "algo": "ppo", "timesteps": 1000,
        "wall_seconds": 9.0, "curve": points, "compared": "these settings", "machine": MACHINE,
        "zero_shot": {
            "target": written_returns(100.0),
            "source": written_returns(2 * final),
            "gravity-2.0": written_returns(2 * final),
        },
        "final": {
            "target": written_returns(final),
            "source": written_returns(final),
            "gravity-2.0": written_returns(final / 2),
        },
        "phases": {"update": 1.0, "simulation": 2.0, "evaluation": 4.0},
        "distortion": {"net.1": {"cosine": 0.51, "l2": 2.0, "cka": 0.9}, "net.1.weight": {"weight_l2": 1.0}},
        "distortion_on_source": {},
    }  # fmt: skip
    if method == "daft":
        data["race"] = RACE
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(data))
    (folder / "cell.json").write_text(json.dumps({"status": "finished", "peak_memory_mb": 321}))


def change_results(grid: Path, pattern: str, **changes: Any) -> None:
    """Change fields of ``results.json`` in run folders."""
    for path in grid.glob(f"{pattern}/results.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def read_grid(grid: Path) -> list[Cell]:
    """Cells that were checked, in the order of a report."""
    return check_comparable(read_cells([grid]))


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "REPETITIONS", 100)
    monkeypatch.setattr(statistics, "BAND_REPETITIONS", 30)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """``daft`` scores 0.2 higher than ``ft`` on both targets. Seeds differ by 0.01, and one of each is an outlier."""
    for method, base in (("ft", 0.3), ("daft", 0.5)):
        for seed in range(3):
            for i, (shift, pair) in enumerate(zip(TARGETS, REFERENCES.values(), strict=True)):
                score = base + 0.1 * i + 0.01 * seed + (5.0 if (i, seed) == (1, 2) else 0.0)
                low, high = float(pair["random"]), float(pair["expert"])
                write_run(tmp_path / "cells" / f"{method}-{seed}-{i}", method, seed, shift, low + score * (high - low))
    return tmp_path / "cells"


def test_a_cell_measures_its_curve_and_returns(grid: Path) -> None:
    cells = read_grid(grid)
    assert len(cells) == 12
    cell = next(c for c in cells if (c.target, c.method, c.seed) == ("Ant: gravity 0.5", "daft", 2))
    assert cell.mean() == pytest.approx(420)
    assert cell.mean_elsewhere() == pytest.approx(210)
    assert cell.area == pytest.approx(420 * (200 * 0.4 + 800 * 0.65) / 1000)
    assert cell.steps_to(300) == 200
    assert cell.steps_to(200) == 200, "the first time counts, although it falls again"
    assert cell.steps_to(337) is None
    assert cell.last_distance("distortion_actor_cosine") == 0.25
    del cell.result.curve[1:]
    assert cell.last_distance("distortion_actor_cosine") is None, "nothing has moved at the start"


def test_statistics_of_known_scores(grid: Path) -> None:
    matrices = statistics.score_matrices(read_grid(grid), SCALES)
    np.testing.assert_allclose(
        matrices["ft"], [[0.4, 0.3], [0.41, 0.31], [5.42, 0.32]]
    )  # sorted by name: friction, gravity
    np.testing.assert_allclose(matrices["daft"] - matrices["ft"], 0.2)
    assert statistics.aggregate(matrices)["ft"].value == pytest.approx((0.31 + 0.32 + 0.4 + 0.41) / 4), (
        "the middle half"
    )
    outlier = statistics.aggregate(matrices, np.mean)["ft"]
    assert outlier.value == pytest.approx((0.3 + 0.31 + 0.32 + 0.4 + 0.41 + 5.42) / 6)
    assert outlier.high > 2, "a mean includes the outlier"
    assert statistics.difference(matrices, "ft", np.mean)["daft"].value == pytest.approx(0.2)
    difference = statistics.difference(matrices, "ft")["daft"]
    assert difference.value == pytest.approx(0.2)
    assert difference.low < difference.value < difference.high
    # of the 9 pairs on a target, daft is higher in all but those with the outlier of ft
    assert statistics.improvement(matrices, "ft")["daft"].value == pytest.approx((9 / 9 + 7 / 9) / 2)
    again = statistics.difference(matrices, "ft")["daft"]
    assert again == difference  # a report is the same each time
    shares = statistics.profile(matrices, np.array([0.0, 0.45, 2.0]))["daft"]
    assert [share.value for share in shares] == [1.0, 1.0, pytest.approx(1 / 6)]


def test_sample_efficiency_at_each_evaluation(grid: Path) -> None:
    cells = read_grid(grid)
    found = statistics.efficiency(cells, SCALES)
    assert found is not None
    steps, estimates = found
    assert steps.tolist() == [0, 200, 1000]
    assert set(estimates) == {"ft", "daft"}
    # all returns at the start are 0: a score of 0.1 on one target, and of -0.1 on the other
    assert estimates["ft"][0].value == pytest.approx(0.0)
    at_the_end = [
        (0.5 * cell.mean() - pair["random"]) / (pair["expert"] - pair["random"])  # type: ignore[operator]
        for cell in cells
        if cell.method == "daft"
        for pair in [REFERENCES[cell.target]]
    ]
    assert estimates["daft"][2].value == pytest.approx(metrics.aggregate_iqm(np.array(at_the_end)))
    assert estimates["daft"][2].low < estimates["daft"][2].value < estimates["daft"][2].high


def test_runs_that_lack_an_evaluation_are_compared_at_the_others(grid: Path) -> None:
    cells = read_grid(grid)
    cells[0].result.curve.pop(1)
    found = statistics.efficiency(cells, SCALES)
    assert found is not None
    assert found[0].tolist() == [0, 1000]
    assert figures.learning_curves([cell for cell in cells if cell.target == cells[0].target]).axes
    cells[1].result.curve.pop(2)
    assert statistics.efficiency(cells, SCALES) is None, "nothing in common but the start"


@settings(deadline=None)
@given(
    arrays(float, (4, 3), elements=st.sampled_from([0.0, 0.5, 1.0])),
    arrays(float, (5, 3), elements=st.sampled_from([0.0, 0.5, 1.0])),
)
def test_share_of_wins_is_rliables_probability_of_improvement(x: Floats, y: Floats) -> None:
    """Ties count half."""
    assert statistics._share_of_wins(x, y) == pytest.approx(metrics.probability_of_improvement(x, y))


def test_a_missing_run_is_an_error(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (grid / "ft-1-0" / "results.json").unlink()
    (grid / "ft-1-0" / "cell.json").write_text(json.dumps({"status": "failed", "error": "ValueError: too heavy"}))
    with pytest.raises(ReportError, match=r"have not finished: Ant: gravity 0.5, ft, seed 1\. Start"):
        statistics.score_matrices(read_grid(grid), SCALES)
    (tmp_path / "references.json").write_text(json.dumps(REFERENCES))
    saved = tmp_path / "unfinished.jsonl.gz"
    options = ["--save", str(saved), "--references", str(tmp_path / "references.json")]
    monkeypatch.setattr(sys, "argv", ["report", str(grid), *options])
    with pytest.raises(SystemExit):
        main()
    assert "too heavy" in capsys.readouterr().err, "the reason why a run is missing"
    assert read_failures([saved])[0].folder == Path(*(grid / "ft-1-0").parts[-3:]), "no path of this machine"
    assert len(read_cells([saved])) == 11, "finished runs can be saved now and joined with the rest later"
    write_run(tmp_path / "rest" / "ft-1-0", "ft", 1, TARGETS[0], 310.0)
    assert statistics.score_matrices(read_cells([saved, tmp_path / "rest"]), SCALES)["ft"].shape == (3, 2)


def test_scores_from_references(grid: Path) -> None:
    cells = read_grid(grid)
    assert choose_scales(cells, REFERENCES) == ("references", SCALES)
    with pytest.raises(ReportError, match="friction 2"):
        choose_scales(cells, {"Ant: gravity 0.5": REFERENCES["Ant: gravity 0.5"]})
    with pytest.raises(ReportError, match="not above the random"):
        scales_by_reference(cells, REFERENCES | {"Ant: friction 2": {"random": 1.0, "expert": 1.0, "command": ""}})


def test_scores_of_recovery(grid: Path) -> None:
    """All runs get 100 on the target before learning. On the source they get twice their final return."""
    cells = read_grid(grid)
    kind, found = choose_scales(cells, {})
    assert kind == "recovered"
    assert found == choose_scales(cells, REFERENCES, "recovered")[1]
    for target, scale in found.items():
        own = [cell for cell in cells if cell.target == target]
        assert scale.zero == 100.0
        assert scale.one == pytest.approx(np.mean([2 * cell.mean() for cell in own]))
        assert scale.score([scale.return_at(-0.5), scale.return_at(2.0)]) == pytest.approx([-0.5, 2.0])
    cells[0].result.zero_shot["target"] = Returns([1e6], [1000])
    with pytest.raises(ReportError, match=r"friction 2: .* nothing to recover"):
        scales_by_recovery(cells)
    del cells[0].result.zero_shot["source"]
    with pytest.raises(ReportError, match="need returns on the source"):
        scales_by_recovery(cells)


def test_target_names_do_not_depend_on_lists_or_tuples() -> None:
    assert target_name("Ant-shifted", {"wind": (3.0, 0.0, -1.0), "density": 1.2}) == "Ant: density 1.2, wind 3 0 -1"
    assert target_name("Ant", {"wind": [3.0, 0.0, -1.0]}) == target_name("Ant", {"wind": (3.0, 0.0, -1.0)})


@pytest.mark.slow
def test_the_command_works_without_references(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["report", str(grid), *options])
        with pytest.raises(SystemExit, match="2"):
            main()
        return capsys.readouterr().err

    assert "mistyped.json" in refused("--references", "mistyped.json")
    assert "--scores recovered" in refused("--scores", "references")
    (tmp_path / "others.json").write_text(json.dumps({"Door: no shift": REFERENCES["Ant: friction 2"]}))
    assert "Ant: friction 2" in refused("--references", "others.json"), "a file that was named is not ignored"
    command = [sys.executable, "-m", "daft_rl.report", str(grid)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert "that is recovered" in done.stdout
    assert "share of the loss by the shift that is recovered" in (tmp_path / "report" / "report.md").read_text()


def test_one_seed_with_two_settings_is_refused(grid: Path) -> None:
    write_run(grid / "other", "ft", 0, TARGETS[0], 1.0)
    with pytest.raises(ReportError, match="only runs with the same settings"):
        read_grid(grid)


def test_methods_with_other_settings_are_not_compared(grid: Path) -> None:
    change_results(grid, "daft-*-1", compared="twice as many steps")
    with pytest.raises(ReportError, match=r"friction 2: .* cannot be compared"):
        read_grid(grid)


def test_two_methods_with_one_name_are_refused(grid: Path) -> None:
    change_results(grid, "daft-*", method_digest="heads at one rate")
    change_results(grid, "ft-*", method_digest="other methods have other settings")
    read_grid(grid)
    change_results(grid, "daft-2-0", method_digest="heads three times as fast")
    with pytest.raises(ReportError, match=r"gravity 0.5: .* differ in the method's settings"):
        read_grid(grid)


def test_two_agents_with_one_name_are_refused(grid: Path) -> None:
    for path in grid.glob("daft-*/cell.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"content": "after"}))
    read_grid(grid)  # the content of the others is not known
    for path in grid.glob("ft-*/cell.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"content": "before"}))
    with pytest.raises(ReportError, match=r"the agent's file"):
        read_grid(grid)


def test_a_run_that_failed_after_writing_results_does_not_count(grid: Path) -> None:
    (grid / "ft-1-0" / "cell.json").write_text(json.dumps({"status": "failed", "error": "OSError: disk"}))
    with pytest.raises(ReportError, match=r"gravity 0.5, ft, seed 1"):
        statistics.score_matrices(read_grid(grid), SCALES)


def test_a_report_warns_about_a_single_seed(grid: Path) -> None:
    assert build_report([grid], REFERENCES).shape == "2 targets x 2 methods x 3 seeds"
    for folder in grid.glob("*-[12]-*"):
        shutil.rmtree(folder)
    assert "2 targets x 2 methods x 1 seed, which is an anecdote" in build_report([grid], REFERENCES).shape


def test_a_report_of_some_targets(grid: Path) -> None:
    content = build_report([grid], REFERENCES, only="Ant: grav")
    assert content.shape == "1 target x 2 methods x 3 seeds"
    assert list(content.scales) == ["Ant: gravity 0.5"]
    with pytest.raises(ReportError, match=r"'Door'. What exists: Ant: friction 2, Ant: gravity 0\.5"):
        build_report([grid], REFERENCES, only="Door")


def test_no_runs_and_missing_paths_are_errors(grid: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"seeds0\.jsonl\.gz does not exist"):
        read_cells([grid, tmp_path / "seeds0.jsonl.gz"])
    shutil.rmtree(grid)
    with pytest.raises(ReportError, match=r"daft_rl\.benchmark"):
        read_cells([tmp_path])


def test_the_files_of_a_report(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert page.count("data:image/png;base64,") == 4 + 2 * 4
    assert len(list((tmp_path / "out" / "figures").glob("*.png"))) == 4 + 2 * 4
    assert "200 (3 of 3)" in page  # daft scores above 0.25 after 200 steps
    assert "(0 of 3)" in page  # no run reaches 0.75
    assert 'src="http' not in page  # the page needs no other file
    assert page.count("<figcaption>") == 4 + 2 * 4
    assert "0.51 / 2 / 0.9" in page
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| 321 ± 0 |" in text
    first = saved.read_bytes()
    report(saved, tmp_path / "again", "--save", str(saved))
    assert "12 runs, 1 failed" in capsys.readouterr().out
    assert (tmp_path / "again" / "report.md").read_text() == text
    assert saved.read_bytes() == first
    assert "| daft | 6 | 0.56" in text
    assert "| 0.50 | 0.25 |" in text  # shares kept on the source and elsewhere
    assert "| 7.50 ± 0.00 | 0.25 ± 0.00 | 0.12 ± 0.00 | 0.62 ± 0.00 |" in text  # cost, cosines, drift
    pictures = re.findall(r"!\[.*\]\((figures/.*\.png)\)", text)
    assert len(pictures) == 4 + 2 * 4
    assert all((tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert "| daft | 3 | 410 ± 10 |" in text
    assert "3.00 ± 0.00" in text  # learning seconds do not include evaluations


def test_a_report_tells_which_method_each_race_took(grid: Path, tmp_path: Path) -> None:
    save_cells(read_grid(grid), [], tmp_path / "cells.jsonl.gz")
    for path in (grid, tmp_path / "cells.jsonl.gz"):
        content = build_report([path], REFERENCES)
        assert [row["run"] for row in content.targets[0].races] == [f"daft, seed {seed}" for seed in range(3)]
        assert content.targets[0].races[0] == {
            "run": "daft, seed 0",
            "learns by": "ft_eval",
            "because": "it is ahead of ft by 9 ± 2",
            "others": "ft: returned 11; daft: does the same as ft_eval here",
            "ends with": "the last policy",
        }
    write_report(content, tmp_path / "out")
    for name in ("report.html", "report.md"):
        assert (tmp_path / "out" / name).read_text("utf-8").count("ahead of ft by 9 ± 2") == 2 * 3


def test_a_report_tells_which_policy_a_race_ended_with(grid: Path, tmp_path: Path) -> None:
    returns = {
        name: {"target": {"mean": mean, "std": 1.0, "returns": [mean]}} for name, mean in (("last", 1.0), ("best", 3.0))
    }
    ending = {"taken": "best", "best_step": 100, "why": "it is ahead of last by 2 ± 1", "returns": returns}
    change_results(grid, "daft-*", race=RACE | {"ending": ending})
    save_cells(read_grid(grid), [], tmp_path / "cells.jsonl.gz")
    for path in (grid, tmp_path / "cells.jsonl.gz"):
        content = build_report([path], REFERENCES)
        assert content.targets[0].races[0]["ends with"] == "that of step 100: it is ahead of last by 2 ± 1"
    [kept, *_] = (cell.result.race for cell in read_cells([tmp_path / "cells.jsonl.gz"]) if cell.result.race)
    assert kept["ending"]["returns"]["best"] == {"target": {"mean": 3.0, "std": 1.0}}


def test_scores_by_target_and_a_chosen_baseline(grid: Path) -> None:
    content = build_report([grid], REFERENCES, "daft")
    assert [row["method"] for row in content.scores] == ["daft", "ft"]
    assert content.scores[0]["Ant: gravity-0.5"] == "0.51 ± 0.01"
    assert content.scores[1]["Ant: friction 2"] == "2.08 ± 2.90", "a mean includes outliers"
    assert {row["IQM - daft"] != "" for row in content.summary if row["method"] == "ft"} == {True}
    with pytest.raises(ReportError, match=r"No runs of 'fft' to compare with. What exists: daft, ft"):
        build_report([grid], REFERENCES, "fft")


@pytest.mark.parametrize("content", [b"{}\n", b"", b"[1]", b"\x1f\x8bnot really"])
def test_other_kinds_of_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "door.json").write_bytes(content)
    with pytest.raises(ReportError, match=r"door\.json: expected a folder"):
        read_cells([tmp_path / "door.json"])


HOSTILE = "<script>x</script>|`*a*`_b_ [c](d) \x1b[31m\n# $\\\\frac$"


def test_names_of_a_stranger_are_text_in_every_format(grid: Path, tmp_path: Path) -> None:
    change_results(grid, "daft-*", method=HOSTILE)
    (grid / "bad").mkdir()
    (grid / "bad" / "cell.json").write_text(json.dumps({"status": "failed", "error": HOSTILE}))
    write_report(build_report([grid], REFERENCES), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "\\<script>x\\</script>\\|\\`\\*a\\*\\`\\_b\\_ \\[c\\](d)" in text
    assert not re.search(r"(?<!\\)<|\x1b", text)
    assert len({line.count(" | ") for line in text.splitlines() if line.startswith("|") and "IQM" in line}) == 1


values: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})
)


def _places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for name, part in parts for place in _places(part, (*path, name)))]


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_a_result_is_shown_or_refused(grid: Path, data: st.DataObject) -> None:
    path = grid / "daft-1-1" / "results.json"
    before = path.read_text()
    changed: Any = json.loads(before)
    place = data.draw(st.sampled_from(_places(changed)[1:]))
    part = changed
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = data.draw(values)
    path.write_text(json.dumps(changed))
    try:
        build_report([grid], REFERENCES)
    except ReportError:
        pass
    finally:
        path.write_text(before)


def test_a_missing_library_of_the_report_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rliable", None)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        main()
    told = capsys.readouterr().err.strip().splitlines()
    assert told == ["A report needs rliable, which is not installed: pip install 'daft-rl[report]'."]


def test_a_long_target_is_called_by_its_level(grid: Path) -> None:
    ankles = {"limb_size": {"left_ankle_geom": 0.5, "right_ankle_geom": 0.5}}
    change_results(grid, "*-1", shift=ankles)
    target = "Ant: limb_size left_ankle_geom 0.5 right_ankle_geom 0.5"
    content = build_report([grid], REFERENCES | {target: REFERENCES["Ant: friction 2"]})
    assert content.legend["Ant: morphology-medium"] == target
    assert "Ant: morphology-medium" in content.scores[0]
