"""Seconds per epoch, memory and disk of every method, precision and cache, against full fine-tuning in fp32.

The encoder has wav2vec2-base's configuration with random weights (94 M parameters): this says nothing of accuracy. The
baseline is the obvious loop: the plain transformers model, padded batches in random order, AdamW, every parameter
trains. Each row runs in a process of its own, so that its peak memory is its own; all within one run, on one machine.

    python benchmarks/methods.py --data emodb:FOLDER --batch 8 16 32 --json rows.json
    python benchmarks/methods.py --clips 64 --rows 'transformers/*' 'sertune/partial-3/*'

Without --data the clips are noise of the lengths of `emodb-4class`; then torch, transformers, accelerate, safetensors
and numpy are all that has to be installed. On a GPU it also finds what fits in 8, 16 and 24 GB.
"""

import argparse
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

if importlib.util.find_spec("sertune") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

OURS = ("frozen", "partial-3", "lora-3", "adapter-3", "prompt-3", "bias-3", "full")
BASELINE = "transformers/full/fp32"
BUCKETED = "transformers/full/fp32/bucketed"
CARDS = (8, 16, 24)
"""Sizes of small cards in GB."""
CONTEXT_GB = 0.7
"""Of a card, what CUDA itself takes."""
FITS = (BASELINE, "transformers/full/bf16", "sertune/partial-3/bf16/cached", "sertune/lora-3/bf16/cached")
MOST_CLIPS = 1024
SLOW = 20.0
"""Seconds: a first epoch that takes longer is the measurement, otherwise it only warms up."""
RATE, CLASSES, RANK = 16000, 4, 16
LIBRARIES = ("pandas", "soundfile", "soxr")
"""What sertune reads data with, and its training does not need."""
SHARES = [*(i / 20 for i in range(19)), 0.925, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 1.0]
SECONDS = [
    1.43,
    1.62,
    1.73,
    1.81,
    1.93,
    2.04,
    2.14,
    2.22,
    2.36,
    2.45,
    2.59,
    2.68,
    2.83,
    2.98,
    3.17,
    3.32,
    3.55,
    3.75,
    3.93,
    4.08,
    5.04,
    5.32,
    5.49,
    5.92,
    5.99,
    6.55,
    7.06,
    8.98,
]
"""The lengths at these shares of the 339 clips of EmoDB's anger, happiness, neutral and sadness."""
COLUMNS = (
    "| method | by | precision | cache | s per epoch | ratio | speed-up | to buckets | 10 epochs with build (s) "
    "| speed-up of these | peak memory (MiB) | trainable | cache (MiB) | build (s) |\n" + "|---" * 14 + "|"
)


@dataclass(frozen=True)
class Row:
    """What is measured, named by its fields: ``sertune/lora-3/bf16/cached``."""

    by: str
    method: str
    precision: str
    cached: bool = False
    bucketed: bool = False

    @property
    def name(self) -> str:
        last = "bucketed" if self.bucketed else "cached" if self.cached else "live"
        return "/".join([self.by, self.method, self.precision, *([last] if last == "bucketed" or self.ours else [])])

    @property
    def ours(self) -> bool:
        return self.by == "sertune"


def all_rows(gpu: bool) -> list[Row]:
    """The baseline first; of a frozen encoder nothing but pooled vectors is ever kept, so it has no live row."""
    rows = [
        Row("transformers", "full", "fp32"),
        Row("transformers", "full", "fp32", bucketed=True),
        Row("transformers", "full", "bf16"),
        Row("transformers", "full-layers", "fp32"),
        Row("peft", "lora-all", "fp32"),
        Row("peft", "lora-all", "bf16"),
    ]
    precisions = ("fp32", "bf16", "fp16") if gpu else ("fp32", "bf16")
    for method in OURS:
        for precision in precisions:
            live = [] if method == "frozen" else [Row("sertune", method, precision)]
            rows += [*live, Row("sertune", method, precision, cached=True)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="as for sertune train; without it noise of EmoDB's lengths")
    parser.add_argument("--clips", type=int, default=0, help="how many, evenly over the lengths; 0: all")
    parser.add_argument("--batch", type=int, nargs="+", default=[16], help="clips per batch, one table each")
    parser.add_argument(
        "--rows", nargs="+", default=["*"], help="names or patterns, see --list; the baseline always is"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the rows and stop")
    parser.add_argument("--epochs", type=int, default=2, help="measured after one that warms up; the median counts")
    parser.add_argument("--steps", type=int, default=0, help="first batches of an epoch alone, scaled up by seconds")
    parser.add_argument("--tiny", action="store_true", help="a tiny encoder, to try this script")
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(JOBS[json.loads(options.job)["kind"]](json.loads(options.job))))
        return
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(run_all(options, folder))


