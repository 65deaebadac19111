"""Learning rates and clip ranges: objects whose fields stand in the archive, or functions of earlier versions of SB3.

Nearly all public agents have functions. They are pickled, and not executed: those of SB3 and of rl-zoo are known by
name, and a function's numbers are the values of its closure.
"""

from __future__ import annotations

import re
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


def parse_schedule(entry: Any) -> float | LinearSchedule | None:
    """The schedule that an object's fields describe.

    :param entry: of the archive's attributes
    :return: ``None`` if the schedule is no constant, not linear, or code
    """
    name = (class_name(entry) or "").rpartition(".")[2]
    if name == "FloatSchedule":
        text = str(entry.get("value_schedule"))
    else:
        fields = {field: value for field, value in entry.items() if field != ":type:"}
        text = f"{name}({', '.join(f'{field}={value}' for field, value in fields.items())})"
    number = r"([-+.\de]+)"
    if match := re.fullmatch(rf"ConstantSchedule\(val={number}\)", text):
        return float(match.group(1))
    if match := re.fullmatch(rf"LinearSchedule\(start={number}, end={number}, end_fraction={number}\)", text):
        start, end, end_fraction = map(float, match.groups())
        return LinearSchedule(start, end, end_fraction)
    if match := re.fullmatch(rf"SimpleLinearSchedule\(initial_value={number}\)", text):  # rl-zoo's
        return LinearSchedule(float(match.group(1)), 0.0, 1.0)
    return None


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
    numbers = _closure(operations)
    if len(numbers) != NUMBERS[function]:
        return entry
    if function == CONSTANT:
        return numbers[0]
    # values of a closure are in the order of their names
    end, end_fraction, start = numbers if function == LINEAR else (0.0, 1.0, numbers[0])
    kind = "<class 'stable_baselines3.common.utils.LinearSchedule'>"
    return {":type:": kind, "start": start, "end": end, "end_fraction": end_fraction}


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
