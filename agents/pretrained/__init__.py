"""The shipped source policies: ``TASK-ALGO/agent.zip``, each with a card (``README.md``)."""

from __future__ import annotations

from pathlib import Path

from daft_rl.errors import AgentError

__all__ = ["find_agent"]

HERE = Path(__file__).resolve().parent


def find_agent(task: str, algo: str) -> Path:
    """The archive of a shipped source.

    :param task: a source task, such as ``"Ant"``
    :param algo: an algorithm, such as ``"ppo"``
    :raises AgentError: none is shipped; the message lists those that are
    """
    path = HERE / f"{task}-{algo}" / "agent.zip"
    if not path.is_file():
        shipped = ", ".join(sorted(folder.parent.name for folder in HERE.glob("*/agent.zip"))) or "none"
        raise AgentError(
            f"No source for task '{task}' and algorithm '{algo}' is shipped (shipped: {shipped}). Give one with "
            f"agent=PATH, or train one: python -m daft_rl.pretrain env={task} algo={algo}."
        )
    return path
