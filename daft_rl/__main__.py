"""``daft-rl PROGRAM ...``, which is ``python -m daft_rl.PROGRAM ...``; and ``daft-rl list``, which says what exists."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Mapping, Sequence

from daft_rl import __version__
from daft_rl.errors import DaftError
from daft_rl.outputs import keep_outputs

__all__ = ["main"]

PROGRAMS = {
    "transfer": "move a pretrained policy to a task whose dynamics have shifted",
    "pretrain": "train a source policy",
    "benchmark": "run a grid of transfers",
    "blend": "trade return on the target for return on the source, after a transfer",
    "correspond": "show what two robots sense and move, and which entries correspond",
    "report": "make a page from the runs of a benchmark",
    "push": "publish the policy of a transfer on the Hugging Face hub",
}
LISTED = ("tasks", "methods", "algorithms", "agents", "levels")


def main(arguments: Sequence[str] | None = None) -> None:
    """Start a program, or list what can be chosen.

    :param arguments: of the command line; ``None`` takes ``sys.argv``
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0] in PROGRAMS:
        sys.argv = [f"daft-rl {given[0]}", *given[1:]]
        runpy.run_module(f"daft_rl.{given[0]}", run_name="__main__", alter_sys=True)
        return
    keep_outputs()
    parser = _parser()
    parsed = parser.parse_args(given)
    if parsed.program is None:
        parser.print_help()
        return
    try:
        print_names(_named(parsed.what, parsed.task))
    except DaftError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    programs = "\n".join(f"  {name:<12}{about}" for name, about in PROGRAMS.items())
    parser = argparse.ArgumentParser(
        prog="daft-rl",
        description="Move pretrained reinforcement-learning policies to environments whose dynamics have shifted.",
        epilog=f"programs (`daft-rl PROGRAM --help` tells more):\n{programs}\n\n"
        "examples:\n  daft-rl transfer env=Ant-shifted\n  daft-rl list levels Ant",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"daft_rl {__version__}")
    commands = parser.add_subparsers(dest="program", metavar="{" + ",".join([*PROGRAMS, "list"]) + "}")
    listing = commands.add_parser("list", help="what can be chosen by name: " + ", ".join(LISTED))
    listing.add_argument("what", choices=LISTED)
    listing.add_argument("task", nargs="?", help="for levels: a task, such as Ant")
    return parser


def _named(what: str, task: str | None) -> dict[str, str]:
    """
    :raises DaftError: the task is unknown, missing, or given where none is needed
    """
    from daft_rl.catalogue import KINDS, list_levels

    if what == "levels" and task:
        return list_levels(task)
    if (what == "levels") != (task is not None):
        raise DaftError(
            f"list {what}: " + ("no task is needed." if task else "name a task, `daft-rl list levels Ant`.")
        )
    return KINDS[what]()


def print_names(names: Mapping[str, str]) -> None:
    """Print names with what each of them means, in two columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, show_edge=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, about in names.items():
        table.add_row(name, about)
    Console(highlight=False, markup=False).print(table)


if __name__ == "__main__":
    main()
