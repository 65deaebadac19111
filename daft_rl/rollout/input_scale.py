"""Whether what an agent observed last in training was normalized, although nothing normalizes now."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["looks_normalized"]

USUAL, CERTAIN = 0.99, 6.0
"""Share of the changes in one step that are usual, and the factor on them from which on a change was no step.

The factor is 3.4 at most for public agents that need no statistics. For the others its median is 151 (Hopper, PPO), 124
(Swimmer, PPO), 31 (Walker2d, A2C), 23 and 9 (Hopper, A2C and TRPO). It is 2 to 3 for TRPO on Swimmer and for both
agents on HalfCheetah, whose observations have the scale of normalized ones: these are not told.
"""


def looks_normalized(seen: NDArray[np.float64], original: NDArray[np.float64], visited: NDArray[np.float64]) -> bool:
    """Compare the last observations of a training with observations of today.

    Without a ``VecNormalize``, ``seen`` is what follows ``original``: in no entry further from it than some steps, or
    the beginning of an episode. Inside of one it is ``original`` on another scale, which is neither.

    :param seen: what the policy saw last, shape ``(num_envs, size)``
    :param original: what SB3 keeps beside it, of the same shape
    :param visited: observations that nothing normalized, from the beginning of episodes on, shape
        ``(steps, num_envs, size)``
    :return: whether that is certain; ``False`` if the sizes differ
    """
    if seen.shape[1:] != visited.shape[2:] or len(visited) < 2:
        return False
    changes = np.abs(np.diff(visited, axis=0)).reshape(-1, visited.shape[2])
    step = np.quantile(changes, USUAL, axis=0) + 1e-3 * visited.std((0, 1)) + 1e-6
    least, most = visited[0].min(0), visited[0].max(0)
    is_no_step = (np.abs(seen - original) > CERTAIN * step).any(1)
    outside = np.maximum(least - seen, seen - most)
    is_no_beginning = (outside > CERTAIN * (most - least + step)).any(1)
    return bool((is_no_step & is_no_beginning).all())
