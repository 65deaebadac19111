"""Optimizer states and entropy coefficients are taken over if they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO, SAC

from daft_rl.archives import load_agent
from daft_rl.errors import AgentError
from tests.archives.helpers import edit, make, members, save, write

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]


def test_optimizer_state_that_does_not_fit_starts_fresh(tmp_path: Path) -> None:
    path = save(make(PPO).learn(8), tmp_path)

    def spoil(saved: dict[str, Any]) -> None:
        saved["state"][0]["exp_avg"][0] = float("nan")

    edit(path, spoil, "policy.optimizer.pth")
    with pytest.warns(UserWarning, match=r"policy\.optimizer is not loaded.*NaN"):
        assert not load_agent(path, device="cpu").policy.optimizer.state
    content = members(path)
    del content["policy.optimizer.pth"]
    write(path, content)
    with pytest.warns(UserWarning, match="the archive has none"):
        load_agent(path, device="cpu")


def test_the_entropy_coefficient_is_restored_or_must_be_passed(tmp_path: Path) -> None:
    model = make(SAC)
    model.log_ent_coef.data.fill_(-2.5)
    path = save(model, tmp_path)
    restored: Any = load_agent(path, device="cpu")
    assert restored.log_ent_coef.item() == -2.5
    content = members(path)
    del content["pytorch_variables.pth"]
    write(path, content)
    with pytest.raises(AgentError, match=r"log_ent_coef.*Pass ent_coef="):
        load_agent(path, device="cpu")
    passed: Any = load_agent(path, device="cpu", ent_coef=0.1)
    assert passed.ent_coef_tensor == pytest.approx(0.1)
