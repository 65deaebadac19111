"""Where states of the target come from: an environment that the policy visits, or recorded data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage, unwrap_vec_normalize

from daft_rl.errors import AgentError, MethodError
from daft_rl.rollout.evaluation import visit

__all__ = ["HELD_OUT_SEED", "Data", "Target"]

HELD_OUT_SEED = 20_000
"""Episodes from here on are held out: learning begins at the seed of a run, evaluation at 10 000."""

Data = tuple[Any, NDArray[Any] | None]
"""Normalized observations and scaled actions, as the policy and its critics get them."""


class Target:
    """The target of one adaptation.

    :param model: the model that is adapted
    :param env: where it visits states; ``None`` takes its own environment
    :param experience: recorded data, see :func:`daft_rl.adapt`; nothing is stepped then
    :param seed: of visits; ``None`` leaves the environments' random numbers alone
    :raises AgentError: there is neither an environment nor recorded data, or the data do not fit the model
    """

    def __init__(self, model: BaseAlgorithm, env: VecEnv | None, experience: Any, seed: int | None) -> None:
        self.model, self.seed = model, seed
        if env is not None and not isinstance(env, VecEnv):
            raise AgentError(f"env: expected a VecEnv such as make_vec_env(...), got {type(env).__name__}.")
        if env is not None and not (
            _same_kind(env.observation_space, model.observation_space)
            and _same_kind(env.action_space, model.action_space)
        ):
            raise AgentError(
                f"env has observations {env.observation_space} and actions {env.action_space}; the model is for "
                f"{model.observation_space} and {model.action_space}."
            )
        if env is not None and experience is not None:
            raise AgentError("Pass env or experience, not both: with experience nothing is visited.")
        own = model.get_env()
        if env is None and own is not None:
            normalizer = model.get_vec_normalize_env()
            env = normalizer.venv if own is normalizer and normalizer is not None else own
        self.env = env
        self.recorded = None if experience is None else _read_recorded(model, experience)
        if env is None and self.recorded is None:
            raise AgentError(
                f"This {type(model).__name__} has no environment to visit: call model.set_env(...) before, or pass "
                "experience=..., observations that were recorded in the target.",
                arguments=("experience",),
            )

    @property
    def visit_seed(self) -> int | None:
        """Seed of the visits for calibration; learning begins at the seed itself."""
        return None if self.seed is None else self.seed + 1

    def visit(self, steps: int) -> Data:
        """States of the target for calibration: ``steps`` of them, or all that were recorded."""
        return self._visit(steps, self.visit_seed)

    def visit_held_out(self, steps: int) -> Data:
        """Other states; of recorded data the last ones, which calibration has seen too."""
        if self.recorded is not None:
            observations, actions = self.recorded
            return _map_arrays(observations, lambda array: array[-steps:]), None if actions is None else actions[
                -steps:
            ]
        return self._visit(steps, None if self.seed is None else HELD_OUT_SEED + self.seed)

    def _visit(self, steps: int, seed: int | None) -> Data:
        if self.recorded is not None:
            return self.recorded
        assert self.env is not None
        with _frozen_statistics(self.env):
            return visit(self.model, self.env, steps, seed)

    def for_realignment(self, beyond: float) -> VecEnv:
        """The environment of raw observations and rewards in which realignment plays.

        :param beyond: ``realign`` of the method, for the message
        :raises MethodError: there is none
        """
        problem = None
        if self.recorded is not None or self.env is None:
            problem = "recorded experience has no rewards of other policies"
        elif unwrap_vec_normalize(self.env) is not None:
            problem = "another wrapper is around VecNormalize, so that raw observations cannot be seen"
        if problem is not None or self.env is None:
            raise MethodError(
                f"realign={beyond} plays in the target and compares returns, but {problem}. Use realign=None."
            )
        return self.env

    def leave(self) -> None:
        """Let learning begin with new episodes."""
        own = self.model.get_env()
        if self.recorded is None and own is not None:
            self.model._last_obs = None
            if self.seed is not None:
                own.seed(self.seed)


def _same_kind(space: spaces.Space[Any], own: spaces.Space[Any]) -> bool:
    """Whether a policy for ``own`` can play with ``space``. Images may have their channels elsewhere."""
    if type(space) is not type(own):
        return False
    if isinstance(space, spaces.Dict) and isinstance(own, spaces.Dict):
        return set(space) == set(own) and all(_same_kind(space[key], own[key]) for key in space)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return space == own
    return space.shape == own.shape or is_image_space(own)


@contextmanager
def _frozen_statistics(venv: VecEnv) -> Iterator[None]:
    """Keep the statistics of a ``VecNormalize`` inside ``venv`` as they are."""
    normalizer = unwrap_vec_normalize(venv)
    training = normalizer is not None and normalizer.training
    if normalizer is not None:
        normalizer.training = False
    try:
        yield
    finally:
        if normalizer is not None:
            normalizer.training = training


def _map_arrays(observations: Any, function: Any) -> Any:
    if isinstance(observations, dict):
        return {key: function(array) for key, array in observations.items()}
    return function(observations)


def _read_recorded(model: BaseAlgorithm, experience: Any) -> Data:
    """Recorded data as the policy gets them: checked, images channels first, normalized, actions scaled."""
    pair = experience if isinstance(experience, tuple) else (experience, None)
    if len(pair) != 2:
        raise AgentError(f"experience: expected observations, or observations and actions, got {len(pair)} items.")
    observations, actions = _check_observations(model, pair[0]), pair[1]
    count = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        if normalizer.observation_space.shape != model.observation_space.shape:
            raise AgentError(
                "experience: another wrapper is around VecNormalize, so that recorded observations cannot be "
                "normalized. Let the policy visit its environment instead."
            )
        observations = normalizer.normalize_obs(observations)
    if actions is None:
        return observations, None
    actions = _check_array("actions", actions, model.action_space)
    if len(actions) != count:
        raise AgentError(f"experience has {count} observations and {len(actions)} actions: expected equal numbers.")
    if isinstance(model, OffPolicyAlgorithm) and isinstance(model.action_space, spaces.Box):
        actions = model.policy.scale_action(actions)
    return observations, actions


def _check_observations(model: BaseAlgorithm, observations: Any) -> Any:
    space = model.observation_space
    if isinstance(space, spaces.Dict):
        if not isinstance(observations, Mapping) or set(observations) != set(space.spaces):
            raise AgentError(f"experience: expected a dictionary of arrays with the keys {', '.join(space.spaces)}.")
        checked = {key: _check_array(f"'{key}'", observations[key], part) for key, part in space.spaces.items()}
        if len({len(array) for array in checked.values()}) > 1:
            raise AgentError("experience: the arrays of the dictionary have different lengths.")
        return checked
    return _check_array("observations", observations, space)


def _check_array(what: str, values: Any, space: spaces.Space[Any]) -> NDArray[Any]:
    """
    :raises AgentError: fewer than two rows, another shape than the space's, or numbers that are not finite
    """
    try:
        array, shape = np.asarray(values), space.shape or ()
    except (ValueError, TypeError, RuntimeError) as error:
        raise AgentError(f"experience: {what} cannot be made an array: {error}") from error
    if isinstance(space, spaces.Box) and is_image_space(space) and array.ndim == 4 and array.shape[1:] != shape:
        array = VecTransposeImage.transpose_image(array)
    if array.ndim == 0 or array.shape[1:] != shape or len(array) < 2 or array.dtype.kind not in "fiub":
        raise AgentError(
            f"experience: expected {what} of shape (n, {', '.join(map(str, shape))}) with n of at least 2, got "
            f"{array.shape} of {array.dtype}."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise AgentError(f"experience: {what} hold NaN or infinite values. Leave such rows out.")
    _check_range(what, array, space)
    return array.astype(space.dtype, copy=False)


def _check_range(what: str, array: NDArray[Any], space: spaces.Space[Any]) -> None:
    """
    :raises AgentError: numbers that the space does not have: images that are not bytes, choices that do not exist
    """
    whole = isinstance(space, spaces.Discrete | spaces.MultiDiscrete) or is_image_space(space)
    if whole and (array.dtype.kind == "f" or array.min() < 0):
        raise AgentError(f"experience: {what} of {space} are whole numbers from 0, got {array.dtype}.")
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        ends = space.start + space.nvec if isinstance(space, spaces.MultiDiscrete) else 2
        if array.min() < 0 or (array >= ends).any():
            raise AgentError(f"experience: {what} from {array.min()} to {array.max()} are not all within {space}.")
    if isinstance(space, spaces.Discrete) and array.min() < space.start:
        raise AgentError(f"experience: {what} of {space} start at {space.start}, got {array.min()}.")
    if isinstance(space, spaces.Discrete) and array.max() >= space.start + space.n:
        raise AgentError(f"experience: {what} of {space} end at {space.start + space.n - 1}, got {array.max()}.")
    if what == "actions" and isinstance(space, spaces.Box) and not ((array >= space.low) & (array <= space.high)).all():
        raise AgentError(f"experience: {what} from {array.min():g} to {array.max():g} are not all within {space}.")