def run_all(options: argparse.Namespace, folder: str) -> int:
    """All rows for every batch size; 1 if one failed."""
    shared = {"encoder": folder, "data": options.data, "clips": options.clips, "tiny": options.tiny}
    machine = in_process({**shared, "kind": "prepare"})
    if machine is None:
        return 1
    wanted = [row for row in all_rows(machine["gpu_gb"] > 0) if chosen(row, options.rows)]
    if options.list:
        print("\n".join(row.name for row in wanted))
        return 0
    lines, failed = [], False
    for batch in options.batch:
        rows = []
        for row in wanted:
            if row.by == "peft" and not machine["peft"]:
                print(f"{row.name}: left out, peft is not installed", file=sys.stderr)
                continue
            limits = {"batch": batch, "epochs": options.epochs, "steps": options.steps}
            measured = in_process({**shared, **limits, "kind": "row", "row": asdict(row)}, row.name)
            failed |= measured is None
            rows += [measured] if measured else []
        compare(rows)
        show(rows, batch, machine, options)
        lines += rows
    if options.json:
        Path(options.json).write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    if machine["gpu_gb"]:
        fits = [fitting(shared, name, card) for name in FITS if chosen(named(name), options.rows) for card in CARDS]
        show_fits(fits)
        if options.json and fits:
            Path(options.json).with_suffix(".fits.json").write_text(json.dumps(fits, indent=1) + "\n", encoding="utf-8")
    return int(failed)


def chosen(row: Row, patterns: list[str]) -> bool:
    return row.name == BASELINE or any(fnmatch(row.name, pattern) for pattern in patterns)


def named(name: str) -> Row:
    return next(row for row in all_rows(gpu=True) if row.name == name)


def in_process(job: dict[str, Any], title: str = "") -> dict[str, Any] | None:
    """What a job gives, run in its own process; None, after a line that says why, if it failed."""
    if title:
        print(f"{title} ...", file=sys.stderr, flush=True)
    # this process stays small: a child's peak memory is never below that of the process that starts it
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{title or job['kind']} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(rows: list[dict[str, Any]]) -> None:
    """Adds speed-ups against the baseline, in random order and on length buckets."""
    times = {row["name"]: row["seconds_per_epoch"] for row in rows}
    for row in rows:
        for key, base in (("speedup", BASELINE), ("speedup_bucketed", BUCKETED)):
            row[key] = round(times[base] / row["seconds_per_epoch"], 2) if base in times else None
        row["speedup_10_epochs"] = (
            round(10 * times[BASELINE] / row["total_10_epochs"], 2) if BASELINE in times else None
        )


def show(rows: list[dict[str, Any]], batch: int, machine: dict[str, Any], options: argparse.Namespace) -> None:
    """One table, with the machine and what was trained on."""
    if not rows:
        return
    steps = f"; {options.steps} steps per epoch, scaled up" if options.steps else ""
    source = options.data or "noise of EmoDB's lengths"
    print(f"\n{rows[0]['clips']} clips, {rows[0]['audio_seconds']:.0f} s ({source}), {batch} per batch{steps}")
    print(f"{machine['name']}; torch {machine['torch']}, transformers {machine['transformers']}\n\n{COLUMNS}")
    for row in rows:
        kept = f"{row['cache_mib']:.0f}" if row["cache"] else "-"
        ratio = f"{1 / row['speedup']:.3f}" if row["speedup"] else "-"
        print(
            f"| {row['method']}{', buckets' if row['bucketed'] else ''} | {row['implementation']} | {row['precision']} "
            f"| {'yes' if row['cache'] else 'no'} | {row['seconds_per_epoch']:.3g} | {ratio} "
            f"| {shown(row['speedup'])} | {shown(row['speedup_bucketed'])} | {row['total_10_epochs']:.3g} "
            f"| {shown(row['speedup_10_epochs'])} | {row['peak_memory_mib']:,} | {row['trainable_parameters']:,} "
            f"| {kept} | {row['build_seconds']:.3g} |"
        )


