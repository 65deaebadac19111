"""What an archive's description says of constructors' arguments: hyperparameters and ``policy_kwargs``.

Numbers, texts and lists stand in the JSON as they are; classes as their printed names, which are looked up
among those that may be built here. Nothing is imported because a file names it.
"""

from __future__ import annotations

import inspect
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from daft_rl.agents.extractors import BatchNormExtractor
from daft_rl.agents.policies import ACTIVATIONS as HIDDEN_ACTIVATIONS
from daft_rl.agents.policies import with_batchnorm
from daft_rl.archives.text import class_name, evaluate
from daft_rl.errors import AgentError

__all__ = [
    "constructor_arguments",
    "find_activation",
    "find_policy",
    "read_hyperparameters",
    "read_policy_kwargs",
]

EXTRACTORS = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (FlattenExtractor, NatureCNN, CombinedExtractor, BatchNormExtractor)
}
OPTIMIZERS = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop, RMSpropTFLike)
}
ACTIVATIONS = {kind.__name__: kind for kind in HIDDEN_ACTIVATIONS}
_PLAIN = {
    **dict.fromkeys(("log_std_init", "clip_mean", "batch_norm_momentum", "batch_norm_eps"), float),
    **dict.fromkeys(("ortho_init", "full_std", "use_expln", "squash_output", "normalize_images"), bool),
    **{"share_features_extractor": bool, "batchnorm_on_input": bool, "renorm_warmup_steps": int},
}
_INFERRED = {"net_arch", "n_critics", "n_quantiles", "use_sde", "batch_norm", "device"}
"""Entries that the tensors tell, or that do not belong to the policy (``device``)."""
NOT_READ = {"policy", "env", "policy_kwargs", "device", "seed", "verbose", "tensorboard_log", "stats_window_size"} | {
    f"{kind}_buffer_{what}" for kind in ("rollout", "replay") for what in ("class", "kwargs")
}
"""Not properties of the agent. A seed would reseed the whole process, a log folder would be written to."""


def _schedule(entry: Any) -> Any:
    """A constant or linear schedule of SB3 2.x; ``None`` for any other, which is code."""
    kind = (class_name(entry) or "").rpartition(".")[2]
    if kind == "FloatSchedule":
        text = str(entry.get("value_schedule"))
    elif kind in ("ConstantSchedule", "LinearSchedule"):
        fields = {name: value for name, value in entry.items() if name != ":type:"}
        text = f"{kind}({', '.join(f'{name}={value}' for name, value in fields.items())})"
    else:
        return None
    number = r"([-+.\de]+)"
    if match := re.fullmatch(rf"ConstantSchedule\(val={number}\)", text):
        return float(match.group(1))
    if match := re.fullmatch(rf"LinearSchedule\(start={number}, end={number}, end_fraction={number}\)", text):
        start, end, end_fraction = map(float, match.groups())
        return LinearSchedule(start, end, end_fraction)
    return None


def _noise(entry: Any) -> ActionNoise | None:
    kind = (class_name(entry) or "").rpartition(".")[2]
    if kind == "NormalActionNoise":
        return NormalActionNoise(*(np.array(evaluate(entry[field])) for field in ("_mu", "_sigma")))
    if kind == "OrnsteinUhlenbeckActionNoise":
        mean, sigma = (np.array(evaluate(entry[field])) for field in ("_mu", "_sigma"))
        return OrnsteinUhlenbeckActionNoise(mean, sigma, theta=float(entry["_theta"]), dt=float(entry["_dt"]))
    return None


def _is_allowed(value: Any, annotation: Any) -> bool:
    """Whether SB3's own annotation admits a JSON value: ``0.5`` for ``float | None``, not for ``int``."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    admitted = typing.get_args(annotation) if union else (annotation,)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return type(value) in admitted or (type(value) is int and float in admitted)


def constructor_arguments(algorithm: type[BaseAlgorithm]) -> dict[str, inspect.Parameter]:
    """The hyperparameters that an algorithm's constructor takes, by name."""
    parameters = inspect.signature(algorithm.__init__).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in ("self", "_init_setup_model")}


