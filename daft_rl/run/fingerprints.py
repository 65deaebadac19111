"""Short hashes of settings and files, by which runs are told apart and compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daft_rl.method import Method, find_method
from daft_rl.settings import RunSettings

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

__all__ = [
    "IRRELEVANT",
    "fingerprint",
    "fingerprint_agent",
    "fingerprint_method",
    "fingerprint_settings",
    "fingerprint_weights",
]

IRRELEVANT = {
    *("output_dir", "overwrite", "checkpoint", "tensorboard", "progress_bar", "render", "render_steps"),
    *("device", "vec", "torch_threads", "kernels", "evaluate_in_background", "step_timeout"),
}
"""Settings that returns do not depend on, or not on purpose."""

LATER: dict[str, Any] = {
    "realign": None,
    "keep_source": False,
    "adaptive_kl": None,
    "vecnormalize": "auto",
    "norm_reward": "auto",
    "vec_wrappers": [],
    "race": None,
    "correspondence": "auto",
    "without": [],
    "horizon": 500,
}
"""Settings that came after results were published, and the values that change nothing."""


def fingerprint(data: Any) -> str:
    """
    :param data: plain data
    :return: 16 hexadecimal digits
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint_agent(archive: Path, vecnormalize: str = "auto") -> list[str]:
    """Of an archive's bytes, and of the normalization that belongs to it.

    :param vecnormalize: where its statistics are, see :func:`~daft_rl.archives.find_vecnormalize`
    """
    from daft_rl.archives import find_vecnormalize

    files = (archive, find_vecnormalize(archive, vecnormalize))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path is not None]


def fingerprint_weights(agent: BaseAlgorithm) -> str:
    """Of the weights of an agent in memory."""
    digest = hashlib.sha256()
    for name, tensor in agent.policy.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _published(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that change nothing and that earlier results do not have."""
    if settings.get("realign") is None:
        settings = settings | {"keep_source": False}
    kept = {key: value for key, value in settings.items() if key not in LATER or value != LATER[key]}
    if kept.get("race") is not None:
        arms = [_published(find_method(arm).as_dict()) for arm in kept["race"]["arms"]]
        kept["race"] = {**kept["race"], "arms": arms}
    return kept


def fingerprint_method(method: Method) -> str:
    """Of a method's settings; results from before a setting was added have the same."""
    return fingerprint(_published(method.as_dict()))


def fingerprint_settings(settings: RunSettings, without: tuple[str, ...] = ()) -> str:
    """Of all settings that returns depend on.

    :param without: further settings to leave out
    """
    relevant = {key: value for key, value in settings.as_dict().items() if key not in IRRELEVANT | {*without}}
    relevant["env"] = {key: value for key, value in relevant["env"].items() if key not in IRRELEVANT}
    for group in {"method", "algo", "agent", "env"} & relevant.keys():
        relevant[group] = _published(relevant[group])
    if isinstance(relevant["env"]["shift"], dict):
        relevant["env"]["shift"] = _published(relevant["env"]["shift"])
    return fingerprint(relevant)
