"""``trust=True`` is a way out: SB3 loads what cannot be read without running code, or a message says what it lacks."""

from __future__ import annotations

import base64
import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC

from daft_rl.archives import load_agent
from daft_rl.errors import AgentError
from tests.archives.helpers import CHOICE, Spaces, assert_same, edit, make, members, save, write
from tests.archives.test_load import MyActivation

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]
EXECUTES = pytest.mark.filterwarnings("ignore:trust=True")


def test_trust_loads_with_sb3_and_warns(tmp_path: Path) -> None:
    model = make(PPO, policy_kwargs={"net_arch": [6], "activation_fn": MyActivation})
    path = save(model, tmp_path)
    with pytest.warns(UserWarning, match="executes whatever code"):
        loaded: Any = load_agent(path, trust=True, env=Spaces(), gamma=0.5)
    assert_same(model, loaded)
    assert loaded.gamma == 0.5
    edit(path, lambda data: data["policy_kwargs"].update({":serialized:": "AAAA"}))
    with pytest.warns(UserWarning, match="executes"), pytest.raises(AgentError, match="cannot be loaded by SB3"):
        load_agent(path, trust=True)


@EXECUTES
def test_with_the_algorithm_sb3_alone_reads_the_file(tmp_path: Path) -> None:
    model = make(PPO)
    path = edit(save(model, tmp_path), lambda data: data.update(notes=[0] * 600_000))
    with pytest.raises(AgentError, match=r"'data' has \d+ items.*With algo="):
        load_agent(path, trust=True)
    assert_same(model, load_agent(path, trust=True, algo="PPO"))


@EXECUTES
def test_sb3s_own_loader_reads_no_more_than_tensors_either(tmp_path: Path) -> None:
    path = save(make(PPO), tmp_path)
    buffer = io.BytesIO()
    torch.save({"made by": MyActivation()}, buffer)
    write(path, {**members(path), "extra.pth": buffer.getvalue()})
    with pytest.raises(AgentError, match=r"extra\.pth.*Download or save") as told:
        load_agent(path, trust=True)
    assert told.value.arguments == ()
    with pytest.raises(AgentError, match=r"cannot be loaded by SB3.*weights_only"):
        load_agent(path, trust=True, algo="PPO")


@EXECUTES
@pytest.mark.parametrize("kind", [PPO, SAC, DQN])
def test_spaces_of_the_old_gym_are_read_as_those_of_gymnasium(kind: Any, tmp_path: Path) -> None:
    model = make(kind, action_space=CHOICE) if kind is DQN else make(kind)
    path = save(model, tmp_path)

    def age(data: dict[str, Any]) -> None:
        for key in ("observation_space", "action_space"):
            raw = base64.b64decode(data[key][":serialized:"])
            old = raw.replace(b"\x8c\x14gymnasium.spaces.box", b"\x8c\x0egym.spaces.box")
            old = old.replace(b"\x8c\x19gymnasium.spaces.discrete", b"\x8c\x13gym.spaces.discrete")
            assert old != raw
            data[key][":serialized:"] = base64.b64encode(_without_frames(old)).decode()

    edit(path, age)
    with pytest.raises(ModuleNotFoundError):
        kind.load(path)
    assert_same(model, load_agent(path, trust=True))
    assert not any(name == "gym" or name.startswith("gym.") for name in sys.modules)


def _without_frames(raw: bytes) -> bytes:
    """A pickle whose frame does not say how long it is, so that its content may change."""
    assert raw[2:3] == b"\x95"
    return raw[:2] + raw[11:]


@EXECUTES
def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("packed_away.nets")
    module.Activation = type("Activation", (MyActivation,), {"__module__": "packed_away.nets"})
    monkeypatch.setitem(sys.modules, "packed_away", types.ModuleType("packed_away"))
    monkeypatch.setitem(sys.modules, "packed_away.nets", module)
    model = make(PPO, policy_kwargs={"net_arch": [6], "activation_fn": module.Activation})
    path = save(model, tmp_path)
    monkeypatch.undo()
    with pytest.raises(AgentError, match=r"objects of 'packed_away'.*Install the package 'packed_away'"):
        load_agent(path, trust=True)
    assert_same(model, load_agent(path, activation=MyActivation))  # the other way out that the message names


@EXECUTES
def test_arrays_of_another_numpy_are_read(tmp_path: Path) -> None:
    old, new = ("core", "_core") if int(np.__version__.split(".")[0]) < 2 else ("_core", "core")
    model = make(PPO)
    path = save(model, tmp_path)
    content = f"cnumpy.{new}.numeric\nones\n(K\x03tR."
    edit(
        path,
        lambda data: data.update(extra={":type:": "", ":serialized:": base64.b64encode(content.encode()).decode()}),
    )
    loaded: Any = load_agent(path, trust=True)
    assert loaded.extra.tolist() == [1, 1, 1]
    assert f"numpy.{old}.numeric" in sys.modules


@EXECUTES
def test_bounds_of_observations_may_differ(tmp_path: Path) -> None:
    model = make(PPO)
    path = save(model, tmp_path)
    assert_same(model, load_agent(path, trust=True, env=Spaces(spaces.Box(-5, 5, (3,), np.float32))))
    with pytest.raises(AgentError, match=r"action space.*RescaleAction"):
        load_agent(path, trust=True, env=Spaces(action_space=spaces.Box(-1, 1, (2,))))


def test_what_sb3s_loader_lacks_is_refused(tmp_path: Path) -> None:
    path = save(make(PPO), tmp_path)
    for arguments in ({"activation": "ReLU"}, {"correspondence": "positions"}):
        with pytest.raises(AgentError, match="need trust=False"):
            load_agent(path, trust=True, **arguments)  # type: ignore[arg-type]
