"""README and docs: links lead somewhere, code runs, commands give valid settings, and README stays short."""

from __future__ import annotations

import re
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from daft_rl.__main__ import main
from daft_rl.cli import compose_settings

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
FROM_ELSEWHERE = {
    "index.md",
    "contributing.md",
    "changelog.md",
    "benchmarks.md",
    "security.md",
}  # docs/site_links.py makes them
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SLOW = re.compile(r"<!-- slow: .+ -->\n\Z")
NEEDS = re.compile(r"<!-- needs (\w+) -->\n\Z")
STAND_INS = ("wandb", "mlflow")
"""Services of others. Where one is not installed, its place takes an object that lets everything be called."""
GIVEN = {
    "README.md": """
import gymnasium
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback
my_shifted_env, my_callback = gymnasium.make("Pendulum-v1", g=12.0), CheckpointCallback(100_000, "checkpoints")
PPO("MlpPolicy", "Pendulum-v1", n_steps=2048, batch_size=1024, device="cpu").save("agent.zip")
""",
    "docs/policies.md": """
import gymnasium
from stable_baselines3 import PPO
env = gymnasium.make("Pendulum-v1")
agent = PPO("MlpPolicy", env, n_steps=64, device="cpu")
agent.save("agent.zip")
policy = agent.policy
""",
}
"""Page -> what its reader has: an agent, an environment."""
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMAND = re.compile(r"python -m daft_rl\.(transfer|pretrain|benchmark)\b(.*)")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    """Where it begins, from 0."""
    slow: bool
    """Whether a comment says that it takes long."""
    needs: str | None
    """The package that a comment says it needs."""


class Command(NamedTuple):
    """A command line that a page shows."""

    page: str
    program: str
    arguments: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        needs = NEEDS.search(before)
        yield Block(match[1], match[2], before.count("\n") + 1, bool(SLOW.search(before)), needs and needs[1])


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """What GitHub and MkDocs call the headings of a page."""
    titles = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in HEADING.findall(prose(page))]
    return {re.sub(r"[-\s]+", "-", title) for title in titles}


def commands(page: Path) -> Iterator[Command]:
    fenced = "\n".join(block.text for block in blocks(page)).replace("\\\n", " ").splitlines()
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]
    for line in [*fenced, *inline]:
        found = COMMAND.search(line)
        if found:
            yield Command(name_of(page), found[1], found[2])


def single_runs(overrides: list[str]) -> Iterator[list[str]]:
    """Runs that together have every name in a sweep; of numbers, such as seeds, the first is enough."""
    overrides = [re.sub(r"=(\d+)(,\d+)+$", r"=\1", override) for override in overrides]
    parsed = OverridesParser.create().parse_overrides(overrides)
    choices = [
        [f"{override.split('=')[0]}={value}" for value in item.sweep_string_iterator()]
        if item.is_sweep_override()
        else [override]
        for override, item in zip(overrides, parsed, strict=True)
    ]
    for i in range(max(map(len, choices), default=1)):
        yield [values[i % len(values)] for values in choices]


def without_archives(overrides: list[str]) -> list[str]:
    """The reader's own archive is not here, so its algorithm cannot be found out: take PPO."""
    kept = [item for item in overrides if not item.startswith("agent=")]
    agents = [item.removeprefix("agent=") for item in overrides if item.startswith("agent=")]
    if all((ROOT / "agents" / "pretrained" / agent / "agent.zip").is_file() for agent in agents):
        return overrides
    return kept if any(item.startswith("algo=") for item in kept) else [*kept, "algo=ppo"]


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    broken = []
    for path, anchor in LINK.findall(prose(page)):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}")
    assert broken == []


def pages_of_python(slow: bool) -> list[Path]:
    """Pages with Python that is quick, or with Python that takes long."""
    return [page for page in PAGES if any(b.language == "python" and b.slow == slow for b in blocks(page))]


