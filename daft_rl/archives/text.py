"""The readable text in an archive's ``data``: printed arrays, spaces, names of classes.

Beside each pickle SB3 writes the fields of the pickled object, as JSON if JSON can hold them, else as
``str(field)``: ``"low": "[-1. -1.]"``, ``"spaces": "{'a': Box(-inf, inf, (3,), float32)}"``. The text is
parsed (:func:`parse_printed`), never executed. What it does not say stays unknown and is reported as such.
"""

from __future__ import annotations

import ast
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space

__all__ = ["class_name", "parse_printed", "read_space", "spaces_differ"]

MAX_TEXT = 200_000
"""Characters; numpy prints at most 1000 numbers of an array."""
MAX_SPACE = 2**24
"""Entries of a space; a stack of four megapixel images has a quarter of that."""

_TOKEN = re.compile(
    r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"  # a key of a dictionary
    |-?(?:inf|\d+\.?\d*(?:e[-+]?\d+)?|\.\d+)      # a number
    |[A-Za-z_]\w*|\.\.\.|[()\[\]{},:=])""",
    re.VERBOSE,
)
_NAMES = {"inf": math.inf, "True": True, "False": False}


def parse_printed(text: str) -> Any:
    """The value of a printed numpy array, space, dictionary or number. A dtype becomes its name.

    Operators are not admitted, so that no text is nested too deeply for Python's parser.

    :param text: for instance ``"[-1.  1.]"`` or ``"Box(-inf, inf, (3,), float32)"``
    :raises ValueError: any other text
    """
    pieces: list[str] = []
    position, text = 0, text.strip()[:MAX_TEXT]
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"'{text[position : position + 20]}' is no part of a number, array or space")
        token = match.group(1)
        if pieces and pieces[-1][-1] not in "([{,:=" and token[0] not in "(),:=]}":
            pieces.append(",")  # numpy prints arrays without commas
        pieces.append(token)
        position = match.end()
    return _value(ast.parse("".join(pieces), mode="eval").body)


def _value(node: ast.expr) -> Any:
    reader = _READERS.get(type(node))
    if reader is None:
        raise _unknown(node)
    return reader(node)


def _unknown(node: ast.expr) -> ValueError:
    return ValueError(f"'{ast.unparse(node)[:60]}' is no number, array or space")


def _negative(node: ast.UnaryOp) -> Any:
    if not isinstance(node.op, ast.USub):
        raise _unknown(node)
    return -_value(node.operand)


def _dictionary(node: ast.Dict) -> dict[Any, Any]:
    return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True) if key is not None}


def _built(node: ast.Call) -> Any:
    """The space that a call describes. Only the functions of ``_BUILDERS`` can be called."""
    if not isinstance(node.func, ast.Name) or node.func.id not in _BUILDERS:
        raise _unknown(node)
    named = {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg is not None}
    return _BUILDERS[node.func.id](*map(_value, node.args), **named)


_READERS: dict[type[ast.expr], Callable[[Any], Any]] = {
    ast.Constant: lambda node: node.value,
    ast.Name: lambda node: _NAMES.get(node.id, node.id),
    ast.UnaryOp: _negative,
    ast.List: lambda node: list(map(_value, node.elts)),
    ast.Tuple: lambda node: tuple(map(_value, node.elts)),
    ast.Dict: _dictionary,
    ast.Call: _built,
}
"""What a printed value can consist of -> how it is read. Everything else is refused."""


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _array(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Fill ``shape`` with a scalar or with printed numbers. numpy leaves out the middle of long arrays."""
    numbers = list(_flat(parse_printed(value) if isinstance(value, str) else value))
    if Ellipsis in numbers or len(numbers) == 1:
        visible = {number for number in numbers if number is not Ellipsis}
        if len(visible) != 1:
            raise ValueError("numpy printed only some of the different bounds")
        numbers = [visible.pop()] * math.prod(shape)
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError("not only numbers")
    return np.array(numbers, dtype=dtype).reshape(shape)


def _box(low: Any, high: Any, shape: Any, dtype: str) -> spaces.Box:
    shape, element = tuple(int(size) for size in shape), np.dtype(dtype)
    if element.kind not in "fiub" or min(shape, default=0) < 0 or math.prod(shape) > MAX_SPACE:
        raise ValueError(f"a Box of shape {shape} and type {dtype}")
    return spaces.Box(_array(low, shape, element), _array(high, shape, element), shape, element.type)


