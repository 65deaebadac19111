"""Where people keep the statistics of an agent's ``VecNormalize``: the conventions of SB3, rl-zoo and the hub.

A file belongs to an agent by its name (``PPO_1.zip`` and ``vecnormalize_1.pkl``), by its place (rl-zoo's
``ENV-ID/vecnormalize.pkl`` beside ``best_model.zip``), or because it is the only one there is. A file whose name says
that it is of another agent is left alone.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daft_rl.errors import AgentError

__all__ = ["Candidate", "find_vecnormalize", "list_candidates"]

STANDARD = ("vecnormalize.pkl", "vec_normalize.pkl")
PICKLE = re.compile(
    r"(.*?)vec[-_ ]?norm(?:ali[sz]e[dr]?)?(?:[-_ ]?(?:env|stats|statistics))?(?![a-z])(.*)\.(?:pkl|pickle)"
)
PICKLES = (".pkl", ".pickle")
OF_CALLBACKS = re.compile(r"(best|final|last)([-_ ]?model)?|model|(.+[-_])?\d+[-_]steps")
"""Names of archives that SB3's callbacks and rl-zoo give, whatever the agent is."""
PART_OF_RUN = re.compile(r"(best|eval|evaluation|checkpoint|model|save|saved|log)s?([-_ ]?(model|log|checkpoint)s?)?")
"""Names of folders in which callbacks save, inside of a run's folder."""
OF_OUR_RUNS = "run.json"
"""A run of daft_rl keeps statistics beside its agents. What lies elsewhere may have been folded into one of them."""
MOST_FOLDERS = 1000
"""Most folders beside an archive that are looked into."""


@dataclass(frozen=True)
class Candidate:
    """A file that may hold the statistics of an agent."""

    path: Path
    is_usual: bool = False
    """Whether its name is one of SB3's own beside the archive, of which nobody needs to be told."""
    is_certain: bool = True
    """Whether its name or its place says that it belongs to the agent; otherwise it may be of another one."""


def find_vecnormalize(archive: Path, choice: str = "auto") -> Path | None:
    """The statistics that belong to an archive; ``None`` if there are none of which that is certain.

    The nearest file with the most specific name wins:

    - beside ``agent.zip``: ``agent_vecnormalize.pkl``, rl-zoo's ``agent/vecnormalize.pkl``; beside
      ``rl_model_1000_steps.zip`` of a ``CheckpointCallback`` ``rl_model_vecnormalize_1000_steps.pkl``; beside
      ``PPO_1.zip`` any ``*vec*norm*.pkl`` whose other words or numbers are in the archive's name
    - ``vecnormalize.pkl``, the hub's ``vec_normalize.pkl``
    - in a run of rl-zoo, ``ENV-ID/vecnormalize.pkl`` beside ``best_model.zip`` and checkpoints
    - the only ``*vec*norm*.pkl`` beside the archive
    - the same one folder up, if the archive lies where an ``EvalCallback`` or a ``CheckpointCallback`` saves

    :param archive: a file; of a snapshot of the hub, nothing outside of the snapshot is looked at
    :param choice: ``"auto"``; ``"none"`` for an agent without statistics; or the path of the file
    :raises AgentError: there is no file at the path
    """
    if choice == "none":
        return None
    if choice != "auto":
        if not Path(choice).is_file():
            raise AgentError(
                f"vecnormalize='{choice}': there is no such file. Expected the path of a vecnormalize.pkl, 'auto' or "
                "'none'.",
                arguments=("vecnormalize",),
            )
        return Path(choice)
    return next((found.path for found in list_candidates(archive) if found.is_certain), None)


def list_candidates(archive: Path) -> list[Candidate]:
    """All files that may hold the statistics of an archive, the most likely first."""
    folder, stem = archive.parent, archive.stem
    checkpoint = re.fullmatch(r"(.+)_(\d+_steps)", stem)
    usual = [folder / f"{checkpoint[1]}_vecnormalize_{checkpoint[2]}.pkl"] if checkpoint else []
    usual += [folder / f"{stem}_vecnormalize.pkl", folder / stem / STANDARD[0]]
    plain = [folder / name for name in STANDARD]
    if (folder / OF_OUR_RUNS).is_file():
        return [Candidate(path, is_usual=True) for path in (*usual, *plain) if path.is_file()]
    beside = _Folder(folder, stem, archive.name)
    found = [Candidate(path, is_usual=True) for path in usual if path.is_file()]
    found += beside.of_this_name()
    found += [Candidate(path, is_usual=True) for path in plain if path.is_file()]
    found += [*beside.of_no_name(), *beside.of_run(), *beside.of_other_names()]
    found += _one_folder_up(archive)
    first: dict[Path, Candidate] = {}
    for candidate in found:
        first.setdefault(candidate.path, candidate)
    return list(first.values())


