"""Gradient steps in a row: as they are on a CPU, and on a GPU as CUDA graphs.

A step of SAC launches hundreds of small kernels. On a GPU launching them takes longer than running them; a captured
graph launches them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor
from torch.optim import Adam, Optimizer

from daft_rl.agents import fuse_batch_renorm
from daft_rl.learner.gradient_steps import gradient_step
from daft_rl.rollout.device.collection import without_checks

__all__ = ["Updates"]

WARM_UP = 3
"""Steps before a capture: they make cuBLAS's workspaces and the optimizers' moments, which a capture must not."""


class Updates:
    """The gradient steps of one model. They replace SB3's ``train``.

    Captured, every group of the optimizers takes its learning rate from a tensor, and Adam is fused: weights then
    differ from SB3's in the last bits. The first steps run uncaptured, and so do those after something was replaced
    that a graph holds the address of.

    :param model: SAC, TD3, DDPG, TQC or CrossQ
    :param sample: makes a minibatch of a size. Captured, it must not wait for the device, and must read from the same
        tensors each time
    :param captured: whether to capture; ``None``: on a GPU. Only Adam's steps are captured. On a CPU a graph is the
        plain call, so that tests can take the same path
    :raises AgentError: the model's class learns in a way of its own
    """

    def __init__(
        self, model: BaseAlgorithm, sample: Callable[[int], ReplayBufferSamples], captured: bool | None = None
    ) -> None:
        self.model: Any = model
        self.sample = sample
        self.step = gradient_step(model)
        adam = all(isinstance(optimizer, Adam) for optimizer in self.step.optimizers())
        self.captured = adam and (model.device.type == "cuda" if captured is None else captured)
        self._graphs: dict[bool, Callable[[], None]] = {}
        self._warm_ups: dict[bool, int] = {}
        self._rates: list[Tensor] = []
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._losses: dict[bool, list[str]] = {}
        if self.captured:
            fuse_batch_renorm(model.policy)  # sb3-contrib's layers wait for the device
            if model.device.type == "cuda":
                self._stream = torch.cuda.Stream(model.device)

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take gradient steps, as SB3's ``train`` does. Captured, nothing waits for the device."""
        model = self.model
        self._batch_size = batch_size
        model.policy.set_training_mode(True)
        optimizers = self.step.optimizers()
        model._update_learning_rate(optimizers)
        with ExitStack() as stack:
            if self.captured:
                for optimizer in optimizers:
                    move_step_counts(optimizer)
                self._forget_stale_graphs()
                stack.enter_context(self._rates_on_device(optimizers))
                stack.enter_context(without_checks())
            for index in range(gradient_steps):
                model._n_updates += 1
                self._advance(self.step.delayed(index))

    def mean_losses(self) -> dict[str, float]:
        """Means since the last call, by their names in SB3's log. It waits for the device."""
        names = list(self._counts)
        if not names:
            return {}
        sums = torch.stack([self._sums[name] for name in names]).tolist()
        means = {name: total / self._counts[name] for name, total in zip(names, sums, strict=True)}
        torch._foreach_zero_(list(self._sums.values()))
        self._counts.clear()
        return means

    def _advance(self, delayed: bool) -> None:
        """One step: run, captured and run, or replayed."""

        def run() -> None:
            self._run(delayed)

        if not self.captured:
            run()
        elif delayed in self._graphs:
            self._graphs[delayed]()
        elif self._warm_ups.get(delayed, 0) < WARM_UP:
            self._warm_ups[delayed] = self._warm_ups.get(delayed, 0) + 1
            self._run_aside(run)
        else:
            self._graphs[delayed], self._captured_for = self._capture(run), self._signature()
            self._graphs[delayed]()
        for name in self._losses[delayed]:
            self._counts[name] = self._counts.get(name, 0) + 1

    def _run(self, delayed: bool) -> None:
        losses = self.step(self.sample(self._batch_size), delayed)
        for name in losses.keys() - self._sums.keys():
            self._sums[name] = torch.zeros((), device=self.model.device)
        self._losses[delayed] = list(losses)
        torch._foreach_add_([self._sums[name] for name in losses], list(losses.values()))

    def _run_aside(self, run: Callable[[], None]) -> None:
        """Run on the stream of the captures: autograd returns to the stream that it first saw a parameter on."""
        if self.model.device.type != "cuda":
            run()
            return
        current = torch.cuda.current_stream(self.model.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            run()
        current.wait_stream(self._stream)

    def _capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """The graph of a step, ready to replay. Capturing runs nothing."""
        if self.model.device.type != "cuda":
            return run
        groups = [group for optimizer in self.step.optimizers() for group in optimizer.param_groups]
        graph = torch.cuda.CUDAGraph()
        with changed(groups, [{"capturable": True}] * len(groups)), torch.cuda.graph(graph, stream=self._stream):
            run()
        return graph.replay

    def _forget_stale_graphs(self) -> None:
        """Begin anew if a parameter was frozen or freed, or an optimizer, its moments or the minibatch replaced."""
        if self._graphs and self._signature() != self._captured_for:
            self._graphs.clear()
            self._warm_ups.clear()

    def _signature(self) -> tuple[object, ...]:
        """What graphs depend on. Objects go by their identity, and are kept so that none takes another's."""
        optimizers = self.step.optimizers()
        parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        moments = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
        self._kept = [*optimizers, *parameters, *moments, self.sample]
        return (self._batch_size, *(p.requires_grad for p in parameters), *map(id, self._kept))

    @contextmanager
    def _rates_on_device(self, optimizers: Sequence[Optimizer]) -> Iterator[None]:
        """Inside, Adam is fused and takes its learning rates from the tensors that graphs read. Outside, nothing of
        this shows: archives and schedules see SB3's settings."""
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        if len(self._rates) != len(groups):
            self._rates = [torch.zeros((), device=self.model.device) for _ in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            rate.fill_(group["lr"])
        with changed(groups, [{"lr": rate, "fused": True, "foreach": False} for rate in self._rates]):
            yield


@contextmanager
def changed(groups: Sequence[dict[str, Any]], changes: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Change settings of parameter groups inside."""
    before = [{key: group[key] for key in change} for group, change in zip(groups, changes, strict=True)]
    for group, change in zip(groups, changes, strict=True):
        group.update(change)
    try:
        yield
    finally:
        for group, old in zip(groups, before, strict=True):
            group.update(old)


def move_step_counts(optimizer: Optimizer) -> None:
    """Keep Adam's counts of steps beside its moments; unless it is fused, PyTorch keeps them on the host."""
    for parameter, state in optimizer.state.items():
        if state["step"].device != parameter.device:
            state["step"] = state["step"].to(parameter.device)
