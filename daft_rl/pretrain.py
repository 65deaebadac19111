"""``python -m daft_rl.pretrain env=Ant algo=ppo``: train a source policy with BatchNorm, as the shipped ones were.

It uses the same parts as a transfer: the method ``scratch`` on a fresh agent, with the settings of a recipe
(``configs/recipe/TASK-ALGO.yaml``, or another by ``recipe=NAME``).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daft_rl.envs.domain import Domain, read_domains
from daft_rl.envs.registry import SHIFTED, get_task, source_of, task_names
from daft_rl.errors import ConfigError
from daft_rl.settings import PretrainSettings

if TYPE_CHECKING:
    from daft_rl.rollout.returns import Returns
    from daft_rl.run.run import Run

__all__ = ["refuse_overrides", "run"]

SIMULATORS = {"robosuite": ("robosuite",), "safety": ("safety-gymnasium",)}
PACKAGES = ("daft-rl", "torch", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco", "numpy")


def run(settings: PretrainSettings, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train a source.

    The run folder then holds ``agent.zip``, ``vecnormalize.pkl`` (the reward's scale), and the card of the agent, for
    programs (``card.json``) and for people (``README.md``).

    :param settings: everything about the run
    :param overrides: of the command line, for the card
    :return: what ``card.json`` holds
    :raises DaftError: a setting names something that does not exist or does not fit
    """
    refuse_overrides(overrides)
    domain = read_domains(vars(settings.env))["target"]

    from daft_rl.archives import save_agent
    from daft_rl.run.engine import choose_engine
    from daft_rl.run.identity import Identity
    from daft_rl.run.run import Run

    settings = choose_engine(settings, domain)
    with Run(settings, Identity(command=tuple(overrides))) as current:
        prepare(current, settings, domain)
        current.learn()
        current.check_folder()
        current.monitoring.finish()
        _clear_moments(current)
        returns = current.evaluator.play()["source"]
        save_agent(current.model, current.folder / "agent.zip")
        card = _card(current, settings, returns, overrides, domain.changes)
        _write_card(card, current.folder)
        current.finish()
    return card


def refuse_overrides(overrides: Sequence[str]) -> None:
    """
    :param overrides: of the command line
    :raises ConfigError: one is for fine-tuning
    """
    ignored = [item for item in overrides if item.lstrip("+").startswith("algo.")]
    if ignored:
        raise ConfigError(
            f"{ignored[0]} is for fine-tuning. A source learns as its recipe says: set recipe.settings.NAME=... there."
        )


def prepare(current: Run, settings: PretrainSettings, domain: Domain) -> None:
    """Build a fresh agent, let BatchNorm statistics describe what it visits, and set up monitoring."""
    from daft_rl.finetune import Adaptation
    from daft_rl.rollout.evaluation import visit
    from daft_rl.run.agents import build_agent
    from daft_rl.run.monitoring import Monitoring

    model = current.model = build_agent(settings, current.learning_env(domain))
    steps = settings.calibration.steps
    adaptation = current.adaptation = Adaptation(
        model, settings.method, steps,
        actor_scale=1.0, adaptive_kl=settings.recipe.adaptive_kl, kernels=settings.kernels, profile=current.profile,
    )  # fmt: skip
    if adaptation.method.conversion != "none":
        adaptation.convert(visit(model, current.training, steps, settings.seed + 1))
    player = current.open_evaluator({"source": domain}, {"source": domain})
    best = current.folder / "best.zip"
    current.monitoring = Monitoring(player.open_envs, settings.evaluation, best, current.profile, player.start)
    current.training.seed(settings.seed)


def _clear_moments(current: Run) -> None:
    """Leave the optimizers' moments out of the archive: they are two thirds of it, and fine-tuning starts afresh."""
    assert current.adaptation is not None
    current.adaptation.detach()
    for optimizer in current.adaptation.tuner.anatomy.optimizers().values():
        optimizer.state.clear()


