"""Weights, optimizer states and counters of an archive, put into an agent that was built for them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import recursive_getattr
from torch import Tensor

from daft_rl.archives.checks import TRUST, check_tensor
from daft_rl.archives.container import ArchiveContents
from daft_rl.correspondence import Correspondence, shorten
from daft_rl.errors import AgentError, DaftWarning
from daft_rl.policy.carrying import Carrier, policy_for

__all__ = ["restore_agent"]

_COUNTERS = ("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_episode_num", "_n_updates", "_n_calls")
_OPTIMIZER_STATE: dict[str, set[str]] = {"RMSprop": {"square_avg"}, "RMSpropTFLike": {"square_avg"}, "SGD": set()}
_ADAM_STATE = {"exp_avg", "exp_avg_sq"}


def restore_agent(
    model: BaseAlgorithm,
    contents: ArchiveContents,
    state: Mapping[str, Tensor],
    correspondence: Correspondence | None,
    overrides: Mapping[str, Any],
) -> None:
    """Give an agent what the archive holds, in place.

    :param model: built for this archive
    :param contents: of the archive
    :param state: the policy's state dictionary
    :param correspondence: of the archive's entries and the agent's; ``None`` if they are the same
    :param overrides: arguments of the constructor that won over the archive's
    :raises AgentError: something does not fit
    """
    carrier = None if correspondence is None else _make_carrier(model, contents, state, correspondence)
    _load_policy(model.policy, state if carrier is None else carrier.state(), contents.path)
    _load_optimizers(model, contents, overrides, carrier)
    _load_entropy_coefficient(model, contents, overrides)
    _load_counters(model, contents.attributes)
    if model.use_sde:
        model.policy.reset_noise()  # type: ignore[operator]


def _make_carrier(
    model: BaseAlgorithm, contents: ArchiveContents, state: Mapping[str, Tensor], correspondence: Correspondence
) -> Carrier:
    """What carries the archive's weights to the agent's entries. It tells what has no counterpart."""
    assert contents.observation_space is not None
    assert contents.action_space is not None
    old = policy_for(model.policy, contents.observation_space, contents.action_space)
    _load_policy(old, state, contents.path)
    carrier = Carrier(old, model.policy, correspondence)
    if carrier.forgets_unknown_means and not has_normalized_observations(model):
        gone = [correspondence.observation.source[i] for i in correspondence.observation.removed]
        warnings.warn(
            DaftWarning(
                f"{contents.path} does not tell the means of entries that are gone, {shorten(gone)}. They are taken to "
                "be 0.",
                arguments=("correspondence",),
            ),
            stacklevel=5,
        )
    return carrier


def has_normalized_observations(model: BaseAlgorithm) -> bool:
    """Whether a ``VecNormalize`` makes the mean of each entry 0."""
    normalizer = model.get_vec_normalize_env()
    return normalizer is not None and normalizer.norm_obs


def _load_policy(policy: BasePolicy, state: Mapping[str, Tensor], path: Path) -> None:
    expected = policy.state_dict()
    wrong = [f"'{name}' is missing" for name in expected if name not in state]
    wrong += [f"'{name}' is not expected" for name in state if name not in expected]
    for name in (name for name in expected if name in state):
        got, want = state[name], expected[name]
        if got.shape != want.shape or got.is_floating_point() != want.is_floating_point():
            wrong.append(f"'{name}' is {tuple(got.shape)} {got.dtype}, not {tuple(want.shape)} {want.dtype}")
    if wrong:
        raise AgentError(
            f"{path}: {len(wrong)} tensors do not fit the networks that the archive describes: "
            f"{'; '.join(wrong[:4])}. Pass policy_kwargs=... that the agent was made with, or, {TRUST}.",
            arguments=("policy_kwargs", "trust"),
        )
    policy.load_state_dict(state, strict=True)


def _unfit(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], of: Sequence[Tensor] | None = None
) -> str | None:
    """Why a saved state does not fit this optimizer, or ``None``.

    :param of: parameters that it is of, in place of the optimizer's own
    """
    groups, state = saved.get("param_groups"), saved.get("state")
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parameters: Sequence[Tensor] = own if of is None else of
    if not isinstance(groups, list) or not isinstance(state, dict):
        return "it is damaged"
    if [isinstance(group, dict) and group.get("params") for group in groups] != [list(range(len(parameters)))]:
        return "it is for other parameters"
    if any(optimizer.param_groups[0].get(option) for option in ("amsgrad", "momentum", "centered")):
        return "amsgrad, momentum and centered keep more than is read"
    return _unfit_state(type(optimizer).__name__, state, parameters)


def _unfit_state(optimizer: str, state: dict[Any, Any], parameters: Sequence[Tensor]) -> str | None:
    """Why the saved numbers of the parameters do not fit an optimizer of this name, or ``None``."""
    needed = _OPTIMIZER_STATE.get(optimizer, _ADAM_STATE)
    for index, entries in state.items():
        if index not in range(len(parameters)) or not isinstance(entries, dict) or not needed <= set(entries):
            return f"it is not one of {optimizer}"
        for name, value in entries.items():
            reason = _unfit_entry(name, value, index, parameters)
            if reason is not None:
                return reason
    return None


def _unfit_entry(name: str, value: Any, index: int, parameters: Sequence[Tensor]) -> str | None:
    if name == "step" and isinstance(value, int):
        return None  # before PyTorch 1.12
    try:
        shape = check_tensor(name, value).shape
    except AgentError as error:
        return str(error)
    expected = () if name == "step" else parameters[index].shape
    return None if shape == expected else f"'{name}' of parameter {index} has shape {tuple(shape)}"


def _load_optimizers(
    model: BaseAlgorithm, contents: ArchiveContents, overrides: Mapping[str, Any], carrier: Carrier | None
) -> None:
    for name in model._get_torch_save_params()[0]:
        if name == "policy" or (name == "ent_coef_optimizer" and "ent_coef" in overrides):
            continue
        optimizer, saved = recursive_getattr(model, name), contents.state_dicts.get(name)
        if saved is not None and carrier is not None:
            saved = _carry_moments(optimizer, saved, carrier)
        reason = "the archive has none" if saved is None else _unfit(optimizer, saved)
        if saved is None or reason is not None:
            warnings.warn(DaftWarning(f"{contents.path}: the state of {name} is not loaded: {reason}."), stacklevel=5)
            continue
        # the constructor has set learning rate and options from the hyperparameters
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def _carry_moments(optimizer: torch.optim.Optimizer, saved: dict[str, Any], carrier: Carrier) -> dict[str, Any]:
    """What an optimizer keeps of each weight goes where the weight goes. A damaged state is left to the check."""
    name_of = {id(parameter): name for name, parameter in carrier.new.named_parameters()}
    names = [name_of.get(id(one), "") for group in optimizer.param_groups for one in group["params"]]
    old = dict(carrier.old.named_parameters())
    if not old.keys() >= {*names} or _unfit(optimizer, saved, [old[name] for name in names]) is not None:
        return saved

    def carry(name: str, kind: str, value: Any) -> Any:
        return value if kind == "step" else carrier.carry(name, value)

    carried = {
        index: {kind: carry(names[index], kind, value) for kind, value in entries.items()}
        for index, entries in saved["state"].items()
    }
    return {**saved, "state": carried}


def _load_entropy_coefficient(model: BaseAlgorithm, contents: ArchiveContents, overrides: Mapping[str, Any]) -> None:
    """SAC and similar algorithms learn it outside of the networks; the user may have set another."""
    for name in [] if "ent_coef" in overrides else model._get_torch_save_params()[1]:
        own, saved = recursive_getattr(model, name), contents.variables.get(name)
        if saved is None or saved.numel() != own.numel() or not saved.is_floating_point():
            raise AgentError(
                f"{contents.path} has no usable '{name}', the entropy coefficient. Pass ent_coef=...",
                arguments=("ent_coef",),
            )
        own.data.copy_(saved.reshape(own.shape))


def _load_counters(model: BaseAlgorithm, attributes: Mapping[str, Any]) -> None:
    for name in _COUNTERS:
        if type(attributes.get(name)) is int and hasattr(model, name):
            setattr(model, name, attributes[name])
    rate = attributes.get("exploration_rate")
    if isinstance(rate, (int, float)) and 0 <= rate <= 1 and hasattr(model, "exploration_rate"):
        model.exploration_rate = float(rate)