def shown(factor: float | None) -> str:
    return "-" if factor is None else f"{factor:.1f}"


def fitting(shared: dict[str, Any], name: str, card: int) -> dict[str, Any]:
    """The largest batch that trains on a card of so many GB."""
    found = in_process({**shared, "kind": "fit", "row": asdict(named(name)), "card": card}, f"{name} in {card} GB")
    return {"name": name, "card_gb": card, "batch_clips": found["batch_clips"] if found else None}


def show_fits(fits: list[dict[str, Any]]) -> None:
    """The largest batches, doubled until memory ran out, of the longest clips."""
    if not fits:
        return
    print(f"\nLargest batch of the longest clips (doubled, up to {MOST_CLIPS}), {CONTEXT_GB:g} GB left to CUDA\n")
    print("| | " + " | ".join(f"{card} GB" for card in CARDS) + " |\n" + "|---" * (len(CARDS) + 1) + "|")
    for name in dict.fromkeys(fit["name"] for fit in fits):
        print(f"| {name} | " + " | ".join(str(fit["batch_clips"]) for fit in fits if fit["name"] == name) + " |")


# -- jobs, each in its own process -----------------------------------------------------------------------------


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Writes the encoder, and says what the machine is."""
    import torch
    import transformers
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    # the dropouts of the published checkpoint, which differ from the class's defaults
    settings: dict[str, Any] = {"layerdrop": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.1}
    if job["tiny"]:
        settings |= {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
        settings |= {"conv_dim": (16,) * 3, "conv_stride": (5, 8, 8), "conv_kernel": (10, 8, 8)}
        settings |= {"num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    Wav2Vec2Model(Wav2Vec2Config(**settings)).save_pretrained(job["encoder"])
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(job["encoder"])
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    cores = f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return {
        "name": f"{gpu.name}, {cores}" if gpu else cores,
        "gpu_gb": gpu.total_memory / 1e9 if gpu else 0.0,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": importlib.util.find_spec("peft") is not None,
    }


def measure_row(job: dict[str, Any]) -> dict[str, Any]:
    """One row: the median of the epochs after the first, which only warms up unless it is slow."""
    row, clips = Row(**job["row"]), load_clips(job)
    with training(row, clips, job) as run:
        epochs = [run.epoch(0)]
        if epochs[0] < SLOW:
            epochs = [run.epoch(number) for number in range(1, job["epochs"] + 1)]
        seconds = statistics.median(epochs)
        return {
            "name": row.name,
            "method": row.method,
            "precision": row.precision,
            "cache": row.cached,
            "seconds_per_epoch": round(seconds, 4),
            "speedup": None,
            "peak_memory_mib": round(peak_memory_mib()),
            "trainable_parameters": run.trainable,
            "implementation": row.by,
            "bucketed": row.bucketed,
            "batch_clips": job["batch"],
            "clips": len(clips),
            "audio_seconds": round(sum(map(len, clips)) / RATE, 1),
            "epochs": [round(value, 4) for value in epochs],
            "cache_mib": round(run.cache_mib, 3),
            "build_seconds": round(run.build_seconds, 3),
            "total_10_epochs": round(run.build_seconds + 10 * seconds, 3),
        }


def fit_card(job: dict[str, Any]) -> dict[str, Any]:
    """The largest batch, doubled until memory runs out, of the longest clips, on a card of some size."""
    import numpy as np
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (job["card"] - CONTEXT_GB) * 1e9 / total))
    row, clips = Row(**job["row"]), load_clips(job)
    longest = np.argsort([-len(clip) for clip in clips], kind="stable")
    best, batch = 0, 1
    try:
        with training(row, clips, {**job, "batch": 1, "epochs": 1, "steps": 0}) as run:
            while batch <= MOST_CLIPS:
                run.step(np.resize(longest, batch))
                best, batch = batch, 2 * batch
    except torch.OutOfMemoryError:
        pass
    return {"batch_clips": best}


JOBS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "prepare": prepare,
    "row": measure_row,
    "fit": fit_card,
}


def load_clips(job: dict[str, Any]) -> list[Any]:
    """Samples of the clips: those of a corpus, or noise of EmoDB's lengths."""
    import numpy as np

    if not job["data"]:
        lengths = np.interp(np.linspace(0, 1, job["clips"] or 339), SHARES, SECONDS)
        rng = np.random.default_rng(0)
        return [0.1 * rng.standard_normal(round(RATE * seconds), dtype=np.float32) for seconds in lengths]
    from sertune.corpora import read_all
    from sertune.data.audio import read_audio

    manifest = read_all([job["data"]], {})
    if job["clips"] and job["clips"] < len(manifest):
        order = np.argsort(manifest.utterances["duration"].to_numpy(), kind="stable")
        even = np.linspace(0, len(order) - 1, job["clips"]).round().astype(int)
        manifest = manifest.select(np.sort(order[even]))
    frame = manifest.utterances
    columns = (frame[name].tolist() for name in ("file", "start", "end"))
    return [read_audio(file, RATE, start, end, 15.0) for file, start, end in zip(*columns, strict=True)]


