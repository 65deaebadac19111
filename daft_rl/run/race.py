"""Holding a race: several methods learn up to a rung, and the best one goes on as the run itself.

Before anything is learnt, arms fall away for signs that cost little: a method that does not fit the agent, one that
does the same as another here, realignment that moves nothing, one that starts clearly below another. Each arm that is
left is an ordinary run in ``FOLDER/race/ARM``, from the same start and seed, with the schedules of the winner, and
stops at the rung with a checkpoint. The winner's files then move to the run folder, where it goes on from there.

``race.json`` keeps what is found out, so that a race that is stopped goes on and ends with the same result.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from daft_rl.envs.domain import Domain
from daft_rl.errors import ConfigError, FaultyEnvironmentError, MethodError, TaskError
from daft_rl.method import Method
from daft_rl.outputs import tell
from daft_rl.rollout.returns import Returns
from daft_rl.run.ending import with_evaluations
from daft_rl.run.identity import Identity
from daft_rl.run.interruption import interruption
from daft_rl.run.race_folder import RaceFolder
from daft_rl.run.race_result import RaceResult
from daft_rl.run.run import Run
from daft_rl.run.signs import UNFIT, Signs, refresh, start_problems
from daft_rl.run.verdict import Played, judge, scores
from daft_rl.settings import TransferSettings
from daft_rl.validation import plain_data

__all__ = ["hold_race"]

Load = Callable[[Run, TransferSettings], dict[str, Domain]]
Adapt = Callable[[Run, TransferSettings], None]


def hold_race(
    current: Run, settings: TransferSettings, identity: Identity, load: Load, adapt: Adapt
) -> TransferSettings:
    """Find the method that ``current`` goes on with, and make it the winner's run.

    :param current: an opened run, with nothing loaded
    :param settings: of the run; its method is a race
    :param identity: of the run
    :param load: loads the source into a run, and plays the zero-shot episodes; returns where the agent can play
    :param adapt: prepares a loaded run for learning
    :return: the settings of the winner
    :raises DaftError: no arm fits the agent
    """
    return _Race(current, settings, identity, load, adapt).hold()


class _Race:
    """One race, with what it has found out so far. See :func:`hold_race`."""

    def __init__(self, current: Run, settings: TransferSettings, identity: Identity, load: Load, adapt: Adapt) -> None:
        assert settings.method.race is not None
        self.current, self.settings, self.identity = current, with_evaluations(settings), identity
        self.load, self.adapt = load, adapt
        self.rule, self.methods = settings.method.race, {arm.name: arm for arm in settings.method.arms}
        self.roles = ["target", "source"] if self.rule.keep else ["target"]
        self.episodes_at_start = min(self.rule.episodes, settings.evaluation.episodes)  # the source has played no more
        self.folder = RaceFolder(current.folder, self.methods)
        self._since = time.perf_counter()
        self.state = self.folder.read() or {"seconds": 0.0, "arms": {name: {} for name in self.methods}}

    def hold(self) -> TransferSettings:
        """Look, learn, decide, and let the winner go on. Each of them is skipped if it is done."""
        if "zero_shot" not in self.state:
            self._look()
        if "winner" not in self.state:
            self._learn()
            self._decide()
        self.folder.promote(self.state["winner"])
        return self._go_on()

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        """Name -> what was found out about it, in the order of preference."""
        return self.state["arms"]  # type: ignore[no-any-return]

    def left(self) -> list[str]:
        """The arms that have not fallen away."""
        return [name for name, arm in self.arms.items() if "left_out" not in arm]

    def _tell(self, what: str) -> None:
        tell(f"race: {what}", self.settings.progress_bar)

    def _save(self) -> None:
        now = time.perf_counter()
        self.state["seconds"] += now - self._since
        self._since = now
        self.folder.write(self.state)

    # -- before anything is learnt --------------------------------------------------------------------

    def _look(self) -> None:
        """Let arms fall away for cheap signs, and settle how far the others learn."""
        signs, zero_shot = self._look_at_source()
        self._leave_out(signs, zero_shot)
        self._settle_steps(signs)
        self.state["zero_shot"] = {role: returns.as_dict() for role, returns in zero_shot.items()}
        self._save()
        for name in [name for name in self.methods if name not in self.left()]:
            self._tell(f"without {name}: {self.arms[name]['left_out']}")

    def _look_at_source(self) -> tuple[Signs, dict[str, Returns]]:
        first = replace(next(iter(self.methods.values())), realign=None)
        with self._looking(first, self.settings.progress_bar) as (run, settings):
            domains = self.load(run, settings)
            assert run.zero_shot is not None
            zero_shot = run.zero_shot.result()
            signs = Signs.of(run, self.methods.values(), self.settings)
        if missing := {*self.roles} - domains.keys():
            raise ConfigError(
                f"keep={self.rule.keep} counts the return on the {missing.pop()}, where the agent does not play. Pass "
                "source_env, of a body that it can play with, or keep=0."
            )
        return signs, zero_shot

    @contextmanager
    def _looking(self, arm: Method, tells: bool = False) -> Iterator[tuple[Run, TransferSettings]]:
        """A run of an arm that is not meant to learn, in a folder that goes.

        :param tells: whether it says what it does
        """
        self.folder.clear_look()
        own = self.settings.calibration
        few = replace(own, held_out=1, steps=2 if arm.realign is None else own.steps)  # nothing is converted for good
        given = self._settings_of(arm, self.folder.look)
        settings = replace(given, calibration=few, progress_bar=tells)
        try:
            with self._open(settings) as run:
                yield run, settings
        finally:
            self.folder.clear_look()

    def _open(self, settings: TransferSettings) -> Run:
        _free_agents()
        return Run(settings, self.identity, is_arm=True)

    def _settings_of(self, arm: Method, folder: Path) -> TransferSettings:
        total = self.state.get("total", self.settings.total_timesteps)
        quiet = replace(self.settings, progress_bar=False, render=False, overwrite=False)
        return replace(quiet, method=arm, total_timesteps=total, output_dir=folder)

    def _leave_out(self, signs: Signs, zero_shot: dict[str, Returns]) -> None:
        """Note what speaks against arms. If nothing else is left, the first that only a sign speaks against stays."""
        problems: dict[str, str] = {}
        starts: dict[str, Played] = {}
        acting = dict(self.methods)
        for name, misfit in signs.misfits.items():
            self.arms[name]["left_out"] = misfit
        for name in self.left():
            if signs.misses_batch_statistics(acting[name]):
                problems[name] = f"{self.settings.algo.name} needs batch statistics in updates"
            elif signs.changes_start(acting[name]):
                try:
                    acting[name], start = self._start(acting[name], signs, zero_shot)
                except (*UNFIT, FaultyEnvironmentError, TaskError) as error:  # others may bear the environment
                    self.arms[name]["left_out"] = str(error)
                    continue
                starts |= {} if start is None else {name: start}
        source = {role: returns.first(self.episodes_at_start) for role, returns in zero_shot.items()}
        unplayed = [name for name in self.left() if name not in {*starts, *problems}]
        unchanged = [name for name in unplayed if not acting[name].changes_function]
        problems |= start_problems(source, starts, unchanged, self.rule.keep, self.settings.env.cost_limit)
        fitting = self.left()
        for name, other in signs.same({name: acting[name] for name in fitting if name not in problems}).items():
            unmoved = "realignment moves no input, so that it " if acting[name] != self.methods[name] else ""
            problems[name] = f"{unmoved}does the same as {other} here"
        spared = fitting[0] if problems.keys() == {*fitting} and fitting else None
        for name in problems.keys() - {spared}:
            self.arms[name]["left_out"] = problems[name]
        self._refuse_none()

    def _start(self, arm: Method, signs: Signs, zero_shot: dict[str, Returns]) -> tuple[Method, Played | None]:
        """Play with the policy as an arm that changes it starts.

        :return: the arm, without realignment if that moves no input; and what it played, if it changes the policy
        :raises DaftError: it does not fit the agent
        """
        self._tell(f"playing the policy that {arm.name} would start from.")
        with self._looking(arm) as (run, settings):
            run.take_zero_shot(zero_shot)
            domains = self.load(run, settings)
            self.adapt(run, settings)
            assert run.adaptation is not None
            if run.adaptation.realigned is not None and not run.adaptation.realigned.moved:
                arm = replace(arm, realign=None)
            if not signs.changes_start(arm):
                return arm, None
            if signs.refreshes(arm):
                refresh(run, self.settings.calibration.steps, self.settings.seed)
            return arm, run.evaluator.play({role: domains[role] for role in self.roles}, self.episodes_at_start)

    def _settle_steps(self, signs: Signs) -> None:
        """The rung in whole rollouts, so that all steps together are those of a run without a race."""
        asked, left = self.settings.total_timesteps, self.left()
        rung = max(1, self.rule.rung_steps(asked) // signs.rollout) * signs.rollout
        total = int(self.rule.steps_of_winner(asked, len(left), rung))
        problem = None if signs.can_stop else "no checkpoint can keep what this agent needs to go on after a race"
        if total <= rung or rung <= signs.idle:
            problem = f"total_timesteps={asked} are too few to race"
        for name in [] if problem is None else left[1:]:
            self.arms[name]["left_out"] = problem
        if len(self.left()) == 1:
            rung, total = 0, asked
        self.state |= {"rung": rung, "total": total}
        for name in self.left() if rung else []:
            self.arms[name]["steps"] = rung  # also of one that diverges: its steps are nobody else's

    # -- up to the rung -------------------------------------------------------------------------------

    def _learn(self) -> None:
        """Let each arm that is left learn up to the rung, and play."""
        zero_shot = {role: Returns.from_dict(data) for role, data in self.state["zero_shot"].items()}
        racing = self.left() if self.state["rung"] else []
        if racing:
            self.current.note_learning()
        for name in [name for name in racing if "returns" not in self.arms[name]]:
            self._tell(f"{name} learns from {self.state['rung']} steps")
            try:
                self._learn_one(name, zero_shot)
            except UNFIT as error:
                self.arms[name]["left_out"] = str(error)
            self._save()
        self._refuse_none()

    def _learn_one(self, name: str, zero_shot: dict[str, Returns]) -> None:
        settings = self._settings_of(self.methods[name], self.folder.of(name))
        with self._open(settings) as run:
            run.take_zero_shot(zero_shot)
            domains = self.load(run, settings)
            self.adapt(run, settings)
            run.save_start()
            run.learn(until=self.state["rung"])
            played = run.evaluator.play({role: domains[role] for role in self.roles}, self.rule.episodes)
            self.arms[name] |= {
                "returns": {role: returns.as_dict() for role, returns in played.items()},
                "steps": run.model.num_timesteps,  # whole episodes may end after the rung
                "score": float(scores(played, self.rule.keep).mean()),
                "seconds": run.seconds,
            }

    def _refuse_none(self) -> None:
        """
        :raises MethodError: no arm is left
        """
        if not self.left():
            reasons = ". ".join(f"{name}: {arm['left_out'].rstrip('.')}" for name, arm in self.arms.items())
            raise MethodError(f"'{self.settings.method.name}' has no arm that can go on. {reasons}.")

    # -- the winner -----------------------------------------------------------------------------------

    def _decide(self) -> None:
        left = self.left()
        winner, why = left[0], "the only arm left"
        if len(left) > 1:
            played = {
                name: {role: Returns.from_dict(data) for role, data in self.arms[name]["returns"].items()}
                for name in left
            }
            winner, why = judge(played, self.rule, self.settings.env.cost_limit)
        self.state |= {"winner": winner, "why": why}
        self._tell(f"{winner} wins: {why}")
        self._save()

    def _go_on(self) -> TransferSettings:
        winner, rung = self.state["winner"], self.state["rung"]
        steps = {name: arm["steps"] for name, arm in self.arms.items() if "steps" in arm}
        arms = {name: {key: arm[key] for key in arm if key != "seconds"} for name, arm in self.arms.items()}
        rule = plain_data(self.rule) | {"arms": arms, "rung": rung}
        result = RaceResult(
            rung=steps.get(winner, 0),
            spent=sum(steps.values()) - steps.get(winner, 0),
            seconds=self.state["seconds"],
            seconds_of_others=self.state["seconds"] - self.arms[winner].get("seconds", 0.0),
            zero_shot={role: Returns.from_dict(data) for role, data in self.state["zero_shot"].items()},
            summary=rule | {"winner": winner, "why": self.state["why"]},
        )
        chosen = replace(self.settings, method=self.methods[winner], total_timesteps=self.state["total"])
        _free_agents()
        self.current.become_winner(chosen, result, learnt=bool(rung))
        return chosen


def _free_agents() -> None:
    """Free the agents of earlier runs, which are in circles of references, and whose replay buffers may be large."""
    with interruption.deferred():  # a finalizer would swallow what a signal raises
        gc.collect()
    if interruption.requested:
        interruption.stop()
