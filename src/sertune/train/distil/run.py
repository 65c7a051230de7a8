"""A whole distillation: audio in, student, probe and report's figures out."""

import datetime
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sertune import __version__
from sertune.config import to_dict
from sertune.errors import SertuneError
from sertune.files import new_folder
from sertune.model.encoder import Encoder, load_encoder
from sertune.model.merge import save_encoder
from sertune.model.student import build_student, can_start_from, mel_features, start_from
from sertune.train.device import HALF_WIDTH, Device, describe_machine
from sertune.train.distil.config import DISTIL, DistilConfig
from sertune.train.distil.head import fit_head
from sertune.train.distil.loop import DistilFit
from sertune.train.distil.loss import Distiller, matched
from sertune.train.distil.pairs import Pairs, make_pairs, student_features
from sertune.train.distil.probe import check_probe, run_probe
from sertune.train.distil.teacher import Teacher, load_teacher
from sertune.train.distil.windows import Windows, find_windows
from sertune.train.folder import open_run, start_run, write_json, write_text

MADE = ("checkpoint.safetensors", "states", "encoder", "model", "probe")
"""What a run makes beside what every run has."""
TIMED = 20
"""Clips that tell what an hour of audio takes."""


@dataclass
class Prepared:
    """What a run starts from."""

    teacher: Teacher
    windows: Windows
    warnings: list[str]


def distil(config: DistilConfig, *, overwrite: bool = False) -> Path:
    """Runs a configuration; goes on where an earlier run of it stopped.

    Args:
        config: what to do; `DistilConfig.out` names the run folder.
        overwrite: replace a run that is already there.

    Returns:
        The run folder: ``encoder/``, a transformers folder; of an emotion model also ``model/``, which `load_model`
        takes; ``report.json``, ``log.jsonl``, ``config.yaml``, ``probe/``.

    Raises:
        SertuneError: a mistake in the settings or the audio; nothing is left half-written.
    """
    began = time.perf_counter()
    run = open_run(config, overwrite=overwrite, of=DISTIL)
    prepared = _prepare(config)
    # batches are large, so narrow students gain from half precision, too
    device = Device(config.precision, max(config.student.width, HALF_WIDTH))
    fresh = not run.exists() or overwrite
    start_run(run, config, overwrite=overwrite, made=MADE)
    device.prepare(prepared.teacher.model or prepared.teacher.encoder)
    try:
        pairs = make_pairs(prepared.windows, prepared.teacher, config, run / "states")
    except SertuneError:
        if fresh and not list(run.rglob("*.safetensors")):  # nothing to go on from
            shutil.rmtree(run, ignore_errors=True)
        raise
    if not len(pairs.train):
        raise SertuneError("nothing is left to train on: all clips are silent or can't be used")
    seconds_states = time.perf_counter() - began
    log = _fit(run, pairs, config, device)
    write_text(run / "log.jsonl", "".join(json.dumps(row) + "\n" for row in log))
    student = load_encoder(str(run / "encoder"))
    student.features.silence, student.features.level = pairs.teacher.audio.silence, pairs.teacher.audio.level
    cost = {**_cost(student, pairs, run), "seconds_states": round(seconds_states, 3)}
    outputs = _emotion_model(run, student, pairs, config) if pairs.teacher.model is not None else {}
    probes = [_probe(run, data, prepared.teacher, config) for data in config.probe]
    cost |= {"seconds_total": round(time.perf_counter() - began, 3), "peak_memory_mib": round(device.peak_memory_mib())}
    write_json(run / "report.json", _report(prepared, pairs, student, config, log, outputs, probes, cost, device))
    for name in ("checkpoint.safetensors", "states"):
        _remove(run / name)
    return run


def _prepare(config: DistilConfig) -> Prepared:
    """Teacher, audio and probes, before anything is computed or written."""
    if not config.data:
        raise SertuneError("no audio: say what to distil from with --data FOLDER; no labels are needed")
    teacher = load_teacher(config.teacher, config.layers, config.audio, config.precision, mel_features().rate)
    options = config.train
    starts_from(teacher, config)
    windows = find_windows(
        config.data, teacher.audio, held_out=options.held_out, skip_bad=config.skip_bad, seed=config.seed
    )
    files = windows.frame["file"].unique().tolist()
    said = [check_probe(data, teacher.audio, files) for data in config.probe]
    assumed = teacher.encoder.features.assumed
    return Prepared(teacher, windows, [warning for warning in [*said, assumed] if warning])


def _fit(run: Path, pairs: Pairs, config: DistilConfig, device: Device) -> list[dict[str, Any]]:
    """Trains the student and writes it to ``encoder/``; the log."""
    teacher, file = pairs.teacher, run / "checkpoint.safetensors"
    width = teacher.encoder.width
    if file.is_file():  # it holds them
        moments = {layer: (torch.zeros(width), torch.ones(width)) for layer in teacher.layers}
    else:
        moments = pairs.moments(config.seed)
    model = build_student(config.student.shape, config.seed)
    from_teacher = starts_from(teacher, config) == "teacher"
    if from_teacher:
        start_from(model, teacher.encoder.model, moments[teacher.layers[0]][1])
    encoder = Encoder(model, student_features(teacher), "student")
    torch.manual_seed(config.seed)
    target = teacher.target
    distiller = Distiller(encoder, moments, config.loss, target, 0 if target is None else target.linear)
    device.prepare(distiller)
    encoder.use_attention(device.kernel())
    if from_teacher and not file.is_file():
        distiller.solve_maps(pairs.some(config.seed, device.torch))
    log = DistilFit(distiller, pairs, config, device, file).run()
    encoder.clear()
    _remove(run / "encoder")
    encoder.model.half()  # in memory weights are float32 again once they are loaded
    with new_folder(run / "encoder") as work:
        save_encoder(encoder, work)
    return log


