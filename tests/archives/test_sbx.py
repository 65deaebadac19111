"""Archives of sbx are recognized: their networks are JAX arrays in a pickle, and no tensors of PyTorch."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from stable_baselines3 import SAC

import daft_rl
from daft_rl.errors import AgentError
from tests.archives.helpers import Spaces, make, members, save, write

README = Path(__file__).parents[2] / "docs" / "policies.md"


def test_an_agent_of_sbx_is_refused_in_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    """The members and classes are those that sbx 0.28 writes."""
    content = members(save(make(SAC), tmp_path))
    data = json.loads(content["data"])
    blob = base64.b64encode(b"csbx.sac.policies\nSACPolicy\n.").decode()
    data["policy_class"] |= {"__module__": "sbx.sac.policies", ":serialized:": blob}
    for name, cls in (("policy", "sac.policies.SACPolicy"), ("actor", "common.policies.SquashedGaussianActor")):
        data[name] = {":type:": f"<class 'sbx.{cls}'>", ":serialized:": blob}
    kept = {name: content[name] for name in ("pytorch_variables.pth", "_stable_baselines3_version", "system_info.txt")}
    path = write(tmp_path / "sbx.zip", {"data": json.dumps(data).encode(), **kept})
    for load in (
        lambda: daft_rl.load_agent(path),
        lambda: daft_rl.load_agent(path, algo="SAC", trust=True),
        lambda: daft_rl.transfer(Spaces, "daft", source=path, output_dir=tmp_path / "run"),
    ):
        with pytest.raises(
            AgentError, match=r"agent of sbx.*copy its weights.*docs/policies\.md, Agents of sbx"
        ) as told:
            load()
        assert "\n" not in str(told.value)
    assert "## Agents of sbx\n" in README.read_text("utf-8")
