"""Corpora: one file each, with ``INFO``, ``read(root)`` and ``example(root)``.

Nothing heavy is imported until a corpus is read. A new corpus is a new file in this package.
"""

import os
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sertune import __version__
from sertune.corpora.info import CorpusInfo
from sertune.errors import SertuneError, unknown

if TYPE_CHECKING:
    from sertune.data.manifest import Manifest
    from sertune.data.protocols import Published

__all__ = ["CorpusInfo", "corpus", "list_corpora", "names", "published", "read_all", "read_data"]

_NOT_CORPORA: Final = ("fetch", "folds", "info", "layout", "reading", "table")
TABLES: Final = (".csv", ".tsv", ".txt", ".parquet")


def names() -> list[str]:
    """The corpora that have a reader, sorted: the files of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_CORPORA)


def corpus(name: str) -> Any:
    """The module of a corpus, with ``INFO``, ``read`` and ``example``.

    Raises:
        SertuneError: there is no reader of this name.
    """
    if name not in names():
        raise unknown("corpus", name, names())
    return import_module(f"{__name__}.{name}")


def list_corpora() -> list[CorpusInfo]:
    """What is known of every corpus that has a reader, by name."""
    return [corpus(name).INFO for name in names()]


def published(manifest: "Manifest") -> "tuple[Published, ...]":
    """The protocols from the literature that come with a corpus, the one that ``--split auto`` takes first.

    They are the ``PROTOCOLS`` of the corpus of the manifest's name. A manifest with columns ``fold_1``, ``fold_2``
    ..., each of which says train, dev or test, brings a protocol of its own, ``folds``. Several corpora together
    (`sertune.data.manifest.concat`) have none.
    """
    from sertune.corpora.folds import own_folds

    if "corpus" in manifest.utterances.columns and "+" in manifest.name:
        return ()
    own = own_folds(manifest.utterances, source=manifest.name)
    known = corpus(manifest.name) if manifest.name in names() else None
    return (*((own,) if own else ()), *getattr(known, "PROTOCOLS", ()))


def read_data(spec: str, columns: Mapping[str, str] | None = None, *, strict: bool = True) -> "Manifest":
    """Read what ``--data`` names.

    Args:
        spec: ``emodb:FOLDER`` (a corpus in its own layout), ``hf:NAME`` and the like (another format: what stands
            after the colon is told by its file in this package), ``table.csv``, ``.tsv`` or ``.parquet``, the
            folder of a saved manifest, or ``synthetic`` (made in the user's cache folder at its first use).
        columns: for tables and formats: canonical column name -> column in the data.
        strict: False keeps values outside their schemes of tables and saved manifests, for `check`.

    Raises:
        SertuneError: unknown corpus, wrong folder, missing file, or a table with mistakes.
    """
    from sertune.corpora import table
    from sertune.data.manifest import Manifest

    if not spec:
        raise SertuneError("the name of the data is empty; name a corpus or a table, e.g. --data emodb:FOLDER")
    path = Path(spec).expanduser()
    if _is_table(spec):
        return table.read(path, columns, strict=strict)
    name, colon, folder = spec.partition(":")
    if colon:
        # A colon can also be part of a path, but a name that is no corpus is rather a slip.
        reader = corpus(name)
        if not folder:
            raise SertuneError(f"{spec!r} has no folder after the colon, expected {name}:FOLDER")
        manifest: Manifest
        if reader.INFO.kind == "format":
            manifest = reader.read(folder, columns, strict=strict)
        else:
            manifest = reader.read(Path(folder).expanduser())
        return manifest
    if spec == "synthetic":
        manifest = corpus(spec).read(_synthetic_folder())
        return manifest
    if path.is_dir():
        if not (path / "utterances.parquet").is_file():
            raise SertuneError(
                f"{spec} is a folder without a saved manifest; say which corpus it holds, e.g. emodb:{spec} "
                f"(known: {', '.join(names())}), or name a table"
            )
        return Manifest.load(path)
    if name in names():
        raise SertuneError(f"the corpus {name!r} needs its folder: {name}:FOLDER")
    if path.suffix or len(path.parts) > 1:
        raise SertuneError(f"{spec}: no such file or folder")
    raise unknown("corpus", spec, names())


def _is_table(spec: str) -> bool:
    path = Path(spec).expanduser()
    name, colon, _ = spec.partition(":")
    named = bool(colon) and name in names()  # hf:FILE.parquet is not a table of ours
    return path.is_file() or (path.suffix.lower() in TABLES and not named)


def _has_columns(spec: str) -> bool:
    """Whether ``--columns`` says anything about this data: a table or a format, no corpus."""
    name, colon, _ = spec.partition(":")
    return _is_table(spec) or bool(colon and name in names() and corpus(name).INFO.kind == "format")


def _synthetic_folder() -> Path:
    """The synthetic corpus of this version in the user's cache folder, made at its first use."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "sertune" / f"synthetic-{__version__}"
    if not folder.is_dir():
        from sertune.data.synthetic import write_corpus

        try:
            write_corpus(folder)
        except (OSError, SertuneError) as error:
            if not folder.is_dir():  # else another process was quicker, and both write the same
                raise SertuneError(f"can't write the synthetic corpus to {folder}: {error}") from error
    return folder


def read_all(specs: Sequence[str], columns: Mapping[str, str] | None = None, *, strict: bool = True) -> "Manifest":
    """Read several ``--data`` and put them together (`sertune.data.manifest.concat`).

    Where two corpora have readers of their own and name speakers alike, they are other people: the corpus's
    name goes in front (``emodb/03``); raters likewise. Tables may be parts of one corpus: their speakers keep their
    names. Dimensions are converted to the scale of the first that has them.
    """
    from sertune.data.label_map import to_one_scale
    from sertune.data.manifest import concat

    if not specs:
        raise SertuneError("no data given: name a corpus or a table, e.g. --data emodb:FOLDER")
    check_columns(specs, columns)
    manifests, _ = to_one_scale([read_data(spec, columns, strict=strict) for spec in specs])
    return concat(keep_apart(manifests))


def check_columns(specs: Sequence[str], columns: Mapping[str, str] | None) -> None:
    """Raises `SertuneError` where columns are named and no table is."""
    if columns and not any(_has_columns(spec) for spec in specs):
        raise SertuneError(
            f"--columns.{next(iter(columns))}: names a column of a table, but no table is among the data"
        )


def columns_for(specs: Sequence[str], columns: dict[str, str]) -> dict[str, str]:
    """The named columns where a table is among the data, which alone has them; none elsewhere."""
    try:
        check_columns(specs, columns)
    except SertuneError:
        return {}
    return columns


def keep_apart(manifests: "Sequence[Manifest]") -> "list[Manifest]":
    """The manifests, for `concat`: speakers and raters told apart where two corpora share a name of theirs."""
    speakers: dict[str, set[str]] = {}
    raters: dict[str, set[str]] = {}
    for m in manifests:
        if m.name in names():
            speakers.setdefault(m.name, set()).update(m.utterances["speaker"].dropna())
            raters.setdefault(m.name, set()).update(m.ratings["rater"] if m.ratings is not None else ())
    clash = _share_a_name(speakers.values()), _share_a_name(raters.values())
    return [_prefixed(m, *clash) if m.name in speakers else m for m in manifests]


def _share_a_name(groups: Iterable[set[str]]) -> bool:
    every = [name for group in groups for name in group]
    return len(every) > len(set(every))


def _prefixed(manifest: "Manifest", speakers: bool, raters: bool) -> "Manifest":
    """The corpus's name before its speakers and raters."""
    if speakers:
        frame = manifest.utterances
        named = frame.assign(speaker=(manifest.name + "/" + frame["speaker"]).astype(object))
        manifest = replace(manifest, utterances=named)
    if raters and manifest.ratings is not None:
        rated = manifest.ratings
        named = rated.assign(rater=(manifest.name + "/" + rated["rater"]).astype(object))
        manifest = replace(manifest, ratings=named)
    return manifest
