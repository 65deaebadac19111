"""``python -m daft_rl.report runs/benchmark/mujoco``: one page and one Markdown table from the cells of a benchmark."""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from daft_rl.errors import DaftError, ReportError
from daft_rl.report import figures, scales, statistics
from daft_rl.report.cells import Cell, read_cells, read_failures, save_cells

LEARNING = ("simulation", "inference", "update", "calibration")
THRESHOLDS = (0.25, 0.5, 0.75)
"""Normalised scores to which a table counts the target steps."""
REFERENCES = Path("benchmarks/references.json")


def _spread(values: list[float | None]) -> str:
    """Mean and standard deviation over seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    digits = 0 if max(abs(value) for value in known) >= 100 else 2
    mean = f"{np.mean(known):.{digits}f}"
    return f"{mean} ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else mean


def _on_source(cell: Cell, when: str = "final") -> float | None:
    """Mean return on the source, where there is one."""
    return cell.mean("source", when) if "source" in cell.data[when] else None


COLUMNS = {
    "target": Cell.mean,
    "area": lambda cell: cell.area,
    "elsewhere": Cell.elsewhere,
    "source": _on_source,
    "cost": lambda cell: cell.data["final"]["target"].get("mean_cost"),
    "actor cosine": lambda cell: cell.last("distortion_actor_cosine"),
    "critic cosine": lambda cell: cell.last("distortion_critic_cosine"),
    "BN drift": lambda cell: cell.last("batchnorm_mean_drift"),
    "seconds": lambda cell: cell.data["wall_seconds"],
    "learning seconds": lambda cell: sum((cell.data.get("phases") or {}).get(phase, 0.0) for phase in LEARNING) or None,
    "MB": lambda cell: cell.data.get("peak_memory_mb"),
}
"""What a table shows of each method, mean ± standard deviation over seeds."""


def _describe(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}; {versions}"


def _steps_to(cells: list[Cell], threshold: float) -> str:
    """Median over the seeds that reach it, and how many do; an evaluation in between may have missed it."""
    reached = [steps for cell in cells if (steps := cell.steps_to(threshold)) is not None]
    if not any(len(cell.data["curve"]) for cell in cells):
        return ""
    return (f"{np.median(reached):.0f} " if reached else "") + f"({len(reached)} of {len(cells)})"


def _kept(cells: list[Cell], measure: Callable[[Cell, str], float | None]) -> str:
    """Returns of a method after the transfer as a share of those before it: the mean over targets.

    :param measure: the return of a cell, of ``zero_shot`` or ``final``
    :return: empty where returns before are missing or not positive, since a share of them has no meaning
    """
    shares = []
    for target in {cell.target for cell in cells}:
        group = [cell for cell in cells if cell.target == target]
        before, after = ([measure(cell, when) for cell in group] for when in ("zero_shot", "final"))
        if None in (*before, *after) or np.mean(before) <= 0:  # type: ignore[arg-type]
            return ""
        shares.append(np.mean(after) / np.mean(before))  # type: ignore[arg-type]
    return f"{np.mean(shares):.2f}"


def tables(cells: list[Cell], by_target: dict[str, scales.Scale]) -> dict[str, list[dict[str, str]]]:
    """One table per target: a row per method."""
    found = {}
    for target in sorted({cell.target for cell in cells}):
        rows = []
        for method in sorted({cell.method for cell in cells if cell.target == target}):
            group = [cell for cell in cells if cell.target == target and cell.method == method]
            row = {"method": method, "seeds": str(len(group))}
            row |= {name: _spread([measure(cell) for cell in group]) for name, measure in COLUMNS.items()}
            rows.append(
                row | {f"steps to {share:g}": _steps_to(group, by_target[target].at(share)) for share in THRESHOLDS}
            )
        found[target] = [{name: row[name] for name in row if any(other[name] for other in rows)} for row in rows]
    return found


def layer_table(cells: list[Cell], where: str) -> list[dict[str, str]]:
    """Feature distortion on states of ``target`` or ``source``: a row per layer, a column per method."""
    methods = sorted({cell.method for cell in cells})
    layers = list(dict.fromkeys(layer for cell in cells for layer in cell.layers(where)))

    def distances(method: str, layer: str) -> str:
        """Empty where the method's networks have no such layer (BatchNorm may have been inserted)."""
        found = [cell.layers(where)[layer] for cell in cells if cell.method == method and layer in cell.layers(where)]
        keys = ("cosine", "l2", "cka") if found else ()
        return " / ".join(f"{np.mean([one[key] for one in found]):.3g}" for key in keys)

    return [{"layer": layer} | {method: distances(method, layer) for method in methods} for layer in layers]


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row[name] for name in names) + " |" for row in rows)])


