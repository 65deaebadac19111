"""What a run does where the target's body is not the source's: find what corresponds, measure what is new."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from daft_rl.archives import read_archive
from daft_rl.archives.container import read_attributes
from daft_rl.archives.kept_names import kept_names
from daft_rl.batchnorm import Moments, batchnorm_layers
from daft_rl.correspondence import ZERO, Correspondence, Exceptions, GivenNames, by_names, by_positions, read_exceptions
from daft_rl.envs.domain import Domain
from daft_rl.envs.names import Names, count_entries, entry_names
from daft_rl.envs.other_body import SeenAs
from daft_rl.envs.registry import get_task
from daft_rl.errors import AgentError, TaskError
from daft_rl.policy.carrying import new_channels
from daft_rl.policy.networks import Networks
from daft_rl.policy.tracing import Tracer
from daft_rl.rollout.evaluation import visit

__all__ = ["between_bodies", "find_correspondence", "measure_new_entries", "names_of", "see_as_target"]

STEPS = 2048
"""States of the target in which entries are measured that the source does not know."""
LEAST_VARIANCE = 1e-8
"""An entry that varies less is a constant, and keeps the variance 1."""

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
) -> Correspondence | None:
    """What corresponds between source and target.

    ``auto`` goes by names where the bodies may differ, and leaves entries where they are if names do not tell. An
    archive that keeps the names of its entries is of the body that has them, whatever the source's.

    :param choice: see :class:`~daft_rl.settings.AgentSettings`
    :param agent: an archive; an agent in memory, which is for the target as it is; or ``None`` if it has learnt already
    :param trust: whether the archive is read by SB3 itself, which cannot be carried
    :param actual: spaces of the target; ``None`` makes one to see them. The user's function may make another
        environment each time it is called
    :return: ``None`` if all entries are where they were
    :raises DaftError: the choice needs names, and there are none
    """
    source, target = domains.get("source"), domains["target"]
    if isinstance(agent, BaseAlgorithm) or (trust and choice == "auto"):
        return None
    kept = _kept_by(agent)
    if choice == "auto" and kept is None and (source is None or source.body == target.body):
        return None
    stored = _stored_spaces(agent, source)
    if choice == "positions":
        return _told(by_positions(stored, actual or _spaces_of(target)))
    if choice == "auto":
        return _by_auto(kept or source, target, stored, actual or _spaces_of(target))
    exceptions = Exceptions() if choice == "names" else read_exceptions(choice)
    if kept is not None and kept == _names(exceptions.target, target):
        return None  # what the file says has been done
    return _told(by_names(_names(exceptions.source, kept or source), _names(exceptions.target, target), exceptions))


def between_bodies(
    found: Correspondence | None,
    choice: Choice,
    domains: Mapping[str, Domain],
    agent: Path | BaseAlgorithm | None,
    trust: bool = False,
) -> Correspondence | None:
    """What corresponds between the bodies of source and target, whatever body the agent has learnt on since.

    :param found: from the agent's entries to the target's; the others are those of :func:`find_correspondence`
    """
    archive = None if isinstance(agent, BaseAlgorithm) else agent
    if trust or "source" not in domains or _kept_by(archive) is None:  # SB3 itself reads what is trusted
        return found
    return find_correspondence(choice, domains, None, trust)


def _kept_by(archive: Path | None) -> Names | None:
    """The names that an archive keeps."""
    return None if archive is None else kept_names(read_attributes(archive))


def _by_auto(source: Names | Domain | None, target: Domain, stored: Spaces, actual: Spaces) -> Correspondence | None:
    """By names, unless there are none, or entries can stay where they are and names do not say that they are the same
    ones in another order."""
    assert source is not None
    known, sizes = ([count_entries(space) for space in both] for both in (stored, actual))
    fits = known == sizes or None in stored
    if fits and any(isinstance(one, Domain) and one.maker for one in (source, target)):
        return None  # a function may make another environment each time it is called
    try:
        names = source if isinstance(source, Names) else names_of(source), names_of(target)
    except TaskError:
        return None  # the check of the agent's spaces tells what to do
    if [len(names[0].observation), len(names[0].action)] != known:
        return None  # the agent saw the source through other wrappers
    same = all(sorted(getattr(names[0], what)) == sorted(getattr(names[1], what)) for what in ("observation", "action"))
    is_still = target.maker is None and get_task(target.name).moves_anew and not {*names[0].action} & {*names[1].action}
    exceptions = Exceptions(action=dict.fromkeys(names[1].action, ZERO) if is_still else {})
    return None if fits and not same else _told(by_names(*names, exceptions))


def _told(found: Correspondence) -> Correspondence | None:
    """Say what corresponds, if anything moves."""
    if found.is_identity:
        return None
    print(f"Another body: {found.describe()}", file=sys.stderr)
    return found


def _names(given: GivenNames, body: Names | Domain | None) -> Names:
    """Names from a file, and those of the archive or the environment for what the file leaves out."""

    def tell() -> Names:
        if body is not None:
            return body if isinstance(body, Names) else names_of(body)
        raise AgentError(
            "A correspondence by names needs the names of the source's entries: pass source_env=..., or name them in "
            "the file, source: {observation: [...], action: [...]}.",
            arguments=("correspondence",),
        )

    return given.complete(tell)


def _stored_spaces(agent: Path | None, source: Domain | None) -> Spaces:
    """Observation and action space of the source."""
    if agent is None:
        assert source is not None
        return _spaces_of(source)
    contents = read_archive(agent)
    return contents.observation_space, contents.action_space


def _spaces_of(domain: Domain) -> Spaces:
    env = _make_undisturbed(domain)
    env.close()
    return env.observation_space, env.action_space


def names_of(domain: Domain) -> Names:
    """The names of the entries of one domain.

    :raises TaskError: it has none
    """
    env = _make_undisturbed(domain)
    try:
        return entry_names(env)
    except TaskError as error:
        raise TaskError(f"{domain.name}: {error}", arguments=("correspondence",)) from error
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
    domains: Mapping[str, Domain], model: BaseAlgorithm, correspondence: Correspondence | None
) -> dict[str, Domain]:
    """The domains in which an agent for the target can play: other bodies are seen as the target's.

    :param domains: role -> domain
    :param model: it was loaded for the target
    :param correspondence: from source to target, if some entries moved
    """
    target, found = domains["target"], {}
    for role, domain in domains.items():
        moved = correspondence if role == "source" else None
        between = moved or _between(domain, target, as_before=role == "source")
        if role == "target" or between is None:
            found[role] = domain
        elif isinstance(between, Correspondence) and any(one is not None for one in between.action.origin):
            means = _means(model, between)
            rest = tuple(means[i] for i in between.observation.new)
            found[role] = replace(domain, seen_as=SeenAs(between, *_spaces_of(target), rest))
        else:
            print(f"The agent does not play in '{role}', where the body is another one.", file=sys.stderr)
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
    return None if found.is_identity else found


@torch.no_grad()
def measure_new_entries(model: BaseAlgorithm, correspondence: Correspondence, venv: VecEnv, seed: int) -> None:
    """Give the entries that are new the statistics that they have in the target, in ``VecNormalize`` and in BatchNorm.

    Their weights are 0, so that nothing changes in what the policy computes. Random numbers start afresh afterwards.

    :param model: an agent that was carried to the target
    :param venv: of the target, with raw observations
    :param seed: of the episodes that are visited
    """
    observations, actions = visit(model, venv, STEPS, seed)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and normalizer.norm_obs:
        _measure_normalized(normalizer, observations, correspondence.observation.new)
    networks = Networks(model.policy)
    channels = new_channels(model.policy, correspondence)
    if channels:
        _measure_channels(networks, channels, networks.measure(networks.batches(observations, actions)))
    model.set_random_seed(seed)


def _measure_normalized(normalizer: VecNormalize, observations: Any, new: Sequence[int]) -> None:
    """Give new entries their mean and variance, and normalize what was seen of them, in place.

    :param observations: where the statistics of new entries are 0 and 1; entries beyond clip_obs count as clip_obs
    """
    dictionary, known = isinstance(observations, dict), normalizer.obs_rms
    statistics: Mapping[str, Any] = known if isinstance(known, dict) else {"": known}
    place = 0
    for key, seen in (observations if dictionary else {"": observations}).items():
        size = seen.shape[1] if seen.ndim == 2 else 1
        own = [entry - place for entry in new if place <= entry < place + size]
        place += size
        if not own or key not in statistics:
            continue
        means, variances = seen[:, own].mean(axis=0, dtype=np.float64), seen[:, own].var(axis=0, dtype=np.float64)
        variances[variances < LEAST_VARIANCE] = 1.0
        statistics[key].mean[own], statistics[key].var[own] = means, variances
        seen[:, own] = (seen[:, own] - means) / np.sqrt(variances + normalizer.epsilon)


def _means(model: BaseAlgorithm, correspondence: Correspondence) -> list[float]:
    """What an agent knows of the mean of each entry of the target; 0 where it knows nothing."""
    normalizer, size = model.get_vec_normalize_env(), len(correspondence.observation.target)
    if normalizer is not None and normalizer.norm_obs:
        known: Any = normalizer.obs_rms
        if not isinstance(known, dict):
            return known.mean.tolist()  # type: ignore[no-any-return]
        parts = normalizer.observation_space.spaces  # type: ignore[attr-defined]
        return [
            float(mean)
            for key, part in parts.items()
            for mean in (known[key].mean if key in known else np.zeros(spaces.flatdim(part)))
        ]
    if not correspondence.observation.new:
        return [0.0] * size
    return Tracer(model.policy, observation=True, action=False).means().tolist()  # type: ignore[no-any-return]


def _measure_channels(networks: Networks, channels: Mapping[str, torch.Tensor], measured: Mapping[str, Any]) -> None:
    layers, mixed = batchnorm_layers(networks.policy), {}
    for name, mask in channels.items():
        layer, statistics = layers[name], measured[name]
        own = mask.to(layer.mean.device)
        varying = own & (statistics.var > LEAST_VARIANCE)
        mixed[name] = Moments(
            torch.where(own, statistics.mean, layer.mean.double()),
            torch.where(varying, statistics.var, layer.var.double()),
        )
    networks.apply(mixed, preserve_function=False)