def peak_memory_mib() -> float:
    """Of the GPU if there is one, else of this process."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass
class Training:
    """Something that trains.

    Attributes:
        step: one update on the clips of some positions.
        epoch: seconds that an epoch of a number takes.
        trainable: parameters that train.
        cache_mib: kept states on disk.
        build_seconds: what is computed once before the first epoch.
    """

    step: Callable[[Any], Any]
    epoch: Callable[[int], float]
    trainable: int
    cache_mib: float = 0.0
    build_seconds: float = 0.0


def training(row: Row, clips: list[Any], job: dict[str, Any]) -> AbstractContextManager[Training]:
    """A row, ready to train."""
    return ours(row, clips, job) if row.ours else plain(row, clips, job)


def scaled(seconds: float, positions: Any, lengths: Any) -> float:
    """Seconds for the batches of some positions, scaled up to the audio of all clips."""
    return seconds * float(lengths.sum()) / float(lengths[positions].sum())


@contextmanager
def plain(row: Row, clips: list[Any], job: dict[str, Any]) -> Iterator[Training]:
    """The obvious loop: transformers' model, padded batches, AdamW, masked mean, linear head, cross-entropy."""
    import numpy as np
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    from sertune.data.batch import make_batches

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base: Any = AutoModel.from_pretrained(job["encoder"])
    extractor: Any = AutoFeatureExtractor.from_pretrained(job["encoder"])
    model = base
    if row.by == "peft":
        peft: Any = importlib.import_module("peft")
        targets = ["intermediate_dense", "output_dense"]
        model = peft.get_peft_model(base, peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets))
    elif row.method == "full-layers":
        base.freeze_feature_encoder()
    head = torch.nn.Linear(base.config.hidden_size, CLASSES).to(device)
    model = model.to(device).train()
    trained = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    scaler = torch.amp.GradScaler(device.type, enabled=row.precision == "fp16")
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(row.precision)
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, CLASSES, len(clips)))
    lengths = np.array([len(clip) for clip in clips]) / RATE

    def step(rows: Any) -> float:
        batch = extractor([clips[i] for i in rows], sampling_rate=RATE, padding=True, return_tensors="pt")
        frames = base._get_feat_extract_output_lengths(torch.tensor([len(clips[i]) for i in rows])).to(device)
        with torch.autocast(device.type, half) if half is not None else nullcontext():
            # wav2vec2-base normalises over groups, so it was trained, and is called, without an attention mask
            states = model(batch.input_values.to(device)).last_hidden_state
            inside = torch.arange(states.shape[1], device=device)[None, :] < frames[:, None]
            outputs = head((states * inside[:, :, None]).sum(1) / frames[:, None])
        loss = torch.nn.functional.cross_entropy(outputs.float(), labels[rows].to(device))
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return float(loss.detach())

    def epoch(number: int) -> float:
        rng = np.random.default_rng(number)
        if row.bucketed:
            batches = make_batches(lengths, max_clips=job["batch"], max_seconds=math.inf, rng=rng)
        else:
            order = rng.permutation(len(clips))
            batches = [order[first : first + job["batch"]] for first in range(0, len(order), job["batch"])]
        batches = batches[: job["steps"] or None]
        began = time.perf_counter()
        for rows in batches:
            step(rows)
        return scaled(time.perf_counter() - began, np.concatenate(batches), lengths)

    yield Training(step, epoch, sum(parameter.numel() for parameter in trained))


