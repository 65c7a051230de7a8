"""Several methods on the same data, splits and seeds: each method and seed is an ordinary run in a folder of its own.

Every run has a process of its own, so that its peak memory is its own. On Linux a process inherits the peak of the one
that started it, so nothing heavy is imported here.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sertune.config import METHODS, RunConfig, dump_yaml, from_dict, load_yaml, to_dict, validate
from sertune.errors import SertuneError, unknown
from sertune.files import check_writable
from sertune.progress import progress, say
from sertune.train.folder import write_text

DEFAULT_METHODS = ("frozen", "partial", "lora", "full")

SUFFIXES: dict[str, tuple[str, Any]] = {
    "cached": ("states", True),
    "live": ("states", False),
    "fp32": ("precision", "fp32"),
    "bf16": ("precision", "bf16"),
    "fp16": ("precision", "fp16"),
}
"""What may follow a method after @: the setting and its value."""

FREE = ("out", "seed", "method.name", "method.layers")
"""Settings of the base that may differ when a comparison goes on: the methods and seeds are named on their own."""

CHILD = """\
import os, threading
threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
from sertune.cli import entry
entry()
"""
"""`sertune`, but it ends when its standard input does: when who started it was killed, and would start it anew."""

STOPPED = "sertune: "
"""What the line of a run that failed begins with."""


@dataclass(frozen=True)
class Variant:
    """A method of a comparison.

    Attributes:
        label: as it is shown and as its folder is called: ``partial-2@cached@bf16``.
        config: the base settings with this method's.
    """

    label: str
    config: RunConfig


@dataclass(frozen=True)
class Failure:
    """A run that failed, and why in one line; ``seed`` is its seed."""

    label: str
    seed: int
    error: str


@dataclass(frozen=True)
class Comparison:
    """What is compared, and where.

    Attributes:
        folder: holds ``compare.yaml`` and ``runs/LABEL/seed-N``.
        base: settings that all share.
        variants: the methods, in order.
        seeds: the seeds of each.
    """

    folder: Path
    base: RunConfig
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]

    def run_folder(self, label: str, seed: int) -> Path:
        """The folder of one run."""
        return self.folder / "runs" / label / f"seed-{seed}"


@dataclass(frozen=True)
class _Record:
    """``compare.yaml``."""

    methods: list[str]
    seeds: list[int]
    settings: RunConfig


def read_variant(spec: str, base: RunConfig) -> Variant:
    """A method as the command line names it: ``NAME[-LAYERS|-all]`` and suffixes after ``@``.

    Args:
        spec: such as ``frozen``, ``lora+prompt-all``, ``partial-2@cached@bf16``.
        base: settings of everything that the spec does not say.

    Raises:
        SertuneError: an unknown method or suffix (with the nearest one), or layers that make no sense.
    """
    head, *suffixes = spec.split("@")
    found = re.fullmatch(r"(.*?)(?:-(all|\d+))?", head)
    name, layers = (found[1], found[2]) if found else (head, None)
    for part in name.split("+"):
        if part not in METHODS:
            raise unknown(f"method in --methods {spec}:", part, METHODS)
    if layers and name in ("frozen", "full"):
        raise SertuneError(f"--methods {spec}: {name} takes no number of layers; write {name}")
    depth = base.method.layers if layers is None else "all" if layers == "all" else int(layers)
    method = replace(base.method, name=name, layers=depth)
    options: dict[str, Any] = {}
    for suffix in suffixes:
        if suffix not in SUFFIXES:
            raise unknown(f"suffix in --methods {spec}:", suffix, SUFFIXES)
        key, value = SUFFIXES[suffix]
        if key in options:
            raise SertuneError(f"--methods {spec}: {suffix} and what stands before it exclude each other")
        options[key] = value
    config = replace(
        base,
        method=method,
        precision=options.get("precision", base.precision),
        cache=replace(base.cache, states=options.get("states", base.cache.states)),
    )
    try:
        validate(config)
    except SertuneError as error:
        raise SertuneError(f"--methods {spec}: {error}") from None
    ordered = [suffix for suffix in SUFFIXES if suffix in suffixes]
    return Variant("@".join([method.label, *ordered]), config)


def open_comparison(base: RunConfig, methods: Iterable[str] = (), seeds: Iterable[int] = ()) -> Comparison:
    """The comparison that a command asks for, if its folder is new or holds the same one. Writes ``compare.yaml``.

    Methods and seeds may differ from those of an earlier command in the same folder: the runs that are there are kept,
    and those that this command does not name are left alone.

    Args:
        base: what all runs share; its ``out`` is the folder, its method's options hold for every method.
        methods: see :func:`read_variant`; none: `DEFAULT_METHODS`.
        seeds: none: that of ``base``.

    Raises:
        SertuneError: no folder, a folder with something else or other settings, or a method that makes no sense.
    """
    variants = {v.label: v for v in (read_variant(spec, base) for spec in [*methods] or DEFAULT_METHODS)}
    numbers = tuple(dict.fromkeys(seeds)) or (base.seed,)
    if not base.out:
        raise SertuneError("no folder: say where the comparison goes with --out DIR")
    comparison = Comparison(Path(base.out), base, tuple(variants.values()), numbers)
    check_set(comparison.folder, "compare.yaml", "comparison", comparison.base, FREE)
    comparison.folder.mkdir(parents=True, exist_ok=True)
    record: Any = _Record([*variants], [*numbers], base)
    write_text(comparison.folder / "compare.yaml", dump_yaml(record))
    return comparison


def check_set(
    folder: Path, name: str, what: str, base: RunConfig, free: Sequence[str], extra: Mapping[str, Any] | None = None
) -> None:
    """Raises `SertuneError` unless a folder is new, or holds a set of runs with the same settings.

    Args:
        folder: of the set.
        name: of the YAML file in it that says what is there.
        what: the set in a word, e.g. "comparison".
        base: settings that all runs share.
        free: keys that may differ.
        extra: other entries of the file that must be the same.
    """
    file = folder / name
    if folder.is_file():
        raise SertuneError(f"{folder}: is a file; expected a new folder for the {what}")
    check_writable(folder)
    if not folder.exists() or {entry.name for entry in folder.iterdir()} <= {f"{name}.part"}:
        return
    if not file.is_file():
        raise SertuneError(f"{folder}: the folder holds something else than a {what}; choose another --out")
    record = load_yaml(file)
    different = difference(stored_settings(file, record.get("settings")), base, free)
    others = [(key, record.get(key), value) for key, value in (extra or {}).items() if record.get(key) != value]
    if found := different or next(iter(others), None):
        key, old, new = found
        raise SertuneError(
            f"{folder}: holds a {what} with {key} = {old!r}, not {new!r}; "
            "give the same settings to go on, or choose another --out"
        )


def stored_settings(file: Path, settings: Any) -> RunConfig:
    """Settings that a file of the folder holds; they need not be of this version of sertune."""
    if not isinstance(settings, dict):
        raise SertuneError(f"{file}: no settings in it; choose another --out")
    try:
        return from_dict(settings)
    except SertuneError as error:
        raise SertuneError(f"{file}: {error}; choose another --out") from None


def difference(one: RunConfig, other: RunConfig, free: Sequence[str] = ()) -> tuple[str, Any, Any] | None:
    """The first setting in which two configurations differ, with both values; None if there is none but ``free``."""

    def first(a: dict[str, Any], b: dict[str, Any], prefix: str) -> tuple[str, Any, Any] | None:
        for key, value in a.items():
            if isinstance(value, dict) and isinstance(b[key], dict) and key != "columns":
                found = first(value, b[key], f"{prefix}{key}.")
                if found:
                    return found
            elif prefix + key not in free and value != b[key]:
                return prefix + key, value, b[key]
        return None

    return first(to_dict(one), to_dict(other), "")


def same_settings(comparison: Comparison) -> list[str]:
    """A warning for every two methods that are the same but for their name."""
    said = []
    for i, one in enumerate(comparison.variants):
        for other in comparison.variants[i + 1 :]:
            if not difference(one.config, other.config):
                said.append(
                    f"{one.label} and {other.label} have the same settings, as --cache.states and --precision are; "
                    "name one of them @live, say, to tell them apart"
                )
    return said


def run_all(comparison: Comparison, run_one: Callable[[RunConfig], None] | None = None) -> list[Failure]:
    """Makes every run that is not finished; seed by seed, so that all methods are there early.

    A run that fails does not stop the others, but the other seeds of its method are left out. The frozen baseline,
    where the base asks for it, is scored in one run of each seed.

    Args:
        comparison: what to run.
        run_one: makes one run; by default `run_in_child`.

    Returns:
        The runs that failed.

    Raises:
        SertuneError: two methods fail with the same words, as where the data can't be read; or a run folder holds
            another run.
    """
    run_one = run_one or run_in_child
    planned = [(variant, seed) for seed in comparison.seeds for variant in comparison.variants]
    failures: list[Failure] = []
    with progress("Comparing", len(planned)) as advance:
        for number, (variant, seed) in enumerate(planned, start=1):
            known = next((failure for failure in failures if failure.label == variant.label), None)
            config = None if known else _still_to_run(comparison, variant, seed)
            if config is not None:
                say(f"Run {number} of {len(planned)}: {variant.label}, seed {seed}")
                try:
                    run_one(config)
                except SertuneError as error:
                    if any(str(error) == failure.error for failure in failures):
                        raise
                    failures.append(Failure(variant.label, seed, str(error)))
                    say(f"  failed: {error}")
            advance(1)
    return failures


def _still_to_run(comparison: Comparison, variant: Variant, seed: int) -> RunConfig | None:
    """The configuration of a run; None if it is finished.

    Raises:
        SertuneError: the folder holds a run with other settings.
    """
    run = comparison.run_folder(variant.label, seed)
    config = replace(variant.config, seed=seed, out=str(run))
    if (run / "config.yaml").is_file():
        before = stored_settings(run / "config.yaml", load_yaml(run / "config.yaml"))
        different = difference(before, config, ("out", "baseline"))
        if different:
            key, old, new = different
            raise SertuneError(f"{run}: holds a run with {key} = {old!r}, not {new!r}; move it away to run it again")
        return None if (run / "report.json").is_file() else replace(config, baseline=before.baseline)
    return replace(config, baseline=config.baseline and not _has_baseline(comparison.folder, seed))


def _has_baseline(folder: Path, seed: int) -> bool:
    """Whether a run of this seed scores the frozen baseline."""
    files = sorted(folder.glob(f"runs/*/seed-{seed}/config.yaml"))
    return any(bool(load_yaml(file).get("baseline")) for file in files)


def run_in_child(config: RunConfig) -> None:
    """`sertune train` in a process of its own; what it says is passed on.

    Raises:
        SertuneError: the run failed, with the line that it ended with.
    """
    with tempfile.TemporaryDirectory(prefix="sertune-") as work:
        file = Path(work) / "config.yaml"
        file.write_text(dump_yaml(config), encoding="utf-8")
        command = [sys.executable, "-P", "-c", CHILD, "train", "--config", str(file)]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
        ) as child:
            try:
                error = _follow(child)
            except BaseException:
                _end(child)
                raise
    if child.returncode:
        raise SertuneError(error or _how_it_ended(child.returncode))


def _follow(child: "subprocess.Popen[str]") -> str:
    """Passes on what a run says until it ends; the line of its error, if there was one."""
    error = ""
    for line in child.stderr or ():
        if line.startswith(STOPPED):
            error = line.removeprefix(STOPPED).strip()
        else:
            say(f"  {line.rstrip()}")
    child.wait()
    return error


def _end(child: "subprocess.Popen[str]") -> None:
    """Ends a run whose comparison was stopped. A terminal has told it already; its files are whole at any moment."""
    try:
        child.wait(timeout=2)
    except subprocess.TimeoutExpired:
        child.terminate()
        child.wait()


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"its process was ended by signal {-status}; where that was for want of memory, take smaller batches"
    return f"its process ended with status {status}; what it said stands above"
