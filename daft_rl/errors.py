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
    "DivergenceError",
    "FaultyEnvironmentError",
    "FinishedRunError",
    "MethodError",
    "RemoteError",
    "RenderError",
    "ReportError",
    "SimulationError",
    "StorageError",
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


class FinishedRunError(ConfigError):
    """A folder holds a finished run, which is neither overwritten nor gone on with."""


class TaskError(DaftError, ValueError):
    """An unknown task, or a shift that does not exist or is impossible."""


class MethodError(DaftError, ValueError):
    """A method's settings contradict each other or cannot be applied to this agent."""


class AgentError(DaftError, ValueError):
    """An agent's file cannot be used: missing, damaged, or of the wrong kind."""


class CheckpointError(DaftError, ValueError):
    """A checkpoint of a run is damaged, or does not fit the run."""


class DivergenceError(DaftError, ArithmeticError):
    """Learning has left the finite numbers, or an environment gave one that is NaN or infinite."""


class FaultyEnvironmentError(DaftError, RuntimeError):
    """An environment raised, returned something of another form than it should, or did not answer in time.

    :param message: one line; the traceback is the cause of this error
    :param index: of the environment in its batch; ``None`` if it is not known which one it was
    """

    def __init__(self, message: str = "", *, arguments: Sequence[str] = (), index: int | None = None) -> None:
        super().__init__(message, arguments=arguments)
        self.index = index


class StorageError(DaftError, RuntimeError):
    """A run cannot write its files: the disk is full, broken, or not to be written to."""


class WorkerError(FaultyEnvironmentError):
    """An environment in a worker process is faulty, or the process ended."""


class RemoteError(Exception):
    """The traceback of an error in another process, as text: the cause of the error that this process raises."""


class ReportError(DaftError, ValueError):
    """A benchmark's runs cannot be compared as they are."""


class RenderError(DaftError, RuntimeError):
    """Nothing here can render images, or an environment could not."""


class SimulationError(DaftError, RuntimeError):
    """A simulation has no meaning any more: it ran out of memory for contacts, or its state is not finite."""
