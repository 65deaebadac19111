"""``python -m daft_rl.push RUN_FOLDER ORG/NAME``: publish the policy of a transfer on the Hugging Face hub.

Names are those of rl-zoo, ``ALGO-TASK.zip`` beside ``vec_normalize.pkl``, so that ``huggingface_sb3.load_from_hub`` and
``agent=hf://ORG/NAME/ALGO-TASK.zip`` find them.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from daft_rl.errors import ConfigError, DaftError
from daft_rl.files import write_text
from daft_rl.outputs import keep_outputs
from daft_rl.run.names import plain
from daft_rl.run.results import RESULTS_FILE, TransferResult

__all__ = ["main", "prepare", "push"]

AS_THEY_ARE = (RESULTS_FILE, "config.yaml", "constraint.json")


def push(run: Path, repository: str, private: bool = False) -> str:
    """Upload what :func:`prepare` writes. Hugging Face's own login says who you are.

    :param run: the run folder
    :param repository: ``ORG/NAME``; it is made if it does not exist
    :param private: whether a new repository is private
    :return: the address of the repository
    :raises DaftError: the folder holds no finished transfer, or the hub refuses
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ConfigError(f"'{repository}': expected ORG/NAME.")
    from huggingface_hub import HfApi

    with TemporaryDirectory() as folder:
        prepare(run, Path(folder))
        try:
            address = HfApi().create_repo(repository, private=private, exist_ok=True)
            HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message="A transfer of daft_rl")
        except Exception as error:  # the hub's own, those of its HTTP libraries, the system's
            raise ConfigError(f"'{repository}' cannot be written to: {' '.join(str(error).split())[:300]}") from error
    return str(address)


def prepare(run: Path, folder: Path) -> Path:
    """Write what is published: the archive, its side files, settings, results, and a card.

    :param run: the run folder
    :param folder: where to write
    :return: path of the archive
    :raises DaftError: the run folder holds no finished transfer, or ``huggingface_hub`` is not installed
    """
    if not all((run / name).is_file() for name in (RESULTS_FILE, "final.zip")):
        raise ConfigError(f"{run} holds no finished transfer: {RESULTS_FILE} and final.zip are missing.")
    result = TransferResult.load(run / RESULTS_FILE)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{result.algo}-{plain(result.task)}.zip"
    text = card(result, archive.name)
    shutil.copy(run / "final.zip", archive)
    for name in AS_THEY_ARE:
        if (run / name).is_file():
            shutil.copy(run / name, folder / name)
    if (run / "vecnormalize.pkl").is_file():
        shutil.copy(run / "vecnormalize.pkl", folder / "vec_normalize.pkl")
    write_text(folder / "README.md", text)
    return archive


def card(result: TransferResult, archive: str) -> str:
    """The card of a policy: data that the hub reads, and text.

    :param archive: name of its file
    """
    try:
        from huggingface_hub import EvalResult, ModelCardData
    except ImportError as error:
        raise ConfigError("A card for the hub needs huggingface_hub: pip install 'daft-rl[hub]'.") from error
    target = result.final["target"]
    kind = "reinforcement-learning"
    measured = EvalResult(
        task_type=kind, task_name=kind, dataset_type=result.task, dataset_name=result.task,
        metric_type="mean_reward", metric_name="mean_reward", metric_value=f"{target.mean:.2f} +/- {target.std:.2f}",
    )  # fmt: skip
    data = ModelCardData(
        library_name="stable-baselines3", tags=[result.task, kind, "deep-reinforcement-learning", "daft_rl"],
        model_name=result.algo.upper(), eval_results=[measured],
    )  # fmt: skip
    rows = [
        f"| {when} | {role} | {returns.mean:.1f} | {returns.std:.1f} | {len(returns.returns)} |"
        for when, by_role in (("before", result.zero_shot), ("after", result.final))
        for role, returns in by_role.items()
    ]
    chosen = "" if result.race is None else f", which chose `{result.race['winner']}`"
    shift = ", ".join(f"`{name}: {value}`" for name, value in result.shift.items()) or "nothing"
    return f"""---
{data.to_yaml()}
---

# {result.algo.upper()} on {result.task}, by {result.method}

A policy that daft_rl moved to `{result.task}` (shifted: {shift}) by the method `{result.method}`{chosen}:
{result.timesteps} steps, seed {result.seed}. `config.yaml` has every setting, `results.json` every return.

| | on | mean return | standard deviation | episodes |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}

To go on from it: `python -m daft_rl.transfer agent=hf://ORG/NAME/{archive}`. Plain Stable-Baselines3 opens the archive
too; observations are normalized by `vec_normalize.pkl` where that is there.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Publish a policy, or write what would be published.

    :param arguments: of the command line; ``None`` takes ``sys.argv``
    """
    parser = argparse.ArgumentParser(prog="python -m daft_rl.push", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished transfer")
    parser.add_argument("repository", help="ORG/NAME on the hub")
    parser.add_argument("--private", action="store_true", help="make a private repository, if there is none")
    parser.add_argument("--out", type=Path, help="only write the files into this folder")
    given = parser.parse_args(arguments)
    try:
        if given.out is None:
            print(push(given.run, given.repository, given.private))
        else:
            print(prepare(given.run, given.out))
    except DaftError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    keep_outputs()
    main()
