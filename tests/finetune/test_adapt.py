"""The front door: ``adapt`` in a script of one's own, with one's own environment, callbacks and logger."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

import daft_rl
from daft_rl.batchnorm import batchnorm_layers
from daft_rl.errors import AgentError, DaftWarning, MethodError
from daft_rl.finetune.hooks import HookedAlgorithm
from daft_rl.rollout.evaluation import evaluate
from tests.conftest import ALGORITHMS, DISCRETE, PointMass, algorithms, build, outputs

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "your_own_script.py"


class Thermostat(gym.Env[NDArray[Any], NDArray[Any]]):
    """Hold a temperature with a slow heater: observations far from zero, positive actions, early ends."""

    def __init__(self, loss: float = 0.05, offset: float = 0.0) -> None:
        self.loss, self.offset = loss, offset
        self.observation_space = spaces.Box(-100.0, 200.0, (3,), np.float32)
        self.action_space = spaces.Box(0.0, 10.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.inside, self.heater, self.steps = float(self.np_random.uniform(0, 30)), 0.0, 0
        return self._observe(), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        self.heater += 0.3 * (float(action[0]) - self.heater)
        self.inside += self.heater / 4 - self.loss * (self.inside - 5.0)
        self.steps += 1
        return self._observe(), 20.0 - abs(self.inside - 20.0), self.inside > 150, self.steps >= 50, {}

    def _observe(self) -> NDArray[Any]:
        return np.array([self.inside + self.offset, self.heater, self.steps], np.float32)


SETTINGS: dict[str, dict[str, Any]] = {
    "PPO": {"n_steps": 64, "batch_size": 64},
    "SAC": {"learning_starts": 32, "buffer_size": 5000, "batch_size": 32},
}


def source_of(algorithm: str, folder: Path) -> Path:
    """A source that has learnt a little at home."""
    kind = ALGORITHMS[algorithm]
    model = kind(
        "MlpPolicy", Thermostat(), policy_kwargs={"net_arch": [32, 32]}, seed=1, device="cpu", **SETTINGS[algorithm]
    )  # type: ignore[call-arg]
    model.learn(256).save(folder / "source.zip")
    return folder / "source.zip"


@pytest.mark.parametrize(
    ("method", "algorithm"),
    [("daft", "PPO"), ("daft", "SAC"), *(pytest.param("ft", name, marks=pytest.mark.slow) for name in ("PPO", "SAC"))],
)
def test_two_lines_return_what_transfer_returns(algorithm: str, method: str, tmp_path: Path) -> None:
    """On an environment and with a policy that are not of this project."""
    source = source_of(algorithm, tmp_path)

    def make() -> gym.Env[Any, Any]:
        return Thermostat(loss=0.1, offset=3.0)

    result = daft_rl.transfer(
        make, method, source, total_timesteps=128, seed=5, output_dir=tmp_path / "run",
        settings={
            "num_envs": 2, "calibration": {"steps": 128, "held_out": 64},
            "evaluation": {"episodes": 3, "episodes_during": 3, "every": 75},
            "algo": {"settings": SETTINGS[algorithm], "exploration_std": 0.3 if algorithm == "PPO" else None},
            "progress_bar": False,
        },
    )  # fmt: skip

    kept = {"learning_rate": 3e-4} | ({"train_freq": 1, "gradient_steps": -1} if algorithm == "SAC" else {})
    env = DummyVecEnv([make] * 2)
    model = ALGORITHMS[algorithm].load(source, env=env, device="cpu", **SETTINGS[algorithm], **kept)
    adaptation = daft_rl.adapt(
        model, method, calibration_steps=128, held_out_steps=64, seed=5,
        exploration_std=0.3 if algorithm == "PPO" else None,
    )  # fmt: skip
    model.learn(128, callback=adaptation)
    assert evaluate(model, DummyVecEnv([make] * 3), 3, 10_000) == result.final["target"]
    assert bool(adaptation.inserted) is (method == "daft")


def tiny(algorithm: str) -> BaseAlgorithm:
    """An agent with BatchNorm, and statistics that are not those of its environment."""
    return build(algorithm)


def learn(model: BaseAlgorithm, steps: int = 128, **arguments: Any) -> None:
    model.set_logger(configure(None, []))
    model.learn(steps, **arguments)


@pytest.mark.parametrize("algorithm", algorithms())
def test_it_adapts_learns_and_leaves_an_ordinary_agent(algorithm: str, tmp_path: Path) -> None:
    model = tiny(algorithm)
    plain = type(model)
    adaptation = daft_rl.adapt(model, "daft", calibration_steps=64, seed=0)
    assert adaptation.converted == list(adaptation.tuner.anatomy.batchnorm_modules())
    assert not adaptation.inserted
    parameters = {name for names in adaptation.groups.values() for name in names}
    assert parameters == {n for n, _ in model.policy.named_parameters() if not adaptation.tuner.anatomy.is_target(n)}
    learn(model, callback=adaptation)
    assert type(model) is plain
    assert not hasattr(model, "tuner")
    assert all(len(optimizer.param_groups) == 1 for optimizer in adaptation.tuner.anatomy.optimizers().values())
    assert all(parameter.requires_grad for group in adaptation.groups.values() for parameter in _named(model, group))
    model.save(tmp_path / "agent.zip")
    ALGORITHMS[algorithm].load(tmp_path / "agent.zip", device="cpu")


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "CrossQ", "DQN"])
def test_what_the_user_froze_stays_frozen(algorithm: str) -> None:
    """A part of a group, so that the rest of it learns."""
    model = tiny(algorithm)
    first = next(name for name, parameter in model.policy.named_parameters() if parameter.ndim == 2)
    own = dict(model.policy.named_parameters())
    own[first].requires_grad_(False)
    trainable = {name: parameter.requires_grad for name, parameter in own.items()}
    adaptation = daft_rl.adapt(model, "lp_ft", calibration_steps=64, seed=0)
    before = {name: parameter.clone() for name, parameter in own.items()}
    learn(model, callback=adaptation)
    [group] = [names for names in adaptation.groups.values() if first in names]
    assert torch.equal(own[first], before[first])
    assert any(not torch.equal(own[name], before[name]) for name in group)
    assert {name: parameter.requires_grad for name, parameter in own.items()} == trainable


def _named(model: BaseAlgorithm, names: list[str]) -> list[torch.nn.Parameter]:
    own = dict(model.policy.named_parameters())
    return [own[name] for name in names]


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "CrossQ", "DQN"])
def test_conversion_keeps_the_function(algorithm: str) -> None:
    model = tiny(algorithm)
    observations = torch.randn(50, 3)
    actions = torch.zeros(50, 1 if algorithm in DISCRETE else 2)
    before = outputs(model, observations, actions)
    daft_rl.adapt(model, "daft", calibration_steps=64, seed=0)
    for one, other in zip(before, outputs(model, observations, actions), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrapped", [True, False])
def test_observations_are_normalized_once(wrapped: bool) -> None:
    """With a ``VecNormalize`` around the environment, BatchNorm statistics are those of what the policy gets."""
    venv: Any = DummyVecEnv([PointMass] * 2)
    if wrapped:
        venv = VecNormalize(venv)
        venv.obs_rms.mean, venv.obs_rms.var = np.full(3, 1.0), np.full(3, 4.0)
        statistics = copy.deepcopy(venv.obs_rms)
    model = build("PPO")
    model = PPO("MlpPolicy", venv, policy_kwargs=model.policy_kwargs, n_steps=64, batch_size=32, device="cpu")
    seen: list[torch.Tensor] = []
    handle = model.policy.register_forward_pre_hook(
        lambda _, args: seen.append(args[0]) if len(args[0]) == 200 else None
    )
    adaptation = daft_rl.adapt(model, "daft", calibration_steps=200, seed=0)
    handle.remove()
    layer = batchnorm_layers(model.policy)["features_extractor.net.1"]
    expected = seen[0].double()
    torch.testing.assert_close(layer.mean.double(), expected.mean(0), rtol=1e-5, atol=1e-6)
    assert expected.abs().mean() < 5 if wrapped else expected.abs().mean() > 1
    if wrapped:
        np.testing.assert_array_equal(venv.obs_rms.mean, statistics.mean)
        assert venv.training
    learn(model, 128, callback=adaptation)


def test_a_wrapper_around_vecnormalize_is_no_obstacle() -> None:
    venv = VecFrameStack(VecNormalize(DummyVecEnv([PointMass] * 2)), 2)
    model = PPO("MlpPolicy", venv, n_steps=32, batch_size=32, device="cpu")
    adaptation = daft_rl.adapt(model, "daft", calibration_steps=64, seed=0)
    assert adaptation.inserted
    learn(model, 64, callback=adaptation)
    with pytest.raises(MethodError, match="raw observations cannot be seen"):
        daft_rl.adapt(model, "daft_realign", calibration_steps=64)


def test_recorded_experience_replaces_visits() -> None:
    model = tiny("SAC")
    rng = np.random.default_rng(0)
    observations = rng.normal(3.0, 2.0, (300, 3)).astype(np.float32)
    env = model.get_env()
    assert env is not None
    env.reset = env.step_async = None  # type: ignore[assignment, method-assign]  # nothing may be stepped
    for experience in (observations, (observations, rng.uniform(-2, 2, (300, 2)))):
        adaptation = daft_rl.adapt(model, "daft", experience=experience, seed=0)
        mean = batchnorm_layers(model.policy)["actor.features_extractor.net.1"].mean
        np.testing.assert_allclose(mean.numpy(), observations.mean(0), rtol=1e-4)
        assert adaptation.converted
        adaptation.detach()


@pytest.mark.parametrize(
    ("experience", "message"),
    [
        (np.zeros((10, 4)), r"shape \(n, 3\).*got \(10, 4\)"),
        (np.zeros((1, 3)), "n of at least 2"),
        (np.full((10, 3), np.nan), "NaN"),
        ((np.zeros((10, 3)), np.zeros((9, 2))), "10 observations and 9 actions"),
        ("log.csv", "expected observations"),
        ((np.zeros((10, 3)),), "got 1 items"),
        ((np.zeros((10, 3)), np.full((10, 2), 9.0)), "not all within"),
        ([[1.0], [1.0, 2.0]], "cannot be made an array"),
    ],
)
def test_experience_that_does_not_fit_is_refused(experience: Any, message: str) -> None:
    with pytest.raises(AgentError, match=message):
        daft_rl.adapt(tiny("PPO"), experience=experience)


def test_realignment_needs_an_environment() -> None:
    with pytest.raises(MethodError, match="no rewards"):
        daft_rl.adapt(tiny("PPO"), "daft_realign", experience=np.zeros((10, 3)))


def test_without_environment_or_experience_it_says_what_to_do(tmp_path: Path) -> None:
    tiny("PPO").save(tmp_path / "agent.zip")
    with pytest.raises(AgentError, match="experience="):
        daft_rl.adapt(PPO.load(tmp_path / "agent.zip", device="cpu"))


def moments(adaptation: Any) -> list[dict[str, Any]]:
    """What the optimizers keep of each parameter."""
    optimizers = adaptation.tuner.anatomy.optimizers().values()
    return [entries for optimizer in optimizers for entries in optimizer.state.values()]


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "TD3"])
def test_it_survives_saving_in_the_middle_and_a_second_learn(algorithm: str, tmp_path: Path) -> None:
    model = tiny(algorithm)
    adaptation = daft_rl.adapt(model, "daft_gradual", calibration_steps=64, seed=0)
    checkpoints = CheckpointCallback(64, str(tmp_path))
    learn(model, 128, callback=[adaptation, checkpoints])
    plain = ALGORITHMS[algorithm].load(next(tmp_path.glob("*_64_steps.zip")), device="cpu", env=model.get_env())
    plain.learn(64)
    moments = [
        value for optimizer in adaptation.tuner.anatomy.optimizers().values() for value in optimizer.state.values()
    ]
    assert moments
    kept = [copy.deepcopy(value) for value in moments]

    class Look(BaseCallback):
        rates: set[float] = set()

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            for optimizer in adaptation.tuner.anatomy.optimizers().values():
                self.rates |= {group["lr"] for group in optimizer.param_groups}
            assert isinstance(self.model, HookedAlgorithm)

    look = Look()
    learn(model, 128, callback=[adaptation, look], reset_num_timesteps=False)
    assert len(look.rates) > 1, "the groups have rates of their own again"
    after = [
        value for optimizer in adaptation.tuner.anatomy.optimizers().values() for value in optimizer.state.values()
    ]
    assert all(one["step"] > other["step"] for one, other in zip(after, kept, strict=True)), "moments went on"


def test_a_context_manager_detaches_after_an_error() -> None:
    model = tiny("PPO")

    class Fail(BaseCallback):
        def _on_step(self) -> bool:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), daft_rl.adapt(model, calibration_steps=64) as adaptation:
        learn(model, callback=[adaptation, Fail()])
    assert type(model) is PPO
    with daft_rl.adapt(model, calibration_steps=64):
        assert isinstance(model, HookedAlgorithm)
        with pytest.raises(MethodError, match="detach"):
            daft_rl.adapt(model, calibration_steps=64)


def test_a_class_that_somebody_else_mixed_in_stays() -> None:
    model = tiny("PPO")
    adaptation = daft_rl.adapt(model, calibration_steps=64, seed=0)

    class Loud(type(model)):  # type: ignore[misc]
        def train(self) -> None:
            self.trained = True
            super().train()

    model.__class__ = Loud
    learn(model, callback=adaptation)
    assert type(model) is Loud
    assert model.trained
    learn(model, 64)
    again = daft_rl.adapt(model, calibration_steps=64, seed=0)
    again.detach()
    assert type(model) is Loud


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "CrossQ"])
def test_an_adapted_agent_can_be_copied(algorithm: str) -> None:
    model = tiny(algorithm)
    adaptation = daft_rl.adapt(model, "daft", calibration_steps=64, seed=0)
    twin = copy.deepcopy(model)
    before = copy.deepcopy(twin.policy.state_dict())
    learn(model, callback=adaptation)
    assert all(torch.equal(tensor, before[name]) for name, tensor in twin.policy.state_dict().items())
    learn(twin, 128)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in twin.policy.state_dict().items())


def test_a_policy_without_batchnorm_that_gets_none_is_told() -> None:
    model = PPO("MlpPolicy", PointMass(), n_steps=64, device="cpu")
    with pytest.warns(DaftWarning, match="this policy has none"):
        daft_rl.adapt(model, "daft", calibration_steps=64, insert_batchnorm=False).detach()


def test_a_method_that_cannot_be_applied_changes_nothing() -> None:
    model = PPO("MlpPolicy", PointMass(), n_steps=65, batch_size=32, device="cpu")
    before = copy.deepcopy(model.policy.state_dict())
    with pytest.raises(MethodError, match="single sample"):
        daft_rl.adapt(model, "daft_paper", calibration_steps=64)
    assert model.policy.state_dict().keys() == before.keys()
    with pytest.raises(MethodError, match="calibration_steps: expected a number of at least 2"):
        daft_rl.adapt(model, calibration_steps=0)
    with pytest.raises(MethodError, match="Did you mean 'daft'"):
        daft_rl.adapt(model, "dft")


def test_an_adaptation_belongs_to_its_model() -> None:
    one, other = tiny("PPO"), tiny("PPO")
    adaptation = daft_rl.adapt(one, calibration_steps=64)
    with pytest.raises(MethodError, match="another PPO"):
        other.learn(64, callback=adaptation)


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_its_state_goes_on_in_another_process(algorithm: str) -> None:
    """Optimizer moments, start weights and counters come back from ``state_dict``."""
    method = {"name": "mine", "conversion": "once", "l2_sp": 0.1, "bn_mode": "eval"}
    model = tiny(algorithm)
    adaptation = daft_rl.adapt(model, method, calibration_steps=64, held_out_steps=32, seed=0)
    learn(model, callback=adaptation)
    state = adaptation.state_dict()
    twin = tiny(algorithm)
    other = daft_rl.adapt(twin, method, calibration_steps=64, held_out_steps=32, seed=0)
    twin.policy.load_state_dict(model.policy.state_dict())
    other.load_state_dict(state)
    assert adaptation.distortion is not None
    assert other.distortion is not None
    assert other.distortion.measure() == adaptation.distortion.measure()
    assert other.drift.measure() == adaptation.drift.measure()
    again = other.state_dict()["tuner"]
    for name, start in state["tuner"]["start"].items():
        assert torch.equal(again["start"][name], start)
    for path, moments in state["tuner"]["moments"].items():
        for index, entries in moments.items():
            assert all(torch.equal(again["moments"][path][index][key], value) for key, value in entries.items())


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE), "--steps", "2048", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "BatchNorm inserted: mlp_extractor.policy_net.1" in done.stdout
    for name in ("agent.zip", "adapted.zip", "evaluations.npz"):
        assert (tmp_path / name).stat().st_size > 0
    assert list((tmp_path / "checkpoints").glob("*.zip"))
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_target_that_fails_leaves_an_ordinary_agent() -> None:
    model = tiny("PPO")
    with pytest.raises(MethodError, match="calibration_steps: expected a number of at least 2"):
        daft_rl.adapt(model, calibration_steps=1)
    env = model.get_env()
    assert env is not None

    class BrokenError(Exception):
        pass

    def fail(actions: Any) -> None:
        raise BrokenError

    step, env.step_async = env.step_async, fail  # type: ignore[method-assign]
    with pytest.raises(BrokenError):
        daft_rl.adapt(model, calibration_steps=64)
    env.step_async = step  # type: ignore[method-assign]
    assert type(model) is PPO
    daft_rl.adapt(model, calibration_steps=64).detach()


def test_learning_without_the_callback_gets_a_warning() -> None:
    model = tiny("PPO")
    adaptation = daft_rl.adapt(model, calibration_steps=64, seed=0)
    with pytest.warns(DaftWarning, match="callback=adaptation"):
        learn(model)
    adaptation.detach()


def test_a_method_that_learns_nothing_is_refused_in_learn() -> None:
    model = tiny("PPO")
    adaptation = daft_rl.adapt(model, "zero_shot", calibration_steps=64)
    with pytest.raises(MethodError, match="learns nothing"):
        learn(model, callback=adaptation)


def test_schedules_count_from_the_start_of_the_adaptation() -> None:
    """Also where learning keeps the source's step counter, for one axis in TensorBoard."""
    model = tiny("PPO")
    learn(model, 640)
    adaptation = daft_rl.adapt(model, "lp_ft", calibration_steps=64, seed=0)
    frozen: list[bool] = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            frozen.append("actor_encoder" in adaptation.tuner.frozen)

    learn(model, 256, callback=[adaptation, Look()], reset_num_timesteps=False)
    assert frozen == [True, True, False, False]


