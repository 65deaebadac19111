"""Learning rates and clip ranges: objects whose fields stand in the archive, or functions of earlier versions of SB3.

Nearly all public agents have functions. They are pickled, and not executed: those of SB3 and of rl-zoo are known by
name and bytecode, and a function's numbers are the values of its closure. Names alone would not do: many a user's
``linear_schedule`` has a floor, or another shape.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from stable_baselines3.common.utils import LinearSchedule

from daft_rl.archives.pickles import Operation, list_operations
from daft_rl.archives.text import class_name

__all__ = ["SCHEDULES", "parse_schedule", "read_schedule"]

SCHEDULES = ("learning_rate", "lr_schedule", "clip_range", "clip_range_vf")
"""Attributes that may be schedules."""
WRAPPER = "get_schedule_fn.<locals>.<lambda>"
"""Calls another function, and returns a ``float``."""
CONSTANT, LINEAR = "constant_fn.<locals>.func", "get_linear_fn.<locals>.func"
TO_ZERO = "linear_schedule.<locals>.func"
"""rl-zoo's, and that of SB3's documentation: the share of steps that are left, times a number."""
NUMBERS = {CONSTANT: 1, LINEAR: 3, TO_ZERO: 1}
"""Function -> how many numbers its closure has."""
_LINEAR_UNTIL_3_9 = "64017c00180088016b04721088005300880264017c001800880088021800140088011b00170053"
CODES = {
    name: frozenset(map(bytes.fromhex, codes))
    for name, codes in {
        # Python 3.6 to 3.10, 3.11 and 3.12, 3.13
        CONSTANT: ("88005300", "9501970089015300", "3e01950054012400"),
        TO_ZERO: (
            *("7c00880014005300", "88007c0014005300"),  # both orders of the factors
            *("950197007c0089017a0500005300", "9501970089017c007a0500005300"),
            *("3e019500550054012d0500002400", "3e019500540155002d0500002400"),
        ),
        LINEAR: (
            *(f"{_LINEAR_UNTIL_3_9}00", f"{_LINEAR_UNTIL_3_9}0064005300"),  # without and with an else
            "64017c00180088016b04720888005300880264017c001800880088021800140088011b0017005300",
            "9503970064017c007a0a000089026b0400000000720289015300890364017c007a0a0000890189037a0a00007a05000089027a0b00007a"
            "0000005300",
            "9503970064017c007a0a000089026b440000720289015300890364017c007a0a0000890189037a0a00007a05000089027a0b00007a00"
            "00005300",
            "3e039500530155002d0a000054023a94000061020000540124005403530155002d0a0000540154032d0a00002d05000054022d0b0000"
            "2d0000002400",
        ),
        WRAPPER: (
            "740088007c00830183015300",
            "95019700740100000000000000000000020089017c00a6010000ab010000000000000000a6010000ab0100000000000000005300",
            "9501970074010000000000000000020089017c00ab01000000000000ab010000000000005300",
            "3e0195005b010000000000000000540122005500350100000000000035010000000000002400",
        ),
    }.items()
}
"""Function -> its bytecode in Python 3.6 to 3.13. That of later versions is that of :func:`_compiled_here`."""
SB3 = "stable_baselines3.common.utils"
CLASSES = {
    *(f"{SB3}.{name}" for name in ("FloatSchedule", "ConstantSchedule", "LinearSchedule")),
    "rl_zoo3.utils.SimpleLinearSchedule",
}
"""Objects of other classes may be named alike, and compute something else."""


def _linear(start: float, end: float, end_fraction: float) -> Callable[[float], float]:
    def func(progress_remaining: float) -> float:
        if (1 - progress_remaining) > end_fraction:
            return end
        else:  # noqa: RET505  # as in SB3
            return start + (1 - progress_remaining) * (end - start) / end_fraction

    return func


def _compiled_here() -> dict[str, set[bytes]]:
    """Function -> its bytecode in the Python that runs this."""
    made: dict[str, list[Callable[[Any], Any]]] = {
        CONSTANT: [(lambda val: lambda _: val)(0.0)],
        TO_ZERO: [(lambda rate: lambda left: left * rate)(0.0), (lambda rate: lambda left: rate * left)(0.0)],
        LINEAR: [_linear(0.0, 0.0, 1.0)],
        WRAPPER: [(lambda schedule: lambda left: float(schedule(left)))(abs)],
    }
    return {name: {function.__code__.co_code for function in functions} for name, functions in made.items()}


def parse_schedule(entry: Any) -> float | LinearSchedule | None:
    """The schedule that an object's fields describe.

    :param entry: of the archive's attributes
    :return: ``None`` if the schedule is no constant, not linear, or code
    """
    if (path := class_name(entry)) not in CLASSES:
        return None
    name = path.rpartition(".")[2]
    if name == "FloatSchedule":
        text = str(entry.get("value_schedule"))
    else:
        fields = {field: value for field, value in entry.items() if field != ":type:"}
        text = f"{name}({', '.join(f'{field}={value}' for field, value in fields.items())})"
    number = r"([-+.\de]+)"
    if match := re.fullmatch(rf"ConstantSchedule\(val={number}\)", text):
        return _numbers(match)[0]
    if match := re.fullmatch(rf"LinearSchedule\(start={number}, end={number}, end_fraction={number}\)", text):
        start, end, end_fraction = _numbers(match)
        return LinearSchedule(start, end, end_fraction) if end_fraction > 0 else None  # it divides by it
    if match := re.fullmatch(rf"SimpleLinearSchedule\(initial_value={number}\)", text):  # rl-zoo's
        return LinearSchedule(_numbers(match)[0], 0.0, 1.0)
    return None


def _numbers(match: re.Match[str]) -> list[float]:
    """
    :raises ValueError: one is no number, or too large for one
    """
    numbers = [float(text) for text in match.groups()]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{match.string} is not finite")
    return numbers


def read_schedule(entry: Any) -> Any:
    """A schedule that may be a function, as JSON could hold it.

    :param entry: of the archive's ``data``
    :return: a number if it is constant, the fields of SB3's ``LinearSchedule`` if it is linear; or ``entry`` itself, if
        it is another function or none
    """
    operations = list_operations(entry, "function")
    # all that are pickled, so that a function which calls one of the known ones is not taken for it
    named = {name for (_, key), (_, name) in pairwise(operations) if key in ("__qualname__", "qualname")}
    functions = named - {WRAPPER}
    if len(functions) != 1 or (function := functions.pop()) not in NUMBERS:
        return entry
    codes, here = _codes(operations), _compiled_here()
    known = set().union(*(CODES[name] | here[name] for name in {function, *(named & {WRAPPER})}))
    if not codes or not codes <= known:
        return entry
    numbers = _closure(operations)
    if len(numbers) != NUMBERS[function]:
        return entry
    if function == CONSTANT:
        return numbers[0]
    # values of a closure are in the order of their names
    end, end_fraction, start = numbers if function == LINEAR else (0.0, 1.0, numbers[0])
    kind = "<class 'stable_baselines3.common.utils.LinearSchedule'>"
    return {":type:": kind, "start": start, "end": end, "end_fraction": end_fraction}


def _codes(operations: list[Operation]) -> set[bytes]:
    """The bytecode of all functions: in what makes one, it follows two numbers, the stack's size and flags."""
    arguments = [argument for _, argument in operations]
    return {
        code
        for size, flags, code in zip(arguments, arguments[1:], arguments[2:], strict=False)
        if isinstance(code, bytes) and isinstance(size, int) and isinstance(flags, int)
    }


def _closure(operations: list[Operation]) -> list[float]:
    """The numbers in a function's closure: one cell each, or, as cloudpickle before 1.5 wrote it, a list."""
    found, in_list = [], False
    for index, (name, argument) in enumerate(operations):
        if argument == "closure_values":
            in_list = True
        elif in_list and name in ("APPEND", "APPENDS"):
            in_list = False
        following = [later for later, _ in operations[index + 1 : index + 3]]
        if name.startswith(("BINFLOAT", "BININT")) and (in_list or following == ["TUPLE1", "REDUCE"]):
            found.append(float(argument))
    return found
