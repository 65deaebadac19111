"""Fine-tuning by a method's settings: parameter groups, schedules, BatchNorm modes, conversion.

SB3 stays in charge of learning. We hook in at ``_update_learning_rate``, which every SB3 algorithm calls
at the start of an update, right after it put the policy in training mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import update_learning_rate
from torch import nn
from torch.optim import Adam

from daft_rl.agents.algorithms import find_algorithm
from daft_rl.batchnorm import Statistics, mix_statistics
from daft_rl.errors import MethodError
from daft_rl.method import Method
from daft_rl.policy.anatomy import Anatomy
from daft_rl.policy.networks import optimizer_settings
from daft_rl.rollout.buffers import recent_experience, rollout_minibatch
from daft_rl.rollout.profile import Phases

__all__ = ["Reconversion", "Tuner"]


SLOWEST_AVERAGE = 0.005
"""Least share of a new rollout where statistics follow an average over rollouts."""


class Tunable(BaseAlgorithm):
    """Mixed into an SB3 algorithm's class while a :class:`Tuner` is attached."""

    tuner: Tuner

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> Any:
        """As the algorithm does, timed; simulation inside is a phase of its own."""
        with self.tuner.phases("inference"):
            return super().collect_rollouts(*args, **kwargs)  # type: ignore[misc]

    def train(self, *args: Any, **kwargs: Any) -> None:
        """As the algorithm does, timed."""
        with self.tuner.phases("update"):
            super().train(*args, **kwargs)  # type: ignore[misc]

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        self.tuner.before_update(optimizers if isinstance(optimizers, list) else [optimizers])

    def _sample_action(self, learning_starts: int, *args: Any, **kwargs: Any) -> Any:
        """Before ``learning_starts`` SB3's off-policy algorithms act at random; a source acts by its policy."""
        if self.tuner.method.actor_head.init != "random":
            learning_starts = 0
        return super()._sample_action(learning_starts, *args, **kwargs)  # type: ignore[misc]

    def get_parameters(self) -> dict[str, dict]:
        """State dictionaries as SB3 saves them: one group per optimizer, so that plain ``load`` opens them."""
        parameters = super().get_parameters()
        for path in self.tuner.anatomy.layout.optimizers:
            name = f"policy.{path}" if path == "optimizer" else path
            parameters[name] = self.tuner.ungrouped_state(path)
        return parameters

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "tuner"]


@cache
def _tunable(algorithm: type[BaseAlgorithm]) -> type[BaseAlgorithm]:
    return type(algorithm.__name__, (Tunable, algorithm), {"__doc__": algorithm.__doc__})


