"""Where source policies come from: shipped ones (``agents/pretrained/TASK-ALGO``), a path, the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from daft_rl.envs.registry import SAFETY_ID
from daft_rl.errors import AgentError

__all__ = ["find_agent"]

HUB = "hf://"
HERE = Path(__file__).resolve().parent.parent / "agents" / "pretrained"
RECIPES = Path(__file__).resolve().parent.parent / "configs" / "recipe"


def find_agent(task: str, algo: str, path: str | Path | None = None) -> Path:
    """The archive of a source policy.

    :param task: a source task, such as ``"Ant"``
    :param algo: an algorithm, such as ``"ppo"``
    :param path: the user's own archive, the name of a shipped source, or ``hf://ORG/REPO/FILE.zip``; ``None`` takes
        ``TASK-ALGO``
    :raises AgentError: there is no such file, or none is shipped; the message lists those that are
    """
    if str(path).startswith(HUB):
        return _fetch(str(path))
    shipped = ", ".join(sorted(archive.parent.name for archive in HERE.glob("*/agent.zip"))) or "none"
    if path is not None:
        for archive in (Path(path), HERE / str(path) / "agent.zip"):
            if archive.is_file():
                return archive
        raise AgentError(
            f"No agent at '{path}': there is no such file. Give the path of an SB3 archive (.zip), or the name of a "
            f"shipped source: {shipped}.",
            arguments=("path",),
        )
    archive = HERE / f"{task}-{algo}" / "agent.zip"
    if not archive.is_file():
        raise AgentError(
            f"No source for task '{task}' and algorithm '{algo}' is shipped (shipped: {shipped}). Give the path of "
            f"one, or train one: `python -m daft_rl.pretrain{_recipe_hint(task, algo)}.",
            arguments=("path",),
        )
    return archive


def _recipe_hint(task: str, algo: str) -> str:
    """How to train a source of a task; the rest of a command."""
    group, _, id = task.rpartition("/")
    if group:
        named = f"env={group} env.id={id}"
    elif (RECIPES.parent / "env" / f"{task}.yaml").is_file():
        named = f"env={task}"
    else:
        named = f"env=safety env.name={task}" if SAFETY_ID.fullmatch(task) else f"env=gymnasium env.id={task}"
    if (RECIPES / f"{task}-{algo}.yaml").is_file():
        return f" {named} algo={algo}`"
    similar = sorted(recipe.stem for recipe in RECIPES.glob(f"*-{algo}.yaml"))
    if similar:
        return f" {named} algo={algo} recipe={similar[0]}`, or another recipe (configs/recipe)"
    return f" {named} recipe=NAME`, with a recipe of your own (configs/recipe)"


def _fetch(address: str) -> Path:
    """The archive in the local cache of the hub, with the files that :func:`~daft_rl.archives.save_agent` adds."""
    organization, repository, file = [*address.removeprefix(HUB).split("/", 2), "", ""][:3]
    parts = file.split("/")
    if not file.endswith(".zip") or not {"", ".", ".."}.isdisjoint(parts) or not set("*?[]\\:").isdisjoint(file):
        raise AgentError(
            f"'{address}': expected hf://ORG/REPO/FILE.zip, a file inside of the repository.", arguments=("path",)
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise AgentError(
            f"'{address}' needs huggingface_hub: pip install 'daft-rl[hub]'", arguments=("path",)
        ) from error
    try:
        side_files = ["*[vV]ec*[nN]orm*.pkl", "*constraint.json"]
        folder = snapshot_download(f"{organization}/{repository}", allow_patterns=[file, *side_files])
    except Exception as error:  # the hub's own, those of three HTTP libraries, the system's
        reason = " ".join(str(error).split())[:300]
        raise AgentError(
            f"'{address}' can neither be fetched from the hub nor found in the hub's local cache: {reason}",
            arguments=("path",),
        ) from error
    archive = Path(folder) / file
    if not archive.is_file():
        raise AgentError(
            f"'{address}': the repository {organization}/{repository} has no file '{file}'.", arguments=("path",)
        )
    return archive
