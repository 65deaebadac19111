"""What a run does where the target's body is not the source's: find what corresponds, and see one body as the other."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from daft_rl.archives.container import read_attributes
from daft_rl.archives.kept_names import kept_names, kept_spaces
from daft_rl.correspondence import (
    Correspondence,
    Exceptions,
    GivenNames,
    by_names,
    by_positions,
    in_place,
    read_exceptions,
    shorten,
)
from daft_rl.envs.domain import Domain
from daft_rl.envs.names import Names, UnknownNamesError, count_entries, entry_names
from daft_rl.envs.other_body import SeenAs
from daft_rl.errors import AgentError, ConfigError, DaftError, DaftWarning, TaskError
from daft_rl.outputs import say
from daft_rl.run.new_entries import known_means

__all__ = ["between_bodies", "find_correspondence", "names_of", "see_as_target"]

Choice = str | Mapping[str, Any]
"""``auto``, ``names``, ``positions``, the path of a file, or its content."""
Spaces = tuple[Any, Any]
"""Of observations and of actions."""


def find_correspondence(
    choice: Choice,
    domains: Mapping[str, Domain],
    agent: Path | BaseAlgorithm | None,
    trust: bool = False,
    actual: Spaces | None = None,
    asks: bool = False,
) -> Correspondence | None:
    """What corresponds between source and target.

    ``auto`` goes by names where the bodies may differ, and leaves entries where they are if names do not tell. An agent
    that keeps the names of its entries is of the body that has them, whatever the source's.

    :param choice: see :class:`~daft_rl.settings.AgentSettings`
    :param agent: an archive or an agent in memory; ``None`` is one for the source as it is
    :param trust: whether the archive is read by SB3 itself. Neither this one nor an agent in memory can be carried:
        what keeps no names is for the target as it is
    :param actual: spaces of the target; ``None`` makes one to see them. The user's function may make another
        environment each time it is called
    :param asks: whether a function of the user tells names though entries fit; for an agent with names it does
    :return: ``None`` if all entries are where they were, and nobody tells their names in the target
    :raises DaftError: the choice needs names, and there are none; or the agent cannot be carried, and has to be
    """
    if isinstance(agent, BaseAlgorithm) and choice != "auto":
        return None  # refused where the agent is copied
    source, target = domains.get("source"), domains["target"]
    attributes = _attributes_of(agent, trust)
    kept, is_fixed = kept_names(attributes), trust or isinstance(agent, BaseAlgorithm)
    if kept is None and choice == "auto" and (is_fixed or source is None or source.body == target.body):
        return None
    stored = kept_spaces(attributes) if source is None or agent is not None else _spaces_of(source)
    if choice == "positions":
        return by_positions(stored, actual or _spaces_of(target))
    if choice == "auto":
        found = _by_auto(kept, source, target, stored, actual or _spaces_of(target), asks or kept is not None)
        if found is not None and is_fixed and not found.is_identity:
            raise _cannot_be_carried(found)
        return found
    return _by_file(Exceptions() if choice == "names" else read_exceptions(choice), kept, source, target)


def between_bodies(
    found: Correspondence | None,
    choice: Choice,
    domains: Mapping[str, Domain],
    agent: Path | BaseAlgorithm,
    trust: bool = False,
) -> Correspondence | bool | None:
    """What corresponds between the bodies of source and target, whatever body the agent has learnt on since.

    :param found: from the agent's entries to the target's; the others are those of :func:`find_correspondence`
    :return: ``False`` if names do not tell
    """
    if "source" not in domains or kept_names(_attributes_of(agent, trust)) is None:
        return found
    for way in (choice, "names"):  # a file may be about the body that the agent has learnt on last
        with suppress(DaftError):
            between = find_correspondence(way, domains, None, asks=True)
            if between is not None:
                SeenAs.check(between, *_spaces_of(domains["source"]))  # a file may name the entries of another body
            return between
    return False


def _attributes_of(agent: Path | BaseAlgorithm | None, trust: bool) -> Mapping[str, Any]:
    """The attributes of an algorithm object; those that can be read of an archive."""
    if not isinstance(agent, Path):
        return {} if agent is None else vars(agent)
    with suppress(AgentError) if trust else nullcontext():  # SB3 may be able to read more
        return read_attributes(agent)
    return {}


def _cannot_be_carried(found: Correspondence) -> AgentError:
    return AgentError(
        f"The agent is of another body: its actions are {shorten(found.action.source)}, its observations "
        f"{shorten(found.observation.source)}. What is passed as an object or read with trust=True stays as it is: "
        "save it, and pass the archive with trust=False.",
        arguments=("trust",),
    )


def _by_auto(
    kept: Names | None, source: Domain | None, target: Domain, stored: Spaces, actual: Spaces, asks: bool
) -> Correspondence | None:
    """By names, unless there are none, or entries can stay where they are and names do not say that they are the same
    ones in another order."""
    known, sizes = ([count_entries(space) for space in both] for both in (stored, actual))
    fits = known == sizes or None in stored
    if not asks and fits and any(domain is not None and domain.maker for domain in (source, target)):
        return None  # a function may make another environment each time it is called
    try:
        names = kept or _names(GivenNames(), source), names_of(target)
    except UnknownNamesError:
        return None  # the check of the agent's spaces tells what to do
    except TaskError as error:
        if not fits:
            raise
        warnings.warn(DaftWarning(f"{error} Entries stay where they are."), stacklevel=2)
        return None
    if [len(names[0].observation), len(names[0].action)] != known:
        return None  # the agent saw the source through other wrappers
    same = all(sorted(getattr(names[0], what)) == sorted(getattr(names[1], what)) for what in ("observation", "action"))
    if fits and not same:
        return None if kept is None else in_place(*names)
    found = by_names(*names, moves_anew=target.moves_anew)
    return None if kept is None and found.is_identity else found


def _by_file(rules: Exceptions, kept: Names | None, source: Domain | None, target: Domain) -> Correspondence:
    before, after = kept or _names(rules.source, source), _names(rules.target, target)
    if kept == after:
        return by_names(kept, after)  # what the file says has been done
    return by_names(before, after, rules, moves_anew=target.moves_anew)


def _names(given: GivenNames, domain: Domain | None) -> Names:
    """Names from a file, and those of the environment for what the file leaves out."""

    def tell() -> Names:
        if domain is not None:
            return names_of(domain)
        raise AgentError(
            "A correspondence by names needs the names of the source's entries: pass source_env=..., or name them in "
            "the file, source: {observation: [...], action: [...]}.",
            arguments=("correspondence",),
        )

    return given.complete(tell)


def _spaces_of(domain: Domain) -> Spaces:
    env = _make_undisturbed(domain)
    env.close()
    return env.observation_space, env.action_space


def names_of(domain: Domain) -> Names:
    """The names of the entries of one domain.

    :raises UnknownNamesError: it has none
    :raises TaskError: they do not fit
    """
    env = _make_undisturbed(domain)
    try:
        return entry_names(env)
    except TaskError as error:
        raise type(error)(f"{domain.name}: {error}", arguments=("correspondence",)) from error
    finally:
        env.close()


def _make_undisturbed(domain: Domain) -> Any:
    """Make an environment. Random numbers that its constructor draws are drawn again by the run."""
    states, folder = (random.getstate(), np.random.get_state()), Path.cwd()
    try:
        return domain.make()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        os.chdir(folder)


def see_as_target(
    domains: Mapping[str, Domain], model: BaseAlgorithm, correspondence: Correspondence | bool | None
) -> dict[str, Domain]:
    """The domains in which an agent for the target can play: other bodies are seen as the target's.

    :param domains: role -> domain
    :param model: it was loaded for the target
    :param correspondence: from source to target, as :func:`between_bodies` returns it
    """
    target, found = domains["target"], {}
    for role, domain in domains.items():
        is_known = role == "source" and correspondence is not None
        between = correspondence if is_known else _between(domain, target, as_before=role == "source")
        if role == "target" or between is None or (isinstance(between, Correspondence) and between.is_identity):
            found[role] = domain
        elif isinstance(between, Correspondence) and any(one is not None for one in between.action.origin):
            means = known_means(model, between)
            rest = tuple(means[i] for i in between.observation.new)
            found[role] = replace(domain, seen_as=SeenAs(between, *_spaces_of(target), rest))
        else:
            say(f"The agent does not play in '{role}', where the body is another one.")
    return found


def _between(domain: Domain, target: Domain, as_before: bool) -> Correspondence | bool | None:
    """What corresponds between a further domain and the target: ``None`` if entries are where they are, ``False`` if
    names do not tell.

    :param as_before: whether entries stay where they are wherever the sizes allow it
    """
    if domain.maker or target.maker or domain.body == target.body:
        return None
    sizes = [[count_entries(space) for space in _spaces_of(one)] for one in (domain, target)]
    fits = sizes[0] == sizes[1]
    if fits and as_before:
        return None
    try:
        found = by_names(names_of(domain), names_of(target))
    except TaskError:
        return None if fits else False
    except ConfigError:  # they have no name in common
        return False
    return found
