"""Agents at ``hf://...``, from a cache that is made here. The network is never used."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

huggingface_hub = pytest.importorskip("huggingface_hub")

from daft_rl.archives import find_agent  # noqa: E402
from daft_rl.errors import AgentError  # noqa: E402


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a download of ``someone/agents`` leaves behind."""
    snapshot = tmp_path / "models--someone--agents" / "snapshots" / ("0" * 40)
    (snapshot / "ppo").mkdir(parents=True)
    (snapshot / "ppo" / "agent.zip").write_bytes(b"an archive")
    (snapshot / "ppo" / "vecnormalize.pkl").write_bytes(b"statistics")
    (snapshot.parent / "outside.zip").write_bytes(b"somebody else's")
    refs = tmp_path / "models--someone--agents" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_an_agent_in_the_cache_is_found(cache: Path) -> None:
    found = find_agent("Ant", "ppo", "hf://someone/agents/ppo/agent.zip")
    assert found.read_bytes() == b"an archive"
    assert found.with_name("vecnormalize.pkl").is_file()  # it lies where load_agent looks for it
    assert cache in found.parents


def test_no_more_than_what_belongs_to_an_agent_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns: list[str] = []

    def download(repository: str, allow_patterns: list[str]) -> str:
        patterns.extend(allow_patterns)
        return str(cache / "models--someone--agents" / "snapshots" / ("0" * 40))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    find_agent("Ant", "ppo", "hf://someone/agents/ppo/agent.zip")

    def fetched(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns)

    side_files = (
        "agent_vecnormalize.pkl",
        "vec_normalize.pkl",
        "rl_model_vecnormalize_1000_steps.pkl",
        "constraint.json",
    )
    assert all(fetched(f"ppo/{name}") for name in ("agent.zip", *side_files))
    assert not any(fetched(f"ppo/{name}") for name in ("replay_buffer.pkl", "other.zip", "train.py"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://someone/else/agent.zip", "neither be fetched"),
        ("hf://someone/agents/nope.zip", "no file 'nope.zip'"),
        ("hf://someone/agents", "hf://ORG/REPO/FILE.zip"),
        ("hf://agent.zip", "hf://ORG/REPO/FILE.zip"),
        ("hf://someone/agents/../../../outside.zip", "inside of the repository"),
        ("hf://someone/agents/ppo/../../outside.zip", "inside of the repository"),
        ("hf://someone/agents//outside.zip", "inside of the repository"),
        ("hf://someone/agents/*.zip", "inside of the repository"),
        ("hf://someone/agents/ppo/[a-z]gent.zip", "inside of the repository"),
    ],
)
def test_a_wrong_address_is_explained(cache: Path, address: str, message: str) -> None:
    with pytest.raises(AgentError, match=message):
        find_agent("Ant", "ppo", address)


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(AgentError, match=r"daft-rl\[hub\]"):
        find_agent("Ant", "ppo", "hf://someone/agents/ppo/agent.zip")