@contextmanager
def ours(row: Row, clips: list[Any], job: dict[str, Any]) -> Iterator[Training]:
    """What `sertune train` does, on clips in memory: the states once, then epochs of its own loop."""
    import numpy as np
    import torch
    import transformers  # noqa: F401 - it looks for optional libraries, which must not meet the stand-ins

    with stand_ins():
        from sertune.data.splits import Fold
        from sertune.train.cache import DiskCache, Stored, disk_dtype
        from sertune.train.device import Device
        from sertune.train.loop import Clips, Fit
        from sertune.train.states import States
    from sertune.config import AugmentConfig, HeadConfig, LoraConfig, MethodConfig, RunConfig, TrainConfig
    from sertune.model.emotion_model import EmotionModel, ModelSpec
    from sertune.model.encoder import load_encoder
    from sertune.model.targets import CategoryTarget

    name, _, layers = row.method.partition("-")
    config = RunConfig(
        encoder=job["encoder"],
        method=MethodConfig(name, int(layers or 1), lora=LoraConfig(rank=RANK, alpha=2.0 * RANK)),
        head=HeadConfig(start="random", blend=0.0),
        augment=AugmentConfig(time_crop=[1.0, 1.0]),
        train=TrainConfig(epochs=1 + job["epochs"], batch_clips=job["batch"], batch_seconds=math.inf),
        precision=row.precision,  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    encoder = load_encoder(job["encoder"])
    _ = encoder.digest
    device = Device(row.precision, encoder.width)
    device.prepare(encoder)
    target = CategoryTarget(tuple("abcd"), weighted=False)
    model = EmotionModel(encoder, ModelSpec(job["encoder"], config.method, config.head, target))
    device.set_up(encoder, config)
    lengths, names = np.array([len(clip) for clip in clips]) / RATE, [f"{i:032x}" for i in range(len(clips))]
    start = model.start

    def live(number: int, _: int | None = None) -> Any:
        with device.autocast():
            return encoder.clip_states(clips[number], start, top=start)

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        cache = DiskCache(Path(folder))
        layers_kept = [None, *([start] if start is not None else [])] if row.cached else []
        kind = disk_dtype(config.cache.dtype, device.precision)
        sets = [cache.open(encoder, device.precision, layer, kind) for layer in layers_kept]
        pooled, native = [], torch.float32
        for clip, audio in zip(names, clips, strict=True):
            with device.autocast():
                made = encoder.clip_states(audio, start if row.cached else None)
            pooled.append(made.pooled.float())
            for kept, rows in zip(sets, (made.pooled, made.states), strict=False):
                assert rows is not None
                kept.add(clip, rows)
                native = rows.dtype
        for kept in sets:
            kept.close()
        frames = Stored(sets[1], names, native) if len(sets) > 1 else None
        states = States(torch.stack(pooled), frames, lengths, names)
        if not row.cached:
            states.live = live
        model.head.standardise(states.pooled)
        device.prepare(model)
        build = time.perf_counter() - began
        every = np.arange(len(clips))
        targets = np.eye(CLASSES, dtype=np.float32)[np.random.default_rng(1).integers(0, CLASSES, len(clips))]

        class FirstBatches(Fit):
            """An epoch that ends after ``--steps``."""

            def _batches(self, epoch: int) -> list[Any]:
                return super()._batches(epoch)[: job["steps"] or None]

        data = Clips(states, targets, names, lambda number: clips[number])  # type: ignore[arg-type]
        fit = FirstBatches(model, data, Fold("bench", every, every[:1], every[:0]), config, device)
        fit._finish_epoch(None)

        def epoch(number: int) -> float:
            begun = time.perf_counter()
            fit._epoch(lambda _: None)
            seconds = time.perf_counter() - begun - fit.state.log[-1]["dev_seconds"]
            return scaled(seconds, np.concatenate(fit._batches(number)), lengths)

        size = sum(kept.nbytes(clip) for kept in sets for clip in names) / 2**20
        trained = sum(parameter.numel() for parameter in fit.parameters)
        yield Training(lambda rows: fit._step(rows, 0), epoch, trained, size, build)


class StandIn(ModuleType):
    """A library that is not installed. Any name in it is `object`, which serves for annotations."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


@contextmanager
def stand_ins() -> Iterator[None]:
    """While sertune is imported, the libraries of its data layer need not be installed."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    sys.modules.update({name: StandIn(name) for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


if __name__ == "__main__":
    main()
