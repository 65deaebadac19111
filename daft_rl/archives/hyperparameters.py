"""Arguments of constructors from an archive's attributes: hyperparameters and ``policy_kwargs``.

Numbers, texts and lists stand in the JSON as they are. Classes stand there as their printed names, which are looked up
among the classes that may be built here. No file can make anything be imported.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import nn

from daft_rl.agents.algorithms import find_algorithm
from daft_rl.agents.extractors import BatchNormExtractor
from daft_rl.agents.policies import ACTIVATIONS as HIDDEN_ACTIVATIONS
from daft_rl.archives.buffers import read_buffer
from daft_rl.archives.checks import TRUST
from daft_rl.archives.schedules import parse_schedule
from daft_rl.archives.text import class_name, parse_printed
from daft_rl.archives.train_freq import is_frequency
from daft_rl.errors import AgentError, ConfigError
from daft_rl.hyperparameters import OTHERWISE
from daft_rl.hyperparameters import check_hyperparameters as check_plain_hyperparameters
from daft_rl.validation import LARGEST

__all__ = [
    "check_hyperparameters",
    "constructor_arguments",
    "find_activation",
    "read_hyperparameters",
    "read_policy_kwargs",
]

EXTRACTORS = {
    f"{cls.__module__}.{cls.__qualname__}": cls
    for cls in (FlattenExtractor, NatureCNN, CombinedExtractor, BatchNormExtractor)
}
OPTIMIZERS = {
    f"{cls.__module__}.{cls.__qualname__}": cls
    for cls in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop, RMSpropTFLike)
}
ACTIVATIONS = {cls.__name__: cls for cls in HIDDEN_ACTIVATIONS}
_PLAIN = {
    **dict.fromkeys(("log_std_init", "clip_mean", "batch_norm_momentum", "batch_norm_eps"), float),
    **dict.fromkeys(("ortho_init", "full_std", "use_expln", "squash_output", "normalize_images"), bool),
    **{"share_features_extractor": bool, "batchnorm_on_input": bool, "renorm_warmup_steps": int},
}
_INFERRED = {"net_arch", "n_critics", "n_quantiles", "use_sde", "batch_norm", "device"}
"""Entries that are inferred from the tensors, or that do not belong to the policy (``device``)."""
NOT_READ = {"policy", "env", "policy_kwargs", "device", "seed", "verbose", "tensorboard_log", "stats_window_size"} | {
    f"{kind}_buffer_{what}" for kind in ("rollout", "replay") for what in ("class", "kwargs")
}
"""Not properties of the agent. A seed would reseed the whole process; a log folder would be written to."""


def _noise(entry: Any) -> ActionNoise | None:
    name = (class_name(entry) or "").rpartition(".")[2]
    if name == "VectorizedActionNoise":  # SB3 makes one noise for each environment of the one that is given
        match = re.fullmatch(r"NormalActionNoise\(mu=(.*), sigma=(.*)\)", str(entry["_base_noise"]), re.DOTALL)
        return NormalActionNoise(*(np.array(parse_printed(text)) for text in match.groups())) if match else None
    if name == "NormalActionNoise":
        return NormalActionNoise(*(np.array(parse_printed(entry[field])) for field in ("_mu", "_sigma")))
    if name == "OrnsteinUhlenbeckActionNoise":
        mean, sigma = (np.array(parse_printed(entry[field])) for field in ("_mu", "_sigma"))
        return OrnsteinUhlenbeckActionNoise(mean, sigma, theta=float(entry["_theta"]), dt=float(entry["_dt"]))
    return None


def _is_allowed(value: Any, annotation: Any) -> bool:
    """Whether SB3's own annotation admits a JSON value: ``0.5`` for ``float | None``, not for ``int``."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    admitted = typing.get_args(annotation) if union else (annotation,)
    if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and abs(value) > LARGEST):
        return False
    return type(value) in admitted or (type(value) is int and float in admitted)


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function, eval_str=True).parameters
    except Exception:  # annotations that cannot be evaluated stay text
        return inspect.signature(function).parameters


def constructor_arguments(algorithm: type[BaseAlgorithm]) -> dict[str, inspect.Parameter]:
    """The hyperparameters that an algorithm's constructor takes, by name."""
    found: dict[str, inspect.Parameter] = {}
    for cls in algorithm.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = _parameters(vars(cls)["__init__"])
        found = {**parameters, **found}
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            break  # a constructor with ``**kwargs`` hands them to its base class
    hidden = ("self", "_init_setup_model")
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: found[name] for name in found if name not in hidden and found[name].kind not in variadic}


def check_hyperparameters(cls: type[BaseAlgorithm], given: Mapping[str, Any]) -> None:
    """Check that an algorithm's constructor takes these arguments.

    :param cls: an algorithm of the table, or a subclass of one
    :param given: hyperparameters by name
    :raises AgentError: the constructor has no such argument, or would choke on a value
    """
    algorithm = find_algorithm(cls)
    allowed = constructor_arguments(algorithm.cls)
    for name in given:
        if name not in allowed:
            guess = difflib.get_close_matches(name, allowed, n=1)
            hint = f" Did you mean '{guess[0]}'?" if guess else ""
            raise AgentError(f"{cls.__name__} has no hyperparameter '{name}'.{hint}")
    # from Python, schedules and noise may be objects, and settings of the run are arguments too
    plain = {
        name: value for name, value in given.items() if name not in OTHERWISE and isinstance(value, int | float | str)
    }
    try:
        check_plain_hyperparameters(algorithm.config, plain, cls.__name__)
    except ConfigError as error:
        raise AgentError(str(error), arguments=tuple(plain)) from None