def run_python(page: Path, monkeypatch: pytest.MonkeyPatch, slow: bool) -> None:
    """Run the blocks of a page from top to bottom, as one program."""
    stand_ins = {name: MagicMock() for name in STAND_INS if find_spec(name) is None}
    for name, stand_in in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    namespace: dict[str, Any] = {"__name__": page.stem}
    exec(GIVEN.get(name_of(page), ""), namespace)
    for block in blocks(page):
        missing = block.needs is not None and find_spec(block.needs) is None
        if block.language == "python" and slow >= block.slow and not missing:
            code = compile("\n" * block.line + block.text, str(page), "exec")  # a traceback has the page's lines
            exec(code, namespace)
    for name, stand_in in stand_ins.items():
        assert name not in namespace or stand_in.mock_calls


@pytest.mark.parametrize("page", pages_of_python(slow=False), ids=name_of)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_python(page, monkeypatch, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_of_python(slow=True), ids=name_of)
def test_the_python_that_takes_long_runs_too(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_python(page, monkeypatch, slow=True)


COMMANDS = sorted({command for page in PAGES for command in commands(page)})


@pytest.mark.usefixtures("groups_composed_once")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.program}")
def test_every_command_gives_valid_settings(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks(ROOT / command.page):
        path = re.match(r"# (\S+\.yaml)\n", block.text)
        if path:  # a file that the page tells the reader to write
            (tmp_path / path[1]).parent.mkdir(parents=True)
            (tmp_path / path[1]).write_text(block.text, "utf-8")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.arguments.replace("--cfg job", ""), comments=True)
    overrides = [word for word in words if not word.startswith("-")]
    if any(word.startswith("resume=") for word in overrides):  # the settings are those of the folder
        assert len(overrides) == 1
        return
    # their defaults need a running program
    named = any(item.startswith("output_dir=") for item in overrides)
    folders = [
        *([] if named else ["output_dir=run"]),
        *(["benchmark.folder=grid"] if command.program == "benchmark" else []),
    ]
    for run in single_runs(overrides):
        compose_settings(command.program, [*without_archives(run), *folders])


TOOL = re.compile(r"(?:python -m daft_rl\.|daft-rl )(blend|correspond|report|push)\b(.*)")
TOOLS = sorted({found.groups() for page in PAGES for block in blocks(page) for found in TOOL.finditer(block.text)})


class Parsed(Exception):  # noqa: N818
    """The arguments are fine, and nothing is to be done with them."""


@pytest.mark.parametrize(("program", "arguments"), TOOLS)
def test_every_command_of_another_program_has_arguments_that_it_takes(
    program: str, arguments: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = ArgumentParser.parse_args

    def parse_and_stop(parser: ArgumentParser, given: Any = None) -> Any:
        parse(parser, given)  # ends the program if it takes no such arguments
        raise Parsed

    monkeypatch.setattr(ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [program, *shlex.split(arguments, comments=True)])
    module = import_module("daft_rl.report.__main__" if program == "report" else f"daft_rl.{program}")
    with pytest.raises(Parsed):
        module.main()


LISTED = re.compile(r"daft-rl (list \w+(?: [A-Z]\w+)?)")
LISTINGS = sorted({words for page in PAGES for words in LISTED.findall(page.read_text("utf-8"))})


@pytest.mark.parametrize("words", LISTINGS)
def test_what_a_page_lists_can_be_listed(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(words.split())
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_pages_have_commands_to_check() -> None:
    assert len(COMMANDS) > 20


def test_readme_has_at_most_1200_words() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 1200


def test_ci_runs_the_test_command_of_readme() -> None:
    command = "uv run pytest -n auto"
    assert command in (ROOT / "README.md").read_text("utf-8")
    assert command in (ROOT / ".ci" / "run").read_text("utf-8")


def test_every_page_has_a_place_in_the_navigation() -> None:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else []:
            yield from pages(part)

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    assert sorted(pages(navigation)) == sorted({page.name for page in DOCS} | FROM_ELSEWHERE)
