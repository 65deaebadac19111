"""What tells a run from another of the same folder: ``run.json``."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.errors import DaftWarning
from daft_rl.files import write_json
from daft_rl.run.fingerprints import fingerprint_agent, fingerprint_settings, fingerprint_weights
from daft_rl.run.results import machine
from daft_rl.settings import RunSettings

__all__ = ["IDENTITY_FILE", "Identity", "KeptIdentity"]

IDENTITY_FILE = "run.json"


@dataclass(frozen=True)
class Identity:
    """What tells a run from another of the same settings."""

    agent: Path | None = None
    """The archive of the source, if it is one."""
    agent_fingerprint: tuple[str, ...] = ()
    """Of the source."""
    command: tuple[str, ...] = ()
    """What was given on the command line."""

    @classmethod
    def of(cls, agent: Path | BaseAlgorithm, command: tuple[str, ...] = (), vecnormalize: str = "auto") -> Identity:
        """The identity of a transfer of this agent.

        :param vecnormalize: where its statistics are, see :func:`~daft_rl.archives.find_vecnormalize`
        """
        if isinstance(agent, Path):
            return cls(agent, tuple(fingerprint_agent(agent, vecnormalize)), command)
        return cls(None, (fingerprint_weights(agent),), command)

    def write(self, folder: Path, settings: RunSettings) -> None:
        """Write ``run.json``, with a fingerprint of the settings, and the machine."""
        kept = {
            "agent": list(self.agent_fingerprint),
            "command": list(self.command),
            "settings": fingerprint_settings(settings),
            "machine": machine(),
        }
        write_json(folder / IDENTITY_FILE, kept)


class KeptIdentity:
    """What ``run.json`` tells of the run that a folder holds; a damaged file tells nothing.

    :param folder: of a run
    """

    def __init__(self, folder: Path) -> None:
        found: Any = None
        with suppress(OSError, ValueError):
            found = json.loads((folder / IDENTITY_FILE).read_text("utf-8"))
        self._kept: dict[str, Any] = found if isinstance(found, dict) else {}

    def is_of_agent(self, identity: Identity) -> bool:
        """Whether that run has the same source."""
        return bool(self._kept.get("agent") == list(identity.agent_fingerprint))

    def is_of_settings(self, settings: RunSettings) -> bool:
        """Whether that run began with these settings, whatever its ``config.yaml`` says now."""
        return self._kept.get("settings") in (None, fingerprint_settings(settings))

    def warn_of_another_machine(self) -> None:
        """Warn if that run began on another processor, or with other versions of packages."""
        now, before = _flat(machine()), _flat(self._kept.get("machine"))
        others = [name for name in before if name != "cores" and before[name] != now.get(name)]
        if others:
            message = f"The run began with another {', '.join(others)}. Its results may differ from one not stopped."
            warnings.warn(DaftWarning(message), stacklevel=2)


def _flat(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        return {}
    versions = data.get("versions")
    return {name: data[name] for name in data if name != "versions"} | (versions if isinstance(versions, dict) else {})