def _card(
    current: Run,
    settings: PretrainSettings,
    returns: Returns,
    overrides: Sequence[str],
    shift: dict[str, Any],
) -> dict[str, Any]:
    """What is known of the agent, as plain data."""
    from daft_rl.validation import plain_data

    task = settings.env.name
    assert current.adaptation is not None
    return {
        "name": settings.recipe.name,
        "task": task,
        "shift": plain_data(shift),
        "algo": settings.algo.name,
        "seed": settings.seed,
        "command": shlex.join(["python", "-m", "daft_rl.pretrain", *overrides]),
        "timesteps": current.model.num_timesteps,
        "wall_seconds": current.seconds,
        "returns": returns.as_dict(),
        "recipe": plain_data(settings.recipe),
        "method": current.adaptation.method.as_dict(),
        "versions": {name: version(name) for name in (*PACKAGES, *SIMULATORS.get(get_task(task).family, ()))},
        "curve": current.monitoring.curve,
    }


def _write_card(card: dict[str, Any], folder: Path) -> None:
    from daft_rl.files import write_json, write_text

    write_text(folder / "README.md", card_text(card))
    write_json(folder / "card.json", card)  # last: it says that the run is finished


def card_text(card: dict[str, Any]) -> str:
    """The card of an agent in Markdown.

    :param card: what stands in ``card.json``
    """
    from daft_rl.run.agents import algorithm_entry

    returns, recipe, method = card["returns"], card["recipe"], card["method"]
    algorithm = algorithm_entry(card["algo"]).cls.__name__
    settings = "\n".join(f"- `{name}`: {value}" for name, value in (recipe["settings"] | recipe["policy"]).items())
    versions = ", ".join(f"{name} {number}" for name, number in card["versions"].items())
    extractor = recipe["extractor"]
    layers = f"{extractor['hidden']}, {extractor['activation']}" if extractor else f"{recipe['policy']['net_arch']}"
    updates = {"eval": "running statistics", "train": "those of the batch"}[method["bn_mode"]]
    batchnorm = f"running statistics in rollouts, {updates} in updates"
    if method["conversion"] == "each_rollout" and not method["preserve_function"]:
        batchnorm += "; between rollouts they follow\n  an average over the rollouts"
    reward = "rewards were divided by a running scale (`vecnormalize.pkl`; observations are not normalized there)"
    shifted = ", ".join(f"{name} {value}" for name, value in card["shift"].items()) or "nothing shifted"
    cost = f"- cost of an episode: {returns['mean_cost']:.1f}\n" if "mean_cost" in returns else ""
    targets = [name for name in task_names() if name != card["task"] and source_of(name) == card["task"]]
    target = next((name for name in targets if name.endswith(SHIFTED)), targets[0] if targets else None)
    move = f"\nTo move it, here: `python -m daft_rl.transfer env={target} agent=agent.zip`.\n" if targets else ""
    return f"""# {card["name"]}

{algorithm} on `{card["task"]}` ({shifted}), BatchNorm on the observation and in every hidden layer of
actor and critic.

    {card["command"]}
{move}
- return over {len(returns["returns"])} deterministic episodes: {returns["mean"]:.1f} (standard deviation
  {returns["std"]:.1f}; lowest {min(returns["returns"]):.1f})
{cost}- seed {card["seed"]}, {card["timesteps"]} steps, {card["wall_seconds"] / 60:.0f} minutes, one run of this recipe,
  its last policy
- hidden layers of actor and of critic: {layers}
- BatchNorm: {batchnorm}
- {reward if recipe["normalize_reward"] else "rewards and observations are not normalized outside the networks"}

Settings, from `configs/recipe/{recipe["name"]}.yaml`, learning rate falling linearly to zero:

{settings}

Versions: {versions}.
"""


def main(settings: PretrainSettings) -> None:
    """Train, and print the returns."""
    from hydra.core.hydra_config import HydraConfig

    from daft_rl.resume import command_of

    resumed = not HydraConfig.initialized() and settings.output_dir is not None
    overrides = command_of(Path(settings.output_dir)) if resumed else HydraConfig.get().overrides.task  # type: ignore[arg-type]
    card = run(settings, overrides)
    returns = card["returns"]
    print(
        f"{card['task']} {card['algo']}: return {returns['mean']:.1f} +- {returns['std']:.1f} in {settings.output_dir}"
    )


if __name__ == "__main__":
    from daft_rl.cli import run_command
    from daft_rl.resume import resume_command, stoppable

    with stoppable("daft_rl.pretrain"):
        if not resume_command(PretrainSettings, main):
            run_command("pretrain", main, check=refuse_overrides)
