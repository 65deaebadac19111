"""What ``--help`` of the programs prints. Hydra asks for it by ``hydra.help.template`` (``configs/*.yaml``)."""

from __future__ import annotations

import ast
import inspect
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

from daft_rl.catalogue import list_agents, list_algorithms, list_methods, list_tasks
from daft_rl.settings import PretrainSettings, RunSettings, TransferSettings

__all__ = ["help_text", "nothing_said"]

ABOUT = {
    "transfer": "Move a pretrained policy to a task whose dynamics have shifted: measure it there, adapt it, fine-tune "
    "it, measure it again.",
    "pretrain": "Train a source policy with BatchNorm in actor and critic, as the shipped ones were.",
    "benchmark": "Run a grid of transfers. What is finished is not run again.",
}
EXAMPLES = {
    "transfer": (
        ("env=Ant-shifted", "the shipped Ant policy, by the method that fits"),
        ("env=Ant-shifted method=ft_eval env.shift=gravity-2.0 seed=1", "another method, shift and seed"),
        ("env=gymnasium env.id=my_package:MyEnv-v0 agent=path/to/agent.zip", "your own environment and policy"),
        ("-m env=Ant-shifted method=daft,ft seed=0,1,2", "six runs"),
        ("resume=RUN_FOLDER", "go on with a run that was stopped"),
        ("env=Ant-shifted --cfg job", "print every setting, and run nothing"),
    ),
    "pretrain": (("env=Ant algo=ppo", "as the shipped one"), ("env=Ant recipe=NAME", "another recipe")),
    "benchmark": (
        ("preset=smoke", "minutes: does everything run?"),
        ("preset=mujoco method=ft,daft seed=0,1", "a part of the grid of README"),
    ),
}
CHOSEN = {"transfer": " (auto if none is given)", "benchmark": " (those of the preset if none is given)"}
"""Which methods a program takes that is not told any."""
SETTINGS: dict[str, type[RunSettings]] = {
    "transfer": TransferSettings, "pretrain": PretrainSettings, "benchmark": TransferSettings,
}  # fmt: skip
ELSEWHERE = ("method", "recipe", "algo.name", "algo.settings", "env.name", "env.shift", "agent.path")
"""Settings that a list of names stands for, or whose defaults are the task's or the algorithm's."""


def help_text(name: str) -> str:
    """The help of a program, as a template of Python's ``string.Template``.

    :param name: ``transfer``, ``pretrain`` or ``benchmark``
    """
    width = min(shutil.get_terminal_size().columns, 110)
    examples = {f"python -m daft_rl.{name} {line}": about for line, about in EXAMPLES[name]}
    algorithms = ", ".join(list_algorithms())
    parts = [
        textwrap.fill(ABOUT[name], width),
        f"Usage: python -m daft_rl.{name} KEY=VALUE ...",
        _section("Examples", examples, width),
        _section("Tasks, env=NAME (their shifts, env.shift=NAME: `daft-rl list levels TASK`)", list_tasks(), width),
        _section(f"Methods, method=NAME{CHOSEN.get(name, '')}", list_methods(), width),
        _section("Shipped agents, agent=NAME; or agent=path/to/agent.zip", list_agents(), width),
        textwrap.fill(f"Algorithms, algo=NAME (that of the agent if none is given): {algorithms}", width),
        _section("Settings, KEY=VALUE", dict(_settings(SETTINGS[name])), width),
        _section("Flags", FLAGS, width),
    ]
    return "\n\n".join(parts).replace("$", "$$")


FLAGS = {
    "-m": "a sweep: several values separated by commas, or as the preset says",
    "--cfg job": "print every setting, and run nothing",
    "--config-dir FOLDER": "add configuration files of your own",
    "--hydra-help": "more flags",
}


def nothing_said(name: str) -> str:
    """What to say where no setting is given.

    :param name: of the program
    """
    line, about = EXAMPLES[name][0]
    return (
        f"Nothing was started, because no setting is given. For example: python -m daft_rl.{name} {line} ({about}). "
        "--help lists what there is."
    )


def _section(title: str, rows: Mapping[str, str], width: int) -> str:
    """Two columns under a title; a long entry of the first column has a line of its own."""
    left = min(30, max(map(len, rows)) + 2)
    lines = [f"{title}:"]
    for name, about in rows.items():
        head = f"  {name}".ljust(left + 2)
        if len(name) > left - 2:
            lines.append(head.rstrip())
            head = " " * (left + 2)
        lines += textwrap.wrap(about, width, initial_indent=head, subsequent_indent=" " * (left + 2)) or [head.rstrip()]
    return "\n".join(lines)


def _settings(kind: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """``key=default`` and what it means, of a class of settings and of those inside of it."""
    comments, types = _comments(kind), get_type_hints(kind)
    inner = []
    for field in fields(kind):
        key = f"{prefix}{field.name}"
        if key in ELSEWHERE:
            continue
        if is_dataclass(types[field.name]):
            inner.append((types[field.name], f"{key}."))
        else:
            yield f"{key}={_default(field)}", comments.get(field.name, "")
    for type_, inner_prefix in inner:
        yield from _settings(type_, inner_prefix)


def _default(field: Any) -> str:
    value = field.default if field.default is not MISSING else field.default_factory()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value) if isinstance(value, tuple) else value)


def _comments(kind: Any) -> dict[str, str]:
    """Name of a field -> the first sentence of the text under it."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__[:-1]):
        body: Any = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                sentence = " ".join(str(text.value.value).split()).replace("``", "").replace("None", "null")
                found[ast.unparse(field.target)] = sentence.partition(". ")[0].removesuffix(".")
    return found
