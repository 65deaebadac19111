"""Worlds on Warp's CPU device."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _kernels(kernels: None) -> None:
    """All tests here run kernels."""
