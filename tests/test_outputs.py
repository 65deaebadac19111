"""Whatever becomes of its outputs, a program runs to its end."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from daft_rl.outputs import nothing_twice, say

PROGRAM = """
import os, sys
from daft_rl.outputs import keep_outputs
keep_outputs()
print("größe", "x" * 100000)
print("größe", "x" * 100000, file=sys.stderr)
opened = os.open("/dev/null", os.O_RDONLY)
assert opened > 2, f"a file took the place of a standard output: {opened}"
sys.exit(42)
"""


@pytest.mark.parametrize(
    "line",
    [
        *('"$@"', '"$@" >&-', '"$@" 2>&-', '"$@" <&- >&- 2>&-', '"$@" >/dev/full 2>&1'),
        *('"$@" | true; exit ${PIPESTATUS[0]}', '"$@" 2>&1 | true; exit ${PIPESTATUS[0]}'),
        'PYTHONIOENCODING=ascii "$@"',
    ],
)
def test_prints_succeed_and_no_file_takes_the_place_of_an_output(line: str) -> None:
    command = ["bash", "-c", line, "bash", sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 42, done.stderr[-500:]


def test_what_an_encoding_lacks_is_written_with_backslashes() -> None:
    command = ["env", "PYTHONIOENCODING=ascii", sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.stdout.startswith(b"gr\\xf6\\xdfe xxx")
    assert done.stderr.startswith(b"gr\\xf6\\xdfe xxx")


def test_messages_and_warnings_are_repeated_outside_of_a_block_and_not_inside(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def tell_all() -> None:
        for text in ("one", "two"):
            say(text)
            warnings.warn(f"{text}!", stacklevel=1)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with nothing_twice():
            tell_all()
            tell_all()
        tell_all()
    assert capsys.readouterr().err.split() == ["one", "two"] * 2
    assert [str(warning.message) for warning in shown] == ["one!", "two!"] * 2
