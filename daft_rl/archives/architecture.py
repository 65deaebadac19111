"""The networks of an archive: sizes from the shapes of its tensors, classes of layers from its attributes.

The attributes hold sizes too, in formats that SB3 has changed over the years. They are not needed, and so an archive
cannot make anyone allocate more than the file itself holds: before a network is built, its inputs and outputs are
checked against the spaces.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import Tensor

from daft_rl.agents.algorithms import Algorithm
from daft_rl.agents.extractors import BatchNormExtractor
from daft_rl.agents.layouts import PolicyLayout
from daft_rl.archives.hyperparameters import find_activation, read_policy_kwargs
from daft_rl.errors import AgentError

__all__ = ["infer_policy_kwargs", "modernize", "own_policy_kwargs", "uses_sde"]

MAX_CRITICS = 50

State = Mapping[str, Tensor]


def linear_weights(state: State, *prefixes: str) -> list[Tensor]:
    """The weights of the linear layers ``prefix.weight``, ``prefix.0.weight``, ..., in order.

    :return: shapes ``(outputs, inputs)``
    """
    found: list[Tensor] = []
    for prefix in prefixes:
        pattern = re.compile(rf"{re.escape(prefix)}(?:\.(\d{{1,4}}))?\.weight")
        layers = {int(match.group(1) or 0): state[key] for key in state if (match := pattern.fullmatch(key))}
        found += [layers[index] for index in sorted(layers) if layers[index].ndim == 2]
    return found


def modernize(state: State) -> dict[str, Tensor]:
    """The state dictionary with SB3 2.x's names: before 1.7, an actor-critic's shared extractor had one name."""
    modern = dict(state)
    if not any(key.startswith("pi_features_extractor.") for key in state):
        for key in [key for key in state if key.startswith("features_extractor.")]:
            modern[f"pi_{key}"] = modern[f"vf_{key}"] = state[key]
    if any(key.startswith("mlp_extractor.shared_net.") for key in state):
        raise AgentError(
            "The agent's actor and critic share hidden layers ('mlp_extractor.shared_net'), which SB3 dropped in 1.8. "
            "Load it with SB3 1.7 and copy the shared layers into both networks."
        )
    return modern


def _cnn_features(state: State, prefix: str, space: spaces.Space[Any]) -> int:
    """Outputs of a ``NatureCNN`` that fits both its tensors and an image space."""
    first, last = state.get(f"{prefix}cnn.0.weight"), state.get(f"{prefix}linear.0.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 2:
        raise AgentError(f"'{prefix}cnn.0.weight' and '{prefix}linear.0.weight' are no layers of a NatureCNN.")
    shape = space.shape or ()
    pixels = shape[1:]
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        pixels = tuple((size - kernel) // stride + 1 for size in pixels)
    if len(shape) != 3 or first.shape[1] != shape[0] or last.shape[1] != 64 * math.prod(pixels) or min(pixels) < 1:
        raise AgentError(
            f"'{prefix}cnn' takes {first.shape[1]} channels and ends in {last.shape[1]} values. That does not fit "
            f"images of shape {shape} (channels first)."
        )
    return last.shape[0]


def _combined_extractor(
    state: State, prefix: str, space: spaces.Dict, options: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    images = {key for key in space.spaces if f"{prefix}extractors.{key}.cnn.0.weight" in state}
    widths = {_cnn_features(state, f"{prefix}extractors.{key}.", space.spaces[key]) for key in images}
    if len(widths) > 1:
        raise AgentError(f"'{prefix}extractors' hold CNNs of different widths {sorted(widths)}; SB3 builds one.")
    flat = sum(get_flattened_obs_dim(part) for key, part in space.spaces.items() if key not in images)
    if widths:
        options = {**options, "cnn_output_dim": next(iter(widths))}
    return options, flat + len(images) * sum(widths)


def _batchnorm_extractor(
    state: State, prefix: str, space: spaces.Space[Any], options: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    layers = linear_weights(state, f"{prefix}net")
    first = state.get(f"{prefix}net.1.weight")
    flat = get_flattened_obs_dim(space)
    if first is None or first.shape != (flat,):
        raise AgentError(f"'{prefix}net.1' should normalize the {flat} entries of the observation space {space}.")
    if isinstance(options.get("activation"), str):
        options = {**options, "activation": find_activation(options["activation"]).__name__}
    return {**options, "hidden": [layer.shape[0] for layer in layers]}, layers[-1].shape[0] if layers else flat


def _extractor(
    cls: type, state: State, prefix: str, space: spaces.Space[Any], options: dict[str, Any]
) -> tuple[dict[str, Any], int | None]:
    """The options of a features extractor, with sizes from its tensors, and the number of its features.

    :return: options, and features; ``None`` for a class of the user's
    """
    if cls is NatureCNN:
        features = _cnn_features(state, prefix, space)
        return {**options, "features_dim": features}, features
    if cls is CombinedExtractor and isinstance(space, spaces.Dict):
        return _combined_extractor(state, prefix, space, options)
    if cls is BatchNormExtractor:
        return _batchnorm_extractor(state, prefix, space, options)
    return options, get_flattened_obs_dim(space) if cls is FlattenExtractor else None


def _check_ends(name: str, weights: list[Tensor], inputs: int | None, outputs: int, where: str) -> None:
    """Check a network's first and last layer against the spaces, before anything is allocated for it."""
    got = weights[0].shape[1], weights[-1].shape[0]
    if got[1] != outputs or inputs not in (None, got[0]):
        raise AgentError(
            f"The agent's {name} takes {got[0]} inputs and gives {got[1]} outputs, but {where} need "
            f"{'any number' if inputs is None else inputs} and {outputs}."
        )


