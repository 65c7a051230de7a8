"""The run folder: what is in it, whether a run may go on in it, and writing without ever losing what was there."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sertune.config import TRAIN, Settings, dump_yaml, load_yaml, to_dict
from sertune.errors import SertuneError
from sertune.files import check_writable, replacing

IGNORED = ("out",)
"""Settings that may differ when a run goes on."""


def open_run(config: Any, *, overwrite: bool = False, of: Settings[Any] = TRAIN) -> Path:
    """The run folder, if this configuration may run in it. Nothing is written.

    An unfinished run of the same configuration goes on; everything else that is already there is an error.

    Args:
        config: of the run, with its folder as ``out``.
        overwrite: a run that is there will be replaced.
        of: what kind of settings these are.

    Raises:
        SertuneError: no folder named, a finished run, a run with other settings, or a folder of something else.
    """
    if not config.out:
        raise SertuneError("no run folder: say where the run goes with --out RUN")
    run = Path(config.out)
    if run.is_file():
        raise SertuneError(f"{run}: is a file; expected a new folder for the run")
    check_writable(run)
    if not run.exists() or {entry.name for entry in run.iterdir()} <= {"config.yaml.part"}:  # killed while starting
        return run
    if not (run / "config.yaml").is_file():
        raise SertuneError(f"{run}: the folder holds something else than a run; choose another --out")
    if overwrite:
        return run
    if (run / "report.json").is_file():
        raise SertuneError(f"{run}: holds a finished run; choose another --out, or --overwrite to replace it")
    before, now = _flat(to_dict(_stored(run / "config.yaml", of))), _flat(to_dict(config))
    for key, value in now.items():
        if key not in IGNORED and before.get(key) != value:
            raise SertuneError(
                f"{run}: holds an unfinished run with {key} = {before.get(key)!r}, not {value!r}; "
                "give the same settings to go on, choose another --out, or --overwrite to replace it"
            )
    return run


def _stored(file: Path, of: Settings[Any]) -> Any:
    values = load_yaml(file)
    try:
        return of.from_dict(values)
    except SertuneError as error:
        raise SertuneError(f"{file}: {error}; choose another --out, or --overwrite to replace the run") from None


def start_run(run: Path, config: Any, *, overwrite: bool = False, made: Sequence[str] = ("folds", "model")) -> None:
    """Makes the folder and writes its configuration, unless the run is going on.

    Args:
        run: its folder.
        config: of the run.
        overwrite: remove what an earlier run left.
        made: what it makes beside what every run has.
    """
    if overwrite and run.exists():
        _clear(run, made)
    run.mkdir(parents=True, exist_ok=True)
    if not (run / "config.yaml").is_file():
        write_text(run / "config.yaml", dump_yaml(config))


def _clear(run: Path, made: Sequence[str]) -> None:
    """Removes the files of a run, and nothing that it did not write."""
    import shutil

    for name in ("config.yaml", "report.json", "report.html", "predictions.parquet", "log.jsonl"):
        (run / name).unlink(missing_ok=True)
    for name in made:
        if (run / name).is_file():
            (run / name).unlink()
        shutil.rmtree(run / name, ignore_errors=True)


def fold_folder(run: Path, index: int, name: str) -> Path:
    """Folder of one fold; its name keeps what is safe of the fold's."""
    return run / "folds" / f"{index + 1:02d}-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:40]}"


def write_text(file: Path, text: str) -> None:
    """Writes a file, all of it or nothing."""
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8")


def write_json(file: Path, values: Any) -> None:
    """Writes JSON; NaN and infinities become null."""
    write_text(file, json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False))


def _plain(values: Any) -> Any:
    if isinstance(values, dict):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_plain(value) for value in values]
    if hasattr(values, "item"):
        values = values.item()
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key != "columns":
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
