"""A correspondence: for each entry that a policy senses or moves on a new body, the entry that it knew before.

Entries with the same name correspond. A file needs the exceptions alone::

    observation:          # entry of the target: entry of the source, or zero for one that is new
      trunk.z: torso.z
    action:
      tail: zero
    like:                 # what is new, and the part of the target whose weights it begins with
      bthigh2: bthigh

An entry of the target without a source entry is new: it has no effect until something is learnt about it. An entry of
the source that the target lacks is taken to be at its mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gymnasium import spaces

from daft_rl.envs.names import Names, count_entries
from daft_rl.errors import AgentError, ConfigError
from daft_rl.files import read_mapping
from daft_rl.validation import Text, checked, did_you_mean

__all__ = [
    *("CHOICES", "Correspondence", "Exceptions", "GivenNames", "Matching", "by_names", "by_positions", "in_place"),
    *("read_content", "read_exceptions", "shorten"),
]

CHOICES = ("auto", "names", "positions")
"""What to go by, where no file says it."""
ZERO = "zero"
"""In place of a source entry: there is none."""


@checked(ConfigError, "correspondence")
class GivenNames:
    """Names for an environment that has none."""

    observation: tuple[Text, ...] | None = None
    action: tuple[Text, ...] | None = None

    def complete(self, tell: Callable[[], Names]) -> Names:
        """These names; those that the environment tells for what is left out."""
        if self.observation is not None and self.action is not None:
            return Names(self.observation, self.action)
        own = tell()
        return Names(self.observation or own.observation, self.action or own.action)


@checked(ConfigError, "correspondence")
class Exceptions:
    """What a correspondence says beside equal names."""

    observation: dict[Text, Text] = field(default_factory=dict)
    """Entry of the target -> entry of the source, or ``zero`` for one that is new."""
    action: dict[Text, Text] = field(default_factory=dict)
    """The same for actions."""
    like: dict[Text, Text] = field(default_factory=dict)
    """New entry, or new part before the dot of its entries' names -> the entry or part of the target that it copies."""
    source: GivenNames = field(default_factory=GivenNames)
    """Names of the source's entries, if its environment does not tell them."""
    target: GivenNames = field(default_factory=GivenNames)
    """The same of the target."""


@dataclass(frozen=True)
class Matching:
    """Which entries of one vector correspond."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    origin: tuple[int | None, ...]
    """For each entry of the target its entry in the source; ``None`` for a new one."""
    copied: tuple[int, ...] = ()
    """The entries of the target that copy another one, whose origin they have."""

    @cached_property
    def is_identity(self) -> bool:
        """Whether nothing changes its place."""
        return self.origin == tuple(range(len(self.source)))

    @cached_property
    def new(self) -> list[int]:
        """Entries of the target without a source entry."""
        return [i for i, origin in enumerate(self.origin) if origin is None]

    @cached_property
    def removed(self) -> list[int]:
        """Entries of the source that the target lacks."""
        return [i for i in range(len(self.source)) if i not in self.origin]

    @cached_property
    def heirs(self) -> list[int | None]:
        """For each entry of the source the entry of the target that stands for it, and is no copy."""
        of = {origin: i for i, origin in enumerate(self.origin) if i not in self.copied}
        return [of.get(i) for i in range(len(self.source))]

    @cached_property
    def copies(self) -> dict[str, str]:
        """Entry of the target -> the one that it is a copy of."""
        originals = {origin: i for i, origin in enumerate(self.origin) if i not in self.copied}
        return {self.target[i]: self.target[originals[self.origin[i]]] for i in self.copied}

    def describe(self) -> str:
        """How many entries are matched, and the names of the others."""
        parts = [f"{sum(origin is not None for origin in self.origin)} of {len(self.target)}"]
        copied = [f"{copy} as {original}" for copy, original in self.copies.items()]
        missing = {"new": [self.target[i] for i in self.new], "gone": [self.source[i] for i in self.removed]}
        parts += [f"{kind}: {shorten(names)}" for kind, names in (missing | {"copied": copied}).items() if names]
        return "; ".join(parts)


@dataclass(frozen=True)
class Correspondence:
    """Which entries of two bodies correspond."""

    observation: Matching
    action: Matching
    by_place: bool = False
    """Whether entries are numbered, and have no names."""

    @property
    def target_names(self) -> Names | None:
        """The names of the target's entries, if they have any."""
        return None if self.by_place else Names(self.observation.target, self.action.target)

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.observation.is_identity and self.action.is_identity

    def describe(self) -> str:
        """One line about what is carried over."""
        return f"observation {self.observation.describe()}. action {self.action.describe()}"


