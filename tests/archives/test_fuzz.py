"""Whatever happens to an agent's files, loading gives the agent or raises :class:`AgentError`."""

from __future__ import annotations

import base64
import io
import json
import pickle
import tempfile
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from daft_rl.archives import load_agent, read_vecnormalize
from daft_rl.archives.hyperparameters import constructor_arguments
from daft_rl.errors import AgentError

SPACE = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(2)})


class Still(gym.Env):
    """Has spaces, never moves."""

    observation_space: spaces.Space[Any] = SPACE
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def _archives() -> list[dict[str, bytes]]:
    """Members of two tiny archives that between them have every kind of entry."""
    found = []
    for model in (
        PPO("MultiInputPolicy", Still(), n_steps=4, batch_size=4, policy_kwargs={"net_arch": [3]}, device="cpu"),
        SAC(
            "MultiInputPolicy",
            Still(),
            buffer_size=9,
            learning_starts=2,
            use_sde=True,
            policy_kwargs={"net_arch": [3], "n_critics": 1},
            device="cpu",
        ),
    ):
        buffer = io.BytesIO()
        model.learn(4).save(buffer)
        with zipfile.ZipFile(buffer) as archive:
            found.append({name: archive.read(name) for name in archive.namelist()})
    return found


ARCHIVES = _archives()
READ = {"policy_class", "policy_kwargs", "observation_space", "action_space", "lr_schedule", "exploration_rate"}
READ |= set(constructor_arguments(PPO)) | set(constructor_arguments(SAC))
FUZZ = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
archives = st.sampled_from(ARCHIVES)
edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)
words = st.sampled_from(
    ["...", "[1. 2.]", "[inf ... 1]", "<class 'torch.nn.modules.activation.ReLU'>", "<class 'os.system'>", "float32",
     "Box(-inf, inf, (3,), float32)", "{'a': Discrete(2)}", "<class 'gymnasium.spaces.box.Box'>", ":type:", "auto_0"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | words | st.just(10**12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | words, inner, max_size=3),
    max_leaves=6,
)


def mutate(raw: bytes, changes: list[tuple[float, int]]) -> bytes:
    """Set some bytes, at places given as fractions of the length."""
    changed = bytearray(raw)
    for place, value in changes if raw else []:
        changed[int(place * len(changed))] = value
    return bytes(changed)


def survive(raw: bytes) -> None:
    """Load an archive given as bytes, with and without an environment."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "agent.zip"
        path.write_bytes(raw)
        for env in (None, Still()):
            with suppress(AgentError):
                load_agent(path, env=env, device="cpu")
        assert [file.name for file in Path(folder).iterdir()] == ["agent.zip"]


def pack(content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, raw in content.items():
            archive.writestr(name, raw)
    return buffer.getvalue()


def test_unchanged_archives_load(tmp_path: Path) -> None:
    for content in ARCHIVES:
        (tmp_path / "agent.zip").write_bytes(pack(content))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_agent(tmp_path / "agent.zip", env=Still(), device="cpu")


@FUZZ
@given(archives, edits, st.floats(0, 1), st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_changed_bytes_of_the_archive_raise_nothing_else(
    content: dict[str, bytes], changes: Any, end: float, method: int
) -> None:
    raw = mutate(pack(content, method), changes)
    survive(raw[: int(len(raw) * end)] if end < 0.5 else raw)


@FUZZ
@given(archives, edits, st.floats(0, 1), st.data())
def test_changed_bytes_of_a_member_raise_nothing_else(
    content: dict[str, bytes], changes: Any, end: float, data: st.DataObject
) -> None:
    """The outer zip is sound, so the damage reaches the readers of tensors and JSON."""
    name = data.draw(st.sampled_from(sorted(content)))
    raw = mutate(content[name], changes)
    survive(pack({**content, name: raw[: int(len(raw) * end)] if end < 0.3 else raw}))


@FUZZ
@given(archives, edits, st.sampled_from(["policy.pth", "pytorch_variables.pth"]), st.data())
def test_changed_bytes_of_pickled_tensors_raise_nothing_else(
    content: dict[str, bytes], changes: Any, member: str, data: st.DataObject
) -> None:
    """Both zips are sound, so the damage reaches PyTorch's own unpickler."""
    with zipfile.ZipFile(io.BytesIO(content[member])) as inner:
        parts = {name: inner.read(name) for name in inner.namelist()}
    name = data.draw(st.sampled_from(sorted(parts)))
    survive(pack({**content, member: pack({**parts, name: mutate(parts[name], changes)})}))


@FUZZ
@given(archives, edits, st.floats(0, 1), st.data())
def test_changed_bytes_of_the_older_format_raise_nothing_else(
    content: dict[str, bytes], changes: Any, end: float, data: st.DataObject
) -> None:
    """PyTorch before 1.6; most of such a file is pickles."""
    name = data.draw(st.sampled_from(sorted(name for name in content if name.endswith(".pth"))))
    buffer = io.BytesIO()
    value = torch.load(io.BytesIO(content[name]), weights_only=True)
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    raw = mutate(buffer.getvalue(), changes)
    survive(pack({**content, name: raw[: int(len(raw) * end)] if end < 0.3 else raw}))


@FUZZ
@given(archives, st.data())
def test_dropped_and_swapped_members_raise_nothing_else(content: dict[str, bytes], data: st.DataObject) -> None:
    kept = data.draw(st.sets(st.sampled_from(sorted(content)), min_size=2))
    changed = {name: content[name] for name in kept}
    one, other = data.draw(st.sampled_from(sorted(kept))), data.draw(st.sampled_from(sorted(kept)))
    changed[one], changed[other] = changed[other], changed[one]
    survive(pack(changed))


@settings(FUZZ, max_examples=15)
@given(archives, st.data())
def test_changed_attributes_raise_nothing_else(content: dict[str, bytes], data: st.DataObject) -> None:
    attributes = json.loads(content["data"])
    for _ in range(data.draw(st.integers(1, 3))):
        target = attributes
        key = data.draw(st.sampled_from(sorted(READ & set(target)) or sorted(target)))
        if isinstance(target[key], dict) and target[key] and data.draw(st.integers(0, 3)):
            target = target[key]
            key = data.draw(st.sampled_from(sorted(target)))
        if data.draw(st.integers(0, 4)):
            target[key] = data.draw(values)
        else:
            del target[key]
    survive(pack({**content, "data": json.dumps(attributes).encode()}))


@pytest.fixture(scope="module")
def statistics() -> bytes:
    class Vector(Still):
        observation_space = spaces.Box(-1, 1, (3,))

    venv = VecNormalize(DummyVecEnv([Vector]))
    venv.reset()
    return pickle.dumps(venv)


@settings(FUZZ, max_examples=150, suppress_health_check=list(HealthCheck))
@given(edits, st.floats(0, 1))
def test_changed_bytes_of_the_statistics_raise_nothing_else(statistics: bytes, changes: Any, end: float) -> None:
    raw = mutate(statistics, changes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vecnormalize.pkl"
        path.write_bytes(raw[: int(len(raw) * end)] if end < 0.3 else raw)
        with suppress(AgentError):
            assert np.isfinite(read_vecnormalize(path).ret.var).all()


@FUZZ
@given(st.binary(max_size=200), st.sampled_from(sorted(ARCHIVES[0])))
def test_random_bytes_raise_nothing_else(noise: bytes, member: str) -> None:
    survive(noise)
    survive(pack({**ARCHIVES[0], member: noise}))
    survive(
        pack(
            {**ARCHIVES[0], "policy.pth": pack({"archive/data.pkl": noise, "archive/data/0": base64.b64encode(noise)})}
        )
    )