def _multi_discrete(nvec: Any, start: Any = 0) -> spaces.MultiDiscrete:
    sizes = [int(size) for size in _flat(parse_printed(nvec) if isinstance(nvec, str) else nvec)]
    return spaces.MultiDiscrete(sizes, start=_array(start, (len(sizes),), np.dtype(np.int64)))


def _dict(entries: Any) -> spaces.Dict:
    # the order decides how features are concatenated; gymnasium would sort a plain dict
    entries = OrderedDict(parse_printed(entries) if isinstance(entries, str) else entries)
    return spaces.Dict(entries)


_BUILDERS: dict[str, Callable[..., Any]] = {
    "Box": _box,
    "Dict": _dict,
    "Discrete": lambda n, start=0, dtype=None: spaces.Discrete(int(n), start=int(start)),
    "MultiBinary": lambda n: spaces.MultiBinary(int(n)),
    "MultiDiscrete": _multi_discrete,
    "OrderedDict": lambda entries=(): dict(entries),
}
_FIELDS = {
    "Box": lambda entry: {
        # gymnasium's short form is complete even for images
        "low": entry["low"] if "..." not in str(entry["low"]) else entry.get("low_repr") or entry["low"],
        "high": entry["high"] if "..." not in str(entry["high"]) else entry.get("high_repr") or entry["high"],
        "shape": entry.get("_shape", entry.get("shape")),
        "dtype": entry["dtype"],
    },
    "Dict": lambda entry: {"entries": entry["spaces"]},
    "Discrete": lambda entry: {"n": entry["n"], "start": entry.get("start", 0)},
    "MultiBinary": lambda entry: {"n": entry["n"]},
    "MultiDiscrete": lambda entry: {"nvec": entry["nvec"], "start": entry.get("start", 0)},
}


def read_space(entry: Any) -> spaces.Space[Any] | str:
    """A space of gymnasium, or of the old gym, from its text.

    Bounds are as exact as numpy prints them: 8 digits.

    :param entry: the JSON of ``observation_space`` or ``action_space``
    :return: the space, or the reason why the text is not enough
    """
    name = class_name(entry) or ""
    space = name.rpartition(".")[2]
    if not name.startswith(("gym.spaces.", "gymnasium.spaces.")) or space not in _FIELDS:
        return f"'{name or type(entry).__name__}' is not one of {', '.join(_FIELDS)}"
    try:
        return _BUILDERS[space](**_FIELDS[space](entry))
    except Exception as error:  # gymnasium asserts, numpy and ast raise anything: the text may be hostile
        return f"its text is incomplete or wrong ({type(error).__name__}: {str(error)[:100]})"


def spaces_differ(stored: spaces.Space[Any], actual: spaces.Space[Any], bounds_matter: bool) -> bool:
    """Whether a policy for one space would compute something else on the other.

    Bounds of observations have no effect unless they make the space an image; bounds of actions scale the actions.
    """
    if isinstance(stored, spaces.Dict) and isinstance(actual, spaces.Dict):
        pairs = zip(stored.spaces.values(), actual.spaces.values(), strict=False)
        return list(stored.spaces) != list(actual.spaces) or any(spaces_differ(*pair, bounds_matter) for pair in pairs)
    if isinstance(stored, spaces.Box) and isinstance(actual, spaces.Box):
        return _boxes_differ(stored, actual, bounds_matter)
    return _integers_differ(stored, actual)


def _integers_differ(stored: spaces.Space[Any], actual: spaces.Space[Any]) -> bool:
    """Whether two spaces are of different kinds, or have other numbers of choices or other first choices."""
    names = ("n", "nvec", "start")  # the type of the integers does not matter
    one, other = ([np.asarray(getattr(space, name, 0)) for name in names] for space in (stored, actual))
    return type(stored) is not type(actual) or not all(map(np.array_equal, one, other))


def _boxes_differ(stored: spaces.Box, actual: spaces.Box, bounds_matter: bool) -> bool:
    if stored.shape != actual.shape or is_image_space(stored) != is_image_space(actual):
        return True
    bounds = ((stored.low, actual.low), (stored.high, actual.high))
    return bounds_matter and not all(np.allclose(*pair, rtol=1e-5, atol=1e-7) for pair in bounds)


def class_name(entry: Any) -> str | None:
    """The dotted name in ``"<class 'a.b.C'>"``, or in such an entry's ``":type:"``; ``None`` without one."""
    text = entry.get(":type:") if isinstance(entry, dict) else entry
    match = re.fullmatch(r"<class '([\w.]+)'>", text) if isinstance(text, str) else None
    return match.group(1) if match else None
