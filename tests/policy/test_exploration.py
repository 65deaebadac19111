"""Bounds on exploration leave the deterministic policy as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from daft_rl.errors import ConfigError
from daft_rl.policy import bound_exploration
from tests.conftest import ALGORITHMS, ON_POLICY, build, data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bounds_keep_the_deterministic_policy(algorithm: str) -> None:
    model: Any = build(algorithm)
    observations, _ = data(model)
    before = model.predict(observations, deterministic=True)[0]
    state = {name: value.clone() for name, value in model.policy.state_dict().items()}
    if algorithm in ON_POLICY:
        with torch.no_grad():
            model.policy.log_std.copy_(torch.tensor([-5.0, 1.0]))
    bound_exploration(model, 0.2, 3.0)
    np.testing.assert_array_equal(model.predict(observations, deterministic=True)[0], before)
    if algorithm in ON_POLICY:
        np.testing.assert_allclose(model.policy.log_std.detach().exp(), [0.2, np.e], rtol=1e-6)
        bound_exploration(model, None, 0.5)
        np.testing.assert_allclose(model.policy.log_std.detach().exp(), [0.2, 0.5], rtol=1e-6)
    else:
        assert all(torch.equal(value, state[name]) for name, value in model.policy.state_dict().items())


@pytest.mark.parametrize("algorithm", ["TD3", "DDPG", "SAC", "DQN"])
def test_only_algorithms_that_explore_by_noise_get_some(algorithm: str) -> None:
    model = build(algorithm)
    bound_exploration(model, least=0.3)
    assert (getattr(model, "action_noise", None) is not None) == (algorithm in ("TD3", "DDPG"))


@pytest.mark.parametrize("bound", [0, -1.0, float("inf"), "much"])
def test_bounds_that_are_not_above_zero_are_refused(bound: object) -> None:
    for arguments in ({"least": bound}, {"most": bound}):
        with pytest.raises(ConfigError, match="finite number above 0") as refusal:
            bound_exploration(build("PPO"), **arguments)  # type: ignore[arg-type]
        assert refusal.value.arguments == tuple(arguments)