def shorten(names: Sequence[str], most: int = 8) -> str:
    """A list of names for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def read_content(given: str | Path) -> dict[str, Any]:
    """What a file says.

    :raises ConfigError: there is no such file, or it is none of names with values
    """
    try:
        return read_mapping(Path(given))
    except FileNotFoundError:
        raise ConfigError(
            f"correspondence='{given}': there is no such file. Expected {', '.join(CHOICES)}, or the path of a YAML "
            "file.",
            arguments=("correspondence",),
        ) from None


def read_exceptions(given: str | Path | Mapping[str, Any]) -> Exceptions:
    """Read a file, or check its content.

    :raises ConfigError: there is no such file, or it says something else
    """
    if not isinstance(given, Mapping):
        given = read_content(given)
    content: dict[str, Any] = {str(name): value or {} for name, value in given.items()}
    return Exceptions(**content)


def by_names(
    source: Names, target: Names, exceptions: Exceptions | None = None, moves_anew: bool = False
) -> Correspondence:
    """Match entries of equal names, and those of the exceptions.

    :param moves_anew: whether it is known that no entry of the action may correspond
    :raises ConfigError: the exceptions name entries that do not exist, or give one source entry to two; or nothing
        corresponds
    """
    rules = exceptions or Exceptions()
    found = Correspondence(
        _match("observation", source.observation, target.observation, rules),
        _match("action", source.action, target.action, rules, may_be_new=moves_anew),
    )
    unused = [
        new for new in rules.like if not any(_entries_of(new, names) for names in (target.observation, target.action))
    ]
    if unused:
        raise ConfigError(
            _unknown("like", unused, "target", (*target.action, *target.observation)), arguments=("correspondence",)
        )
    return found


def in_place(source: Names, target: Names) -> Correspondence:
    """Leave all entries where they are, whatever their names are now. There are as many."""
    pairs = (source.observation, target.observation), (source.action, target.action)
    observation, action = (Matching(*both, tuple(range(len(both[0])))) for both in pairs)
    return Correspondence(observation, action)


def by_positions(source: Sequence[spaces.Space[Any]], target: Sequence[spaces.Space[Any]]) -> Correspondence:
    """Match entries by their places: new entries and missing ones are taken to be the last.

    :param source: observation space and action space
    :param target: likewise
    :raises AgentError: they are not vectors or choices, or not of the same kind
    """
    observation, action = (_match_places(*both) for both in zip(("observation", "action"), source, target, strict=True))
    return Correspondence(observation, action, by_place=True)


def _match_places(what: str, source: spaces.Space[Any], target: spaces.Space[Any]) -> Matching:
    before, now = count_entries(source), count_entries(target)
    if before is None or now is None or type(source) is not type(target) or isinstance(source, spaces.Dict):
        raise AgentError(
            "A correspondence by positions works for vectors of another length and for another number of choices. The "
            f"agent's {what} space is {source}, the environment's {target}.",
            arguments=("correspondence",),
        )
    places = [tuple(str(i) for i in range(count)) for count in (before, now)]
    return Matching(places[0], places[1], tuple(i if i < before else None for i in range(now)))


def _match(
    what: str, source: tuple[str, ...], target: tuple[str, ...], rules: Exceptions, may_be_new: bool = False
) -> Matching:
    given = getattr(rules, what)
    for side, known in (("source", source), ("target", target)):
        _refuse_twice(f"correspondence.{side}.{what}", known)
    _refuse_unknown(f"correspondence.{what}", given, "target", target)
    _refuse_unknown(f"correspondence.{what}", [name for name in given.values() if name != ZERO], "source", source)
    names: dict[str, str | None] = {entry: entry if entry in source else None for entry in target}
    names |= {entry: None if origin == ZERO else origin for entry, origin in given.items()}
    _refuse_double(what, names)
    copies = _copies(what, names, rules.like)
    names |= copies
    if source and not any(names.values()) and not may_be_new and given != dict.fromkeys(target, ZERO):
        raise ConfigError(
            f"No entry of the {what} corresponds: the source has {shorten(source)}; the target has {shorten(target)}. "
            f"Name pairs in a file, correspondence=FILE, or call each entry of the target {ZERO} there.",
            arguments=("correspondence",),
        )
    index = {name: i for i, name in enumerate(source)}
    origin = tuple(None if (name := names[entry]) is None else index[name] for entry in target)
    return Matching(source, target, origin, tuple(i for i, entry in enumerate(target) if entry in copies))


def _copies(what: str, names: Mapping[str, str | None], like: Mapping[str, str]) -> dict[str, str | None]:
    """The source entries of entries that copy others."""
    found: dict[str, str | None] = {}
    for new, sibling in like.items():
        for entry in _entries_of(new, names):
            other = sibling + entry.removeprefix(new)
            if names.get(other) is None:
                raise ConfigError(
                    f"correspondence.like.{new}: '{entry}' of the {what} would copy '{other}', which "
                    + ("is new itself." if other in names else f"the target lacks.{did_you_mean(other, names)}"),
                    arguments=("correspondence",),
                )
            if names[entry] is not None:
                raise ConfigError(
                    f"correspondence.like.{new}: '{entry}' of the {what} is no new entry, it corresponds to "
                    f"'{names[entry]}'. Say {what}: {{{entry}: zero}} too, or leave it out.",
                    arguments=("correspondence",),
                )
            found[entry] = names[other]
    return found


def _entries_of(part: str, names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """The entry of that name, and the entries whose names begin with it and a dot."""
    return [name for name in names if name == part or name.startswith(f"{part}.")]


def _refuse_double(what: str, names: Mapping[str, str | None]) -> None:
    of: dict[str, str] = {}
    for entry, origin in names.items():
        if origin is not None and origin in of:
            raise ConfigError(
                f"correspondence.{what}: '{of[origin]}' and '{entry}' both correspond to '{origin}'. If one is a copy "
                f"of the other, say like: {{{entry}: {of[origin]}}}; if it is new, {entry}: {ZERO}.",
                arguments=("correspondence",),
            )
        if origin is not None:
            of[origin] = entry


def _refuse_twice(where: str, names: Sequence[str]) -> None:
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{where}: '{twice}' is there twice. Give each entry a name of its own.", arguments=("correspondence",)
        )


def _refuse_unknown(where: str, given: Sequence[str] | Mapping[str, Any], side: str, known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ConfigError(_unknown(where, unknown, side, known), arguments=("correspondence",))


def _unknown(where: str, unknown: Sequence[str], side: str, known: Sequence[str]) -> str:
    names = ", ".join(f"'{name}'" for name in unknown)
    return f"{where}: the {side} has no {names}.{did_you_mean(unknown[0], known)} It has {shorten(known)}."