def starts_from(teacher: Teacher, config: DistilConfig) -> str:
    """What the student starts from: `teacher` or `random`.

    Raises:
        SertuneError: it is to start from a teacher whose weights have no place in it.
    """
    if config.student.start == "random":
        return "random"
    why = can_start_from(config.student.shape, teacher.encoder.model)
    if why and config.student.start == "teacher":
        raise SertuneError(f"student.start = teacher: {teacher.name} can't be started from: {why}; choose random")
    return "random" if why else "teacher"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _emotion_model(run: Path, student: Encoder, pairs: Pairs, config: DistilConfig) -> dict[str, Any]:
    """Writes the student of an emotion model to ``model/``; how far it agrees with the teacher."""
    teacher = pairs.teacher
    assert teacher.model is not None
    hours = round(float(pairs.seconds.sum()) / 3600, 4)
    info = {**teacher.model.info, "distilled": {"teacher": teacher.name, "hours": hours, "clips": len(pairs.seconds)}}
    model, said = fit_head(student, pairs, config, info)
    model.save(run / "model", base="../encoder")
    return {"target": teacher.model.target.describe(), **said}


def _probe(run: Path, data: str, teacher: Teacher, config: DistilConfig) -> dict[str, Any]:
    """Every layer of the student, and of the teacher where it can be loaded by its name."""
    encoders = {"student": str(run / "encoder")}
    if teacher.model is None:
        encoders["teacher"] = teacher.name
    return run_probe(data, encoders, teacher.audio, config.seed, run / "probe")


@torch.no_grad()
def _cost(student: Encoder, pairs: Pairs, run: Path) -> dict[str, Any]:
    """Seconds per hour of audio of student and teacher, on clips of the run one by one, in float32; their sizes."""
    rows = (pairs.held if len(pairs.held) else pairs.train)[:TIMED].tolist()
    clips = [pairs.reader(row) for row in rows]
    found = {}
    for name, encoder in (("student", student), ("teacher", pairs.teacher.encoder)):
        encoder.clip_states(clips[0], None)
        began = time.perf_counter()
        for clip in clips:
            encoder.clip_states(clip, None)
        spent, heard = time.perf_counter() - began, sum(map(len, clips)) / pairs.reader.rate
        found[name] = {"seconds_per_hour": round(3600 * spent / heard, 2), "real_time_factor": spent / heard}
        found[name]["parameters"] = sum(p.numel() for p in _own(encoder))
    found["student"]["bytes"] = sum(file.stat().st_size for file in (run / "encoder").glob("*.safetensors"))
    found["teacher"]["bytes"] = sum(4 * p.numel() for p in pairs.teacher.encoder.model.parameters())
    return {**found, "threads": torch.get_num_threads()}


def _own(encoder: Encoder) -> Iterable[torch.nn.Parameter]:
    """Parameters, without positions that are a formula."""
    return (value for name, value in encoder.model.named_parameters() if "embed_positions" not in name)


def _report(
    prepared: Prepared,
    pairs: Pairs,
    student: Encoder,
    config: DistilConfig,
    log: list[dict[str, Any]],
    outputs: dict[str, Any],
    probes: list[dict[str, Any]],
    cost: dict[str, Any],
    device: Device,
) -> dict[str, Any]:
    teacher, windows, shape = pairs.teacher, prepared.windows, config.student.shape
    skipped = [*windows.skipped, *(row for row in pairs.skipped if not row["reason"].startswith("silent"))]
    silent = len(pairs.skipped) - (len(skipped) - len(windows.skipped))
    warnings = list(prepared.warnings)
    if silent:
        warnings.append(f"{silent} of {len(windows.frame)} clips are silent and were left out")
    if not len(pairs.held):
        warnings.append("nothing was held out, so nothing shows how near the student comes on other audio")
    gives = matched(shape.layers, teacher.layers, config.loss.match)
    return {
        "format": 1,
        "sertune": __version__,
        "kind": "distil",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "teacher": {**teacher.described(), "chosen": list(teacher.layers)},
        "student": {
            **student.described(),
            "name": "encoder",
            "heads": shape.all_heads,
            "feed_forward": shape.inner,
            "start": starts_from(teacher, config),
            "gives": {f"layer {theirs}": own for theirs, own in gives.items()},
        },
        "loss": to_dict(config.loss),
        "data": {
            "paths": list(config.data),
            "files": windows.files,
            "clips": len(pairs.seconds),
            "held_out": len(pairs.held),
            "hours": round(float(pairs.seconds.sum()) / 3600, 4),
            "views": config.cache.views if config.cache.states else None,
        },
        "epochs": log,
        "outputs": outputs,
        "probes": probes,
        "cost": cost,
        "warnings": warnings,
        "skipped": skipped,
        "machine": {**describe_machine(device), "teacher_precision": teacher.precision},
        "seed": config.seed,
    }
