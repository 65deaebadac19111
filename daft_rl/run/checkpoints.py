"""Checkpoints of a run while it learns, and going on from one."""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from daft_rl.checkpoint import CheckpointStore, LearningState, RandomState
from daft_rl.errors import CheckpointError, DaftError, DaftWarning
from daft_rl.run.episodes import RunningEpisodes
from daft_rl.run.interruption import interruption
from daft_rl.settings import Checkpoint

if TYPE_CHECKING:
    from daft_rl.run.run import Run

__all__ = ["Checkpoints", "RungReached"]


class RungReached(Exception):  # noqa: N818
    """The run has learnt as far as it should for now, and a checkpoint is written."""


class Checkpoints(BaseCallback):
    """Writes a checkpoint every so many steps, at the start of a rollout, where nothing is half done.

    It also goes on from one: everything is prepared as at the start of a run, and when the first rollout begins, the
    checkpoint's state takes the place of what was prepared. SB3's training loop needs no change for that.

    :param run: what learns
    :param settings: how often
    :param store: where they go
    :param restored: the state to go on from, if there is one
    :param until: the step at which a checkpoint is written in any case, and :class:`RungReached` is raised
    """

    def __init__(
        self,
        run: Run,
        settings: Checkpoint,
        store: CheckpointStore,
        restored: dict[str, Any] | None = None,
        until: int | None = None,
    ) -> None:
        super().__init__()
        self.run, self.settings, self.store, self.restored = run, settings, store, restored
        self.until = until
        self.works = settings.every is not None
        if self.works and run.environments.has_worlds and isinstance(run.model, OffPolicyAlgorithm):
            message = (
                f"vec='cuda' keeps no checkpoints of {type(run.model).__name__}: if this run stops, it begins anew."
            )
            warnings.warn(DaftWarning(message, arguments=("vec",)), stacklevel=2)
            self.works = False  # what it keeps on the device has no state on the host
        self._next = settings.every or 0
        self._not_before = 0.0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.restored is not None:
            self._restore(self.restored)
            self.restored = None
        self.run.check_folder()
        if interruption.requested:
            self._stop()
        elif self.until is not None and self.model.num_timesteps >= self.until:
            if self.model.num_timesteps not in self.store.steps():
                self.store.write(self.model, self._state())
            raise RungReached
        elif self._is_due():
            self._save()

    def _stop(self) -> None:
        if self.works:
            with suppress(DaftError):
                self._save()
        interruption.stop()

    def _is_due(self) -> bool:
        if not self.works or self.model.num_timesteps < self._next or time.perf_counter() < self._not_before:
            return False
        # an evaluation that is kept unplayed costs as much as a checkpoint; most end soon
        late = self.model.num_timesteps >= self._next + (self.settings.every or 0)
        return late or (self.run.monitoring.idle and self.run.zero_shot_is_ready)

    def _save(self) -> None:
        """Write a checkpoint. If it cannot be written, the run goes on without."""
        started = time.perf_counter()
        with self.run.profile("checkpoint"):
            try:
                self.store.write(self.model, self._state())
            except (OSError, CheckpointError) as error:
                self.works = isinstance(error, OSError)  # a full disk may have room later
                message = f"No checkpoint at step {self.model.num_timesteps}: {error}"
                warnings.warn(DaftWarning(message), stacklevel=2)
        self._schedule(time.perf_counter() - started)

    def _schedule(self, seconds: float) -> None:
        every = self.settings.every or 0
        self._next = self.model.num_timesteps + every - self.model.num_timesteps % every if every else 0
        self._not_before = time.perf_counter() + seconds / self.settings.share

    def _state(self) -> dict[str, Any]:
        return {
            "run": self.run.state_dict(),
            "learning": LearningState(self.model).state_dict(),
            "episodes": RunningEpisodes(self.model, self.run.training).state_dict(),
            "random": RandomState(self.model).state_dict(),
            "progress": self.run.progress().as_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.store.load_buffer(self.model, state)
            LearningState(self.model).load_state_dict(state["learning"])
            self.run.load_state_dict(state["run"])
            RunningEpisodes(self.model, self.run.training).load_state_dict(state["episodes"])
            RandomState(self.model).load_state_dict(state["random"])  # last: replayed episodes may have drawn
        except DaftError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise CheckpointError(
                f"The checkpoint in {self.store.folder} does not fit this run: {type(error).__name__}: {error}. "
                "Pass overwrite=True to start anew.",
                arguments=("overwrite",),
            ) from error
        self._schedule(0.0)
        if self.run.was_stopped:
            print(f"The run goes on from step {self.model.num_timesteps}.")
