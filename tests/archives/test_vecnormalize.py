"""Statistics of ``VecNormalize`` are read as SB3 reads them, without running the pickle."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl.archives import apply_vecnormalize, load_agent, read_vecnormalize
from daft_rl.errors import AgentError
from tests.archives.helpers import VECTOR, Payload, Spaces, make, save

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]


def _normalizer(space: spaces.Space[Any] = VECTOR, **kwargs: Any) -> VecNormalize:
    venv = VecNormalize(DummyVecEnv([lambda: Spaces(space)] * 2), gamma=0.9, clip_obs=5.0, **kwargs)
    venv.reset()
    for _ in range(8):
        venv.step(np.zeros((2, 2)))
    return venv


BOXES = spaces.Dict({"a": VECTOR, "b": spaces.Box(-1, 1, (2, 2))})


@pytest.mark.parametrize(
    ("space", "kwargs"),
    [(VECTOR, {}), (VECTOR, {"norm_obs": False}), (BOXES, {"norm_reward": False}), (BOXES, {"norm_obs_keys": ["b"]})],
)
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_statistics_are_what_sb3_reads(
    space: spaces.Space[Any], kwargs: dict[str, Any], protocol: int, tmp_path: Path
) -> None:
    original = _normalizer(space, **kwargs)
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(pickle.dumps(original, protocol=protocol))
    wrapped = apply_vecnormalize(DummyVecEnv([lambda: Spaces(space)] * 3), read_vecnormalize(path))
    assert (wrapped.training, wrapped.num_envs) == (False, 3)
    for name in ("norm_obs", "norm_reward", "norm_obs_keys", "epsilon", "clip_obs", "clip_reward", "gamma"):
        assert getattr(wrapped, name) == getattr(original, name), name
    observation = space.sample()
    expected, got = original.normalize_obs(observation), wrapped.normalize_obs(observation)
    for key in space.spaces if isinstance(space, spaces.Dict) else [...]:
        assert np.array_equal(got[key], expected[key])  # type: ignore[index, call-overload]
    reward = np.array([0.3])
    assert np.array_equal(wrapped.normalize_reward(reward), original.normalize_reward(reward))
    assert wrapped.ret_rms.count == original.ret_rms.count


@pytest.mark.parametrize(
    ("archive", "file"),
    [
        ("agent.zip", "vecnormalize.pkl"),
        ("agent.zip", "vec_normalize.pkl"),
        ("agent.zip", "agent_vecnormalize.pkl"),
        ("agent.zip", "agent/vecnormalize.pkl"),
        ("rl_model_1000_steps.zip", "rl_model_vecnormalize_1000_steps.pkl"),
    ],
)
def test_statistics_beside_the_archive_are_applied_and_frozen(archive: str, file: str, tmp_path: Path) -> None:
    path = save(make(PPO), tmp_path).rename(tmp_path / archive)
    original: Any = _normalizer()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    original.save(str(tmp_path / file))
    model = load_agent(path, env=Spaces(), device="cpu")
    normalizer: Any = model.get_vec_normalize_env()
    assert normalizer is not None
    assert not normalizer.training
    model.learn(16)
    assert np.array_equal(normalizer.obs_rms.mean, original.obs_rms.mean)
    assert normalizer.ret_rms.count == original.ret_rms.count
    with pytest.warns(UserWarning, match="expects observations normalized"):
        load_agent(path, device="cpu")
    own = VecNormalize(DummyVecEnv([Spaces]))
    assert load_agent(path, env=own, device="cpu").get_vec_normalize_env() is own


def test_statistics_of_other_shapes_are_refused(tmp_path: Path) -> None:
    path = save(make(PPO), tmp_path)
    _normalizer(spaces.Box(-1, 1, (4,))).save(str(tmp_path / "vecnormalize.pkl"))
    with pytest.raises(AgentError, match=r"shape \(4,\).*gives \(3,\)"):
        load_agent(path, env=Spaces())
    statistics = read_vecnormalize(tmp_path / "vecnormalize.pkl")
    with pytest.raises(AgentError, match=r"\(4,\).*'a': \(3,\)"):
        apply_vecnormalize(DummyVecEnv([lambda: Spaces(BOXES)]), statistics)


def test_statistics_of_the_old_gym_and_of_other_numpy_versions_are_read(tmp_path: Path) -> None:
    original: Any = _normalizer()
    original.observation_space = spaces.Box(-1, 1, (3,), seed=3)  # with the state of a generator
    raw = pickle.dumps(original, protocol=3)  # names stand as text lines
    assert b"cgymnasium.spaces" in raw
    raw = raw.replace(b"cgymnasium.spaces", b"cgym.spaces")
    for old, new in ((b"cnumpy._core.", b"cnumpy.core."), (b"cnumpy.core.", b"cnumpy._core.")):  # before 2, since 2
        (tmp_path / "old.pkl").write_bytes(raw.replace(old, new))
        statistics: Any = read_vecnormalize(tmp_path / "old.pkl")
        assert np.array_equal(statistics.obs.mean, original.obs_rms.mean)


@pytest.mark.parametrize("protocol", [3, 4])
def test_keys_in_a_set_as_in_sb3_1_1_are_read(protocol: int, tmp_path: Path) -> None:
    original: Any = _normalizer(BOXES)
    original.obs_keys = set(original.norm_obs_keys)
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(original, protocol=protocol))
    statistics: Any = read_vecnormalize(tmp_path / "old.pkl")
    assert statistics.obs.keys() == {"a", "b"}
    assert np.array_equal(statistics.obs["b"].mean, original.obs_rms["b"].mean)


@pytest.mark.parametrize(
    ("size", "gives", "advice"),
    [
        (111, 27, r"correspondence='positions'"),
        (9, 8, r"wrappers=\['sb3_contrib.common.wrappers:TimeFeatureWrapper'\]"),
        (3, 6, r"vec_wrappers=\['VecNormalize', .*VecFrameStack.*'n_stack': 2"),
        (6, 3, r"vec_wrappers=\[{.*VecFrameStack.*'n_stack': 2"),
    ],
)
def test_the_message_about_other_shapes_names_what_helps(size: int, gives: int, advice: str, tmp_path: Path) -> None:
    _normalizer(spaces.Box(-1, 1, (size,))).save(str(tmp_path / "vecnormalize.pkl"))
    with pytest.raises(AgentError, match=advice):
        apply_vecnormalize(
            DummyVecEnv([lambda: Spaces(spaces.Box(-1, 1, (gives,)))]), read_vecnormalize(tmp_path / "vecnormalize.pkl")
        )


@pytest.mark.parametrize("place", ["whole", "unused", "mean"])
def test_pickles_in_the_statistics_do_not_run(place: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    original: Any = _normalizer()
    if place == "unused":
        original.old_reward = Payload(marker)
    elif place == "mean":
        original.obs_rms.mean = Payload(marker)
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(pickle.dumps(Payload(marker) if place == "whole" else original))
    with pytest.raises(AgentError, match=r"it names 'pathlib.*hostile"):
        read_vecnormalize(path)
    agent = save(make(PPO), tmp_path)
    with pytest.raises(AgentError, match="it names 'pathlib"):
        load_agent(agent, env=Spaces())
    assert not marker.exists()


def _spoiled(change: Callable[[Any], None]) -> bytes:
    original = _normalizer()
    change(original)
    return pickle.dumps(original)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (lambda: b"", "damaged"),
        (lambda: pickle.dumps(_normalizer())[:-300], "damaged"),
        (lambda: pickle.dumps({"obs_rms": 1}), "expected a .VecNormalize, found dict"),
        (lambda: _spoiled(lambda venv: venv.obs_rms.mean.fill(np.nan)), "no finite statistics"),
        (lambda: _spoiled(lambda venv: venv.obs_rms.var.fill(-1)), "no finite statistics"),
        (lambda: _spoiled(lambda venv: setattr(venv.obs_rms, "mean", np.array([None, "x"], object))), "list, not of"),
        (lambda: _spoiled(lambda venv: setattr(venv, "epsilon", float("inf"))), "finite and positive"),
        (lambda: _spoiled(lambda venv: setattr(venv, "clip_obs", "wide")), "expected"),
        (lambda: b"\x80\x04Nr\xff\xff\xff\x7f.", "numbers an object"),
        (lambda: b"\x80\x04\x82\x01.", "registry of pickle extensions"),
        (lambda: b"\x80\x04\x8c\x01xQ.", "objects outside"),
    ],
)  # fmt: skip
def test_damaged_statistics_are_one_clear_error(raw: Callable[[], bytes], match: str, tmp_path: Path) -> None:
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(raw())
    with pytest.raises(AgentError, match=f"(?s)vecnormalize.pkl cannot be used.*({match})"):
        read_vecnormalize(path)


def test_missing_statistics_are_an_agent_error(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="No VecNormalize file"):
        read_vecnormalize(tmp_path / "vecnormalize.pkl")
