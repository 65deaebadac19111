"""Each arm of the measurement of what keeps the source is a transfer by ``daft``."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import keep_source
from daft_rl.arguments import read_arguments


class AskedError(Exception):
    """In place of a run."""


@pytest.mark.parametrize("arm", keep_source.ARMS)
def test_an_arm_changes_a_field_of_daft(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(env: str, method: str = "auto", *, settings: dict[str, Any], **given: Any) -> None:
        asked = read_arguments(env, method, None, None, settings, **given)
        raise AskedError(asked.settings.method.name)

    monkeypatch.setattr(keep_source, "transfer", ask)
    with pytest.raises(AskedError, match="daft"):
        keep_source.measure("HalfCheetah", 0.8, arm, seed=0, steps=1000, blends=False)
