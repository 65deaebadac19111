"""The statistics in the files of ``VecNormalize``.

SB3 pickles the whole wrapper. Here every class that the pickle names, numpy's included, becomes an inert object that
holds its arguments and state. Only the few names that such files need are admitted. Nothing of the file is executed,
and arrays are rebuilt from their bytes after shape and size have been checked.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import re
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daft_rl.archives.checks import wrap_errors
from daft_rl.errors import AgentError

__all__ = ["RunningMoments", "VecNormalizeStatistics", "read_array", "read_vecnormalize"]

MAX_BYTES = 256 * 1024**2
"""The file also holds the last observations of all environments, which may be images."""
MAX_NAMES = 100
"""Most classes in a file; usual are about ten."""
MAX_STEPS = 100_000
"""Most operations of a pickle; usual are some hundred. One byte can make an object of 64."""


@dataclass(frozen=True)
class RunningMoments:
    """Running mean and variance."""

    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    count: float


@dataclass(frozen=True)
class VecNormalizeStatistics:
    """The statistics and settings of a ``VecNormalize`` wrapper, as plain numbers."""

    obs: RunningMoments | dict[str, RunningMoments] | None
    """Of observations, per key for ``Dict`` observations; ``None`` if they are not normalized."""
    ret: RunningMoments
    """Of discounted returns; their standard deviation scales the reward."""
    epsilon: float
    clip_obs: float
    clip_reward: float
    gamma: float
    norm_obs: bool
    norm_reward: bool
    last_obs: NDArray[np.float64] | None = None
    """Observation vectors of the last step in training, not normalized, shape ``(num_envs, size)``, if it has any."""


class _InertObject:
    """Stands for an object of the file: holds the arguments it was made with, and does nothing."""

    name = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> _InertObject:
        inert = super().__new__(cls)
        inert.__dict__.update(args=args, state={})
        return inert

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state


_ADMITTED = re.compile(
    r"stable_baselines3\.common\.vec_env\.vec_normalize\.VecNormalize"
    r"|stable_baselines3\.common\.running_mean_std\.RunningMeanStd"
    r"|numpy\.(ndarray|dtype)|numpy\._?core\.multiarray\.(_reconstruct|scalar)|numpy\._?core\.numeric\._frombuffer"
    r"|numpy\.random\.[\w.]+"
    r"|(gym|gymnasium)\.spaces\.[\w.]+"
    r"|(builtins|__builtin__)\.set"  # SB3 1.1 to 1.3 kept the keys of Dict observations in one
)


class _Reader(pickle.Unpickler):
    """Makes nothing but objects of :class:`_InertObject` and the ``OrderedDict`` of a ``Dict`` space."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(io.BytesIO(raw))
        self.classes: dict[str, type[_InertObject]] = {}

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path == "collections.OrderedDict":
            return OrderedDict
        if not _ADMITTED.fullmatch(path) or len(self.classes) > MAX_NAMES:
            raise AgentError(
                f"it names '{path[:100]}', which the statistics of a VecNormalize do not need. "
                "The file was made by other code, or is hostile."
            )
        return self.classes.setdefault(path, type("_InertObject", (_InertObject,), {"name": path}))

    def persistent_load(self, pid: Any) -> Any:
        raise AgentError("it refers to objects outside of itself.")


def _check_opcodes(raw: bytes) -> None:
    """Refuse what makes the unpickler take memory: very many objects, or a memo index beyond the file's length."""
    for step, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
        if step > MAX_STEPS:
            raise AgentError(f"it makes more than {MAX_STEPS} objects.")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(raw):
            raise AgentError(f"it numbers an object {argument}, though it has only {len(raw)} bytes.")
        if opcode.name.startswith("EXT"):
            raise AgentError("it uses the registry of pickle extensions.")


def _expect(value: Any, suffix: str) -> _InertObject:
    if not isinstance(value, _InertObject) or not value.name.endswith(suffix):
        raise AgentError(f"expected a {suffix}, found {getattr(value, 'name', type(value).__name__)}.")
    return value


def _dtype(value: Any) -> np.dtype[Any]:
    """A plain numeric dtype from its pickled form: ``("f8", ...)``, and ``"<"`` in its state."""
    inert = _expect(value, "numpy.dtype")
    state = inert.__dict__["state"]
    order = state[1] if state else "="
    code = str(inert.__dict__["args"][0])
    if order not in ("<", ">", "=", "|") or not re.fullmatch(r"[fiub]\d", code):
        raise AgentError(f"'{order}{code}' is no plain number.")
    return np.dtype(f"{order}{code}")