def read_hyperparameters(
    description: dict[str, Any], algorithm: type[BaseAlgorithm] | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The constructor's arguments that the description gives.

    :param description: the JSON of ``data``
    :param algorithm: whose constructor is meant; without one there is nothing to read
    :return: the values, and for each that could not be read a reason. Names that the description does not
        have are in neither: the version of SB3 that wrote it did not know them yet, so SB3's default holds.
    """
    values: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    for name, parameter in constructor_arguments(algorithm).items() if algorithm else ():
        if name in NOT_READ or name not in description:
            continue
        entry = description[name]
        if name == "target_entropy" and class_name(entry) == "numpy.float32":
            continue  # before SB3 2.0 this is what "auto" had become, and "auto" is the default
        if class_name(entry) == "function" and name == "learning_rate":
            entry = description.get("lr_schedule")  # newer versions describe the schedule made of it
        value: Any = entry
        if isinstance(entry, dict):
            try:
                value = _noise(entry) if name == "action_noise" else _schedule(entry)
            except Exception:  # as in read_space; the reason is the same for any of them
                value = None
            if value is None:
                unreadable[name] = f"a pickled {class_name(entry) or 'object'}"
                continue
        elif not (_is_allowed(entry, parameter.annotation) or (entry is None and parameter.default is None)):
            unreadable[name] = f"{str(entry)[:40]!r} is not {parameter.annotation}"
            continue
        values[name] = value
    for name, usual in (("replay_buffer_class", "ReplayBuffer"), ("rollout_buffer_class", "RolloutBuffer")):
        entry = description.get(name)
        if isinstance(entry, dict) and not str(entry.get("__module__")).endswith(".buffers"):
            unreadable[name] = f"a class of {entry.get('__module__')}, not SB3's {usual}"
    return values, unreadable


def find_activation(activation: Any) -> type[nn.Module]:
    """An activation by its name in ``torch.nn`` (any case), by its printed class, or the class itself.

    :raises AgentError: an unknown name
    """
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        return activation
    name = (class_name(activation) or str(activation)).rpartition(".")[2]
    known = {key.lower(): kind for key, kind in ACTIVATIONS.items()}
    if name.lower() not in known:
        raise AgentError(
            f"Unknown activation '{str(activation)[:60]}'. Pass activation='ReLU' (agent.activation=relu on the "
            f"command line), or one of {', '.join(ACTIVATIONS)}."
        )
    return known[name.lower()]


def _ask(entry: str, value: Any, known: str) -> AgentError:
    return AgentError(
        f"The agent's policy_kwargs say {entry}={str(value)[:100]!r}; readable without running code from the file: "
        f"{known}. Pass policy_kwargs={{'{entry}': ...}} (agent.policy_kwargs=... on the command line), or, "
        "if you trust whoever made the file, trust=True (agent.trust=true)."
    )


def _options(entry: str, value: Any) -> dict[str, Any]:
    """Keyword arguments of an extractor or optimizer: JSON, or text if one of them was no JSON."""
    if isinstance(value, str):
        try:
            value = evaluate(value)
        except Exception:  # as in description.read_space
            raise _ask(entry, value, "numbers, texts and lists of them") from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise _ask(entry, value, "a dictionary")
    return {name: tuple(option) if isinstance(option, list) else option for name, option in value.items()}


def _read_entry(entry: str, value: Any) -> Any:
    """One entry of the description's ``policy_kwargs`` as the policy's constructor takes it."""
    if entry == "activation_fn":
        return find_activation(value)
    for name, known in (("features_extractor_class", EXTRACTORS), ("optimizer_class", OPTIMIZERS)):
        if entry == name:
            if class_name(value) not in known:
                raise _ask(entry, value, ", ".join(known))
            return known[class_name(value) or ""]  # type: ignore[index]
    if entry in ("features_extractor_kwargs", "optimizer_kwargs"):
        return _options(entry, value)
    expected = _PLAIN.get(entry)
    if expected is None:
        raise _ask(entry, value, ", ".join(sorted({*_PLAIN, *_INFERRED})))
    fits = type(value) is expected or (expected is float and type(value) is int)
    if not fits or not math.isfinite(value):
        raise _ask(entry, value, f"a {expected.__name__}")
    return value


def read_policy_kwargs(described: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``policy_kwargs`` that the description alone tells; sizes are the tensors' to tell.

    :param described: ``policy_kwargs`` of the JSON
    :raises AgentError: an entry that cannot be read; the message asks for it by name
    """
    unused = {":type:", *_INFERRED} | ({"sde_net_arch"} if described.get("sde_net_arch") is None else set())
    return {entry: _read_entry(entry, value) for entry, value in described.items() if entry not in unused}


def find_policy(description: Mapping[str, Any], kind: type[BaseAlgorithm], space: spaces.Space, given: Any) -> Any:
    """SB3's policy class for such observations, or the user's.

    :param description: the JSON of ``data``
    :param kind: the algorithm
    :param space: of observations
    :param given: a class, a name like ``"MlpPolicy"``, or ``None``
    :raises AgentError: the archive's policy is a class of somebody else's, which must be given
    """
    if given is not None and not isinstance(given, str):
        return given
    described = description.get("policy_class")
    module = described.get("__module__") if isinstance(described, dict) else None
    inserted = module == with_batchnorm.__module__
    known = inserted or not isinstance(module, str) or module.startswith(("stable_baselines3.", "sb3_contrib."))
    if given is None and not known:
        raise AgentError(
            f"The agent's policy is a class of '{str(module)[:100]}', which is not SB3's. Pass it as policy=... "
            "(agent.policy=module:Class on the command line), or, if you trust whoever made the file, trust=True "
            "(agent.trust=true)."
        )
    aliases = kind.policy_aliases
    name = given or ("MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy")
    if name not in aliases:
        raise AgentError(f"{kind.__name__} has no policy '{name}' for {space}. It has: {', '.join(aliases)}.")
    return with_batchnorm(aliases[name]) if inserted and given is None else aliases[name]
