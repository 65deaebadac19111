"""Which parameter of an SB3 policy belongs to the encoder, and which to the head, of actor or critic."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from stable_baselines3.common.policies import BasePolicy
from torch import nn

from daft_rl.agents.layouts import LAST
from daft_rl.errors import AgentError
from daft_rl.method import GROUPS
from daft_rl.policy.networks import Networks

__all__ = ["Anatomy"]


def _last_linears(policy: nn.Module) -> dict[str, str]:
    """For each ``Sequential`` its last linear layer: ``a.b.4`` -> ``a.b.<last>``."""
    found = {}
    for name, module in policy.named_modules():
        if isinstance(module, nn.Sequential):
            linears = [child for child, layer in module.named_children() if isinstance(layer, nn.Linear)]
            if linears:
                found[f"{name}.{linears[-1]}"] = f"{name}.{LAST}"
    return found


class Anatomy(Networks):
    """Encoder and head of the networks of one policy.

    The layout of the policy sorts its parameters into groups. A user's own patterns over parameter names
    (``"action_net.*"``, shell-style wildcards) win over it: ``head`` decides between head and encoder, ``critic``
    between critic and actor.

    :param policy: of an algorithm in the table (:mod:`daft_rl.agents.algorithms`)
    :param head: patterns of the heads; everything else is encoder
    :param critic: patterns of the critic; everything else is the actor's
    :raises AgentError: the table has no layout for such a policy; a parameter belongs nowhere; a pattern fits nothing;
        or there is no head
    """

    def __init__(
        self, policy: BasePolicy, head: Sequence[str] | None = None, critic: Sequence[str] | None = None
    ) -> None:
        super().__init__(policy)
        self._patterns = {"head": head, "critic": critic}
        self._last = _last_linears(policy)
        self.groups: dict[str, dict[str, nn.Parameter]] = {name: {} for name in GROUPS}
        for name, parameter in policy.named_parameters():
            if not self.is_target(name):
                self.groups[self.group_of(name)][name] = parameter
        self._check()

    def _check(self) -> None:
        names = [name for group in self.groups.values() for name in group]
        for key, patterns in self._patterns.items():
            for pattern in patterns or ():
                if not any(fnmatchcase(name, pattern) for name in names):
                    raise AgentError(
                        f"{key}: no parameter fits the pattern '{pattern}'. What exists: {', '.join(names)}.",
                        arguments=(key,),
                    )
        if not any(self.groups[f"{role}_head"] for role in ("actor", "critic")):
            raise AgentError(
                f"No parameter of {type(self.policy).__name__} belongs to a head. Name the heads by patterns, such as "
                f"head=['action_net.*']. What exists: {', '.join(names)}.",
                arguments=("head",),
            )

    def group_of(self, name: str) -> str:
        """The group of a parameter, or of a module if a dot follows its name."""
        expected = self._group_by_layout(name)
        matches = {
            key: None if patterns is None else any(fnmatchcase(name, pattern) for pattern in patterns)
            for key, patterns in self._patterns.items()
        }
        if expected is None and matches["head"] is None:
            raise AgentError(
                f"Parameter '{name}' of {type(self.policy).__name__} belongs to no group. Its layout has the groups "
                f"{dict(self.layout.groups)}. Name the heads by patterns, such as head=['action_net.*'], and the "
                "critic's parameters, such as critic=['value_net.*'].",
                arguments=("head", "critic"),
            )
        role, part = (expected or "actor_encoder").split("_")
        if matches["critic"] is not None:
            role = "critic" if matches["critic"] else "actor"
        if matches["head"] is not None:
            part = "head" if matches["head"] else "encoder"
        return f"{role}_{part}"

    def _group_by_layout(self, name: str) -> str | None:
        for layer, alias in self._last.items():
            if name.startswith(layer + "."):
                name = alias + name[len(layer) :]
        for group, patterns in self.layout.groups.items():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return group
        return None

    def heads(self) -> dict[str, nn.Module]:
        """The linear layers that end the online networks, by name."""
        return {
            name: module
            for name, module in self.policy.named_modules()
            if isinstance(module, nn.Linear)
            and not self.is_target(name)
            and self.group_of(name + ".").endswith("_head")
        }
