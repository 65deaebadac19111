"""How far an agent has moved from where it started: features, weights, running statistics.

Feature distortion as in the DAFT paper: cosine similarity and L2 distance between the features of the
encoder before fine-tuning (after conversion) and now, on target data that is held out from learning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from daft_rl.batchnorm import evaluation_mode, running_statistics
from daft_rl.policy.anatomy import Anatomy
from daft_rl.policy.networks import Observations

__all__ = ["Distortion", "StatisticsDrift", "linear_cka"]


def linear_cka(start: Tensor, now: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features (Kornblith et al., ICML 2019, section 3).

    It ignores rotations and one common scale, which the next layer can undo: 1 is the same representation. It is 0
    between features that have collapsed to a constant and features that have not.

    :param start: features, ``(n, p)``
    :param now: features of the same samples, ``(n, q)``
    """
    x, y = ((features - features.mean(0)).double() for features in (start, now))
    if max(x.shape[1], y.shape[1]) > len(x):  # products between samples give the same number, and are smaller
        x, y = x @ x.T, y @ y.T
        norm, common = x.norm() * y.norm(), (x * y).sum()
    else:
        norm, common = (x.T @ x).norm() * (y.T @ y).norm(), (x.T @ y).square().sum()
    if norm == 0:  # features that are the same for all samples
        return float(bool((x == 0).all()) and bool((y == 0).all()))
    return float(common / norm)


def _distance(start: Tensor, now: Tensor) -> dict[str, float]:
    """Mean cosine similarity and mean Euclidean distance of two sets of features."""
    cosine = nn.functional.cosine_similarity(start, now, dim=1).mean()
    return {"cosine": float(cosine), "l2": float((now - start).norm(dim=1).mean())}


class Distortion:
    """Features and weights of an agent at the start, and the distance to them later.

    :param anatomy: the agent
    :param observations: held-out data, normalized as the policy gets it, ``(n, ...)``
    :param actions: array ``(n, *action_shape)``, scaled as in a replay buffer; ``None`` if they are not known
    """

    def __init__(self, anatomy: Anatomy, observations: Observations, actions: NDArray[Any] | None = None) -> None:
        self.anatomy = anatomy
        self.observations, self.actions = observations, actions
        self.features = self._features()
        self.weights = {name: p.detach().clone() for group in anatomy.groups.values() for name, p in group.items()}

    def state_dict(self) -> dict[str, Any]:
        """What it compares with: tensors and arrays, which are not copied."""
        return {
            "observations": self.observations,
            "actions": self.actions,
            "features": self.features,
            "weights": self.weights,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compare with the start of another run from now on.

        :param state: what :meth:`state_dict` returned
        """
        device = self.anatomy.policy.device
        self.observations, self.actions = state["observations"], state["actions"]
        self.features = {name: tensor.to(device) for name, tensor in state["features"].items()}
        self.weights = {name: tensor.to(device) for name, tensor in state["weights"].items()}

    def _features(self, layers: bool = True) -> dict[str, Tensor]:
        """Outputs of every encoder layer (by its name), and inputs of each head (by the head's name).

        :param layers: ``False`` returns the inputs of heads only
        """
        found: dict[str, list[Tensor]] = {}
        handles = []
        heads = self.anatomy.heads()

        def keep(name: str, value: Tensor) -> None:
            found.setdefault(name, []).append(value.detach().flatten(1).clone())

        for name, module in self.anatomy.policy.named_modules():
            if self.anatomy.is_target(name + "."):
                continue
            if name in heads:
                handles.append(module.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[0])))
            elif layers and not list(module.children()) and list(module.parameters()):
                handles.append(module.register_forward_hook(lambda _, __, out, name=name: keep(name, out)))
        try:
            with evaluation_mode(self.anatomy.policy), torch.no_grad():
                for batch in self.anatomy.batches(self.observations, self.actions):
                    self.anatomy.forward(*batch)
        finally:
            for handle in handles:
                handle.remove()
        return {name: torch.cat(parts) for name, parts in found.items()}

    def measure(self) -> dict[str, dict[str, float]]:
        """Distances from the start.

        :return: layer or head name -> ``cosine`` (mean cosine similarity over samples), ``l2`` (mean Euclidean
            distance over samples) and ``cka`` (see :func:`linear_cka`) of features, and parameter name ->
            ``weight_l2``
        """
        result: dict[str, dict[str, float]] = {}
        for name, now in self._features().items():
            start = self.features[name]
            result[name] = _distance(start, now) | {"cka": linear_cka(start, now)}
        for group in self.anatomy.groups.values():
            for name, parameter in group.items():
                distance = float((parameter.detach() - self.weights[name]).norm())
                result.setdefault(name, {})["weight_l2"] = distance
        return result

    def summary(self) -> dict[str, float]:
        """Mean feature distance where features enter the heads, for actor and critic."""
        now = self._features(layers=False)
        result = {}
        for role in ("actor", "critic"):
            heads = [name for name in self.anatomy.heads() if self.anatomy.group_of(name + ".") == f"{role}_head"]
            distances = [_distance(self.features[name], now[name]) for name in heads]
            for key in ("cosine", "l2") if heads else ():
                result[f"{role}_{key}"] = float(np.mean([distance[key] for distance in distances]))
        return result


class StatisticsDrift:
    """Running statistics of an agent at the start, and how far they have moved later.

    :param policy: any module with BatchNorm layers
    """

    def __init__(self, policy: nn.Module) -> None:
        self.policy = policy
        self.start = running_statistics(policy)

    def state_dict(self) -> dict[str, Any]:
        """What it compares with: layer name -> mean and variance, which are not copied."""
        return {"start": self.start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compare with the start of another run from now on.

        :param state: what :meth:`state_dict` returned
        """
        now = running_statistics(self.policy)
        self.start = {
            name: (mean.to(now[name][0].device), var.to(now[name][1].device))
            for name, (mean, var) in state["start"].items()
        }

    def measure(self) -> dict[str, float]:
        """Median over all channels: near-constant channels move by many standard deviations.

        :return: ``mean``: change of the mean in source standard deviations; ``std``: absolute change of
            the logarithm of the standard deviation. Empty without BatchNorm layers.
        """
        means, stds = [], []
        for name, (mean, var) in running_statistics(self.policy).items():
            start_mean, start_var = self.start[name]
            means.append((mean - start_mean).abs() / (start_var + 1e-5).sqrt())
            stds.append(0.5 * ((var + 1e-5).log() - (start_var + 1e-5).log()).abs())
        if not means:
            return {}
        return {"mean": float(torch.cat(means).median()), "std": float(torch.cat(stds).median())}
