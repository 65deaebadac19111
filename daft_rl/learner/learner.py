"""The quick ways to compute what an algorithm learns, put into an agent and taken out again."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch.optim import Adam

from daft_rl.agents.algorithms import find_algorithm
from daft_rl.errors import MethodError
from daft_rl.learner.adam import QuickAdam
from daft_rl.learner.chain import fuse_chains, separate_chains
from daft_rl.learner.gaussian import QuickGaussian
from daft_rl.learner.products import has_onednn, is_amd_with_avx512
from daft_rl.learner.training import Training, find_training

__all__ = ["KERNELS", "Learner"]

KERNELS = ("auto", "torch", "onednn", "plain")


class Learner:
    """What makes the updates of one agent quick while it is attached. Weights and archives stay SB3's.

    Adam's step becomes one kernel; Gaussian actions come without a distribution of PyTorch; SAC, TD3, DDPG, TQC, CrossQ
    and PPO with such actions learn by updates of ours in place of SB3's ``train``; oneDNN multiplies matrices where it
    is faster. The numbers are the same up to rounding.

    Which library multiplies follows from the processor, not from a measurement: one machine must always choose the
    same, or equal seeds would give different bits.

    :param model: any SB3 algorithm object
    :param kernels: ``torch`` or ``onednn`` multiplies matrices; ``auto`` takes oneDNN on processors of AMD that have
        AVX-512; ``plain`` leaves everything as SB3 and PyTorch do it
    :raises MethodError: unknown kernels, or a PyTorch that was built without oneDNN
    """

    def __init__(self, model: BaseAlgorithm, kernels: str = "auto") -> None:
        if kernels not in KERNELS:
            raise MethodError(f"Unknown kernels {kernels!r}. There are: {', '.join(KERNELS)}.", arguments=("kernels",))
        if kernels == "onednn" and not has_onednn():
            message = "This PyTorch was built without oneDNN's linear operator. Use kernels='torch'."
            raise MethodError(message, arguments=("kernels",))
        self.model: Any = model
        # on a GPU, the updates of `vec=cuda` have ways of their own
        self.works = kernels != "plain" and model.device.type == "cpu"
        self._with_onednn = kernels == "onednn" or (kernels == "auto" and has_onednn() and is_amd_with_avx512())
        self.training: Training | None = None
        """What stands in for SB3's ``train``."""

    def attach(self) -> None:
        """Put them in."""
        if not self.works:
            return
        model = self.model
        if not find_algorithm(model).line_search:  # which needs the gradient of a gradient, that a chain does not have
            if self._with_onednn and _learns_by_a_library(model):
                fuse_chains(model.policy)
            if type(getattr(model.policy, "action_dist", None)) is DiagGaussianDistribution:
                model.policy.action_dist.__class__ = QuickGaussian
        if type(getattr(model, "ent_coef_optimizer", None)) is Adam:
            model.ent_coef_optimizer.__class__ = QuickAdam
        self.training = find_training(model)

    def detach(self) -> None:
        """Take them out."""
        separate_chains(self.model.policy)
        distribution = getattr(self.model.policy, "action_dist", None)
        if type(distribution) is QuickGaussian:
            distribution.__class__ = DiagGaussianDistribution  # type: ignore[assignment]
            for name in QuickGaussian.__annotations__:
                vars(distribution).pop(name, None)
        if type(getattr(self.model, "ent_coef_optimizer", None)) is QuickAdam:
            self.model.ent_coef_optimizer.__class__ = Adam
        self.training = None


def _learns_by_a_library(model: BaseAlgorithm) -> bool:
    """Whether its ``train`` is SB3's or sb3-contrib's. One of a user's own may need gradients of gradients."""
    owner = next(cls for cls in type(model).__mro__ if "train" in vars(cls))
    return owner.__module__.partition(".")[0] in ("stable_baselines3", "sb3_contrib")