def _array(value: Any) -> NDArray[np.float64]:
    """An array or scalar of numbers, as float64."""
    return _numbers(value).astype(np.float64)


def _numbers(value: Any) -> NDArray[Any]:
    """The same with the type in the file, which may be that of images."""
    if isinstance(value, (int, float)):
        return np.array(value, dtype=np.float64)
    inert = _expect(value, "")
    args, state = inert.__dict__["args"], inert.__dict__["state"]
    if inert.name.endswith(".scalar"):
        shape, dtype, fortran, data = (), args[0], False, args[1]
    elif inert.name.endswith("._frombuffer"):
        data, dtype, shape, order = args
        fortran = order == "F"
    else:
        _expect(value, "._reconstruct")
        _, shape, dtype, fortran, data = state
    if not isinstance(data, (bytes, bytearray)):
        raise AgentError(f"an array of {type(data).__name__}, not of numbers.")
    numbers = np.frombuffer(data, dtype=_dtype(dtype))
    return numbers.reshape(shape, order="F" if fortran else "C")


def _moments(value: Any) -> RunningMoments:
    state = _expect(value, ".RunningMeanStd").__dict__["state"]
    mean, var, count = _array(state["mean"]), _array(state["var"]), float(_array(state["count"]))
    if mean.shape != var.shape or not np.isfinite(mean).all() or not np.isfinite(var).all() or (var < 0).any():
        raise AgentError(f"mean of shape {mean.shape} and variance of shape {var.shape} are no finite statistics.")
    if not (math.isfinite(count) and count > 0):
        raise AgentError(f"a count of {count} samples.")
    return RunningMoments(mean, var, count)


def _observation_moments(state: dict[str, Any]) -> RunningMoments | dict[str, RunningMoments] | None:
    if not state["norm_obs"]:
        return None
    moments = state["obs_rms"]
    if isinstance(moments, dict):
        keys = state.get("norm_obs_keys") or list(moments)
        return {str(key): _moments(moments[key]) for key in keys}
    return _moments(moments)


def _last_observations(state: dict[str, Any]) -> NDArray[np.float64] | None:
    """Observation vectors of the last step, if the file has some that can be read."""
    with suppress(AgentError, KeyError, ValueError, TypeError):
        found = _numbers(state["old_obs"])
        if found.ndim == 2 and np.isfinite(found).all():
            return found.astype(np.float64)
    return None


def read_array(raw: bytes) -> NDArray[Any]:
    """A pickled array of numbers, without running anything of the pickle.

    :raises AgentError: it is damaged, or something else
    """
    if len(raw) > MAX_BYTES:
        raise AgentError(f"An array of {len(raw)} bytes; at most {MAX_BYTES} are read.")
    with wrap_errors("It is damaged, or no pickle of an array"):
        _check_opcodes(raw)
        return _numbers(_Reader(raw).load())


def read_vecnormalize(path: str | os.PathLike[str]) -> VecNormalizeStatistics:
    """Read the statistics out of a file that ``VecNormalize.save`` wrote, of any version, on gym or gymnasium.

    :param path: usually ``vecnormalize.pkl``
    :raises AgentError: the file is missing or damaged, it names a class that such a file does not need, or its
        statistics are not finite
    """
    path = Path(path)
    if not path.is_file():
        raise AgentError(f"No VecNormalize file at '{path}'.", arguments=("path",))
    if path.stat().st_size > MAX_BYTES:
        raise AgentError(f"{path} has {path.stat().st_size} bytes; statistics have at most {MAX_BYTES}.")
    try:
        with wrap_errors("it is damaged, or no pickle of a VecNormalize"):
            raw = path.read_bytes()
            _check_opcodes(raw)
            state = _expect(_Reader(raw).load(), ".VecNormalize").__dict__["state"]
            numbers = [float(_array(state[name])) for name in ("epsilon", "clip_obs", "clip_reward", "gamma")]
            if not all(math.isfinite(number) and number >= 0 for number in numbers):
                raise AgentError(f"epsilon, clips and gamma of {numbers} are not all finite and positive.")
            epsilon, clip_obs, clip_reward, gamma = numbers
            return VecNormalizeStatistics(
                obs=_observation_moments(state),
                ret=_moments(state["ret_rms"]),
                epsilon=epsilon,
                clip_obs=clip_obs,
                clip_reward=clip_reward,
                gamma=gamma,
                norm_obs=bool(_array(state["norm_obs"])),
                norm_reward=bool(_array(state["norm_reward"])),
                last_obs=_last_observations(state),
            )
    except AgentError as error:
        raise AgentError(f"{path} cannot be used: {error}") from error