def build(
    folders: list[Path],
    references: dict[str, Any],
    baseline: str | None = None,
    kind: str | None = None,
    only: str = "",
) -> dict[str, Any]:
    """Everything that a page shows.

    :param folders: where cells lie
    :param references: target -> ``random`` and ``expert`` return, and the ``command`` that measured them
    :param baseline: the method that the others are compared with; if ``None``, ``ft`` where it was run
    :param kind: of scores, see :func:`daft_rl.report.scales.choose`
    :param only: how the names of targets begin that are reported; ``Ant``, or ``Ant: gravity``
    :raises ReportError: the grid has holes, or scores have no 0 and 1, or ``baseline`` or ``only`` is not there
    """
    found, failures = read_cells(folders), read_failures(folders)
    cells = [cell for cell in found if cell.target.startswith(only)]
    if not cells:
        raise ReportError(f"No target begins with '{only}': there are {', '.join(sorted({c.target for c in found}))}.")
    kind, measured = scales.choose(cells, references, kind)
    matrices = statistics.score_matrices(cells, measured)
    if baseline is not None and baseline not in matrices:
        raise ReportError(f"No runs of '{baseline}' to compare with: there are {', '.join(matrices)}.")
    baseline = baseline or "ft"
    aggregate, means = statistics.aggregate(matrices), statistics.aggregate(matrices, np.mean)
    shown: dict[str, Any] = {"aggregate": figures.intervals(aggregate, "interquartile mean of normalised scores")}
    compared = {}
    if baseline in matrices and len(matrices) > 1:
        differences = statistics.difference(matrices, baseline)
        of_means = statistics.difference(matrices, baseline, np.mean)
        improvements = statistics.improvement(matrices, baseline)
        shown["difference"] = figures.intervals(differences, f"interquartile mean less that of {baseline}", 0.0)
        compared = {name: (differences[name], of_means[name], improvements[name]) for name in differences}

    ranked = sorted(matrices, key=lambda name: -aggregate[name].value)
    summary = [
        {
            "method": method,
            "runs": str(matrices[method].size),
            "IQM": str(aggregate[method]),
            f"IQM - {baseline}": str(compared[method][0]) if method in compared else "",
            "mean": str(means[method]),
            f"mean - {baseline}": str(compared[method][1]) if method in compared else "",
            f"P(> {baseline})": str(compared[method][2]) if method in compared else "",
            "source kept": _kept([cell for cell in cells if cell.method == method], _on_source),
            "elsewhere kept": _kept([cell for cell in cells if cell.method == method], Cell.elsewhere),
        }
        for method in ranked
    ]
    scores = np.concatenate([matrix.ravel() for matrix in matrices.values()])
    thresholds = np.linspace(min(0.0, float(scores.min())), max(1.2, float(scores.max())), 50)
    labels = "normalised score", "share of runs above it"
    shown["profiles"] = figures.estimates(statistics.profile(matrices, thresholds), thresholds, labels)
    efficiency = statistics.efficiency(cells, measured)
    if efficiency is not None:
        steps, estimates = efficiency
        labels = "target steps (thousands)", "interquartile mean of normalised scores"
        shown["sample efficiency"] = figures.estimates(estimates, steps / 1000, labels)
    by_target = tables(cells, measured)
    scores_by_target = [
        {"method": method}
        | {target: _spread(list(column)) for target, column in zip(by_target, matrices[method].T, strict=True)}
        for method in ranked
    ]
    seeds = len(next(iter(matrices.values())))
    counted = f"{seeds} seeds" if seeds > 1 else "1 seed, which is an anecdote: its intervals mean nothing"
    pages = []
    for target, rows in by_target.items():
        group = [cell for cell in cells if cell.target == target]
        drawn = {"learning curves": figures.curves(group), "final returns": figures.bars(group)}
        elsewhere = {id(cell): cell.elsewhere() for cell in group}
        if any(value is not None for value in elsewhere.values()):
            label, title = "mean return under other shifts", f"{target}: in and out"
            drawn["in and out of distribution"] = figures.scatter(group, elsewhere, label, title)
        moved = {id(cell): cell.last("distortion_actor_cosine") for cell in group}
        if any(value is not None for value in moved.values()):
            label, title = "cosine of the actor's features", f"{target}: distortion"
            drawn["distortion and return"] = figures.scatter(group, moved, label, title)
        pages.append(
            {
                "target": target,
                "rows": rows,
                "figures": {name: figures.as_png(figure) for name, figure in drawn.items()},
                "layers": {where: layer_table(group, where) for where in ("target", "source")},
            }
        )
    return {
        "summary": summary,
        "scores": scores_by_target,
        "baseline": baseline,
        "figures": {name: figures.as_png(figure) for name, figure in shown.items()},
        "targets": pages,
        "failures": failures,
        "meaning": scales.MEANINGS[kind],
        "scales": measured,
        "runs": len(cells),
        "shape": f"{len(by_target)} target{'s' * (len(by_target) > 1)} x {len(matrices)} methods x {counted}",
        "machines": sorted({_describe(cell.data["machine"]) for cell in cells if cell.data.get("machine")}),
    }