def read_hyperparameters(
    attributes: dict[str, Any], algorithm: type[BaseAlgorithm] | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The arguments of the constructor that the attributes of the archive hold.

    :param attributes: the JSON of ``data``
    :param algorithm: whose constructor is meant; ``None`` reads nothing
    :return: the values, and a reason for each argument that could not be read. An argument that is not among the
        attributes is in neither: the version of SB3 that wrote them did not have it yet, so SB3's default holds
    """
    values: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    for name, parameter in constructor_arguments(algorithm).items() if algorithm else ():
        if name in NOT_READ or name not in attributes:
            continue
        entry = attributes[name]
        if name == "target_entropy" and class_name(entry) == "numpy.float32":
            continue  # before SB3 2.0, "auto" was replaced by a number; "auto" is the default
        if class_name(entry) == "function" and name == "learning_rate":
            entry = attributes.get("lr_schedule")  # newer versions describe the schedule that was made of it
        try:
            values[name] = _read_value(name, entry, parameter)
        except ValueError as reason:
            unreadable[name] = str(reason)
    buffer, unread = read_buffer(attributes)
    return values | (buffer if algorithm else {}), unreadable | unread


def _read_value(name: str, entry: Any, parameter: inspect.Parameter) -> Any:
    """
    :raises ValueError: with the reason why it cannot be read
    """
    if name == "train_freq":
        if isinstance(entry, list) and is_frequency(entry):
            return tuple(entry)
        if not is_frequency([entry, "step"]):
            raise ValueError(f"{str(entry)[:40]!r} is no number of steps or episodes")
    if not isinstance(entry, dict):
        if _is_allowed(entry, parameter.annotation) or (entry is None and parameter.default is None):
            return entry
        raise ValueError(f"{str(entry)[:40]!r} is not {parameter.annotation}")
    try:
        value = _noise(entry) if name == "action_noise" else parse_schedule(entry)
    except Exception:  # as in read_space; the reason is the same for all of them
        value = None
    if value is None:
        raise ValueError(f"a pickled {class_name(entry) or 'object'}")
    return value


def find_activation(activation: Any) -> type[nn.Module]:
    """An activation by its name in ``torch.nn`` (any case), by its printed class, or the class itself.

    :raises AgentError: an unknown name
    """
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        return activation
    name = (class_name(activation) or str(activation)).rpartition(".")[2]
    by_name = {key.lower(): cls for key, cls in ACTIVATIONS.items()}
    if name.lower() not in by_name:
        raise AgentError(
            f"Unknown activation '{str(activation)[:60]}'. Pass activation='ReLU', or another of "
            f"{', '.join(ACTIVATIONS)}.",
            arguments=("activation",),
        )
    return by_name[name.lower()]


def _unreadable_entry(entry: str, value: Any, readable: str) -> AgentError:
    return AgentError(
        f"The agent's policy_kwargs have {entry}={str(value)[:100]!r}; readable without running code from the file: "
        f"{readable}. Pass policy_kwargs={{'{entry}': ...}}, or, {TRUST}.",
        arguments=("policy_kwargs", "trust"),
    )


def _options(entry: str, value: Any) -> dict[str, Any]:
    """Keyword arguments of an extractor or optimizer: JSON, or text if JSON could not hold one of them."""
    if isinstance(value, str):
        try:
            value = parse_printed(value)
        except Exception:  # as in read_space
            raise _unreadable_entry(entry, value, "numbers, texts and lists of them") from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise _unreadable_entry(entry, value, "a dictionary")
    return {name: tuple(option) if isinstance(option, list) else option for name, option in value.items()}


def _read_entry(entry: str, value: Any) -> Any:
    """One entry of the archive's ``policy_kwargs`` as the policy's constructor takes it."""
    if entry == "activation_fn":
        return find_activation(value)
    classes: Any = {"features_extractor_class": EXTRACTORS, "optimizer_class": OPTIMIZERS}.get(entry)
    if classes is not None:
        found = classes.get(class_name(value) or "")
        if found is None:
            raise _unreadable_entry(entry, value, ", ".join(classes))
        return found
    if entry in ("features_extractor_kwargs", "optimizer_kwargs"):
        return _options(entry, value)
    expected = _PLAIN.get(entry)
    if expected is None:
        raise _unreadable_entry(entry, value, ", ".join(sorted({*_PLAIN, *_INFERRED})))
    fits = type(value) is expected or (expected is float and type(value) is int)
    if not fits or not math.isfinite(value):
        raise _unreadable_entry(entry, value, f"a {expected.__name__}")
    return value


def read_policy_kwargs(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``policy_kwargs`` that can be read from the JSON alone; sizes are inferred from the tensors.

    :param stored: ``policy_kwargs`` of the JSON
    :raises AgentError: an entry cannot be read; the message names the argument that helps
    """
    unused = {":type:", *_INFERRED} | ({"sde_net_arch"} if stored.get("sde_net_arch") is None else set())
    return {entry: _read_entry(entry, value) for entry, value in stored.items() if entry not in unused}
