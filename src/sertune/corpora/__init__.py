"""Corpora: one file each, with ``INFO``, ``read(root)`` and ``example(root)``.

Nothing heavy is imported until a corpus is read. A new corpus is a new file in this package.
"""

import os
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sertune import __version__
from sertune.corpora.info import CorpusInfo
from sertune.errors import SertuneError, unknown

if TYPE_CHECKING:
    from sertune.data.manifest import Manifest

__all__ = ["CorpusInfo", "corpus", "list_corpora", "names", "read_all", "read_data"]

_NOT_CORPORA: Final = ("info", "layout", "table")
_TABLES: Final = (".csv", ".tsv", ".txt", ".parquet")


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


def read_data(spec: str, columns: Mapping[str, str] | None = None, *, strict: bool = True) -> "Manifest":
    """Read what ``--data`` names.

    Args:
        spec: ``emodb:FOLDER`` (a corpus in its own layout), ``table.csv``, ``.tsv`` or ``.parquet``, the
            folder of a saved manifest, or ``synthetic`` (made in the user's cache folder at its first use).
        columns: for tables: canonical column name -> column in the table.
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
        manifest: Manifest = reader.read(Path(folder).expanduser())
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
    return path.is_file() or path.suffix.lower() in _TABLES


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
    name goes in front (``emodb/03``). Tables may be parts of one corpus: their speakers keep their names.
    """
    from sertune.data.manifest import concat

    if not specs:
        raise SertuneError("no data given: name a corpus or a table, e.g. --data emodb:FOLDER")
    if columns and not any(_is_table(spec) for spec in specs):
        raise SertuneError(
            f"--columns.{next(iter(columns))}: names a column of a table, but no table is among the data"
        )
    return concat(_apart([read_data(spec, columns, strict=strict) for spec in specs]))


def _apart(manifests: "Sequence[Manifest]") -> "list[Manifest]":
    """The manifests, speakers of corpora told apart where two corpora share a name."""
    speakers: dict[str, set[str]] = {}
    for m in manifests:
        if m.name in names():
            speakers.setdefault(m.name, set()).update(m.utterances["speaker"].dropna())
    union = [speaker for group in speakers.values() for speaker in group]
    if len(union) == len(set(union)):
        return list(manifests)
    return [
        replace(m, utterances=m.utterances.assign(speaker=(m.name + "/" + m.utterances["speaker"]).astype(object)))
        if m.name in speakers
        else m
        for m in manifests
    ]
