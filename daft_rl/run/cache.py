"""Zero-shot returns that the runs of a grid share: what a source does in a domain does not depend on method or seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.cli import plain
from daft_rl.envs.domain import Domain
from daft_rl.files import write_json
from daft_rl.rollout.evaluation import Returns
from daft_rl.run.fingerprints import digest, digest_agent

__all__ = ["recall"]


def recall(
    folder: Path | None,
    cfg: DictConfig,
    agent: Path | BaseAlgorithm,
    domains: Mapping[str, Domain],
    play: Callable[[Mapping[str, Domain]], Mapping[str, Returns]],
) -> dict[str, Returns]:
    """Returns that another run has played in the same circumstances; the others are played, and kept for the next.

    :param folder: of the grid; ``None`` plays everywhere
    :param cfg: the configuration of the run
    :param agent: the source; only archives are recalled
    :param domains: role -> where it plays
    :param play: plays in some of them
    :return: role -> returns
    """
    if folder is None or not isinstance(agent, Path):
        return dict(play(domains))
    returns = {}
    for role, domain in domains.items():
        about = _circumstances(cfg, agent, domain)
        path = folder / f"{digest(about)}.json"
        with suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
            returns[role] = Returns.from_dict(json.loads(path.read_text("utf-8"))["returns"])
            continue
        returns |= play({role: domain})  # alone: how many play together may change the last bits
        write_json(path, {"about": about, "returns": returns[role].as_dict()})
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
