"""Dataclasses that check their values when they are made, with one readable message for every mistake.

Pydantic checks; here its errors become ours. Types are strict: ``true`` is no number, ``"4"`` neither. Numbers keep the
type in which they were given, so that settings print as they were written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from functools import wraps
from os import PathLike, fspath
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

from daft_rl.errors import ConfigError, DaftError

__all__ = [
    *("Count", "Flag", "Fraction", "NonNegative", "Number", "PathText", "Positive", "Seed", "Text", "Whole"),
    *("checked", "did_you_mean", "plain_data", "unknown_name"),
]

LARGEST = 10**15
"""Counts end here: no run is as long, and beyond 2**53 floating-point numbers skip some."""

PLAIN = BeforeValidator(lambda value: value.item() if isinstance(value, np.generic) else value)
"""NumPy's scalars are as good as Python's."""
Flag = Annotated[StrictBool, PLAIN]
Text = StrictStr
PathText = Annotated[StrictStr, BeforeValidator(lambda value: fspath(value) if isinstance(value, PathLike) else value)]
"""The text of a path, which Python may give as a ``Path``."""
Number = StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]
"""A finite number."""
Positive = Annotated[Number, Field(gt=0), PLAIN]
NonNegative = Annotated[Number, Field(ge=0), PLAIN]
Fraction = Annotated[Number, Field(ge=0, le=1), PLAIN]
Whole = Annotated[StrictInt, Field(ge=0, le=LARGEST), PLAIN]
"""A whole number of at least 0."""
Count = Annotated[StrictInt, Field(ge=1, le=LARGEST), PLAIN]
"""A whole number of at least 1."""
Seed = Annotated[StrictInt, Field(ge=0, lt=2**32), PLAIN]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def checked(error: type[DaftError] = ConfigError, where: str = "") -> Callable[[type[T]], type[T]]:
    """Decorate a class as a frozen, keyword-only dataclass with checked values.

    A nested dataclass may be given as a mapping, and a tuple as a list. ``dataclasses.replace``, ``asdict`` and
    ``fields`` work as usual; checks of several fields together go into ``__post_init__``.

    :param error: raised by the constructor in place of Pydantic's error
    :param where: name of the whole in messages: ``"shift"`` makes ``shift.gravity: ...``
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)
        validate = made.__init__

        @wraps(validate)
        def __init__(self: Any, **values: Any) -> None:  # noqa: N807
            try:
                validate(self, **values)
            except ValidationError as problems:
                raised = _raised(problems)
                raise (error(_explain(problems, made, where)) if raised is None else raised) from None

        made.__init__ = __init__
        return made

    return decorate


def plain_data(value: Any) -> Any:
    """A dataclass as dictionaries, lists and values that JSON and YAML can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_data(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain_data(item) for key, item in value.items()}
    return [plain_data(item) for item in value] if isinstance(value, list | tuple) else value


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """A message that lists what exists and guesses what was meant.

    :param kind: what was asked for: ``"task"``
    :param name: what was given
    """
    existing = list(known)
    return f"Unknown {kind} '{name}'.{did_you_mean(name, existing)} What exists: {', '.join(existing)}."


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A guess as the next sentence of a message; empty without one."""
    guess = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean '{guess[0]}'?" if guess else ""


def _raised(problems: ValidationError) -> DaftError | None:
    """The error of a ``__post_init__``, which is complete as it is."""
    errors = (item["ctx"]["error"] for item in problems.errors(include_url=False) if item["type"] == "value_error")
    return next((error for error in errors if isinstance(error, DaftError)), None)


def _explain(problems: ValidationError, cls: type, where: str) -> str:
    """The first problem, and how many more there are."""
    found = problems.errors(include_url=False)
    # a union reports each of its members: the deepest report is of the member that came closest
    first = max(found, key=lambda item: len(_path(item, cls))) if _same_field(found) else found[0]
    path = _path(first, cls)
    name = ".".join([where, *path] if where else path)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known(cls, path[:-1]) or []
        return f"{name} does not exist.{did_you_mean(path[-1], known)} What exists: {', '.join(known)}."
    if first["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{name} is missing."
    return f"{name}: expected {_expected(found, first)}, got {first['input']!r}."


def _same_field(found: list[Any]) -> bool:
    return len({item["loc"][:1] for item in found}) == 1


def _path(problem: Any, cls: type) -> list[str]:
    """The place of a value, without what Pydantic adds of its types."""
    path: list[str] = []
    for part in problem["loc"]:
        known = _known(cls, path)
        if known is None:  # below a mapping: any key, but no name of a type
            if isinstance(part, str) and not _is_type_name(part):
                path.append(part)
        elif part in known or problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            path.append(str(part))
    return path


# Pydantic adds these to the place of a value. A key of the user's, such as the pattern "hip_[12]", is none of them.
_TYPE_NAME = re.compile(
    r"int|float|bool|str|none|\[key\]|(constrained|function|lax|json|is)-.*"
    r"|(dict|list|tuple|union|tagged-union|nullable|literal)\[.*"
)


def _is_type_name(part: str) -> bool:
    return _TYPE_NAME.fullmatch(part) is not None


def _known(cls: Any, path: list[str]) -> list[str] | None:
    """Fields of the dataclass at ``path``; ``None`` where there is none."""
    for name in path:
        hints = get_type_hints(cls) if is_dataclass(cls) else {}
        candidates = [hints.get(name), *get_args(hints.get(name))]
        cls = next((candidate for candidate in candidates if is_dataclass(candidate)), None)
    return [field.name for field in fields(cls)] if is_dataclass(cls) else None


_BOUNDS = {"gt": "above {}", "ge": "of at least {}", "lt": "below {}", "le": "of at most {}"}
_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "finite_number": "a finite number",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "names with values",
    "mapping_type": "names with values",
    "dataclass_type": "fields with values",
    "sequence_str": "a list of texts",
    "path_type": "a path",
    "none_required": "null",
}


def _expected(found: list[Any], first: Any) -> str:
    """What would have been right, over all members of a union."""
    at_field = [item for item in found if item["loc"][:1] == first["loc"][:1] and item["input"] is first["input"]]
    kinds = list(dict.fromkeys(_one_expectation(item) for item in at_field or [first]))
    if "a whole number" in kinds and {"a number", "a finite number"} & {*kinds}:
        kinds.remove("a whole number")
    if len(kinds) > 1 and kinds[-1] == _KINDS["bool_type"]:
        return ", ".join(kinds)  # "auto, true or false"
    return " or ".join(kinds)


def _one_expectation(problem: Any) -> str:
    context = problem.get("ctx", {})
    bounds = [text.format(context[name]) for name, text in _BOUNDS.items() if name in context]
    if bounds:
        return f"a number {' and '.join(bounds)}"
    if problem["type"] == "literal_error":
        names = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"one of {names}" if "," in names else names
    return _KINDS.get(problem["type"], problem["msg"].removeprefix("Input should be ").removeprefix("Value error, "))
