"""``python -m daft_rl.correspond Ant Ant-fivelegs``: which entries of two bodies are the same ones.

It prints the entries of both side by side, and writes the file for ``agent.correspondence``, to be edited.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from daft_rl.correspondence import ZERO, Correspondence, Exceptions, Matching, by_names, read_exceptions
from daft_rl.envs.factory import make
from daft_rl.envs.names import Names, entry_names
from daft_rl.envs.registry import get_task
from daft_rl.errors import DaftError
from daft_rl.files import write_text
from daft_rl.outputs import keep_outputs
from daft_rl.validation import plain_data

__all__ = ["as_file", "correspond", "names_of_task"]


def names_of_task(name: str, shift: str | None = None) -> Names:
    """The names of the entries of a task.

    :param name: see :func:`daft_rl.envs.make`
    :param shift: the name of a level, which may change the body
    :raises TaskError: there is no such task, or its entries have no names
    """
    env = make(name, shift)
    try:
        return entry_names(env)
    finally:
        env.close()


def correspond(
    source: str,
    target: str,
    file: str | Path | None = None,
    *,
    source_shift: str | None = None,
    shift: str | None = None,
) -> Correspondence:
    """What corresponds between two tasks.

    :param source: where an agent comes from, such as ``"Ant"``
    :param target: where it goes
    :param file: exceptions to equal names, and names where a task tells none
    :param source_shift: a level of the source
    :param shift: a level of the target
    :raises DaftError: a task does not exist, its entries have no names, or the file names others
    """
    rules = Exceptions() if file is None else read_exceptions(file)
    before = rules.source.complete(lambda: names_of_task(source, source_shift))
    after = rules.target.complete(lambda: names_of_task(target, shift))
    return by_names(before, after, rules, moves_anew=get_task(target).moves_anew)


def as_file(found: Correspondence, title: str, rules: Exceptions | None = None) -> str:
    """The text of a file to be edited: it names what does not correspond.

    :param rules: those that led there, whose names of entries are written too
    """
    lines = [f"# {title}: entries with the same name correspond. These are the others, for agent.correspondence=FILE."]
    for what, matching in (("observation", found.observation), ("action", found.action)):
        origins = {
            entry: ZERO if origin is None or entry in matching.copies else matching.source[origin]
            for entry, origin in zip(matching.target, matching.origin, strict=True)
        }
        others = {entry: origin for entry, origin in origins.items() if entry != origin}
        lines.append(yaml.safe_dump({what: others}, sort_keys=False, width=1000).rstrip())
        if matching.removed:
            lines.append(f"# gone: {', '.join(matching.source[i] for i in matching.removed)}")
    like = yaml.safe_dump({"like": found.observation.copies | found.action.copies}, sort_keys=False, width=1000)
    lines.append("# what is new, and what it is to begin as a copy of: {new_leg: old_leg}")
    lines.append(like.rstrip())
    for side, names in plain_data({} if rules is None else {"source": rules.source, "target": rules.target}).items():
        if given := {what: entries for what, entries in names.items() if entries is not None}:
            lines.append(yaml.safe_dump({side: given}, sort_keys=False, width=1000).rstrip())
    return "\n".join(lines) + "\n"


def _print(what: str, matching: Matching, roles: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*reversed(roles), title=f"{what}: {matching.describe()}")
    for entry, origin in zip(matching.target, matching.origin, strict=True):
        table.add_row(entry, "(new)" if origin is None else matching.source[origin])
    for i in matching.removed:
        table.add_row("(gone)", matching.source[i])
    Console(markup=False, emoji=False).print(table)  # names may have brackets


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m daft_rl.correspond", description=__doc__)
    parser.add_argument("source", help="a task, or an id that is registered with Gymnasium")
    parser.add_argument("target", help="likewise")
    parser.add_argument("--file", type=Path, help="exceptions to equal names")
    parser.add_argument("--source-shift", help="a level of the source")
    parser.add_argument("--shift", help="a level of the target")
    parser.add_argument("--write", type=Path, help="a file to write, for agent.correspondence=FILE")
    parser.add_argument("--overwrite", action="store_true", help="write even if the file is there already")
    given = parser.parse_args(arguments)
    if given.write is not None and given.write.exists() and not given.overwrite:
        parser.error(f"{given.write} is there already. Name another file, or pass --overwrite to lose what it holds.")
    try:
        found = correspond(given.source, given.target, given.file, source_shift=given.source_shift, shift=given.shift)
        _print("observation", found.observation, (given.source, given.target))
        _print("action", found.action, (given.source, given.target))
        if given.write is not None:
            rules = None if given.file is None else read_exceptions(given.file)
            write_text(given.write, as_file(found, f"{given.source} to {given.target}", rules))
            print(f"Written: {given.write}")
    except (DaftError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    keep_outputs()
    main()
