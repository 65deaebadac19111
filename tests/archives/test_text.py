"""Spaces are read from their printed text; any other text gives a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from daft_rl.archives.text import read_space


@pytest.mark.parametrize(
    ("entry", "space"),
    [
        (
            {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "float64", "shape": [2], "low": "[-inf -1.5]",
             "high": "[1.e+00\n   inf]"},
            spaces.Box(np.array([-np.inf, -1.5]), np.array([1, np.inf]), dtype=np.float64),
        ),
        (
            {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "uint8", "shape": [40, 40, 1],
             "low": "[[[0]\n  [0]\n  ...\n  [0]]]", "high": "[[[255]\n  ...\n  [255]]]"},
            spaces.Box(0, 255, (40, 40, 1), np.uint8),
        ),
        ({":type:": "<class 'gym.spaces.discrete.Discrete'>", "n": 4}, spaces.Discrete(4)),
        ({":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": "4", "start": "0"}, spaces.Discrete(4)),
        (
            {":type:": "<class 'gym.spaces.multi_discrete.MultiDiscrete'>", "nvec": "[3 2]"},
            spaces.MultiDiscrete([3, 2]),
        ),
        ({":type:": "<class 'gym.spaces.multi_binary.MultiBinary'>", "n": 4}, spaces.MultiBinary(4)),
        (
            {":type:": "<class 'gym.spaces.dict.Dict'>",
             "spaces": "OrderedDict([('b c', Box([-1.  0.], [1. 1.], (2,), float32)), ('a', Discrete(3))])"},
            spaces.Dict({"b c": spaces.Box(np.array([-1, 0], np.float32), 1, (2,)), "a": spaces.Discrete(3)},
                        sort_keys=False),
        ),
    ],
)  # fmt: skip
def test_a_printed_space_is_read(entry: dict[str, Any], space: spaces.Space[Any]) -> None:
    assert read_space(entry) == space


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "<class 'gymnasium.spaces.box.Box'>",
        {":type:": "<class 'os.system'>"},
        {":type:": "<class 'gym.spaces.tuple.Tuple'>", "spaces": "()"},
        {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "float32", "shape": [10**9], "low": "0", "high": "1"},
        {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "object", "shape": [1], "low": "[0]", "high": "[1]"},
        {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "float32", "shape": [3], "low": "[0 ... 1]", "high": "1"},
        {":type:": "<class 'gym.spaces.discrete.Discrete'>", "n": "__import__('os').system('true')"},
        {":type:": "<class 'gym.spaces.dict.Dict'>", "spaces": "__import__('os').system('true')"},
        {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "float32", "shape": [1], "low": "[nan]", "high": "[1]"},
        *(
            {":type:": "<class 'gym.spaces.dict.Dict'>", "spaces": text * 100_000 + "1"}
            for text in ("(", "-", "1+", "a.", "not ", "'", "'\\'", "{'a':", "Dict(", "\n ", "1 ")
        ),
    ],
)
def test_text_that_is_no_space_gives_a_reason(entry: Any) -> None:
    assert isinstance(read_space(entry), str)
