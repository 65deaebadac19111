"""Digests of settings and files, by which runs are told apart and compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daft_rl.cli import plain

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["digest", "digest_agent", "digest_method", "digest_settings"]

IRRELEVANT = {
    *("benchmark", "output_dir", "progress_bar", "render", "render_steps"),
    *("device", "vec", "torch_threads", "evaluate_beside"),
}
"""Settings that returns do not depend on, or not on purpose."""


def digest(data: Any) -> str:
    """
    :param data: plain data
    :return: 16 hexadecimal digits
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def digest_agent(archive: Path) -> list[str]:
    """Of an archive's bytes, and of the normalization that belongs to it."""
    from daft_rl.archives import find_vecnormalize

    files = (archive, find_vecnormalize(archive))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path is not None]


LATER = {"realign": None}
"""Settings of a method that came after results were kept, and what stands for doing without."""


def _known_before(method: dict[str, Any]) -> dict[str, Any]:
    """What results from before a setting came are told apart by."""
    return {key: value for key, value in method.items() if key not in LATER or value != LATER[key]}


def digest_method(method: dict[str, Any]) -> str:
    """Of a method's settings, the same whether they name what came later or not.

    :param method: plain data
    """
    return digest(_known_before(method))


def digest_settings(cfg: DictConfig, without: tuple[str, ...] = ()) -> str:
    """Of all settings that returns depend on.

    :param cfg: the composed configuration of a run
    :param without: further settings to leave out
    """
    settings = {str(key): plain(cfg[key]) for key in cfg if key not in IRRELEVANT and key not in without}
    if "method" in settings:
        settings["method"] = _known_before(settings["method"])
    return digest(settings)
