"""Playing the evaluations of a run, in this process or in the background while learning goes on."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from daft_rl.envs.batch.workers import WorkerVecEnv
from daft_rl.envs.cores import usable_cores
from daft_rl.envs.domain import Domain
from daft_rl.errors import ConfigError
from daft_rl.finetune.realignment import OffsetObservations
from daft_rl.rollout.evaluation import evaluate, evaluate_all
from daft_rl.rollout.returns import Returns
from daft_rl.run.background import BackgroundCall
from daft_rl.run.environments import Environments
from daft_rl.run.snapshot import PolicyCopy
from daft_rl.settings import RunSettings

__all__ = ["Evaluator"]

T = TypeVar("T")


class Evaluator:
    """Plays in domains, and starts evaluations in the background where that is safe.

    :param model: who plays
    :param settings: of the run
    :param environments: opens further batches
    :param open_envs: role -> the batch that plays during learning, for some of the domains
    :param domains: role -> where to play
    :param folder: of the run
    :raises ConfigError: ``evaluate_in_background=True`` where that is impossible
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        settings: RunSettings,
        environments: Environments,
        open_envs: Mapping[str, VecEnv],
        domains: Mapping[str, Domain],
        folder: Path,
    ) -> None:
        self.model, self.settings, self.environments = model, settings, environments
        self.open_envs, self.domains, self.folder = dict(open_envs), dict(domains), folder
        self.offset: Mapping[str, Any] = {}
        """Added to observations outside of the target, see :meth:`act_at_home`."""
        self.in_background = self._choose()
        self._calls: list[BackgroundCall[Any]] = []
        self._seconds = 0.0

    def _choose(self) -> bool:
        """Whether evaluations run in the background.

        ``auto`` does so where a core may be idle and nothing forbids a fork. It leaves the user's own environments
        alone, which may hold what a fork cannot copy.
        """
        wanted = self.settings.evaluate_in_background
        if wanted is False:
            return False
        problem = self._problem()
        if wanted is True:
            if problem is not None:
                raise ConfigError(f"evaluate_in_background=True: {problem}. Use 'auto' or False.")
            return True
        ours = all(domain.is_ours for domain in self.domains.values())
        return problem is None and ours and usable_cores() > 1

    def _problem(self) -> str | None:
        """What forbids a fork, if anything does."""
        threads = torch.get_num_threads()
        problems = {
            "only Linux can fork safely": sys.platform != "linux",
            "a process that computes on a GPU cannot be forked": self.model.device.type != "cpu",
            f"torch_threads={threads}, and threads do not survive a fork": threads > 1,
            "worker processes answer one process only (vec='dummy' has none)": any(
                isinstance(venv.unwrapped, WorkerVecEnv) for venv in self.open_envs.values()
            ),
            "this process may not have children": multiprocessing.current_process().daemon,
        }
        return next((problem for problem, holds in problems.items() if holds), None)

    def start(self, function: Callable[[], T], policy: PolicyCopy | None = None) -> BackgroundCall[T]:
        """Call ``function`` in the background, or now if evaluations run in this process.

        If the background process is killed, the function is called again in this one, with the policy as it was at the
        start, and so are all later ones.

        :param policy: a copy as it is now; ``None`` makes one where it may be needed
        """
        self._forget_ended()
        instead = None
        if self.in_background:
            copied = policy or PolicyCopy(self.model)

            def instead() -> T:
                for unfinished in self.folder.glob(".unfinished-*"):  # what it was saving
                    shutil.rmtree(unfinished, ignore_errors=True)
                with copied.in_place():
                    return function()

        call = BackgroundCall(function, self.in_background, instead)
        self._calls.append(call)
        return call

    def _forget_ended(self) -> None:
        """Keep no calls but those that go on: a long run makes thousands."""
        ended = [call for call in self._calls if call.ended]
        self._calls = [call for call in self._calls if not call.ended]
        self._seconds += sum(call.seconds for call in ended)
        self.in_background = self.in_background and not any(call.killed for call in ended)

    def act_at_home(self, offset: Mapping[str, Any]) -> None:
        """From now on, show a realigned policy what it would see outside of the target if sensors were the target's.

        :param offset: of its :class:`~daft_rl.finetune.realignment.Realignment`. Without effect where wrappers outside
            of ``VecNormalize`` see no raw observations
        """
        self.offset = {} if self.environments.wrappers.outside else offset
        self.open_envs = {role: self._as_at_home(role, venv) for role, venv in self.open_envs.items()}

    def _open(self, role: str, domain: Domain, num_envs: int, stack: ExitStack) -> VecEnv:
        return self._as_at_home(role, self.environments.open(domain, num_envs, stack, model=self.model))

    def _as_at_home(self, role: str, venv: VecEnv) -> VecEnv:
        return OffsetObservations(venv, self.offset) if self.offset and role != "target" else venv

    @property
    def background_seconds(self) -> float:
        """How long background processes have evaluated."""
        self._forget_ended()
        return self._seconds

    def play(
        self, domains: Mapping[str, Domain] | None = None, episodes: int | None = None, seed: int | None = None
    ) -> dict[str, Returns]:
        """The evaluations before and after learning.

        With threads all episodes are played at once. Other environments are slow to make, so the open batches play, and
        one domain after the other.

        :param domains: some of the run's domains; ``None`` plays in all
        :param episodes: how many in each; ``None`` is as many as the settings say
        :param seed: of the first episode; ``None`` is that of the settings
        :return: role -> returns
        """
        domains = self.domains if domains is None else domains
        evaluation, vec = self.settings.evaluation, self.environments.vec
        episodes = evaluation.episodes if episodes is None else episodes
        seed = evaluation.seed if seed is None else seed
        with ExitStack() as stack:
            threaded = {
                role: self._open(role, domain, episodes, stack)
                for role, domain in domains.items()
                if domain.steps_in_threads(vec)
            }
            returns = evaluate_all(self.model, threaded, episodes, seed)
        for role in [role for role in domains if role not in returns]:
            with ExitStack() as stack:
                venv = self.open_envs.get(role)
                if venv is None:
                    venv = self._open(role, domains[role], evaluation.episodes_during, stack)
                returns[role] = evaluate(self.model, venv, episodes, seed)
        return {role: returns[role] for role in domains}

    def close(self) -> None:
        """End what still runs in the background."""
        for call in self._calls:
            call.cancel()
