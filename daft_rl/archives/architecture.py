"""The networks of an archive: sizes from the shapes of its tensors, kinds from the names in its description.

Sizes in the description are not needed, so formats that SB3 has changed over the years do not matter, and
a description cannot make anyone allocate more than the file itself holds: before a network is built, its
inputs and outputs are checked against the spaces.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from torch import Tensor

from daft_rl.agents.extractors import BatchNormExtractor
from daft_rl.archives.hyperparameters import find_activation, read_policy_kwargs
from daft_rl.errors import AgentError

__all__ = ["LAYOUTS", "infer_policy_kwargs", "modernize", "own_policy_kwargs", "uses_sde"]

MAX_CRITICS = 50

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Where an algorithm's policy keeps its layers. A network is the chain of linear layers under its prefixes."""

    actor: tuple[str, ...]
    """The network that acts."""
    critic: tuple[str, ...] = ()
    critic_key: str = ""
    """The critic's name in ``net_arch``; empty: ``net_arch`` is the actor's list alone."""
    critic_takes_action: bool = False
    extractor: str = "features_extractor."
    other_extractor: str = ""
    """The extractor that is the same tensors where ``share_features_extractor`` holds."""


_ON_POLICY = Layout(
    ("mlp_extractor.policy_net", "action_net"),
    ("mlp_extractor.value_net", "value_net"),
    "vf",
    extractor="pi_features_extractor.",
    other_extractor="vf_features_extractor.",
)
_Q = {"critic_key": "qf", "critic_takes_action": True}
_EXTRACTORS = {"extractor": "actor.features_extractor.", "other_extractor": "critic.features_extractor."}
_SQUASHED_GAUSSIAN = Layout(("actor.latent_pi", "actor.mu"), ("critic.qf0",), **_Q, **_EXTRACTORS)  # type: ignore[arg-type]
_DETERMINISTIC = Layout(("actor.mu",), ("critic.qf0",), **_Q, **_EXTRACTORS)  # type: ignore[arg-type]

LAYOUTS = {
    **dict.fromkeys(("PPO", "A2C", "TRPO", "MaskablePPO"), _ON_POLICY),
    **dict.fromkeys(("SAC", "TQC", "CrossQ"), _SQUASHED_GAUSSIAN),
    **dict.fromkeys(("TD3", "DDPG"), _DETERMINISTIC),
    "DQN": Layout(("q_net.q_net",), extractor="q_net.features_extractor."),
    "QRDQN": Layout(("quantile_net.quantile_net",), extractor="quantile_net.features_extractor."),
}


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
    """The state dictionary as SB3 2.x names it: before 1.7, an actor-critic's one extractor had one name."""
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


def _cnn_features(state: State, prefix: str, space: spaces.Space) -> int:
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
            f"'{prefix}cnn' takes {first.shape[1]} channels and ends in {last.shape[1]} values, which images of "
            f"shape {shape} (channels first) do not give."
        )
    return last.shape[0]


def _extractor(
    kind: type, state: State, prefix: str, space: spaces.Space, options: dict[str, Any]
) -> tuple[dict[str, Any], int | None]:
    """The options of a features extractor, sizes from its tensors, and how many features it gives.

    :return: options, and features; ``None`` for a class that is not ours to know
    """
    if kind is NatureCNN:
        features = _cnn_features(state, prefix, space)
        return {**options, "features_dim": features}, features
    if kind is CombinedExtractor and isinstance(space, spaces.Dict):
        images = {key for key in space.spaces if f"{prefix}extractors.{key}.cnn.0.weight" in state}
        widths = {_cnn_features(state, f"{prefix}extractors.{key}.", space.spaces[key]) for key in images}
        if len(widths) > 1:
            raise AgentError(f"'{prefix}extractors' hold CNNs of different widths {sorted(widths)}; SB3 builds one.")
        flat = sum(get_flattened_obs_dim(part) for key, part in space.spaces.items() if key not in images)
        if widths:
            options = {**options, "cnn_output_dim": next(iter(widths))}
        return options, flat + len(images) * sum(widths)
    if kind is BatchNormExtractor:
        layers = linear_weights(state, f"{prefix}net")
        first = state.get(f"{prefix}net.1.weight")
        flat = get_flattened_obs_dim(space)
        if first is None or first.shape != (flat,):
            raise AgentError(f"'{prefix}net.1' should normalize the {flat} entries of the observation space {space}.")
        if isinstance(options.get("activation"), str):
            options = {**options, "activation": find_activation(options["activation"]).__name__}
        return {**options, "hidden": [layer.shape[0] for layer in layers]}, layers[-1].shape[0] if layers else flat
    if kind is FlattenExtractor:
        return options, get_flattened_obs_dim(space)
    return options, None


def _check_ends(name: str, weights: list[Tensor], inputs: int | None, outputs: int, where: str) -> None:
    """A network's first and last layer against the spaces; nothing has been allocated for it yet."""
    got = weights[0].shape[1], weights[-1].shape[0]
    if got[1] != outputs or inputs not in (None, got[0]):
        raise AgentError(
            f"The agent's {name} takes {got[0]} inputs and gives {got[1]} outputs, but {where} make that "
            f"{'any number' if inputs is None else inputs} and {outputs}."
        )


