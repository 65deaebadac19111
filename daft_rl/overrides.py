"""What a user may shorten on a command line, and what the overrides of Hydra say before Hydra reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice, product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString, ValueType
from hydra.errors import HydraException

from daft_rl.archives import find_agent
from daft_rl.errors import AgentError, ConfigError
from daft_rl.hydra_messages import explain_hydra
from daft_rl.settings import cuda_names
from daft_rl.validation import unknown_name

__all__ = ["axes_of_sweep", "expand", "first_of_sweep", "quoted", "refuse_fields_beside_axis"]

GROUPS = ("algo", "cuda", "env", "method", "preset", "recipe")
"""Groups of the configuration, of which one file is chosen by name."""

MOST_VALUES = 100
"""Values of one axis of a sweep that are checked beforehand."""


def quoted(text: str) -> str:
    """A text as the value of an override, such that Hydra and OmegaConf read the same text from it."""
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # ${...} would be an interpolation
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), escaped) + "'"


def expand(overrides: Sequence[str], name: str = "transfer") -> list[str]:
    """Write out what a user may shorten: ``agent=X`` is ``agent.path=X``, and implies the agent's algorithm.

    ``vec=cuda`` implies the settings for thousands of worlds.

    :param overrides: as on the command line
    :param name: of the configuration
    :raises AgentError: there is no such agent, or its algorithm is not supported
    :raises ConfigError: a setting is given twice
    """
    expanded = [re.sub("^agent=", "agent.path=", item) for item in overrides]
    # the default shift of a task may have patterns already; these are added to them
    expanded = [re.sub(r"^(env\.shift\.\w+=\{)", r"++\1", item) for item in expanded]
    _refuse_two_shifts(expanded)
    _refuse_mixtures(expanded)
    _refuse_twice(expanded)
    _refuse_unknown_cuda(expanded)
    settings = [index for index, item in enumerate(expanded, 1) if "=" in item and not item.startswith("-")]
    last = settings[-1] if settings else len(expanded)  # a flag may follow
    implied = [*_algorithm_of_agents(expanded), *_settings_of_cuda(expanded, name)]
    return [*expanded[:last], *implied, *expanded[last:]]


def _refuse_two_shifts(overrides: Sequence[str]) -> None:
    level = next((item for item in overrides if re.match(r"[+]*env\.shift=[^{]", item)), None)
    value = next((item for item in overrides if re.match(r"[+~]*env\.shift\.", item)), None)
    if level and value:
        raise ConfigError(
            f"{level} and {value}: a level replaces the shift, a single value changes the default one. "
            "Give the level's own values one by one (configs/levels.yaml)."
        )


def _refuse_mixtures(overrides: Sequence[str]) -> None:
    """
    :raises ConfigError: a name that would keep the settings of another task or algorithm, or no name
    """
    by_name = any(item in ("env=safety", "env=gymnasium") for item in overrides)
    for item in overrides:
        key, _, value = item.lstrip("+").partition("=")
        if not key:
            raise ConfigError(f"{item!r} cannot be read: expected key=value.")
        if key == "algo.name" or (key == "env.name" and not by_name):
            group = key.partition(".")[0]
            raise ConfigError(f"{item}: choose it by {group}={value}, so that the settings that belong to it hold.")
        if key in GROUPS and not re.match(r"['\"]?[\w.]", value.replace("null", "")):
            raise ConfigError(f"{item}: expected a name.")
        if re.fullmatch(r"~\w+", key) and key != "~cuda":  # what cuda=none means
            raise ConfigError(f"{item}: a setting cannot be deleted. Without the setting, its default holds.")


def _refuse_twice(overrides: Sequence[str]) -> None:
    keys = [item.lstrip("+~").partition("=")[0] for item in overrides if not item.startswith("-")]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is set {keys.count(twice)} times. Set it once.")


def _refuse_unknown_cuda(overrides: Sequence[str]) -> None:
    """The group is optional, so Hydra would ignore a name that does not exist. A folder of the user's may have more."""
    own = any(item.startswith(("--config-dir", "-cd", "hydra.searchpath")) for item in overrides)
    for item in () if own else overrides:
        for value in _values(item) if item.startswith("cuda=") and "${" not in item else ():
            if value not in cuda_names():
                raise ConfigError(unknown_name("cuda", value, cuda_names()))


