"""The path between two policies: exact at its ends, in between in between, for every algorithm and all networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl.errors import AgentError
from daft_rl.run.path import PolicyPath
from tests.conftest import PointMass, algorithms, build, data, outputs


def moved(name: str, seed: int) -> Any:
    model = build(name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.policy.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", algorithms())
def test_the_ends_are_the_policies_themselves(name: str) -> None:
    start, end = moved(name, 1), moved(name, 2)
    observations, actions = data(start, 20)
    batch = torch.as_tensor(observations)
    played = None if actions.dtype.kind == "i" else torch.as_tensor(actions)
    expected = [outputs(model, batch, played) for model in (start, end)]
    path = PolicyPath(start, end)
    for alpha, wanted in ((1.0, expected[1]), (0.5, None), (0.0, expected[0]), (1.0, expected[1])):
        found = outputs(path.go_to(alpha), batch, played)
        assert wanted is None or all(one.equal(other) for one, other in zip(found, wanted, strict=True))


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 1))
def test_every_number_lies_between_the_ends(alpha: float) -> None:
    start, end = moved("SAC", 1), moved("SAC", 2)
    before, after = ({name: t.clone() for name, t in one.policy.state_dict().items()} for one in (start, end))
    for name, tensor in PolicyPath(start, end).go_to(alpha).policy.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, before[name] + alpha * (after[name] - before[name]))


def test_statistics_of_observations_are_on_the_path_too() -> None:
    models: list[Any] = []
    for mean in (0.0, 4.0):
        model = build("PPO")
        venv: Any = VecNormalize(DummyVecEnv([PointMass]))
        venv.obs_rms.mean += mean
        venv.ret_rms.var += mean
        model.set_env(venv)
        models.append(model)
    normalizer: Any = PolicyPath(*models).go_to(0.25).get_vec_normalize_env()
    assert normalizer is not None
    np.testing.assert_allclose(normalizer.obs_rms.mean, 1.0)
    np.testing.assert_allclose(normalizer.ret_rms.var, 2.0)
    np.testing.assert_allclose(models[0].get_vec_normalize_env().obs_rms.mean, 0.0)


def test_policies_of_other_layers_have_no_path() -> None:
    with pytest.raises(AgentError, match="no path"):
        PolicyPath(build("PPO"), build("SAC"))
