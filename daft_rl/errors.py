"""The errors daft_rl raises on purpose: one family, so that one ``except DaftError`` catches them all."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AgentError",
    "BatchNormError",
    "CheckpointError",
    "ConfigError",
    "DaftError",
    "DaftWarning",
    "MethodError",
    "RenderError",
    "ReportError",
    "TaskError",
    "WorkerError",
]


class DaftError(Exception):
    """Base class. The message names the value, what was expected, and what to do.

    :param message: in terms of Python; it names no key of the command line
    :param arguments: names of the Python arguments that would help, such as ``"policy_kwargs"``. The command line tells
        by which key each of them is set
    """

    def __init__(self, message: str = "", *, arguments: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.arguments = tuple(arguments)


class DaftWarning(UserWarning):
    """A warning that names Python arguments which would help, as :class:`DaftError` does."""

    def __init__(self, message: str = "", *, arguments: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.arguments = tuple(arguments)


class BatchNormError(DaftError, ValueError):
    """A BatchNorm layer cannot be measured or converted."""


class ConfigError(DaftError, ValueError):
    """A name or a key of the configuration does not exist."""


class TaskError(DaftError, ValueError):
    """An unknown task, or a shift that does not exist or is impossible."""


class MethodError(DaftError, ValueError):
    """A method's settings contradict each other or cannot be applied to this agent."""


class AgentError(DaftError, ValueError):
    """An agent's file cannot be used: missing, damaged, or of the wrong kind."""


class CheckpointError(DaftError, ValueError):
    """A checkpoint of a run is damaged, or does not fit the run."""


class WorkerError(DaftError, RuntimeError):
    """An environment in a worker process raised, or the process ended."""


class ReportError(DaftError, ValueError):
    """A benchmark's runs cannot be compared as they are."""


class RenderError(DaftError, RuntimeError):
    """Nothing here can render images, or an environment could not."""