def _algorithm_of_agents(overrides: Sequence[str]) -> list[str]:
    """``algo=NAME`` of the agents that are given, if no algorithm is."""
    paths = [path for item in overrides if item.startswith("agent.path=") for path in _values(item)]
    paths = [path.replace("\\${", "${") if isinstance(path, str) else path for path in paths]  # as OmegaConf reads it
    if any(item.startswith("algo=") for item in overrides) or paths in ([], [None]):
        return []
    for path in paths:
        find_agent("", "", str(path))  # refuses at once
    from daft_rl.run.agents import algorithm_of_archive  # PyTorch takes seconds to import

    found = {algorithm_of_archive(str(path)) for path in paths}
    if len(found) > 1:
        raise AgentError(
            f"agent={','.join(map(str, paths))}: agents of {', '.join(sorted(found))}. Sweep one at a time."
        )
    return [f"algo={found.pop()}"]


def _settings_of_cuda(overrides: Sequence[str], name: str) -> list[str]:
    """The settings that ``vec=cuda`` has of its own, by algorithm; a recipe for the training of a source.

    :raises ConfigError: a sweep over ``cuda`` and others
    """
    key, choice = ("recipe", "${env}-${algo}-cuda") if name == "pretrain" else ("cuda", "${algo}")
    chosen = any(re.match(rf"[+~]*{key}(=|$)", item) for item in overrides)
    kinds = [value for item in overrides if re.match(r"\+*vec=", item) for value in _values(item)]
    if chosen or "cuda" not in kinds:
        return []
    if len(kinds) > 1:
        raise ConfigError(
            f"vec={','.join(map(str, kinds))}: vec=cuda has settings of its own. Sweep one at a time, or choose them, "
            f"{key}=..."
        )
    return [f"{key}={choice}"]


def _values(override: str) -> list[Any]:
    """The value of an override; the values of a sweep."""
    parsed = _parse(override)
    given = parsed.sweep_iterator() if parsed.is_sweep_override() else [parsed.value()]
    return [value.text if isinstance(value, QuotedString) else value for value in given]


def _parse(override: str) -> Override:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ConfigError(explain_hydra(error)) from error


def axes_of_sweep(overrides: Sequence[str], params: Mapping[str, str]) -> list[list[str]]:
    """The overrides of single jobs, by axis. An override without a sweep is an axis of one value.

    :param overrides: expanded, of the command line
    :param params: axes that the configuration adds, as ``hydra.sweeper.params``
    """
    given = [_parse(item) for item in overrides]
    named = {parsed.get_key_element() for parsed in given}
    given += [_parse(f"{key}={value}") for key, value in params.items() if key not in named]
    return [_values_of_axis(parsed) for parsed in given]


def refuse_fields_beside_axis(overrides: Sequence[str], params: Mapping[str, str]) -> None:
    """
    :param overrides: expanded, of the command line
    :param params: see :func:`axes_of_sweep`
    :raises ConfigError: fields of a shift, and an axis that replaces the whole shift
    """
    given = [_parse(item) for item in overrides]
    fields = [parsed for parsed in given if parsed.get_key_element().lstrip("+").startswith("env.shift.")]
    if not fields or "env.shift" not in params or any(parsed.get_key_element() == "env.shift" for parsed in given):
        return
    values = [[_as_entry(item) for item in _values_of_axis(parsed)] for parsed in fields]
    shifts = ",".join(f"{{{','.join(entries)}}}" for entries in product(*values))
    raise ConfigError(
        f"{fields[0].input_line}: the grid has an axis env.shift={params['env.shift']}, which replaces the whole shift."
        f' Give that axis: "env.shift={shifts}"'
    )


def _as_entry(override: str) -> str:
    """``env.shift.gravity=0.5`` in a mapping: ``gravity:0.5``."""
    return override.lstrip("+").removeprefix("env.shift.").replace("=", ":", 1)


def first_of_sweep(overrides: Sequence[str], params: Mapping[str, str]) -> list[str]:
    """The overrides of the first job; see :func:`axes_of_sweep`."""
    return [values[0] for values in axes_of_sweep(overrides, params)]


def _values_of_axis(parsed: Override) -> list[str]:
    """One override for each value; that of a single value as it is."""
    if not parsed.is_sweep_override() or parsed.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return [str(parsed.input_line)]
    values = list(islice(parsed.sweep_string_iterator(), MOST_VALUES))
    return [f"{parsed.get_key_element()}={value}" for value in values]
