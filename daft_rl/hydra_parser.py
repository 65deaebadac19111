"""Hydra 1.3 parses a command line on Python 3.14 too."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["let_hydra_parse"]


def let_hydra_parse() -> None:
    """Give Hydra's flag for shell completion a text as its help.

    Its help is an object, so that nothing is looked up before somebody asks. ``argparse`` of Python 3.14 looks at every
    help text when a flag is added, and refuses an object.
    """
    check: Any = getattr(argparse.ArgumentParser, "_check_help", None)
    if check is None or hasattr(check, "takes_objects"):  # an older Python, or done already
        return

    def check_text(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
        if action.help is not None and not isinstance(action.help, str):
            action.help = f"see {type(action.help).__name__}"
        check(parser, action)

    check_text.takes_objects = True  # type: ignore[attr-defined]
    argparse.ArgumentParser._check_help = check_text  # type: ignore[attr-defined]
