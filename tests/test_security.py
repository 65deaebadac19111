"""The threat model names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [row for row in (ROOT / "SECURITY.md").read_text("utf-8").splitlines() if row.startswith("| ")][2:]


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip()[:40] for row in ROWS])
def test_every_line_of_the_threat_model_names_its_test(row: str) -> None:
    named = re.findall(r"`((?:tests|benchmarks)/[^`]+)`", row.rsplit("|", 2)[1])
    assert named
    for path, _, test in (name.partition("::") for name in named):
        assert f"def {test}" in (ROOT / path).read_text("utf-8")