def _check_shared(layout: PolicyLayout, state: State) -> None:
    for key in state:
        if key.startswith(layout.extractor):
            other = state.get(layout.other_extractor + key.removeprefix(layout.extractor))
            if other is None or not torch.equal(state[key], other):
                raise AgentError(
                    f"According to the archive, actor and critic share one features extractor, but '{key}' differs "
                    f"between them. Pass policy_kwargs={{'share_features_extractor': False}}.",
                    arguments=("policy_kwargs",),
                )


def uses_sde(state: State) -> bool:
    """Whether the exploration noise depends on the state (gSDE): its ``log_std`` is a matrix then."""
    log_std = state.get("log_std", state.get("actor.log_std"))
    return log_std is not None and log_std.ndim == 2


def _count_critics(state: State) -> int:
    """Networks ``critic.qf0``, ``critic.qf1``, ... of the same sizes."""
    shapes = [[weight.shape for weight in linear_weights(state, f"critic.qf{index}")] for index in range(MAX_CRITICS)]
    return next((index for index, shape in enumerate(shapes) if shape != shapes[0]), MAX_CRITICS)


def _network_sizes(
    layout: PolicyLayout, state: State, actor: list[Tensor], critic: list[Tensor], actions: int
) -> dict[str, Any]:
    """The entries of ``policy_kwargs`` that say how large the networks are."""
    pi, other = ([weight.shape[0] for weight in weights[:-1]] for weights in (actor, critic))
    sizes: dict[str, Any] = {"net_arch": {"pi": pi, layout.critic_key: other} if layout.critic else pi}
    if layout.critic_takes_action:
        sizes["n_critics"] = _count_critics(state)
    if layout.quantiles == "critic":
        sizes["n_quantiles"] = critic[-1].shape[0]
    if layout.quantiles == "actor":
        sizes["n_quantiles"] = actor[-1].shape[0] // actions
    if layout.batch_norm_option:
        sizes["batch_norm"] = any(key.endswith(".ra_mean") for key in state)
    return sizes


