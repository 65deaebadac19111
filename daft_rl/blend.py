"""``python -m daft_rl.blend RUN_FOLDER``: a policy between source and fine-tuned policy, with nothing more to learn.

A transfer keeps the policy that learning started from, which is the source after conversion, insertion and realignment.
From there to the final policy leads a straight path. This program plays at points of it, on the target, on the source
and elsewhere, draws what is won against what is lost, and writes the policy of one point. The module can be called:
``daft_rl.blend(...)`` is :func:`blend`.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from daft_rl.callable_module import make_callable
from daft_rl.envs.domain import Domain, read_domains, user_domains
from daft_rl.envs.user_env import UserEnv
from daft_rl.errors import ConfigError, DaftError, TaskError
from daft_rl.files import write_json
from daft_rl.outputs import keep_outputs
from daft_rl.resume import read_run
from daft_rl.rollout.returns import Returns
from daft_rl.settings import TransferSettings

if TYPE_CHECKING:
    from daft_rl.run.path import PolicyPath

__all__ = ["Blend", "blend"]

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
DENT = 0.05
"""Share of a return. Episodes of a deterministic policy may hardly differ, and then the least loss is beyond noise."""


@dataclass(frozen=True)
class Blend:
    """What the policies on a path return, and which of them was taken."""

    returns: dict[float, dict[str, Returns]]
    """Alpha -> role (``target``, ``source``, levels elsewhere) -> returns. 0 is the start, 1 the final policy."""
    alpha: float
    """Of the policy that was taken."""
    path: Path
    """Its archive."""

    def broken(self, role: str) -> list[float]:
        """Points between both ends where the policy returns less than at either end: beyond the noise of episodes, and
        by more than a twentieth.
        """
        alphas = sorted(self.returns)
        ends = [self.returns[alpha][role] for alpha in (alphas[0], alphas[-1])]
        inner = ((alpha, self.returns[alpha][role]) for alpha in alphas[1:-1])
        return [alpha for alpha, returns in inner if all(_is_dent(returns, end) for end in ends)]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as in ``blend.json``."""
        points = [
            {"alpha": alpha, **{role: one.as_dict() for role, one in by_role.items()}}
            for alpha, by_role in sorted(self.returns.items())
        ]
        return {"alpha": self.alpha, "points": points}


def _is_dent(returns: Returns, end: Returns) -> bool:
    return returns.is_below(end) and returns.mean < end.mean - DENT * abs(end.mean)


def blend(
    run_folder: str | Path,
    take: str | float = "sum",
    *,
    alphas: Sequence[float] = ALPHAS,
    most_loss: float | None = None,
    episodes: int | None = None,
    env: UserEnv | None = None,
    source_env: UserEnv | None = None,
    trust: bool = False,
) -> Blend:
    """Play along the path from a transfer's start to its final policy, and write ``blend.zip``, one policy of it.

    :param run_folder: of a finished transfer
    :param take: which policy: the best on the ``"target"``, the best in ``"sum"`` of target and source, or that of an
        alpha from 0 (start) to 1 (final policy)
    :param alphas: where to play
    :param most_loss: among policies that lose at most this fraction of the source's return on the source
    :param episodes: to play at each point in each task; ``None`` is the run's number
    :param env: the target, if the run's was a Python object
    :param source_env: the source, likewise
    :param trust: execute code of the run's archives, if the run did so
    :return: returns at each alpha, and the policy that was taken. ``blend.json`` and ``blend.png`` show them
    :raises DaftError: the folder holds no finished transfer; the settings do not fit
    """
    folder = Path(run_folder)
    settings = _read(folder, episodes, trust)
    points = _check(take, alphas, most_loss)
    domains = _domains(settings, env, source_env, folder)
    needs_source = take == "sum" or most_loss is not None
    if needs_source and "source" not in domains:
        raise ConfigError("The source is not known here: pass source_env, or take='target'.", arguments=("source_env",))

    from daft_rl.archives import save_agent
    from daft_rl.run.environments import Environments
    from daft_rl.run.vec_wrappers import VecWrappers

    vec, wrappers = "auto" if settings.vec == "cuda" else settings.vec, VecWrappers(settings.env.vec_wrappers)
    environments = Environments(vec, step_timeout=settings.env.step_timeout, wrappers=wrappers)
    try:
        path, returns = _play(settings, environments, domains, points, folder, needs_source)
        alpha = _choose(take, returns, most_loss)
        save_agent(path.go_to(alpha), folder / "blend.zip", prefix="blend_")
    finally:
        environments.close()
    result = Blend(returns, alpha, folder / "blend.zip")
    write_json(folder / "blend.json", result.as_dict())
    _draw(result, folder / "blend.png")
    return result


def _read(folder: Path, episodes: int | None, trust: bool) -> TransferSettings:
    """The run's settings, for playing only."""
    settings = read_run(TransferSettings, folder, trust)
    missing = [name for name in ("start.zip", "final.zip") if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} has no {missing[0]}: the transfer is not finished, learnt nothing, or is of an older version."
        )
    try:
        with TemporaryDirectory(dir=folder):  # now, not after minutes of play
            pass
    except OSError as error:
        raise ConfigError(f"{folder}: blend.zip cannot be written there: {error}. Copy the folder.") from error
    evaluation = settings.evaluation if episodes is None else replace(settings.evaluation, episodes=episodes)
    return replace(settings, evaluation=evaluation, evaluate_in_background=False)


