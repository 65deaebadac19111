"""The weights of a policy, carried to another body along a :class:`~daft_rl.correspondence.Correspondence`.

Any network can be carried whose linear and BatchNorm layers read the entries, with one extractor or several
(:mod:`daft_rl.policy.tracing`).

- An input that corresponds takes its weights. Those of a new one are zero. Several that copy one share its weights
  equally (Net2WiderNet, arXiv 1511.05641), so that the function is the same where they agree.
- An input that is gone stays at its mean: what it gave then goes into the bias.
- An output that corresponds takes its row, and a copy the same row. A new motor gets mean 0 and the average spread of
  the others; a new choice the average of the others, so that it is never the best one before something is learnt.
- BatchNorm takes scale, shift and statistics of the channel; of a new one 1, 0, 0 and 1.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from daft_rl.correspondence import Correspondence, Matching
from daft_rl.errors import AgentError
from daft_rl.policy.anatomy import Anatomy
from daft_rl.policy.tracing import HIDDEN, ROWS, Tracer

__all__ = ["Carrier", "new_channels", "policy_for"]

TOLERANCE = 1e-3
"""Relative difference between two policies that are to compute the same, in ``float32``."""


def policy_for(policy: BasePolicy, observation: spaces.Space[Any], action: spaces.Space[Any]) -> BasePolicy:
    """A fresh policy of the same kind for other spaces."""
    arguments = {name: value for name, value in policy._get_constructor_parameters().items() if value is not None}
    if hasattr(policy, "share_features_extractor"):
        arguments["share_features_extractor"] = policy.share_features_extractor
    made = type(policy)(**arguments | {"observation_space": observation, "action_space": action})
    return made.to(policy.device)


def _canonical(policy: nn.Module) -> dict[str, str]:
    """Each name of a module -> the first one. An extractor that two networks share has two."""
    first = {id(module): name for name, module in policy.named_modules()}
    return {name: first[id(module)] for name, module in policy.named_modules(remove_duplicate=False)}


class Carrier:
    """Carries tensors from one policy to another.

    :param old: the policy for the source, with its weights
    :param new: a fresh policy of the same kind for the target
    :param correspondence: of the entries of both
    :raises AgentError: the policies differ in more than that
    """

    def __init__(self, old: BasePolicy, new: BasePolicy, correspondence: Correspondence) -> None:
        self.old, self.new, self.correspondence = old, new, correspondence
        looked = not correspondence.observation.is_identity, not correspondence.action.is_identity
        self.before, self.after = Tracer(old, *looked), Tracer(new, *looked)
        observation, action = correspondence.observation.origin, correspondence.action.origin
        shift, own = self.before.sizes[0], self.after.sizes
        origin = [*(observation if own[0] else ())]
        origin += [None if entry is None else shift + entry for entry in action] if own[1] else []
        self.origin = origin
        """For each entry of the target its entry in the source; entries of the action follow."""
        removed = [*(correspondence.observation.removed if own[0] else ())]
        removed += [shift + entry for entry in correspondence.action.removed] if own[1] else []
        self.is_removed = torch.zeros(sum(self.before.sizes), dtype=torch.bool, device=old.device)
        self.is_removed[removed] = True
        self.canonical = _canonical(new)
        self.outputs = {} if correspondence.action.is_identity else self._find_outputs()

    @property
    def forgets_unknown_means(self) -> bool:
        """Whether entries are gone whose mean no BatchNorm layer tells."""
        known = torch.zeros_like(self.is_removed)
        for name, labels in self.before.labels.items():
            if name in self.before.layers:
                known[labels[labels != HIDDEN]] = True
        return bool((self.is_removed & ~known)[: self.before.sizes[0]].any())

    def _find_outputs(self) -> dict[str, int]:
        """Parameters whose rows belong to actions or choices -> the axis of these rows."""
        networks, anatomy = self.before.networks, Anatomy(self.new)
        head = anatomy.groups["actor_head"] or anatomy.groups["critic_head"]
        targets = networks.layout.targets
        found = {}
        for name, tensor in self.new.state_dict().items():
            prefix, _, rest = name.partition(".")
            online = f"{targets[prefix]}.{rest}" if prefix in targets else name
            if online in head:
                of_gsde = online.endswith("log_std") and tensor.ndim == 2  # a matrix (features, actions)
                found[name] = 1 if of_gsde else 0
        # without full_std, gSDE has one column for all actions, however many there are
        states = self.old.state_dict(), self.new.state_dict()
        return {name: axis for name, axis in found.items() if axis == 0 or any(s[name].shape[1] > 1 for s in states)}

    def state(self) -> dict[str, Tensor]:
        """The state dictionary of the new policy.

        :raises AgentError: something other than linear and BatchNorm layers reads what has moved
        """
        states = self.old.state_dict(), self.new.state_dict()
        center = self.before.means()[None].expand(ROWS, -1)
        resting = self.before.inputs(center, torch.ones_like(self.is_removed))
        carried = {}
        for name, fresh in states[1].items():
            if name not in states[0]:
                raise _refuse(f"'{name}' is not in the source")
            carried[name] = self.carry(name, states[0][name], resting)
            if carried[name].shape != fresh.shape:
                raise _refuse(f"'{name}' has shape {tuple(states[0][name].shape)}, and {tuple(fresh.shape)} there")
        self._verify(carried)
        return carried

    def carry(self, name: str, old: Tensor, resting: dict[str, Tensor] | None = None) -> Tensor:
        """One tensor of a state dictionary.

        :param name: in the state dictionary
        :param old: its value in the source, or what an optimizer keeps of it
        :param resting: what layers get at the means; ``None`` for an optimizer's, where new ones are 0
        """
        module, _, leaf = name.rpartition(".")
        layer = self.canonical.get(module, module)
        moments = resting is None
        if layer in self.after.labels and layer in self.before.labels:
            if layer in self.after.layers:
                fill = 0.0 if moments or leaf not in ("running_var", "ra_var", "weight", "scale") else 1.0
                old = self._channels(layer, old, fill)
            elif leaf == "weight":
                old = self._columns(layer, old, shared=not moments)
            elif leaf == "bias" and resting is not None and self.is_removed.any():
                old = self._shift_bias(layer, old, resting)
        if name in self.outputs:
            old = self._rows(name, old, moments)
        return old

    def _places(self, layer: str) -> list[tuple[int | None, float]]:
        """For each input of a layer in the target its input in the source, and its share of the weights."""
        old, new = (tracer.labels[layer].tolist() for tracer in (self.before, self.after))
        place = {label: i for i, label in enumerate(old) if label != HIDDEN}
        hidden = iter(i for i, label in enumerate(old) if label == HIDDEN)
        found: list[tuple[int | None, float]] = []
        for label in new:
            if label == HIDDEN:
                found.append((next(hidden, None), 1.0))
                continue
            origin = self.origin[label]
            found.append((None, 0.0) if origin is None else (place[origin], 1 / self.origin.count(origin)))
        return found

    def _columns(self, layer: str, old: Tensor, shared: bool) -> Tensor:
        """
        :param shared: whether copies share the values. Gradients of shared weights are each that of the original
        """
        places = self._places(layer)
        columns = [old[:, 0] * 0 if i is None else old[:, i] * (share if shared else 1.0) for i, share in places]
        return torch.stack(columns, dim=1)

    def _channels(self, layer: str, old: Tensor, fill: float) -> Tensor:
        if old.ndim != 1:
            return old  # a counter
        return torch.stack([torch.full_like(old[0], fill) if i is None else old[i] for i, _ in self._places(layer)])

    def _shift_bias(self, layer: str, bias: Tensor, resting: dict[str, Tensor]) -> Tensor:
        labels = self.before.labels[layer]
        gone = (labels != HIDDEN) & self.is_removed[labels.clamp_min(0)]
        weight: Tensor = self.old.get_submodule(layer).weight  # type: ignore[assignment]
        return bias + (weight[:, gone].double() @ resting[layer][0, gone].double()).to(bias)

    def _rows(self, name: str, old: Tensor, moments: bool) -> Tensor:
        axis, matching = self.outputs[name], self.correspondence.action
        quantiles = old.shape[axis] // len(matching.source)
        parts = old.movedim(axis, 0).unflatten(0, (quantiles, len(matching.source)))
        known = [origin for origin in matching.origin if origin is not None] or list(range(len(matching.source)))
        average = "log_std" in name or isinstance(self.new.action_space, spaces.Discrete)
        new = parts[:, known].mean(dim=1) if average and not moments else torch.zeros_like(parts[:, 0])
        rows = [new if origin is None else parts[:, origin] for origin in matching.origin]
        return torch.stack(rows, dim=1).flatten(0, 1).movedim(0, axis)

    @torch.no_grad()
    def _verify(self, carried: dict[str, Tensor]) -> None:
        """Check on random entries that hidden layers give what they gave.

        :raises AgentError: they do not
        """
        self.new.load_state_dict(carried)
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(ROWS, sum(self.before.sizes), generator=generator).to(self.old.device)
        values = self.before.means() + noise
        values[:, self.is_removed] = self.before.means()[self.is_removed]
        strange = torch.randn(ROWS, 1, generator=generator).to(self.old.device)
        moved = [strange[:, 0] if origin is None else values[:, origin] for origin in self.origin]
        expected = self.before.inputs(values, self.is_removed)
        got = self.after.inputs(torch.stack(moved, dim=1) if moved else values)
        heads = {self.canonical.get(name.rpartition(".")[0], "") for name in self.outputs}
        for name in expected.keys() & got.keys():
            if not name.endswith(":") or name.removesuffix(":") in heads:
                continue
            if not torch.allclose(expected[name], got[name], rtol=TOLERANCE, atol=TOLERANCE):
                raise _refuse(f"layer '{name.removesuffix(':')}' would compute something else")


def _refuse(reason: str) -> AgentError:
    return AgentError(
        f"The policy cannot be carried to this body: {reason}. Only linear and BatchNorm layers may read the entries "
        "of observations and actions.",
        arguments=("correspondence",),
    )


def new_channels(policy: BasePolicy, correspondence: Correspondence) -> dict[str, Tensor]:
    """BatchNorm layers with inputs that are new entries -> a mask over their channels."""

    def is_new(matching: Matching, size: int) -> list[bool]:
        return [origin is None for origin in matching.origin] if size else []

    tracer = Tracer(policy, bool(correspondence.observation.new), bool(correspondence.action.new))
    new = torch.tensor(
        is_new(correspondence.observation, tracer.sizes[0]) + is_new(correspondence.action, tracer.sizes[1])
    )
    found = {}
    for name, labels in tracer.labels.items():
        if name in tracer.layers and not tracer.networks.is_target(name):
            found[name] = (labels != HIDDEN).cpu() & new[labels.cpu().clamp_min(0)]
    return {name: mask for name, mask in found.items() if mask.any()}
