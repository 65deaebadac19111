"""What other modules import from ``daft_rl.archives``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from daft_rl import archives


def test_everything_that_is_listed_exists() -> None:
    for name in archives.__all__:
        assert getattr(archives, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = archives.nothing


def test_a_source_is_found_without_pytorch() -> None:
    code = "import sys; from daft_rl.archives import find_agent; find_agent('Ant', 'ppo'); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