def test_conversion_goes_on_where_learning_counts_from_zero_again() -> None:
    model = tiny("SAC")
    adaptation = daft_rl.adapt(model, {"name": "mine", "conversion": "each_rollout"}, calibration_steps=50, seed=0)
    learn(model, 128, callback=adaptation)
    first = adaptation.state_dict()["conversions"][1]
    learn(model, 128, callback=adaptation)
    assert adaptation.state_dict()["conversions"][1] > first > 1


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_parameters_can_be_set_while_it_learns(algorithm: str) -> None:
    model = tiny(algorithm)
    adaptation = daft_rl.adapt(model, calibration_steps=64, seed=0)
    learn(model, 64, callback=adaptation)
    again = daft_rl.adapt(model, calibration_steps=64, seed=0)
    parameters: Any = model.get_parameters()
    model.set_parameters(parameters)
    assert all(len(optimizer.param_groups) > 1 for optimizer in again.tuner.anatomy.optimizers().values())


def test_things_of_another_kind_are_refused() -> None:
    for model, arguments, message in [
        ("agent.zip", {}, "expected an agent"),
        (tiny("PPO"), {"env": PointMass()}, "expected a VecEnv"),
        (tiny("PPO"), {"env": DummyVecEnv([PointMass]), "experience": np.zeros((9, 3))}, "not both"),
    ]:
        with pytest.raises(AgentError, match=message):
            daft_rl.adapt(model, **arguments)  # type: ignore[arg-type]
