"""Holding a race: several methods learn up to a rung, and the best one goes on as the run itself.

Before anything is learnt, arms fall away for signs that cost little: a method that does not fit the agent, one that
does the same as another here, realignment that moves nothing, batch statistics that harm the policy. Each arm that is
left is an ordinary run in ``FOLDER/race/ARM``, from the same start and seed, with the schedules of the winner, and
stops at the rung with a checkpoint. The winner's files then move to the run folder, where it goes on from there.

``race.json`` keeps what is found out, so that a race that is stopped goes on and ends with the same result.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from daft_rl.checkpoint import CheckpointStore
from daft_rl.envs.domain import Domain
from daft_rl.errors import CheckpointError, ConfigError, DivergenceError, MethodError
from daft_rl.files import UNFINISHED, delete_files, sync, write_json
from daft_rl.method import Method
from daft_rl.rollout.returns import Returns
from daft_rl.run.folder import RACE_FILE, RACE_FOLDER
from daft_rl.run.identity import Identity
from daft_rl.run.names import plain
from daft_rl.run.race_result import RaceResult
from daft_rl.run.run import Run
from daft_rl.run.signs import Signs, refresh, start_problems
from daft_rl.run.verdict import Played, judge, scores
from daft_rl.settings import TransferSettings
from daft_rl.validation import plain_data

__all__ = ["hold_race"]

OWN_FILES = ("config.yaml", "run.json", "run.lock", "error.json", "error.txt")
"""What a run folder holds that belongs to the arm, and not to what it has learnt."""
LOOK_FOLDER = ".look"
"""Of runs that only look at an arm; no arm has such a name."""

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
        self.current, self.settings, self.identity = current, settings, identity
        self.load, self.adapt = load, adapt
        self.rule, self.methods = settings.method.race, {arm.name: arm for arm in settings.method.arms}
        self.roles = ["target", "source"] if self.rule.keep else ["target"]
        self.folder = current.folder / RACE_FOLDER
        self._since = time.perf_counter()
        self.state = self._read() or {"seconds": 0.0, "arms": {name: {} for name in self.methods}}

    def _read(self) -> dict[str, Any] | None:
        """What an earlier process has found out.

        :raises CheckpointError: the file is damaged
        """
        path = self.folder / RACE_FILE
        try:
            found = json.loads(path.read_text("utf-8"))
            if [*found["arms"]] != [*self.methods] or not {found.get("winner")} <= {None, *self.methods}:
                raise ValueError("it is of another race")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{path} is damaged: {error}. Pass overwrite=True to begin anew."
            raise CheckpointError(message, arguments=("overwrite",)) from error
        return dict(found)

    def hold(self) -> TransferSettings:
        """Look, learn, decide, and let the winner go on. Each of them is skipped if it is done."""
        if "zero_shot" not in self.state:
            self._look()
        if "winner" not in self.state:
            self._learn()
            self._decide()
        self._promote()
        return self._go_on()

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        """Name -> what was found out about it, in the order of preference."""
        return self.state["arms"]  # type: ignore[no-any-return]

    def left(self) -> list[str]:
        """The arms that have not fallen away."""
        return [name for name, arm in self.arms.items() if "left_out" not in arm]

    def _save(self) -> None:
        now = time.perf_counter()
        self.state["seconds"] += now - self._since
        self._since = now
        write_json(self.folder / RACE_FILE, self.state)

    # -- before anything is learnt --------------------------------------------------------------------

    def _look(self) -> None:
        """Let arms fall away for cheap signs, and settle how far the others learn."""
        methods = self.methods.values()
        with self._looking(replace(next(iter(methods)), realign=None)) as (run, settings):
            domains = self.load(run, settings)
            assert run.zero_shot is not None
            zero_shot = run.zero_shot.result()
            signs = Signs.of(run.model, methods, self.settings.agent.insert_batchnorm)
            stays = not (run.environments.has_worlds and isinstance(run.model, OffPolicyAlgorithm))
        if missing := {*self.roles} - domains.keys():
            raise ConfigError(f"keep={self.rule.keep} counts the return on the {missing.pop()}: pass source_env.")
        self._leave_out(signs, zero_shot)
        for name in [] if stays else self.left()[1:]:
            self.arms[name]["left_out"] = "vec='cuda' keeps no checkpoints of this algorithm to go on from"
        self._settle_steps(signs)
        self.state["zero_shot"] = {role: returns.as_dict() for role, returns in zero_shot.items()}
        self._save()
        for name in [name for name in self.methods if name not in self.left()]:
            print(f"race: without {name}: {self.arms[name]['left_out']}")

    @contextmanager
    def _looking(self, arm: Method) -> Iterator[tuple[Run, TransferSettings]]:
        """A run of an arm that is not meant to learn, in a folder that goes."""
        folder = self.folder / LOOK_FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        own = self.settings.calibration
        few = replace(own, held_out=1, steps=2 if arm.realign is None else own.steps)  # nothing is converted for good
        settings = replace(self._settings_of(arm, folder), calibration=few)
        try:
            with Run(settings, self.identity) as run:
                yield run, settings
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _settings_of(self, arm: Method, folder: Path) -> TransferSettings:
        total = self.state.get("total", self.settings.total_timesteps)
        quiet = replace(self.settings, progress_bar=False, render=False, overwrite=False)
        return replace(quiet, method=arm, total_timesteps=total, output_dir=folder)

    def _leave_out(self, signs: Signs, zero_shot: dict[str, Returns]) -> None:
        """Note what speaks against arms. If nothing else is left, the first that only a sign speaks against stays."""
        problems: dict[str, str] = {}
        starts: dict[str, Played] = {}
        for name, arm in self.methods.items():
            if signs.misses_batch_statistics(arm):
                problems[name] = f"{self.settings.algo.name} needs batch statistics in updates"
            elif signs.changes_start(arm):
                start = self._start(arm, signs, zero_shot)
                if isinstance(start, str):
                    problems[name] = start
                elif start is not None:
                    starts[name] = start
        source = {role: returns.first(self.episodes_at_start) for role, returns in zero_shot.items()}
        problems |= start_problems(source, starts, self.rule.keep)
        fitting = {name: self.methods[name] for name in self.left()}
        problems |= signs.same({name: arm for name, arm in fitting.items() if name not in problems})
        spared = next(iter(problems), None) if problems.keys() == fitting.keys() else None
        for name in problems.keys() - {spared}:
            self.arms[name]["left_out"] = problems[name]
        self._refuse_none()

    @property
    def episodes_at_start(self) -> int:
        """The source has played no more than the settings say."""
        return min(self.rule.episodes, self.settings.evaluation.episodes)

    def _start(self, arm: Method, signs: Signs, zero_shot: dict[str, Returns]) -> Played | str | None:
        """Play with the policy as an arm that changes it starts.

        :return: what it played; or what speaks against the arm; or ``None`` if it does not fit the agent
        """
        try:
            with self._looking(arm) as (run, settings):
                run.take_zero_shot(zero_shot)
                domains = self.load(run, settings)
                self.adapt(run, settings)
                assert run.adaptation is not None
                if run.adaptation.realigned is not None and not run.adaptation.realigned.moved:
                    return "realignment moves no input"
                if signs.refreshes(arm):
                    refresh(run, self.settings.calibration.steps, self.settings.seed)
                return run.evaluator.play({role: domains[role] for role in self.roles}, self.episodes_at_start)
        except MethodError as error:
            self.arms[arm.name]["left_out"] = str(error)
            return None

    def _settle_steps(self, signs: Signs) -> None:
        """The rung in whole rollouts, so that all steps together are those of a run without a race."""
        asked, left = self.settings.total_timesteps, self.left()
        rung = max(1, self.rule.rung_steps(asked) // signs.rollout) * signs.rollout
        total = int(self.rule.steps_of_winner(asked, len(left), rung))
        if total <= rung or rung <= signs.idle:
            for name in left[1:]:
                self.arms[name]["left_out"] = f"total_timesteps={asked} are too few to race"
        alone = len(self.left()) == 1
        self.state |= {"rung": 0, "total": asked} if alone else {"rung": rung, "total": total}

    # -- up to the rung -------------------------------------------------------------------------------

    def _learn(self) -> None:
        """Let each arm that is left learn up to the rung, and play."""
        zero_shot = {role: Returns.from_dict(data) for role, data in self.state["zero_shot"].items()}
        racing = self.left() if self.state["rung"] else []
        if racing:
            self.current.note_learning()
        for name in [name for name in racing if "returns" not in self.arms[name]]:
            print(f"race: {name} learns from {self.state['rung']} steps")
            try:
                self._learn_one(name, zero_shot)
            except (MethodError, DivergenceError) as error:
                self.arms[name]["left_out"] = str(error)
            self._save()
        self._refuse_none()

    def _learn_one(self, name: str, zero_shot: dict[str, Returns]) -> None:
        settings = self._settings_of(self.methods[name], self.folder / plain(name))
        with Run(settings, self.identity) as run:
            run.take_zero_shot(zero_shot)
            domains = self.load(run, settings)
            self.adapt(run, settings)
            run.save_start()
            run.learn(until=self.state["rung"])
            played = run.evaluator.play({role: domains[role] for role in self.roles}, self.rule.episodes)
            self.arms[name] |= {
                "returns": {role: returns.as_dict() for role, returns in played.items()},
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
        print(f"race: {winner} goes on: {why}")
        self._save()

    def _promote(self) -> None:
        """Move what the winner has learnt to the run folder, and delete what nobody goes on from."""
        for name in self.methods:
            folder = self.folder / plain(name)
            if name == self.state["winner"] and folder.is_dir():
                for path in list(folder.iterdir()):
                    if path.name not in OWN_FILES and not path.name.startswith(UNFINISHED):
                        path.replace(self.current.folder / path.name)
                sync(self.current.folder)
                shutil.rmtree(folder)
            elif folder.is_dir():
                CheckpointStore(folder / "checkpoints", keep=1).clear()
                for pattern in ("*.zip", "*.pkl"):
                    delete_files(folder, pattern)

    def _go_on(self) -> TransferSettings:
        winner, rung = self.state["winner"], self.state["rung"]
        arms = {name: {key: arm[key] for key in arm if key != "seconds"} for name, arm in self.arms.items()}
        rule = plain_data(self.rule) | {"arms": arms, "rung": rung}
        result = RaceResult(
            rung=rung,
            spent=rung * sum("returns" in arm for name, arm in self.arms.items() if name != winner),
            seconds=self.state["seconds"],
            seconds_of_others=self.state["seconds"] - self.arms[winner].get("seconds", 0.0),
            zero_shot={role: Returns.from_dict(data) for role, data in self.state["zero_shot"].items()},
            summary=rule | {"winner": winner, "why": self.state["why"]},
        )
        chosen = replace(self.settings, method=self.methods[winner], total_timesteps=self.state["total"])
        self.current.become_winner(chosen, result, learnt=bool(rung))
        return chosen
