"""Where source policies come from: the shipped ones, ``agents/pretrained/TASK-ALGO``, or a path."""

from __future__ import annotations

from pathlib import Path

from daft_rl.errors import AgentError

__all__ = ["find_agent"]

HERE = Path(__file__).resolve().parent / "agents" / "pretrained"


def find_agent(task: str, algo: str, path: str | Path | None = None) -> Path:
    """The archive of a source policy.

    :param task: a source task, such as ``"Ant"``
    :param algo: an algorithm, such as ``"ppo"``
    :param path: the user's own archive or the name of a shipped source; ``None`` takes ``TASK-ALGO``
    :raises AgentError: there is no such file, or none is shipped; the message lists those that are
    """
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
        raise AgentError(
            f"No source for task '{task}' and algorithm '{algo}' is shipped (shipped: {shipped}). Give one with "
            f"agent=PATH, or train one: python -m daft_rl.pretrain env={task} algo={algo}."
        )
    return path