def _data_uri(picture: bytes) -> str:
    """A picture as text that a page can hold."""
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def _write_figures(pictures: dict[str, bytes], about: str, folder: Path) -> list[str]:
    """Write pictures beside ``report.md``, and return the lines that show them there."""
    lines = []
    for name, picture in pictures.items():
        path = folder / "figures" / (re.sub(r"[^a-z0-9.]+", "-", f"{about} {name}".lower()).strip("-") + ".png")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture)
        lines.append(f"![{name}](figures/{path.name})")
    return lines


def main() -> None:
    """Write ``report.html``, ``report.md`` and the figures of the latter."""
    parser = argparse.ArgumentParser(prog="python -m daft_rl.report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders of a benchmark, or a file that --save wrote")
    parser.add_argument("--save", type=Path, help="also write what is shown of all runs into this .jsonl.gz")
    parser.add_argument("--references", type=Path, help=f"random and expert returns of targets ({REFERENCES})")
    parser.add_argument(
        "--scores",
        choices=list(scales.MEANINGS),
        help="; ".join(f"{kind}: {meaning}" for kind, meaning in scales.MEANINGS.items())
        + " (references where --references is given or a target has one in its default)",
    )
    parser.add_argument("--only", default="", metavar="TARGET", help="only targets whose names begin like this: Ant")
    parser.add_argument("--baseline", help="the method that the others are compared with (ft)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of report.html and report.md")
    arguments = parser.parse_args()
    import jinja2

    try:
        if arguments.save is not None:  # first, since a grid with holes can be kept, but has no report yet
            kept = read_cells(arguments.folders)
            save_cells(kept, read_failures(arguments.folders), arguments.save)
            print(f"{len(kept)} runs kept in {arguments.save}")
        kind, path = arguments.scores, arguments.references or REFERENCES
        if arguments.references is not None:
            kind = kind or "references"
            if not path.is_file():
                raise ReportError(f"No reference returns in {path}: the file does not exist.")
        references = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        content = build(arguments.folders, references, arguments.baseline, kind, arguments.only)
    except DaftError as error:
        print(error, file=sys.stderr)
        for failure in read_failures(arguments.folders):
            print(f"{failure.folder}: {failure.error}", file=sys.stderr)
        sys.exit(2)
    template = (files("daft_rl.report") / "page.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["data_uri"] = _data_uri
    arguments.out.mkdir(parents=True, exist_ok=True)
    page = environment.from_string(template).render(**content)
    (arguments.out / "report.html").write_text(page, encoding="utf-8")
    text = [f"# All targets: {content['shape']}", f"Scores: {content['meaning']}.", markdown(content["summary"])]
    text += ["Scores by target, mean ± standard deviation over seeds:", markdown(content["scores"])]
    text += _write_figures(content["figures"], "all", arguments.out)
    if content["failures"]:
        text += ["# Failed", *(f"- `{failure.folder}`: {failure.error}" for failure in content["failures"])]
    for part in content["targets"]:
        text += [f"# {part['target']}", markdown(part["rows"])]
        text += _write_figures(part["figures"], part["target"], arguments.out)
    (arguments.out / "report.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print(f"Scores: {content['meaning']}.")
    print(f"{content['runs']} runs, {len(content['failures'])} failed: {arguments.out / 'report.html'}")


if __name__ == "__main__":
    main()
