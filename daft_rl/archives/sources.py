"""Where source policies come from: shipped ones, ``agents/pretrained/TASK-ALGO``, a path, the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

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
            f"agent={path}: there is no such file. Give the path of an SB3 archive (.zip), or the name of a shipped "
            f"source: {shipped}."
        )
    path = HERE / f"{task}-{algo}" / "agent.zip"
    if not path.is_file():
        train = f"python -m daft_rl.pretrain env={task} algo={algo}"
        if not (RECIPES / f"{task}-{algo}.yaml").is_file():
            known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
            train += f" recipe=NAME, with a recipe of your own or a similar one ({known})"
        raise AgentError(
            f"No source for task '{task}' and algorithm '{algo}' is shipped (shipped: {shipped}). Give one with "
            f"agent=PATH, or train one: {train}."
        )
    return path


def _fetch(address: str) -> Path:
    """The archive in the local cache of the hub, with what :func:`daft_rl.run.folder.save_agent` puts beside one."""
    organization, repository, file = [*address.removeprefix(HUB).split("/", 2), "", ""][:3]
    if not file.endswith(".zip"):
        raise AgentError(f"agent={address}: expected hf://ORG/REPO/FILE.zip.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise AgentError(f"agent={address} needs huggingface_hub: pip install 'daft-rl[hub]'") from error
    try:
        beside = ["*vecnormalize*.pkl", "*vec_normalize*.pkl", "*constraint.json"]
        folder = snapshot_download(f"{organization}/{repository}", allow_patterns=[file, *beside])
    except Exception as error:  # the hub's own, those of three HTTP libraries, the system's
        reason = " ".join(str(error).split())[:300]
        raise AgentError(
            f"agent={address}: it can neither be fetched from the hub nor is it in the hub's cache here: {reason}"
        ) from error
    archive = Path(folder) / file
    if not archive.is_file():
        raise AgentError(f"agent={address}: the repository {organization}/{repository} has no file '{file}'.")
    return archive
