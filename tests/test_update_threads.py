"""PyTorch has more threads while it updates, and as many as before otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from daft_rl.phases import TimedVecEnv
from daft_rl.transfer import transfer
from tests.conftest import PointMass, build
from tests.test_domains import OFF_POLICY, ON_POLICY, TINY


@pytest.fixture
def two_cores() -> Iterator[None]:
    """As if nothing else ran beside the tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    ("algorithm", "asked", "given"), [("PPO", "2", 2), ("SAC", "2", 2), ("PPO", "1", 1), ("PPO", "7", 2)]
)
def test_threads_of_updates(
    algorithm: str, asked: str, given: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(algorithm)
    acting, updating = set(), set()
    step, update = TimedVecEnv.step_async, type(model).train

    def noted_step(self: Any, actions: Any) -> None:
        acting.add(torch.get_num_threads())
        step(self, actions)

    def noted_update(self: Any, *args: Any, **kwargs: Any) -> None:
        updating.add(torch.get_num_threads())
        update(self, *args, **kwargs)

    monkeypatch.setattr(TimedVecEnv, "step_async", noted_step)
    monkeypatch.setattr(type(model), "train", noted_update)
    settings = [*TINY, *(ON_POLICY if algorithm == "PPO" else OFF_POLICY), f"update_threads={asked}"]
    transfer(PointMass, source=model, total_timesteps=128, output_dir=tmp_path, overrides=settings)
    assert (acting, updating) == ({1}, {given})
    assert torch.get_num_threads() == 2, "as it was found"
    assert OmegaConf.load(tmp_path / "config.yaml").update_threads == given
