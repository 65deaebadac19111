"""``python -m daft_rl.report runs/benchmark/mujoco``: a page and a Markdown file from the runs of a benchmark."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from daft_rl.errors import DaftError, ReportError
from daft_rl.outputs import keep_outputs
from daft_rl.report.reading import Reference, check, read_json
from daft_rl.report.runs import run_table
from daft_rl.report.scales import MEANINGS
from daft_rl.report.storage import read_cells, read_failures, save_cells
from daft_rl.report.tables import markdown, printable

REFERENCES = Path(__file__).with_name("references.json")
"""Measured for the targets of the shipped grids."""


def main() -> None:
    """Write ``report.html``, ``report.md`` and the figures of the latter, or print a table of runs."""
    arguments = _parser().parse_args()
    try:
        if arguments.save is not None:  # first, because runs can be saved before a grid is complete
            _save(arguments.folders, arguments.save)
        if arguments.table:
            print(markdown(run_table(read_cells(arguments.folders))))
        else:
            _write(arguments)
    except DaftError as error:
        print(printable(str(error)), file=sys.stderr)
        with suppress(DaftError):  # the error that is told already
            for failure in read_failures(path for path in arguments.folders if path.is_dir()):
                print(printable(f"{failure.folder}: {failure.error}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m daft_rl.report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders with runs, or files that --save wrote")
    parser.add_argument("--save", type=Path, help="also write all that a report shows of the runs to this .jsonl.gz")
    parser.add_argument(
        "--table",
        action="store_true",
        help="instead of a report, print a table of returns; runs may have any settings and need not form a grid",
    )
    parser.add_argument("--references", type=Path, help="random and expert returns of targets (the shipped ones)")
    parser.add_argument(
        "--scores",
        choices=list(MEANINGS),
        help="; ".join(f"{kind}: {meaning}" for kind, meaning in MEANINGS.items())
        + " (references if --references is given or the shipped file has a target of these runs)",
    )
    parser.add_argument("--only", default="", metavar="TARGET", help="only targets whose names begin with this: Ant")
    parser.add_argument("--baseline", help="the method that the others are compared with (ft)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of report.html and report.md")
    return parser


def _save(folders: list[Path], path: Path) -> None:
    cells = read_cells(folders)
    save_cells(cells, read_failures(folders), path)
    print(f"{len(cells)} runs saved in {path}")


def _write(arguments: argparse.Namespace) -> None:
    if arguments.out.exists() and not arguments.out.is_dir():
        raise ReportError(f"--out {arguments.out} is a file. Name a folder.")
    missing = [name for name in ("rliable", "jinja2") if find_spec(name) is None]
    if missing:
        raise ReportError(f"A report needs {missing[0]}, which is not installed: pip install 'daft-rl[report]'.")
    from daft_rl.report.content import build_report
    from daft_rl.report.page import write_report

    kind = arguments.scores
    if arguments.references is not None:
        kind = kind or "references"
    references = _read_references(arguments.references)
    content = build_report(arguments.folders, references, arguments.baseline, kind, arguments.only)
    page = write_report(content, arguments.out)
    print(f"Scores: {content.meaning}.")
    print(f"{content.runs} runs, {len(content.failures)} failed: {page}")


def _read_references(path: Path | None) -> dict[str, Any]:
    """References of a file, or the shipped ones.

    :raises ReportError: the file does not exist, or holds something else
    """
    if path is not None and not path.is_file():
        raise ReportError(f"No reference returns in {path}: the file does not exist.")
    path = path or REFERENCES
    references = read_json(path)
    if not isinstance(references, dict):
        raise ReportError(f"{path}: expected targets with their reference returns, got {str(references)[:50]}.")
    for target, pair in references.items():
        check(Reference, pair, f"{path}, '{target}'")
    return references


if __name__ == "__main__":
    keep_outputs()
    main()
