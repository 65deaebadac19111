"""Write a report as ``report.html``, which holds its figures, and as ``report.md`` with a folder of figures."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from daft_rl.errors import ReportError
from daft_rl.report.content import ReportContent
from daft_rl.report.tables import escaped, markdown

__all__ = ["write_report"]

CAPTIONS = {
    "aggregate": "Interquartile mean of the scores over all runs of a method, with its interval.",
    "difference": "Interquartile mean less that of the baseline, with its interval. Right of the line is better.",
    "profiles": "Share of runs that score above a value. A higher line is better.",
    "sample efficiency": "Interquartile mean of the scores over the steps of learning.",
    "learning curves": "Return on the target over the steps of learning: means over seeds, bands from the lowest to "
    "the highest seed. The grey line is the source before the transfer.",
    "final returns": "Return on the target after the transfer: means over seeds. A dot is a seed.",
    "in and out of distribution": "Return on the target against the mean return under other shifts. A mark is a run.",
    "distortion and return": "Return on the target against the cosine of the actor's features. A mark is a run.",
}
"""Name of a figure -> what it shows."""


def write_report(content: ReportContent, folder: Path) -> Path:
    """Write both files.

    :return: path of ``report.html``
    :raises ReportError: nothing can be written there
    """
    path = folder / "report.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(_html(content), encoding="utf-8")
        (folder / "report.md").write_text(_markdown_with_figures(content, folder), encoding="utf-8")
    except OSError as error:
        raise ReportError(f"The report cannot be written to {folder}: {error}.") from error
    return path


def _html(content: ReportContent) -> str:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["data_uri"] = _data_uri
    environment.filters["caption"] = CAPTIONS.__getitem__
    template = (files("daft_rl.report") / "page.html").read_text("utf-8")
    return environment.from_string(template).render(**vars(content))


def _data_uri(picture: bytes) -> str:
    """A PNG file as a URI, so that the page needs no other files."""
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def _markdown_with_figures(content: ReportContent, folder: Path) -> str:
    """The text of ``report.md``. Writes the figures that it shows."""
    text = [f"# All targets: {content.shape}", f"Scores: {content.meaning}.", markdown(content.summary)]
    text += ["Scores by target, mean ± standard deviation over seeds:", markdown(content.scores)]
    text += [f"{level} is {escaped(target)}." for level, target in content.legend.items()]
    text += _write_figures(content.figures, "all", folder)
    if content.failures:
        text += ["# Failed", *(f"- {escaped(f'{failure.name}: {failure.error}')}" for failure in content.failures)]
    for part in content.targets:
        text += [f"# {escaped(part.target)}", markdown(part.rows)]
        if part.races:
            text += ["Which method each run of a race took:", markdown(part.races)]
        text += _write_figures(part.figures, part.target, folder)
    return "\n\n".join(text) + "\n"


def _write_figures(pictures: Mapping[str, bytes], subject: str, folder: Path) -> list[str]:
    """Write figures, and return the lines of Markdown that show them.

    :param pictures: name -> PNG file
    :param subject: first part of the files' names
    """
    lines = []
    for name, picture in pictures.items():
        path = folder / "figures" / (re.sub(r"[^a-z0-9.]+", "-", f"{subject} {name}".lower()).strip("-") + ".png")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture)
        lines.append(f"![{name}](figures/{path.name})\n\n*{CAPTIONS[name]}*")
    return lines
