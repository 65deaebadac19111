"""Digests of settings and files, by which runs are told apart and compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daft_rl.cli import plain

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["digest", "digest_agent", "digest_settings"]

IRRELEVANT = {"benchmark", "output_dir", "progress_bar", "render", "render_steps", "device", "vec", "torch_threads"}
"""Settings that returns do not depend on, or not on purpose."""


def digest(data: Any) -> str:
    """
    :param data: plain data
    :return: 16 hexadecimal digits
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def digest_agent(archive: Path) -> list[str]:
    """Of an archive's bytes, and of the normalization that belongs to it."""
    from daft_rl.vecnormalize import find_vecnormalize

    files = (archive, find_vecnormalize(archive))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path is not None]


def digest_settings(cfg: DictConfig, without: tuple[str, ...] = ()) -> str:
    """Of all settings that returns depend on.

    :param cfg: the composed configuration of a run
    :param without: further settings to leave out
    """
    return digest({str(key): plain(cfg[key]) for key in cfg if key not in IRRELEVANT and key not in without})
