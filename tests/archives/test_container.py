"""What an archive holds, and one clear error for each kind of damage."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sb3_contrib import TQC
from stable_baselines3 import PPO

from daft_rl.archives import load_agent, read_archive
from daft_rl.errors import AgentError
from tests.archives.helpers import ACTION, VECTOR, edit, make, members, save, write

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot be read without running code"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]


def test_contents_are_read_without_the_pickles(tmp_path: Path) -> None:
    contents = read_archive(save(make(TQC, gamma=0.9), tmp_path))
    assert contents.algorithm == "TQC"
    assert contents.hyperparameters["gamma"] == 0.9
    assert contents.hyperparameters["train_freq"] == (1, "step")
    assert not contents.unreadable
    assert contents.observation_space == VECTOR
    assert contents.action_space == ACTION
    assert contents.policy_kwargs == {"net_arch": [6], "use_sde": False}
    assert set(contents.state_dicts) == {"policy", "actor.optimizer", "critic.optimizer", "ent_coef_optimizer"}
    assert contents.variables.keys() == {"log_ent_coef"}
    assert contents.sb3_version.startswith("2.")
    assert not any(":serialized:" in str(value) for value in contents.attributes.values())


def test_a_missing_file_is_an_agent_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.zip", tmp_path, "bad\0name"):
        with pytest.raises(AgentError):
            load_agent(path)


def _replace(member: str, raw: bytes) -> Callable[[Path], Any]:
    return lambda path: write(path, {**members(path), member: raw})


def _without(member: str) -> Callable[[Path], Any]:
    return lambda path: write(path, {name: raw for name, raw in members(path).items() if name != member})


def _tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Path], Any]:
    def spoil(state: dict[str, Any]) -> None:
        value = change(state.pop(name))
        if value is not None:
            state[name] = value

    return lambda path: edit(path, spoil, "policy.pth")


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def _truncate_member(path: Path) -> None:
    content = members(path)
    write(path, {**content, "policy.pth": content["policy.pth"][:-600]})


def _truncate_tensor(path: Path) -> None:
    """A tensor whose bytes end early inside a sound zip: reading on would leave its memory."""
    content = members(path)
    inner = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content["policy.pth"])) as old, zipfile.ZipFile(inner, "w") as new:
        for name in old.namelist():
            raw = old.read(name)
            new.writestr(name, raw[:4] if name.endswith("data/1") else raw)
    write(path, {**content, "policy.pth": inner.getvalue()})


def _compress_tensors(path: Path) -> None:
    content = members(path)
    inner = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content["policy.pth"])) as old,
        zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    write(path, {**content, "policy.pth": inner.getvalue()})


def _duplicate(path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("policy.pth", b"")


def _lie_about_size(path: Path) -> None:
    """The directory claims 4 GB for a member of a few bytes."""
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02", 0, raw.rindex(b"policy.pth"))
    raw[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(raw)


def _encrypt(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    directory = int.from_bytes(raw[-6:-2], "little")  # the first bytes "PK.." of one may be a tensor's
    raw[directory + 8] |= 1
    path.write_bytes(raw)


WEIGHT = "mlp_extractor.policy_net.0.weight"

DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (_bytes(lambda raw: b""), "cannot be read as an archive"),
    "text": (_bytes(lambda raw: b"not a zip" * 99), "cannot be read as an archive"),
    "cut": (_bytes(lambda raw: raw[: len(raw) // 2]), "cannot be read as an archive"),
    "flipped": (_bytes(lambda raw: raw.replace(b"policy_kwargs", b"policy_kwarks")), "Bad CRC"),
    "no data": (_without("data"), "has no 'data'"),
    "no weights": (_without("policy.pth"), "has no 'policy.pth'"),
    "json": (_replace("data", b'{"a": '), "JSON in 'data' is damaged"),
    "deep json": (_replace("data", b'{"a":' * 100_000), "JSON in 'data' is damaged"),
    "list": (_replace("data", b"[1, 2]"), "should be a JSON object"),
    "empty json": (_replace("data", b"{}"), "not recognizable as an agent"),
    "binary json": (_replace("data", b"\xff\xfe\x00"), "JSON in 'data' is damaged"),
    "no spaces": (lambda path: edit(path, lambda data: data.pop("action_space")), "does not tell its action space"),
    "no policy_kwargs": (lambda path: edit(path, lambda data: data.pop("policy_kwargs")), "Pass policy_kwargs="),
    "odd policy_kwargs": (
        lambda path: edit(path, lambda data: data["policy_kwargs"].update(log_std_init="big")),
        r"log_std_init='big'.*a float",
    ),
    "unknown policy_kwargs": (
        lambda path: edit(path, lambda data: data["policy_kwargs"].update(magic=1)),
        r"magic='1'.*Pass policy_kwargs=\{'magic'",
    ),
    "other space": (
        lambda path: edit(path, lambda data: data["observation_space"].update(_shape=[1], low="[0.]", high="[1.]")),
        "takes 3 inputs",
    ),
    "truncated member": (_truncate_member, "policy.pth' is damaged"),
    "truncated tensor": (_truncate_tensor, "policy.pth' is damaged"),
    "compressed tensors": (_compress_tensors, "is compressed"),
    "a list of tensors": (_replace("policy.pth", b"PK\x05\x06" + bytes(18)), "policy.pth' is damaged"),
    "nan": (_tensor(WEIGHT, lambda tensor: tensor * float("nan")), "NaN or infinite"),
    "inf": (_tensor(WEIGHT, lambda tensor: tensor / 0), "NaN or infinite"),
    "huge view": (_tensor(WEIGHT, lambda tensor: torch.ones(1).expand(10**13)), "too few numbers"),
    "complex": (_tensor(WEIGHT, lambda tensor: tensor.to(torch.complex64)), "dense real tensor"),
    "sparse": (_tensor(WEIGHT, lambda tensor: tensor.to_sparse()), "dense real tensor|damaged"),
    "integers": (_tensor("log_std", lambda tensor: tensor.long()), "'log_std' is .*int64"),
    "missing tensor": (_tensor("value_net.bias", lambda tensor: None), "'value_net.bias' is missing"),
    "other shape": (_tensor("log_std", lambda tensor: tensor[:1]), r"'log_std' is \(1,\).*\(2,\)"),
    "other width": (_tensor(WEIGHT, lambda tensor: tensor[:, :2]), "takes 2 inputs"),
    "no layers": (_tensor("action_net.weight", lambda tensor: tensor[0]), "takes 3 inputs and gives 6 outputs"),
    "extra tensor": (
        lambda path: edit(path, lambda state: state.update(trap=torch.ones(1)), "policy.pth"),
        "'trap' is not expected",
    ),
    "text among tensors": (
        lambda path: edit(path, lambda state: state.update(trap="text"), "policy.pth"),
        "should be a tensor, got str",
    ),
    "bomb": (lambda path: write(path, {**members(path), "x": bytes(10**7)}, zipfile.ZIP_DEFLATED), "zip bomb"),
    "many members": (
        lambda path: write(path, {**members(path), **{str(index): b"" for index in range(300)}}),
        "at most 256 members",
    ),
    "claimed size": (_lie_about_size, "zip bomb|bytes unpacked"),
    "parent folder": (_replace("../../evil.pth", b""), "points outside"),
    "absolute": (_replace("/etc/evil.pth", b""), "points outside"),
    "windows": (_replace("C:\\evil.pth", b""), "points outside"),
    "twice": (_duplicate, "two members are called 'policy.pth'"),
    "encrypted": (_encrypt, "is encrypted"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save(make(PPO), tmp_path_factory.mktemp("sound")).read_bytes()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_error(damage: str, sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    path.write_bytes(sound)
    spoil, match = DAMAGE[damage]
    spoil(path)
    with pytest.raises(AgentError, match=match):
        load_agent(path, device="cpu")
    assert [file.name for file in tmp_path.iterdir()] == ["agent.zip"]
