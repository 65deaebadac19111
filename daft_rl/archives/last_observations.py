"""What an agent observed last in training, as SB3 keeps it: as the policy saw it, and in another form.

For an off-policy algorithm inside of a ``VecNormalize`` the other form is the same observation before it was
normalized. Without a ``VecNormalize`` it is the observation of one step before, as the policy saw it.
"""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from daft_rl.archives.container import read_pickles
from daft_rl.archives.vecnormalize import read_array
from daft_rl.errors import AgentError

__all__ = ["LastObservations", "read_last_observations"]

NAMES = ("_last_obs", "_last_original_obs")


@dataclass(frozen=True)
class LastObservations:
    """Vectors of all environments, each of shape ``(num_envs, size)``."""

    seen: NDArray[np.float64]
    original: NDArray[np.float64]


def read_last_observations(agent: Path | OffPolicyAlgorithm) -> LastObservations | None:
    """Read them from an archive, without running what is pickled there, or from an agent.

    :return: ``None`` if there are none, or they are no finite vectors
    """
    if isinstance(agent, Path):
        pickles = read_pickles(agent, NAMES)
        found = [_array(pickles.get(name)) for name in NAMES]
    else:
        found = [_vectors(getattr(agent, name, None)) for name in NAMES]
    seen, original = found
    if seen is None or original is None or seen.shape != original.shape:
        return None
    return LastObservations(seen, original)


def _array(text: str | None) -> NDArray[np.float64] | None:
    with suppress(AgentError, ValueError):
        return _vectors(None if text is None else read_array(base64.b64decode(text, validate=True)))
    return None


def _vectors(value: Any) -> NDArray[np.float64] | None:
    usable = isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind == "f" and np.isfinite(value).all()
    return value.astype(np.float64) if usable else None
