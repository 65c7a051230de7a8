"""What is known of the corpora, as a table, one by one, and as data."""

import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from sertune.corpora import CorpusInfo, corpus
from sertune.corpora.fetch import DOWNLOADS, way

WIDTH: Final = 100
"""Columns that the table needs at most."""


def table(known: Sequence[CorpusInfo]) -> str:
    """All corpora, one below the other, then the formats."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    corpora = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for title in ("corpus", "lang."):
        corpora.add_column(title, no_wrap=True)
    for title in ("hours", "spk.", "raters"):
        corpora.add_column(title, justify="right", no_wrap=True)
    for title, width in (("labels", 15), ("licence", 14), ("protocols", 18), ("get by", 7)):
        corpora.add_column(title, overflow="fold", width=width)
    formats = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for title in ("format", "what", "expected"):
        formats.add_column(title, overflow="fold")
    for info in known:
        if info.kind == "format":
            formats.add_row(info.name, info.title, info.layout)
            continue
        corpora.add_row(
            info.name,
            info.language,
            f"{info.hours:g}",
            str(info.speakers),
            str(info.raters) if info.raters else "-",
            " ".join(label[:3] for label in info.labels),
            info.licence,
            "\n".join(protocol.name for protocol in _protocols(info.name)) or "-",
            _way(info),
        )
    formats.add_row(
        "(table)", "a CSV, TSV or Parquet table of yours: --data FILE", "columns file and label, and others"
    )
    text = io.StringIO()
    console = Console(file=text, width=WIDTH, highlight=False)
    console.print(corpora, formats)
    lines = "\n".join(line.rstrip() for line in text.getvalue().splitlines())
    return (
        f"{lines}\n"
        "Labels by their first three letters; aro, val, dom: arousal, valence, dominance.\n"
        "Raters: of how many people single ratings are published (or how many rate a clip).\n"
        "sertune corpora NAME tells all of one, sertune fetch NAME fetches it, --data NAME:FOLDER reads it."
    )


def about(name: str) -> str:
    """Everything about one corpus, in lines.

    Raises:
        SertuneError: there is no corpus of this name.
    """
    info: CorpusInfo = corpus(name).INFO
    if info.kind == "format":
        rows = {"licence": info.licence, "from": info.where, "expected": info.layout}
        return _lines(f"{info.name}: {info.title}", {**rows, "read": f"--data {info.name}:..."})
    hours = f"{info.hours:g} h"
    rows = {
        "language": info.language,
        "size": f"{hours}, {info.speakers} speakers, {info.kind}",
        "labels": ", ".join(info.labels),
        "raters": f"{info.raters}: {info.ratings}" if info.raters else info.ratings or "no single ratings",
        "licence": info.licence,
        "from": info.where,
        "layout": f"FOLDER has {info.layout}",
        "get": f"sertune fetch {name}" if name in DOWNLOADS else way(info),
        "read": f"--data {name}:FOLDER",
    }
    for i, protocol in enumerate(_protocols(name)):
        under = f", under --label-map {protocol.label_map}" if protocol.label_map else ""
        rows[f"protocol {i + 1}"] = f"--split {protocol.name}{under}: {protocol.text} ({protocol.source})"
    return _lines(f"{info.name}: {info.title}", rows)


def as_data(info: CorpusInfo) -> dict[str, Any]:
    """Everything about one corpus, ready for JSON."""
    protocols = [
        {"name": p.name, "source": p.source, "text": p.text, "label_map": p.label_map} for p in _protocols(info.name)
    ]
    downloads = [asdict(download) for download in DOWNLOADS.get(info.name, ())]
    return {**asdict(info), "protocols": protocols, "downloads": downloads, "get": _way(info)}


def _lines(title: str, rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join([title, *(f"  {key:<{width}}  {value}" for key, value in rows.items())])


def _way(info: CorpusInfo) -> str:
    if info.name in DOWNLOADS:
        return "fetch"
    return "made" if info.kind == "synthetic" else "request" if info.request else "by hand"


def _protocols(name: str) -> tuple[Any, ...]:
    protocols: tuple[Any, ...] = getattr(corpus(name), "PROTOCOLS", ())
    return protocols
