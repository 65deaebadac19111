"""The tables in the documentation say what happens."""

from __future__ import annotations

import pytest

from benchmarks.archives import END, PAGE, START, tables


@pytest.mark.filterwarnings("ignore")
def test_the_tables_of_archives_are_those_of_today() -> None:
    written = PAGE.read_text("utf-8").partition(START)[2].partition(END)[0]
    assert written.strip() == tables().strip(), "run: python -m benchmarks.archives"
