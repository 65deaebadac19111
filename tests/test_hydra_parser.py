"""Command lines are parsed on every Python that is supported."""

from __future__ import annotations

import argparse
import sys

import pytest
from hydra._internal.utils import get_args_parser

from daft_rl.hydra_parser import let_hydra_parse


def check_like_python_3_14(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    if action.help is not None and "%" not in action.help:
        return


@pytest.fixture
def newest_argparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an older Python, the step of adding a flag that refuses what is no text."""
    if sys.version_info >= (3, 14):
        return
    add = argparse.ArgumentParser.add_argument

    def add_and_check(parser: argparse.ArgumentParser, *names: str, **settings: object) -> argparse.Action:
        action = add(parser, *names, **settings)  # type: ignore[arg-type]
        parser._check_help(action)  # type: ignore[attr-defined]
        return action

    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check_like_python_3_14, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add_and_check)


@pytest.mark.usefixtures("newest_argparse")
def test_hydra_parses_arguments_on_the_newest_python() -> None:
    let_hydra_parse()
    let_hydra_parse()
    parser = get_args_parser()
    assert parser.parse_args(["seed=1", "--cfg", "job"]).overrides == ["seed=1"]
    assert "--shell-completion" in parser.format_help()