def _check(take: str | float, alphas: Sequence[float], most_loss: float | None) -> list[float]:
    """The points to play at, in order. An alpha that is to be taken is one of them."""
    named = take in ("target", "sum")
    if not named and not _is_fraction(take):
        raise ConfigError(f"take={take!r}: expected 'target', 'sum', or a number from 0 to 1.")
    numbers = isinstance(alphas, Collection) and all(_is_fraction(alpha) for alpha in alphas)
    if not numbers or (named and len(alphas) == 0):
        raise ConfigError(f"alphas={alphas!r}: expected a list of numbers from 0 (start) to 1 (final policy).")
    if most_loss is not None and not (named and _is_fraction(most_loss)):
        raise ConfigError(f"most_loss={most_loss!r}: expected a fraction from 0 to 1, and take='target' or 'sum'.")
    further = [take] if not named else [] if most_loss is None else [0]  # a loss is measured from the start
    return sorted({float(alpha) for alpha in (*alphas, *further)})


def _is_fraction(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= 1


def _domains(
    settings: TransferSettings, env: UserEnv | None, source_env: UserEnv | None, folder: Path
) -> dict[str, Domain]:
    if env is not None:
        return user_domains(env, source_env)
    if source_env is not None:
        raise ConfigError("source_env goes with env. Pass both, or neither.", arguments=("source_env", "env"))
    try:
        return read_domains(vars(settings.env), settings.evaluation.elsewhere)
    except TaskError as error:
        raise ConfigError(f"{folder}: {error} If it was a Python object, pass it: env=...") from error


def _play(
    settings: TransferSettings,
    environments: Any,
    domains: dict[str, Domain],
    points: Sequence[float],
    folder: Path,
    needs_source: bool,
) -> tuple[PolicyPath, dict[float, dict[str, Returns]]]:
    """Play at each point in each domain.

    :raises ConfigError: the policy cannot play on the source, and has to
    """
    from daft_rl.run.agents import load_saved
    from daft_rl.run.bodies import between_bodies, find_correspondence, see_as_target
    from daft_rl.run.evaluator import Evaluator
    from daft_rl.run.path import PolicyPath
    from daft_rl.run.results import RESULTS_FILE, TransferResult

    episodes = settings.evaluation.episodes_during
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You have specified a mini-batch size", UserWarning)  # nothing is learnt
        start, end = (
            load_saved(settings, folder / name, environments.open(domains["target"], episodes))
            for name in ("start.zip", "final.zip")
        )
    path = PolicyPath(start, end)
    choice = settings.agent.correspondence
    by_place = choice == "positions" and "source" in domains
    found = find_correspondence(choice, domains, None) if by_place else None  # else the start keeps the target's names
    domains = see_as_target(domains, start, between_bodies(found, choice, domains, start))
    if needs_source and "source" not in domains:
        raise ConfigError("On the source's body this policy does not play: pass take='target'.", arguments=("take",))
    evaluator = Evaluator(path.model, settings, environments, {}, domains, folder)
    result = TransferResult.load(folder / RESULTS_FILE)
    winner = settings.method.name if result.race is None else result.race["winner"]
    (method,) = (arm for arm in settings.method.arms if arm.name == winner)
    if method.keep_source and result.realigned:
        evaluator.act_at_home(result.realigned.get("offset", {}))
    returns = {}
    for alpha in points:
        path.go_to(alpha)
        returns[alpha] = evaluator.play()
    return path, returns


def _choose(take: str | float, returns: Mapping[float, Mapping[str, Returns]], most_loss: float | None) -> float:
    if not isinstance(take, str):
        return float(take)
    allowed = dict(returns)
    if most_loss is not None:
        before = returns[min(returns)]["source"].mean
        least = before - most_loss * abs(before)
        allowed = {alpha: found for alpha, found in returns.items() if found["source"].mean >= least}
    roles = ("target", "source") if take == "sum" else ("target",)
    return max(allowed, key=lambda alpha: sum(allowed[alpha][role].mean for role in roles))


def _draw(result: Blend, path: Path) -> None:
    from daft_rl.report.figures import as_png, trade_off

    path.write_bytes(as_png(trade_off(result.returns, result.alpha)))


def _print(result: Blend) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    roles = list(next(iter(result.returns.values())))
    table = Table("alpha", *roles, title="mean return ± standard error")
    for alpha, by_role in sorted(result.returns.items()):
        cells = [f"{by_role[role].mean:.1f} ± {by_role[role].standard_error:.1f}" for role in roles]
        table.add_row(f"{alpha:g}{' *' if alpha == result.alpha else ''}", *cells)
    console.print(table)
    for role in roles:
        if gaps := result.broken(role):
            between = ", ".join(f"{alpha:g}" for alpha in gaps)
            print(f"The path is broken on {role}: at {between} the policy is worse than at both ends.")
    print(f"* {result.path}, and blend.png beside it")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m daft_rl.blend", description=__doc__)
    parser.add_argument("run_folder", type=Path, help="of a finished transfer")
    parser.add_argument("--take", default="sum", help="target, sum (of target and source), or an alpha (sum)")
    parser.add_argument("--alphas", type=float, nargs="+", default=ALPHAS, help="where to play (0 to 1 in quarters)")
    parser.add_argument("--most-loss", type=float, help="most that may be lost on the source, 0.1 for a tenth")
    parser.add_argument("--episodes", type=int, help="at each point in each task (the run's)")
    parser.add_argument("--trust", action="store_true", help="execute code of the run's archives, if the run did so")
    given = vars(parser.parse_args(arguments))
    with_number = given["take"].replace(".", "", 1).isdigit()
    try:
        _print(blend(**given | {"take": float(given["take"]) if with_number else given["take"]}))
    except DaftError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


make_callable(__name__, blend)

if __name__ == "__main__":
    keep_outputs()
    main()