def _network_weights(algorithm: Algorithm, state: State) -> tuple[list[Tensor], list[Tensor]]:
    """The weights of the actor and of the critic; the critic's are empty if the algorithm has none."""
    layout = algorithm.layout
    actor, critic = linear_weights(state, *layout.actor), linear_weights(state, *layout.critic)
    for prefixes, weights in ((layout.actor, actor), (layout.critic, critic)):
        if prefixes and not weights:
            raise AgentError(f"The archive has no layer '{prefixes[-1]}': not the policy of {algorithm.name}.")
    return actor, critic


def _usual_extractor(layout: PolicyLayout, state: State, observation_space: spaces.Space[Any]) -> type:
    """SB3's features extractor for a policy whose ``policy_kwargs`` name none."""
    if isinstance(observation_space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if f"{layout.extractor}cnn.0.weight" in state else FlattenExtractor


def _check_networks(
    layout: PolicyLayout,
    actor: list[Tensor],
    critic: list[Tensor],
    features: int | None,
    quantiles: int,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
) -> None:
    """Check inputs and outputs of the actor and of the critic.

    :param features: that the networks get; ``None`` for an extractor of the user's
    :param quantiles: per value; 1 if the algorithm has no quantiles
    """
    where = f"the observation space {observation_space} and the action space {action_space}"
    actions = get_flattened_obs_dim(action_space)
    outputs, values = (actions * quantiles, 1) if layout.quantiles == "actor" else (actions, quantiles)
    _check_ends("actor", actor, features, outputs, where)
    if layout.critic and features is not None:
        _check_ends("critic", critic, features + actions * layout.critic_takes_action, values, where)


def own_policy_kwargs(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The ``policy_kwargs`` of a user's own policy, whose sizes cannot be inferred from its tensors.

    :param stored: ``policy_kwargs`` of the archive's JSON
    :param given: the user's ``policy_kwargs``
    """
    for entry in ("net_arch", "n_critics", "n_quantiles"):
        if stored.get(entry) is not None and entry not in given:
            raise AgentError(
                f"The agent's policy has layers of its own, and was made with {entry}={str(stored[entry])[:100]}. "
                f"Pass policy_kwargs={{'{entry}': ...}}.",
                arguments=("policy_kwargs",),
            )
    return {**read_policy_kwargs({entry: value for entry, value in stored.items() if entry not in given}), **given}


def infer_policy_kwargs(
    algorithm: Algorithm,
    policy_class: Callable[..., Any],
    state: State,
    stored: Mapping[str, Any],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """The ``policy_kwargs`` that rebuild a policy's networks.

    :param algorithm: whose layout the policy has
    :param policy_class: the policy to be built, for its defaults
    :param state: its state dictionary, after :func:`modernize`
    :param stored: ``policy_kwargs`` of the archive's JSON
    :param observation_space: as the policy gets observations: images channels first
    :param action_space: what the policy acts on
    :param given: the user's ``policy_kwargs``, which win over everything
    :raises AgentError: something is unknown, and the message names the argument that helps; or the archive's
        attributes, its tensors and the spaces contradict each other
    """
    layout, actions = algorithm.layout, get_flattened_obs_dim(action_space)
    actor, critic = _network_weights(algorithm, state)
    kwargs = read_policy_kwargs({entry: value for entry, value in stored.items() if entry not in given})
    kwargs |= {**_network_sizes(layout, state, actor, critic, actions), **given}

    usual = _usual_extractor(layout, state, observation_space)
    extractor, options = kwargs.get("features_extractor_class", usual), kwargs.get("features_extractor_kwargs") or {}
    features = None
    if "features_extractor_kwargs" not in given:
        options, features = _extractor(extractor, state, layout.extractor, observation_space, options)
    if extractor is not FlattenExtractor:
        kwargs |= {"features_extractor_class": extractor, "features_extractor_kwargs": options}
    if "net_arch" not in given:
        quantiles = kwargs.get("n_quantiles", 1)
        _check_networks(layout, actor, critic, features, quantiles, observation_space, action_space)

    default = inspect.signature(policy_class).parameters.get("share_features_extractor")
    if layout.other_extractor and kwargs.get("share_features_extractor", default and default.default):
        _check_shared(layout, state)
    return kwargs
