"""Nothing that is pickled in an archive is executed."""

from __future__ import annotations

import base64
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.archives import load_agent, read_archive
from daft_rl.errors import AgentError
from tests.archives.helpers import Payload, Spaces, assert_same, edit, make, members, save, write

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_pickles_in_the_attributes_do_not_run(kind: type[BaseAlgorithm], tmp_path: Path) -> None:
    model = make(kind, learning_rate=lambda progress: 1e-3)
    path, marker = save(model, tmp_path), tmp_path / "ran"
    blob = base64.b64encode(pickle.dumps(Payload(marker))).decode()

    def poison(data: dict[str, Any]) -> None:
        for key, value in data.items():
            data[key] = {**value, ":serialized:": blob} if isinstance(value, dict) else value
        data["replay"] = {":type:": "<class 'x'>", ":serialized:": blob}

    edit(path, poison)
    assert_same(model, load_agent(path, device="cpu"))
    assert_same(model, load_agent(path, env=Spaces(), device="cpu"))
    read_archive(path)
    assert not marker.exists()
    with pytest.warns(UserWarning, match="executes"), pytest.raises(AgentError):
        load_agent(path, trust=True)
    assert marker.exists(), "the payload would have worked"


@pytest.mark.parametrize(
    "member", ["policy.pth", "actor.optimizer.pth", "pytorch_variables.pth", "tensors.pth", "extra.pth"]
)
@pytest.mark.parametrize("form", ["pickle", "torch", "legacy"])
def test_pickles_among_the_tensors_do_not_run(member: str, form: str, tmp_path: Path) -> None:
    path, marker = save(make(SAC), tmp_path), tmp_path / "ran"
    buffer = io.BytesIO()
    if form == "pickle":
        pickle.dump(Payload(marker), buffer)
    else:
        torch.save({"a": Payload(marker)}, buffer, _use_new_zipfile_serialization=form == "torch")
    write(path, {**members(path), member: buffer.getvalue()})
    with pytest.raises(
        AgentError,
        match=rf"'{member}' is damaged, or holds something other than tensors.*Download or save the file again",
    ):
        load_agent(path)
    assert not marker.exists()
