"""Transfer between corpora: a training run on each, and on all but one, in folders of their own.

``DIR/transfer.yaml`` names the corpora; ``DIR/runs/NAME`` is an ordinary run on one, ``DIR/runs/all-but-NAME`` one on
all the others. What their models reach elsewhere is for `sertune.apps.transfer` to find out.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sertune.config import RunConfig, dump_yaml, load_yaml
from sertune.corpora import TABLES, check_columns, columns_for, corpus
from sertune.data.label_map import Absent
from sertune.errors import SertuneError, unknown
from sertune.model.adapt import FOR_CATEGORIES, METHODS
from sertune.progress import say
from sertune.train.compare import check_set, difference, stored_settings
from sertune.train.folder import write_text

FILE: Final = "transfer.yaml"
FREE: Final = ("out", "weights")
"""Settings that may differ when a transfer goes on: weights count in the runs on all but one, which have them."""


@dataclass(frozen=True)
class Source:
    """One ``--data``.

    Attributes:
        name: unlike that of any other: ``emodb``, ``emodb-2``; of a table its file name.
        data: as the command line has it.
        corpus: the corpus that it is a copy of; empty for tables, whose speakers nobody else knows.
    """

    name: str
    data: str
    corpus: str


@dataclass(frozen=True)
class Run:
    """A training run: its name, what it trains on, and how."""

    name: str
    sources: tuple[Source, ...]
    config: RunConfig


@dataclass(frozen=True)
class Failure:
    """A run that failed, and why in one line."""

    name: str
    error: str


@dataclass(frozen=True)
class Transfer:
    """What is trained and tested, and where.

    Attributes:
        folder: holds ``transfer.yaml`` and ``runs/``.
        base: settings that all runs share.
        sources: the corpora.
        adapt: adaptations that are tested beside the plain models.
        leave_one_out: whether a run on all the others is made for each corpus.
        absent: in the tests, what becomes of a class that the corpus lacks.
    """

    folder: Path
    base: RunConfig
    sources: tuple[Source, ...]
    adapt: tuple[str, ...]
    leave_one_out: bool
    absent: Absent

    def runs(self) -> list[Run]:
        """Every training run, those on one corpus first."""
        made = [self._run(source.name, [source], []) for source in self.sources]
        for left in self.sources if self.leave_one_out else ():
            kept = [i for i, source in enumerate(self.sources) if source is not left]
            weights = [self.base.weights[i] for i in kept] if self.base.weights else []
            made.append(self._run(f"all-but-{left.name}", [self.sources[i] for i in kept], weights))
        return made

    def _run(self, name: str, sources: list[Source], weights: list[float]) -> Run:
        data = [source.data for source in sources]
        config = replace(
            self.base,
            data=data,
            columns=columns_for(data, self.base.columns),
            weights=weights,
            out=str(self.folder / "runs" / name),
        )
        return Run(name, tuple(sources), config)


@dataclass(frozen=True)
class _Record:
    """``transfer.yaml``."""

    corpora: list[Source]
    adapt: list[str]
    leave_one_out: bool
    absent: str
    settings: RunConfig


def name_sources(specs: Iterable[str]) -> tuple[Source, ...]:
    """A name for each ``--data``, safe in a file name; the second of a name is ``NAME-2``.

    Raises:
        SertuneError: an unknown corpus, or the same data twice.
    """
    made: list[Source] = []
    count: dict[str, int] = {}
    for spec in specs:
        if any(spec == source.data for source in made):
            raise SertuneError(f"--data {spec}: given twice; a corpus can't be another one to itself")
        name, of = _named(spec)
        count[name] = count.get(name, 0) + 1
        made.append(Source(name if count[name] == 1 else f"{name}-{count[name]}", spec, of))
    return tuple(made)


def _named(spec: str) -> tuple[str, str]:
    """A name without hyphens, which the folders' names are joined with, and the corpus."""
    path = Path(spec).expanduser()
    first, colon, rest = spec.partition(":")
    if spec == "synthetic":
        return spec, spec
    if colon and path.suffix.lower() not in TABLES and not path.exists():
        if corpus(first).INFO.kind != "format":
            return first, first
        path = Path(rest)
    return re.sub(r"[^\w.]+", "_", path.stem).strip("._") or "data", ""