def _one_folder_up(archive: Path) -> list[Candidate]:
    folder = archive.absolute().parent
    if folder.parent == folder or _is_snapshot(folder):
        return []
    is_part = bool(OF_CALLBACKS.fullmatch(archive.stem.lower()) or PART_OF_RUN.fullmatch(folder.name.lower()))
    above = _Folder(folder.parent, archive.stem, None)
    found = [*above.of_this_name(), *above.of_no_name(), *above.of_named_run(), *above.of_other_names()]
    return [
        Candidate(one.path, is_certain=one.is_certain and is_part) for one in found if folder not in one.path.parents
    ]


def _is_snapshot(folder: Path) -> bool:
    """Whether this is the folder of a repository in the hub's cache, beyond which nothing belongs to an agent."""
    return folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")


def _words(text: str) -> Counter[str]:
    """The words and numbers of a name: ``PPO_1`` and ``ppo1`` are the same, ``v3`` and ``walker2d`` are words."""
    parts: list[str] = []
    for word in re.split(r"[^a-z0-9]+", text.lower()):
        numbered = re.fullmatch(r"([a-z]{2,})(\d+)", word)
        parts += numbered.groups() if numbered else [word]
    return Counter(part for part in parts if part)


class _Folder:
    """The files of one folder that may hold the statistics of one agent.

    :param path: of the folder
    :param stem: name of the archive without ``.zip``
    :param own: name of the archive, if it lies in this folder
    """

    def __init__(self, path: Path, stem: str, own: str | None) -> None:
        self.path, self.words = path, _words(stem)
        self.is_of_callback = OF_CALLBACKS.fullmatch(stem.lower()) is not None
        names: list[str] = []
        with suppress(OSError):
            names = sorted(one.name for one in path.iterdir())
        self.others = [_words(name[: -len(".zip")]) for name in names if name.endswith(".zip") and name != own]
        """Words of the names of other archives here."""
        matches = [(path / name, PICKLE.fullmatch(name.lower())) for name in names if name.lower().endswith(PICKLES)]
        self.pickles = [(one, _words(f"{match[1]} {match[2]}")) for one, match in matches if match and one.is_file()]
        """Files of statistics, and the words in their names that tell whose they are."""

    def of_this_name(self) -> list[Candidate]:
        """Files whose words are all in the name of the archive, those with the most words first."""
        named = [(path, own) for path, own in self.pickles if own and own <= self.words and own not in self.others]
        named.sort(key=lambda item: -item[1].total())
        most = [own for _, own in named if own.total() == named[0][1].total()]
        return [Candidate(path, is_certain=len(most) == 1 and not self._is_shared(own)) for path, own in named]

    def _is_shared(self, own: Counter[str]) -> bool:
        """Whether a file has nothing but a number in its name that other archives have too."""
        return all(word.isdecimal() for word in own) and any(own <= other for other in self.others)

    def of_no_name(self) -> list[Candidate]:
        """Files whose names say nothing of an agent."""
        plain = [path for path, own in self.pickles if not own]
        plain.sort(key=lambda path: STANDARD.index(path.name) if path.name in STANDARD else len(STANDARD))
        return [Candidate(path) for path in plain]

    def of_run(self) -> list[Candidate]:
        """rl-zoo's folder with the name of the environment, which also holds the run's settings, and no archive."""
        folders: list[str] = []
        with suppress(OSError), os.scandir(self.path) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir())[:MOST_FOLDERS]
        return self._of_folders(folders)

    def of_named_run(self) -> list[Candidate]:
        """The same, if this is a run of rl-zoo, ``ENV-ID_1``, and the folder is ``ENV-ID``."""
        return self._of_folders([self._environment] if self._environment else [])

    @property
    def _environment(self) -> str | None:
        run = re.fullmatch(r"(.+)_\d+", self.path.name)
        return run[1] if run else None

    def _of_folders(self, names: list[str]) -> list[Candidate]:
        found = [self.path / name / standard for name in names for standard in STANDARD]
        found = [path for path in found if path.is_file() and not any(path.parent.glob("*.zip"))]
        found = [path for path in found if self.is_of_callback or _words(path.parent.name) not in self.others]
        only = self.is_of_callback and len(found) == 1
        return [Candidate(path, is_certain=only or path.parent.name == self._environment) for path in found]

    def of_other_names(self) -> list[Candidate]:
        """Files with other words. The only one is taken, unless a word or a number says that it is another's."""
        strange = [(path, own) for path, own in self.pickles if own and not own <= self.words]
        strange = [(path, own) for path, own in strange if self.is_of_callback or own not in self.others]
        return [Candidate(path, is_certain=len(strange) == 1 and not self._is_others(own)) for path, own in strange]

    def _is_others(self, own: Counter[str]) -> bool:
        numbered = all(any(word.isdecimal() for word in names) for names in (own, self.words))
        return numbered or own in self.others
