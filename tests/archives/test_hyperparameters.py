"""Hyperparameters come from the archive's text; what the user passes wins, and what cannot be read is named."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO, TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule

from daft_rl.archives import load_agent
from daft_rl.errors import AgentError
from tests.archives.helpers import Spaces, make, save

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]


def test_overrides_win_and_stored_values_hold(tmp_path: Path) -> None:
    path = save(make(PPO, gamma=0.9, vf_coef=0.3, tensorboard_log="/nowhere", seed=5), tmp_path)
    model: Any = load_agent(path, env=Spaces(), device="cpu", gamma=0.8, learning_rate=1e-5)
    assert (model.gamma, model.vf_coef, model.n_steps) == (0.8, 0.3, 8)
    assert model.policy.optimizer.param_groups[0]["lr"] == 1e-5
    assert model.seed is None
    assert model.tensorboard_log is None


def test_schedules_and_noise_are_read_from_their_text(tmp_path: Path) -> None:
    noise = NormalActionNoise(np.array([0.0, 0.5]), np.array([0.1, 0.2]))
    path = save(make(TD3, action_noise=noise, learning_rate=LinearSchedule(1e-2, 1e-3, 0.5)), tmp_path)
    model: Any = load_agent(path, device="cpu")
    assert repr(model.action_noise) == repr(noise)
    assert [model.lr_schedule(progress) for progress in (1, 0)] == [1e-2, 1e-3]


def test_a_warning_names_hyperparameters_that_cannot_be_read(tmp_path: Path) -> None:
    path = save(make(PPO, clip_range=lambda progress: 0.1 * progress), tmp_path)
    with pytest.warns(UserWarning, match=r"clip_range=0\.2 for a pickled .*clip_range=\.\.\."):
        model: Any = load_agent(path, device="cpu")
    assert model.clip_range(1) == 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_agent(path, device="cpu", clip_range=0.3)
        assert model.clip_range(1) == 0.3


def test_an_unknown_hyperparameter_is_refused(tmp_path: Path) -> None:
    path = save(make(PPO), tmp_path)
    with pytest.raises(AgentError, match=r"PPO has no hyperparameter 'learnin_rate'.*'learning_rate'"):
        load_agent(path, learnin_rate=0.1)