def open_transfer(
    base: RunConfig, adapt: Iterable[str] = (), *, leave_one_out: bool = False, absent: Absent = "mask"
) -> Transfer:
    """The transfer that a command asks for, if its folder is new or holds the same one. Writes ``transfer.yaml``.

    Adaptations and the runs on all but one may be added to what is in the folder; all else must be as it was.

    Args:
        base: what all runs share; its ``out`` is the folder. ``weights`` are those of the runs on all but one, a number
            for each of ``data``.
        adapt: keys of `sertune.model.adapt.METHODS`.
        leave_one_out: also train on all corpora but one, for each.
        absent: what becomes, in a test, of a class of the model that the corpus lacks.

    Raises:
        SertuneError: fewer than two corpora (with ``leave_one_out`` three), an unknown corpus or adaptation, no folder,
            or a folder with something else or other settings.
    """
    sources = name_sources(base.data)
    if len(sources) < 2:
        has = f"; {base.data[0]} is one" if base.data else ""
        raise SertuneError(
            f"transfer needs at least two corpora{has}: repeat --data, e.g. --data emodb:A --data urdu:B"
        )
    if leave_one_out and len(sources) < 3:
        raise SertuneError("--leave-one-out: needs at least three --data; with two, all but one is the other one")
    if base.weights and not leave_one_out:
        raise SertuneError("--weights: are those of the runs on all but one; give --leave-one-out, or leave them out")
    methods = _adaptations(adapt, base.target.name)
    check_columns(base.data, base.columns)
    if not base.out:
        raise SertuneError("no folder: say where the transfer goes with --out DIR")
    transfer = Transfer(Path(base.out), base, sources, methods, leave_one_out, absent)
    check_set(transfer.folder, FILE, "transfer", transfer.base, FREE, {"absent": transfer.absent})
    transfer.folder.mkdir(parents=True, exist_ok=True)
    record: Any = _Record([*sources], [*methods], leave_one_out, absent, base)
    write_text(transfer.folder / FILE, dump_yaml(record))
    return transfer


def _adaptations(names: Iterable[str], target: str) -> tuple[str, ...]:
    """The adaptations, each once; ``none`` is there anyway."""
    chosen = tuple(dict.fromkeys(name for name in names if name != "none"))
    for name in chosen:
        if name not in METHODS:
            raise unknown("adaptation", name, METHODS)
        if target != "category" and name in FOR_CATEGORIES:
            raise SertuneError(
                f"adapt {name}: is for categories, not for dimensions, distributions or annotators; corpus and speaker "
                "are for all"
            )
    return chosen


def run_all(transfer: Transfer, run_one: Callable[[RunConfig], object]) -> list[Failure]:
    """Makes every run that is not finished. A run that fails does not stop the others.

    Args:
        transfer: what to run.
        run_one: trains, tests within the corpus, saves the model and writes the report.

    Returns:
        The runs that failed.

    Raises:
        SertuneError: unlike corpora fail with the same words, as where the encoder is not there; or a run folder holds
            another run.
    """
    failures: list[Failure] = []
    failed: list[tuple[Run, str]] = []
    planned = transfer.runs()
    for number, run in enumerate(planned, start=1):
        if _finished(run):
            continue
        say(f"Training {number} of {len(planned)}: {run.name.replace('all-but-', 'all but ')}")
        try:
            run_one(run.config)
        except SertuneError as error:
            if any(_unlike(run, other) and str(error) == words for other, words in failed):
                raise
            failed.append((run, str(error)))
            failures.append(Failure(run.name, str(error)))
            say(f"  failed: {error}")
    return failures


def _unlike(one: Run, other: Run) -> bool:
    """Whether two runs on one corpus each are on different ones, so that the same words are about something else."""
    single = len(one.sources) == len(other.sources) == 1
    return single and (one.sources[0].corpus != other.sources[0].corpus or not one.sources[0].corpus)


def _finished(run: Run) -> bool:
    """Whether a run need not be made.

    Raises:
        SertuneError: its folder holds a run with other settings.
    """
    folder = Path(run.config.out)
    if not (folder / "config.yaml").is_file():
        return False
    before = stored_settings(folder / "config.yaml", load_yaml(folder / "config.yaml"))
    found = difference(before, run.config, ("out",))
    if found:
        key, old, new = found
        raise SertuneError(f"{folder}: holds a run with {key} = {old!r}, not {new!r}; move it away to run it again")
    return (folder / "report.json").is_file()