class Tuner:
    """Makes one algorithm object learn by one method.

    While it is attached, the object's class is a subclass of its own that hooks in; its archives stay those
    of the plain class.

    :param model: any SB3 algorithm object with a known kind of policy. Its optimizers are replaced by fresh
        ones, since the source's moments belong to another loss
    :param method: the settings
    :param head: see :class:`~daft_rl.policy.anatomy.Anatomy`
    :param critic: likewise
    :param phases: where the time of rollouts and updates is written down
    :param actor_scale: factor on the learning rate of the actor's groups beside the method's own, unless the method
        starts them from random weights
    :raises MethodError: the settings cannot be applied to this agent
    :raises AgentError: nor can any others
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        method: Method,
        head: Sequence[str] | None = None,
        critic: Sequence[str] | None = None,
        phases: Phases | None = None,
        actor_scale: float = 1.0,
    ) -> None:
        if isinstance(model, Tunable):
            raise MethodError(f"This {type(model).__name__} is tuned already: call detach() on its tuner first.")
        self.model, self.method = model, method
        self.phases = phases or Phases()
        self.anatomy = Anatomy(model.policy, head, critic)
        if not (isinstance(actor_scale, int | float) and 0 < actor_scale < math.inf):
            raise MethodError(f"actor_scale: expected a finite number > 0, got {actor_scale!r}.")
        self.factors = {
            name: actor_scale if name.startswith("actor") and group.init != "random" else 1.0
            for name, group in method.groups.items()
        }
        """Factor on each group's learning rate beside the method's own."""
        self._check_minibatch()
        self._check_gradients()
        self._initialize_groups()
        self.rates = dict.fromkeys(self.anatomy.groups, 0.0)
        """Learning rate of each group at the last update."""
        self.frozen = {name for name, group in method.groups.items() if group.frozen(0.0)}
        """The groups that are frozen at present."""
        self._order: dict[str, list[nn.Parameter]] = {}
        self._defaults: dict[str, dict[str, Any]] = {}
        self._start: dict[nn.Parameter, torch.Tensor] = {}
        self._batchnorm = {
            name: (module, self.anatomy.group_of(name + "."))
            for name, module in self.anatomy.batchnorm_modules().items()
        }
        self._hooks = [module.register_forward_pre_hook(self._pin) for module, _ in self._batchnorm.values()]
        self._pinned: set[nn.Module] = set()
        for path, optimizer in self.anatomy.optimizers().items():
            self.anatomy.set_optimizer(path, self._regroup(path, optimizer))
        model.__class__ = _tunable(type(model))
        model.tuner = self  # type: ignore[attr-defined]

    def detach(self) -> None:
        """Leave the model an ordinary one: no hooks, every parameter trainable, one-group optimizers."""
        for hook in self._hooks:
            hook.remove()
        for group in self.anatomy.groups.values():
            for parameter in group.values():
                parameter.requires_grad_(True)
        for path, optimizer in self.anatomy.optimizers().items():
            plain = type(optimizer)(self._order[path], **self._defaults[path])
            plain.load_state_dict(self.ungrouped_state(path))
            self.anatomy.set_optimizer(path, plain)
        del self.model.tuner  # type: ignore[attr-defined]
        self.model.__class__ = type(self.model).__mro__[2]

    # -- set-up ---------------------------------------------------------------------------------------

    def _check_minibatch(self) -> None:
        """Training-mode BatchNorm cannot normalize a minibatch of one sample."""
        model: Any = self.model
        samples = getattr(model, "n_steps", 0) * model.n_envs
        batch = getattr(model, "batch_size", samples) or samples
        if self.method.bn_mode == "train" and hasattr(model, "rollout_buffer") and samples % batch == 1:
            raise MethodError(
                f"A rollout of {samples} samples in minibatches of {batch} leaves one of a single sample, which "
                "training-mode BatchNorm cannot normalize: choose another batch_size, n_steps or num_envs."
            )

    def _check_gradients(self) -> None:
        """SB3's updates fail when a loss depends on nothing that learns."""
        if not self.method.learns:
            return
        if find_algorithm(self.model).line_search:
            groups = self.method.groups
            if self.method.l2_sp:
                raise MethodError(
                    "l2_sp cannot be applied to TRPO: its actor moves by a line search, not by gradients."
                )
            scales = {groups[name].scale * self.factors[name] for name in ("actor_encoder", "actor_head")}
            rises = groups["actor_encoder"].rise_until or groups["actor_head"].rise_until
            if scales != {1.0} or rises or any(group.frozen_until or group.scale == 0.0 for group in groups.values()):
                raise MethodError(
                    f"Method '{self.method.name}' cannot be applied to TRPO, which moves the whole actor by a line "
                    "search, not by learning rates: use one that treats encoder and head alike and freezes none (daft)."
                )
        on_policy = isinstance(self.model, OnPolicyAlgorithm)
        needed = [name for name in self.anatomy.groups if on_policy or name.startswith("critic")]
        if all(self.method.groups[name].frozen(0.0) for name in needed):
            raise MethodError(
                f"Method '{self.method.name}' freezes {', '.join(needed)} at the start, and "
                f"{type(self.model).__name__} cannot update without one of them: let one learn from the start."
            )

    @torch.no_grad()
    def _initialize_groups(self) -> None:
        """Start heads at zero and groups from random weights, where the method says so."""
        settings = self.method.groups
        if any(group.init == "random" for group in settings.values()):
            model: Any = self.model
            kwargs = model.policy_kwargs  # of off-policy algorithms it has use_sde, where there is one
            if isinstance(model, OnPolicyAlgorithm):
                kwargs = {"use_sde": model.use_sde, **kwargs}
            fresh = model.policy_class(model.observation_space, model.action_space, model.lr_schedule, **kwargs)
            values = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
            own = {**dict(model.policy.named_parameters()), **dict(model.policy.named_buffers())}
            for name, tensor in own.items():
                if not self.anatomy.is_target(name) and settings[self.anatomy.group_of(name)].init == "random":
                    tensor.copy_(values[name])
        for name, head in self.anatomy.heads().items():
            if settings[self.anatomy.group_of(name + ".")].init == "zero":
                for parameter in head.parameters():
                    parameter.zero_()
        if self.method.from_scratch:
            self._initialize_entropy_coefficient()
        if self.method.initializes:
            self.anatomy.synchronize_targets()

    def _initialize_entropy_coefficient(self) -> None:
        """Where a fresh agent's starts, if it is learnt: ``auto`` is 1, ``auto_0.1`` is 0.1."""
        model: Any = self.model
        if getattr(model, "ent_coef_optimizer", None) is not None:
            _, _, start = str(model.ent_coef).partition("_")
            model.log_ent_coef.fill_(math.log(float(start or 1.0)))
            model.ent_coef_optimizer.state.clear()

    def _regroup(self, path: str, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """A fresh optimizer of the same class and settings, with one parameter group per group.

        Adam is computed in one kernel per group: a PPO update takes a seventh less time, and differs in the last bits.
        """
        plain = self._defaults[path] = optimizer_settings(optimizer)
        settings = plain | ({"fused": True, "foreach": None} if isinstance(optimizer, Adam) else {})
        self._order[path] = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        owned = {id(parameter) for parameter in self._order[path]}
        groups = [
            {"params": [p for p in parameters.values() if id(p) in owned], "name": name}
            for name, parameters in self.anatomy.groups.items()
        ]
        fresh = type(optimizer)([group for group in groups if group["params"]], **settings)
        if self.method.l2_sp:
            self._start |= {p: p.detach().clone() for p in self._order[path]}
            fresh.register_step_pre_hook(self._pull_to_start)
        return fresh

    # -- during learning ------------------------------------------------------------------------------

    def before_update(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Set each group's learning rate, freeze what is frozen, and fix BatchNorm modes.

        :param optimizers: those SB3 is about to use. One that is not the policy's (the entropy
            coefficient's) keeps the algorithm's own learning rate, and rests while the whole actor is frozen:
            it would answer to an entropy that nothing can change.
        """
        remaining = self.model._current_progress_remaining
        base = self.model.lr_schedule(remaining)
        settings = self.method.groups
        self.rates = {
            name: base * (self.factors[name] * group.rate(1.0 - remaining)) for name, group in settings.items()
        }
        self.frozen = {name for name, group in settings.items() if group.frozen(1.0 - remaining)}
        for name, parameters in self.anatomy.groups.items():
            for parameter in parameters.values():
                parameter.requires_grad_(name not in self.frozen)
            if parameters:
                self.model.logger.record(f"learning_rate/{name}", self.rates[name])
        actor = {name for name, parameters in self.anatomy.groups.items() if parameters and name.startswith("actor")}
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                if "name" in group:
                    group["lr"] = self.rates[group["name"]]
                else:
                    update_learning_rate(optimizer, 0.0 if actor <= self.frozen else base)
        self._pinned = {
            module
            for module, group in self._batchnorm.values()
            if self.method.bn_mode == "eval" or group in self.frozen
        }
        if isinstance(self.model, OnPolicyAlgorithm):
            self.model.logger.record("train/first_minibatch_kl", self.first_minibatch_kl())

    @torch.no_grad()
    def first_minibatch_kl(self) -> float:
        """Approximate KL divergence between the policy that collected the rollout and the policy as the update
        sees it, before any gradient step. It is 0 unless BatchNorm behaves differently in the two.
        """
        policy: Any = self.model.policy
        observations, actions, collected = rollout_minibatch(self.model)
        before = {name: value.clone() for name, value in policy.named_buffers()}
        _, log_prob, _ = policy.evaluate_actions(observations, actions)
        for name, value in policy.named_buffers():
            value.copy_(before[name])  # a training-mode pass moves running statistics
        log_ratio = log_prob - collected
        return float((log_ratio.exp() - 1 - log_ratio).mean())

    def _pin(self, module: nn.Module, _: Any) -> None:
        """Keep a layer in evaluation mode, whatever mode the algorithm puts it in (CrossQ switches often)."""
        if module.training and module in self._pinned:
            module.eval()

    def _pull_to_start(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """The gradient of the L2-SP penalty."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - self._start[parameter], alpha=self.method.l2_sp)

    def convert(self, observations: Any, actions: Any, preserve_function: bool = True) -> dict[str, Statistics]:
        """Convert every BatchNorm layer to the statistics of this data.

        :param observations: array ``(n, ...)`` or dictionary of arrays, as the policy gets them
        :param actions: array ``(n, *action_shape)``, scaled as in a replay buffer
        :return: what was measured, by layer name
        """
        measured = self.anatomy.measure(self.anatomy.batches(observations, actions))
        self.anatomy.apply(measured, preserve_function)
        self._start = {parameter: parameter.detach().clone() for parameter in self._start}
        return measured

    def reconvert(self, observations: Any, actions: Any, weight: float) -> None:
        """Convert again during learning, but only layers whose group is learning: frozen means frozen.

        :param observations: as in :meth:`convert`
        :param actions: as in :meth:`convert`
        :param weight: share of this data in the new statistics where the function is not preserved
        """
        measured = self.anatomy.measure(self.anatomy.batches(observations, actions))
        learning = {name for name, (_, group) in self._batchnorm.items() if group not in self.frozen}
        statistics: dict[str, Any] = {name: value for name, value in measured.items() if name in learning}
        if not self.method.preserve_function:
            statistics = mix_statistics(self.anatomy.policy, statistics, weight)
        self.anatomy.apply(statistics, self.method.preserve_function)

    # -- saving ---------------------------------------------------------------------------------------

    def ungrouped_state(self, path: str) -> dict[str, Any]:
        """The state of the optimizer at ``path`` as if it had one parameter group in SB3's order."""
        optimizer = self.anatomy.optimizers()[path]
        order = self._order[path]
        options = {key: value for key, value in optimizer.param_groups[0].items() if key not in ("params", "name")}
        options |= {key: self._defaults[path][key] for key in ("fused", "foreach") if key in options}
        options["lr"] = self.model.lr_schedule(self.model._current_progress_remaining)
        state = {index: optimizer.state[p] for index, p in enumerate(order) if p in optimizer.state}
        return {"state": state, "param_groups": [{**options, "params": list(range(len(order)))}]}


class Reconversion(BaseCallback):
    """Converts again after each rollout, where the method says so.

    For off-policy algorithms a rollout is one step; there it converts whenever ``steps`` new ones are there.

    :param tuner: the tuner of the model that learns
    :param steps: how much data to use for off-policy algorithms
    """

    def __init__(self, tuner: Tuner, steps: int) -> None:
        super().__init__()
        self.tuner, self.steps = tuner, steps
        self._next, self._count = steps, 1

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.tuner.method.conversion != "each_rollout":
            return
        if not isinstance(self.model, OnPolicyAlgorithm):
            if self.num_timesteps < self._next:
                return
            self._next = self.num_timesteps + self.steps
        self._count += 1
        with self.tuner.phases("calibration"):
            self.tuner.reconvert(*recent_experience(self.model, self.steps), max(1 / self._count, SLOWEST_AVERAGE))
