"""One run: its folder, what it opens, and the parts that learn and record."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from daft_rl.archives import read_multiplier, save_agent
from daft_rl.checkpoint import CheckpointStore
from daft_rl.envs.domain import Domain
from daft_rl.errors import CheckpointError, ConfigError, DaftError, DivergenceError, StorageError
from daft_rl.files import refused_by_disk
from daft_rl.finetune import Adaptation
from daft_rl.outputs import tell
from daft_rl.policy import Distortion
from daft_rl.rollout.lagrangian import Lagrangian
from daft_rl.rollout.profile import Profile, TimedVecEnv
from daft_rl.rollout.returns import Returns
from daft_rl.run.background import BackgroundCall
from daft_rl.run.checkpoints import Checkpoints, RungReached
from daft_rl.run.divergence import DivergenceWatch, refused_distribution
from daft_rl.run.environments import Environments
from daft_rl.run.evaluator import Evaluator
from daft_rl.run.folder import MONITOR_FILE, START_FILE, RunFolder
from daft_rl.run.identity import Identity
from daft_rl.run.interruption import Interrupted, interruption
from daft_rl.run.listeners import Listeners
from daft_rl.run.logger import ScalarFile, SparseLogger, interval
from daft_rl.run.monitoring import Monitoring
from daft_rl.run.race_result import RaceResult
from daft_rl.run.rhythm import FirstEpisode
from daft_rl.run.source_statistics import SourceStatistics
from daft_rl.run.state import Progress, Stateful, stateful_wrappers
from daft_rl.run.vec_wrappers import VecWrappers
from daft_rl.settings import RunSettings

__all__ = ["Run", "Stateful"]


class Run:
    """Opens the run folder and closes everything at the end. A program fills in the parts.

    If the folder holds an unfinished run of the same settings, this one goes on from its last checkpoint.

    :param settings: of the run
    :param identity: what tells this run from others beside its settings
    :param is_arm: whether another run holds this one as an arm of its race, and tells of errors
    :param listeners: the user's own callbacks and outputs while it learns
    :raises ConfigError: the device does not exist, or the folder cannot be used
    """

    model: BaseAlgorithm
    training: VecEnv
    """The environments that learning steps, with raw observations and rewards."""
    evaluator: Evaluator
    adaptation: Adaptation | None = None
    monitoring: Monitoring
    logger: SparseLogger | None = None
    """Of the model while it learns."""
    zero_shot: BackgroundCall[dict[str, Returns]] | None = None
    """Returns of the source, before anything changes it. A pretraining has no source."""
    statistics: SourceStatistics | None = None
    """Of the source's ``VecNormalize``."""
    is_another_body: bool = False
    """Whether the target has other entries than the source, or has them in another order."""
    distortion_on_source: Distortion | None = None
    race: RaceResult | None = None
    """Of the race that this run is the winner of."""

    def __init__(
        self,
        settings: RunSettings,
        identity: Identity | None = None,
        listeners: Listeners | None = None,
        is_arm: bool = False,
    ) -> None:
        self.settings, self.listeners, self.is_arm = settings, listeners or Listeners(), is_arm
        self.profile = Profile()
        wrappers = VecWrappers(settings.env.vec_wrappers)
        self.environments = Environments(settings.vec, settings.device, settings.env.step_timeout, wrappers)
        self._identity = identity or Identity()
        self._started = time.perf_counter()
        self._stack = ExitStack()

    def __enter__(self) -> Run:
        _check_device(self.settings.device)
        if self.environments.has_worlds:  # SB3 advises against policies on a GPU, where each step would come from a CPU
            self._stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "You are trying to run", UserWarning)
        self._opened = RunFolder(self.settings, self._identity)
        self.folder = self._opened.path
        self._stack.callback(self._opened.release)
        with self._close_on_error():
            self._prepare()
        return self

    @contextmanager
    def _close_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def _prepare(self) -> None:
        self._stack.callback(self.environments.close)
        self.store = CheckpointStore(self.folder / "checkpoints", self.settings.checkpoint.keep)
        if self.settings.method.race is None:  # a race tells first who goes on
            self._begin(self._opened.goes_on)

    def _begin(self, goes_on: bool) -> None:
        """Begin, or go on from the last checkpoint."""
        self._restored = self.store.read() if goes_on else None
        if self._restored is None:
            if goes_on:
                print(f"{self.folder} has no checkpoint that can be read: its run begins anew.")
            self.store.clear()
        self._earlier = Progress.of(self._restored)
        self._opened.cut_journals(self._earlier.journals)
        if self.settings.torch_threads is not None:
            torch.set_num_threads(self.settings.torch_threads)
        set_random_seed(self.settings.seed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        named = None if error is None or isinstance(error, DaftError) else self._in_our_words(error)
        if named is not None:
            named.__cause__ = error
        if isinstance(error, OSError) and (missing := self._opened.missing()) is not None:
            named, missing.__cause__ = missing, error
        if isinstance(error, Interrupted) and not self._opened.finished():  # it may have rendered only
            error.folder = self.folder
        try:
            if not self.is_arm:
                self._opened.note_error(named or error)
        finally:
            self._stack.close()
        if named is not None:
            raise named

    def _in_our_words(self, error: BaseException) -> DaftError | None:
        """The error that we raise in place of one that PyTorch's distributions or the disk raised."""
        problem = refused_distribution(error)
        if problem is not None:
            return DivergenceError(f"{problem}. Look at the scale of the observations, and at the policy.")
        refused = refused_by_disk(error)
        if refused is None or self.is_arm:
            return None
        further = f" Then go on: pass resume={str(self.folder)!r}." if self._opened.began else ""
        return StorageError(f"{self.folder}: {refused}. Make space, or take another disk.{further}")

    def learning_env(self, domain: Domain, agent: Path | BaseAlgorithm | None = None) -> VecEnv:
        """Open :attr:`training`, and wrap it for learning: episodes go to ``monitor.csv``, and costs are limited.

        :param domain: where to learn
        :param agent: a source; a limit on costs goes on with the multiplier that the source learnt under last
        """
        self.training = self.environments.open_for_learning(domain, self.settings.num_envs)
        task = self.settings.env
        logged = ("episode_cost",) if domain.has_cost or task.cost_limit is not None else ()
        venv = VecMonitor(TimedVecEnv(self.training, self.profile), info_keywords=logged)
        venv.results_writer = self._results_writer(venv)
        self._stack.callback(_close, venv.results_writer.file_handler)
        if task.cost_limit is None:
            return venv
        start = read_multiplier(agent) or 0.0 if task.cost_multiplier is None else task.cost_multiplier
        return Lagrangian(venv, task.cost_limit, task.cost_rate, start)

    def visited(self, role: str) -> VecEnv:
        """Where the agent visits states before it learns: :attr:`training`.

        In place of worlds it is the batch that plays in ``role`` during learning: a few states of each of thousands of
        worlds would be the beginnings of episodes.
        """
        if self.environments.has_worlds:
            return self.evaluator.open_envs[role]
        return self.environments.wrappers.seen_by(self.model, self.training)

    def _results_writer(self, monitor: VecMonitor) -> ResultsWriter:
        """Writes ``monitor.csv``, or goes on with the one that is there."""
        path = self.folder / MONITOR_FILE
        header: dict[str, float | str] = {"t_start": monitor.t_start, "env_id": "None"}
        return ResultsWriter(str(path), header, monitor.info_keywords, override_existing=not path.is_file())

    def start_zero_shot(self, play: Callable[[], dict[str, Returns]]) -> None:
        """Play the source, unless an earlier process of this run has done so."""
        known = self._earlier.zero_shot
        if known is not None and known.keys() != self.evaluator.domains.keys():
            raise CheckpointError(
                f"The run played in {', '.join(known)}, and cannot go on with {', '.join(self.evaluator.domains)}. "
                "Pass env and source_env as before."
            )
        if known is None:
            played = f"{self.settings.evaluation.episodes} episodes each on {', '.join(self.evaluator.domains)}"
            tell(f"Playing before learning: {played}.", self.settings.progress_bar)
        self.zero_shot = self.evaluator.start(play) if known is None else BackgroundCall(lambda: known, fork=False)

    @property
    def zero_shot_is_ready(self) -> bool:
        """Whether nobody plays the source any more."""
        return self.zero_shot is None or self.zero_shot.ready()

    def open_evaluator(self, domains: dict[str, Domain], during: dict[str, Domain]) -> Evaluator:
        """Make the evaluator of :attr:`model`.

        :param domains: role -> where it plays before and after learning
        :param during: role -> where it plays during learning
        """
        episodes = self.settings.evaluation.episodes_during
        envs = {role: self.environments.open(domain, episodes, model=self.model) for role, domain in during.items()}
        self.evaluator = Evaluator(self.model, self.settings, self.environments, envs, domains, self.folder)
        self._stack.callback(self.evaluator.close)
        return self.evaluator

    def save_start(self) -> None:
        """Save the policy that learning starts from, for :mod:`daft_rl.blend`."""
        save_agent(self.model, self.folder / START_FILE, prefix="start_")

    def become_winner(self, settings: RunSettings, race: RaceResult, learnt: bool) -> None:
        """Go on as the winner of a race that was held in this run's folder.

        :param settings: of the winner
        :param race: how it went
        :param learnt: whether the winner has learnt already, so that there is a checkpoint
        """
        self.settings, self.race = settings, race
        self._started, self.profile = time.perf_counter(), Profile()
        self._begin(learnt or self._opened.goes_on)
        # later checkpoints count the seconds of the race themselves
        seconds = max(self._earlier.seconds, race.seconds)
        self._earlier = replace(self._earlier, seconds=seconds, zero_shot=race.zero_shot)

    @property
    def was_stopped(self) -> bool:
        """Whether an earlier process has begun this run; the winner of a race may go on within one."""
        return self._opened.goes_on

    def axis(self, step: int) -> int:
        """Steps on the target until the policy had learnt from ``step`` of them, with those of other arms of a race."""
        return step if self.race is None else self.race.axis(step)

    def take_zero_shot(self, known: dict[str, Returns]) -> None:
        """Take the source's returns from another run, and play nothing for them."""
        self._earlier = replace(self._earlier, zero_shot=known)

    def note_learning(self) -> None:
        """From now on there is something to lose: an error no longer deletes what lies in the folder."""
        self._opened.began = True

    def learn(self, until: int | None = None) -> None:
        """Learn with the adaptation and with monitoring, and with TensorBoard files in the run folder.

        :param until: stop there, at the start of a rollout, with a checkpoint. The run can go on, in this folder or in
            another to which everything was moved. ``None`` learns from all steps of the settings
        """
        self.note_learning()
        every = interval(self.settings.tensorboard.every, self.settings.total_timesteps)
        scalars = ScalarFile(self.folder)
        self._stack.callback(_close, scalars)
        self.logger = SparseLogger(str(self.folder), [scalars, *self.listeners.outputs], every, self.axis)
        self.model.set_logger(self.logger)
        if self._restored is not None:  # before it evaluates what it has evaluated
            self.monitoring.load_state_dict(self._restored["run"]["monitoring"])
        checkpoints = Checkpoints(self, self.settings.checkpoint, self.store, self._restored, until)
        self._restored = None
        watch = DivergenceWatch(self.folder / "last_good.zip")
        parts = (watch, FirstEpisode(), self.adaptation, self.monitoring, checkpoints)
        callbacks: list[BaseCallback] = [*(part for part in parts if part is not None), *self.listeners.callbacks]
        stops = suppress(RungReached)
        with stops, interruption.deferred() if checkpoints.works else nullcontext(), watch.keeping_the_good():
            self.model.learn(self.settings.total_timesteps, callback=callbacks, progress_bar=self.settings.progress_bar)
        if interruption.requested:  # in the last rollout
            interruption.stop()
        if self.race is not None:
            self.race.log(Logger(self.logger.dir, self.logger.output_formats))

    def check_folder(self) -> None:
        """
        :raises ConfigError: the folder was moved or deleted; another run may have begun in its place
        """
        if (missing := self._opened.missing()) is not None:
            raise missing

    def finish(self) -> None:
        """Delete what nobody needs once the results are written."""
        self.store.clear()

    @property
    def seconds(self) -> float:
        """How long the run has taken, without the time between its processes."""
        return self._earlier.seconds + time.perf_counter() - self._started

    def seconds_by_activity(self) -> dict[str, float]:
        """Seconds by activity. What other arms of a race took is the activity ``race``."""
        own = self.profile.as_dict()
        return own if self.race is None else own | {"race": self.race.seconds_of_others}

    @property
    def seconds_in_background(self) -> float:
        """How long other processes have evaluated."""
        return self._earlier.in_background + self.evaluator.background_seconds

    # -- state ----------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Stateful]:
        """Everything beside the model that changes while it learns."""
        named: dict[str, Stateful | None] = {
            "profile": self.profile,
            "adaptation": self.adaptation,
            "monitoring": self.monitoring,
            "logger": self.logger,
        }
        found = {name: part for name, part in named.items() if part is not None}
        return found | stateful_wrappers(self.model.get_env())

    def state_dict(self) -> dict[str, Any]:
        """The states of all parts, by name."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the states of :meth:`state_dict` back."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        if self.race is not None:
            self.monitoring.skip(self.race.rung + self.race.spent)

    def progress(self) -> Progress:
        """What a checkpoint keeps of the run beside its :meth:`state_dict`."""
        known = self.zero_shot.result() if self.zero_shot is not None and self.zero_shot.ready() else None
        return Progress(known, self._opened.journals(), self.seconds, self.seconds_in_background)


def _close(file: IO[str] | ScalarFile) -> None:
    """Close a file. Each write was flushed, so what it cannot write now has been told."""
    with suppress(OSError):
        file.close()


def _check_device(device: str) -> None:
    """SB3 falls back to the CPU without a word."""
    try:
        kind = torch.device("cpu" if device == "auto" else device).type
    except RuntimeError as error:
        raise ConfigError(f"device={device}: expected auto, cpu, cuda, or one of several, cuda:1.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={device}: PyTorch {torch.__version__} finds no CUDA here. Use device=auto or cpu.")
