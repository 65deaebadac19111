"""Zero-shot returns that the runs of a grid share: what a source does in a domain does not depend on method or seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.cli import plain
from daft_rl.digest import digest, digest_agent
from daft_rl.envs.domains import Domain
from daft_rl.evaluation import Returns
from daft_rl.results import write_json

__all__ = ["recall"]


def recall(
    folder: Path | None, cfg: DictConfig, agent: Path | BaseAlgorithm, domain: Domain, play: Callable[[], Returns]
) -> Returns:
    """Returns that another run has played in the same circumstances, or play now and keep them for the next.

    :param folder: of the grid; ``None`` plays
    :param cfg: the configuration of the run
    :param agent: the source; only archives are recalled
    :param domain: where it plays
    :param play: plays
    """
    if folder is None or not isinstance(agent, Path):
        return play()
    about = _circumstances(cfg, agent, domain)
    path = folder / f"{digest(about)}.json"
    with suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
        return Returns.from_dict(json.loads(path.read_text("utf-8"))["returns"])
    returns = play()
    write_json(path, {"about": about, "returns": returns.as_dict()})
    return returns


def _circumstances(cfg: DictConfig, agent: Path, domain: Domain) -> dict[str, Any]:
    """All that the returns of a source depend on, down to the last bit on one machine."""
    return {
        "agent": digest_agent(agent),
        "read_with": plain(cfg.agent) | {"path": None},
        "algo": cfg.algo["class"],
        "domain": [domain.name, domain.changes],
        "episodes": [cfg.evaluation.episodes, cfg.evaluation.episodes_during, cfg.evaluation.seed],
        "computed": [cfg.vec, cfg.device, cfg.torch_threads],
        "seed": cfg.seed if cfg.agent.adapt_spaces else None,  # new entries' weights start at random
    }