def _check_shared(layout: Layout, state: State) -> None:
    for key in state:
        if key.startswith(layout.extractor):
            other = state.get(layout.other_extractor + key.removeprefix(layout.extractor))
            if other is None or not torch.equal(state[key], other):
                raise AgentError(
                    f"The description says that actor and critic share one features extractor, but '{key}' differs "
                    f"between them. Pass policy_kwargs={{'share_features_extractor': False}}."
                )


def uses_sde(state: State) -> bool:
    """Whether the exploration noise depends on the state (gSDE): its ``log_std`` is a matrix then."""
    log_std = state.get("log_std", state.get("actor.log_std"))
    return log_std is not None and log_std.ndim == 2


def _count_critics(state: State) -> int:
    """Networks ``critic.qf0``, ``critic.qf1``, ... of the same sizes."""
    shapes = [[weight.shape for weight in linear_weights(state, f"critic.qf{index}")] for index in range(MAX_CRITICS)]
    return next((index for index, shape in enumerate(shapes) if shape != shapes[0]), MAX_CRITICS)


def _network_sizes(algorithm: str, state: State, actor: list[Tensor], critic: list[Tensor], actions: int) -> dict:
    """The entries of ``policy_kwargs`` that say how large the networks are."""
    layout = LAYOUTS[algorithm]
    pi, other = ([weight.shape[0] for weight in weights[:-1]] for weights in (actor, critic))
    sizes: dict[str, Any] = {"net_arch": {"pi": pi, layout.critic_key: other} if layout.critic else pi}
    if layout.critic_takes_action:
        sizes["n_critics"] = _count_critics(state)
    if algorithm == "TQC":
        sizes["n_quantiles"] = critic[-1].shape[0]
    if algorithm == "QRDQN":
        sizes["n_quantiles"] = actor[-1].shape[0] // actions
    if algorithm == "CrossQ":
        sizes["batch_norm"] = any(key.endswith(".ra_mean") for key in state)
    return sizes


def own_policy_kwargs(described: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The ``policy_kwargs`` of a user's own policy, in whose networks no sizes can be looked up."""
    for entry in ("net_arch", "n_critics", "n_quantiles"):
        if described.get(entry) is not None and entry not in given:
            raise AgentError(
                f"The agent's policy has layers of its own, and was made with {entry}={str(described[entry])[:100]}. "
                f"Pass policy_kwargs={{'{entry}': ...}} (agent.policy_kwargs=... on the command line)."
            )
    return {**read_policy_kwargs({entry: value for entry, value in described.items() if entry not in given}), **given}


def infer_policy_kwargs(
    algorithm: str,
    policy_class: Callable[..., Any],
    state: State,
    described: Mapping[str, Any],
    observation_space: spaces.Space,
    action_space: spaces.Space,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """The ``policy_kwargs`` that rebuild a policy's networks.

    :param algorithm: a key of :data:`LAYOUTS`
    :param policy_class: the policy to be built, for its defaults
    :param state: its state dictionary, after :func:`modernize`
    :param described: ``policy_kwargs`` as the archive's JSON describes them
    :param observation_space: as the policy gets observations: images channels first
    :param action_space: what the policy acts on
    :param given: the user's ``policy_kwargs``, which win over everything
    :raises AgentError: something is unknown, and the message asks for it by name; or the description, the
        tensors and the spaces contradict each other
    """
    layout, actions = LAYOUTS[algorithm], get_flattened_obs_dim(action_space)
    actor, critic = linear_weights(state, *layout.actor), linear_weights(state, *layout.critic)
    for prefixes, weights in ((layout.actor, actor), (layout.critic, critic)):
        if prefixes and not weights:
            raise AgentError(f"The archive has no layer '{prefixes[-1]}': not the policy of {algorithm}.")
    kwargs = read_policy_kwargs({entry: value for entry, value in described.items() if entry not in given})
    kwargs |= {**_network_sizes(algorithm, state, actor, critic, actions), **given}

    image = f"{layout.extractor}cnn.0.weight" in state
    usual = (
        CombinedExtractor if isinstance(observation_space, spaces.Dict) else NatureCNN if image else FlattenExtractor
    )
    kind, options = kwargs.get("features_extractor_class", usual), kwargs.get("features_extractor_kwargs") or {}
    features = None
    if "features_extractor_kwargs" not in given:
        options, features = _extractor(kind, state, layout.extractor, observation_space, options)
    if kind is not FlattenExtractor:
        kwargs |= {"features_extractor_class": kind, "features_extractor_kwargs": options}
    if "net_arch" not in given:
        where = f"the observation space {observation_space} and the action space {action_space}"
        quantiles = kwargs.get("n_quantiles", 1)
        outputs, values = (actions * quantiles, 1) if algorithm == "QRDQN" else (actions, quantiles)
        _check_ends("actor", actor, features, outputs, where)
        if layout.critic and features is not None:
            _check_ends("critic", critic, features + actions * layout.critic_takes_action, values, where)

    default = inspect.signature(policy_class).parameters.get("share_features_extractor")
    if layout.other_extractor and kwargs.get("share_features_extractor", default and default.default):
        _check_shared(layout, state)
    return kwargs
