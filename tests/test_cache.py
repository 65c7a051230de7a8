"""The disk cache of states: never a wrong one, never one computed twice, and clear words where it can't be kept."""

import copy
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from families import save_family
from safetensors.torch import load_file, save_file

import sertune.train.cache as disk
from sertune.cli import main
from sertune.config import RunConfig, dump_yaml
from sertune.errors import SertuneError
from sertune.model.encoder import Encoder, load_encoder
from sertune.train.cache import StateSet, quantise
from sertune.train.loop import Fit
from sertune.train.prepare import prepare
from sertune.train.run import train
from sertune.train.states import States
from test_training import assert_same_result, settings

CLIPS = 16
NOISE = {"wave_noise": [5.0, 10.0]}


@pytest.fixture(scope="module")
def builtin() -> Encoder:
    """Made once; every run gets a copy."""
    return load_encoder("builtin:random")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, builtin: Encoder) -> None:
    """No cache of whoever runs the tests; files that were written just now count as settled."""
    monkeypatch.delenv(disk.VARIABLE, raising=False)
    monkeypatch.setattr(disk, "SETTLED_SECONDS", -1e9)
    monkeypatch.setattr(
        "sertune.train.prepare.load_encoder",
        lambda name: copy.deepcopy(builtin) if name == "builtin:random" else load_encoder(name),
    )


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each pass of a clip through the encoder."""
    made: list[int] = []
    clip_layers = Encoder.clip_layers

    def counting(self: Encoder, *args: Any, **options: Any) -> Any:
        made.append(1)
        return clip_layers(self, *args, **options)

    monkeypatch.setattr(Encoder, "clip_layers", counting)
    return made


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each file that is decoded."""
    from sertune.data import audio

    made: list[int] = []

    def counting(*args: Any, **options: Any) -> Any:
        made.append(1)
        return audio.read_audio(*args, **options)

    monkeypatch.setattr("sertune.train.states.read_audio", counting)
    return made


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_family("wav2vec2-layer", tmp_path_factory.mktemp("encoder") / "encoder"))


def states_of(corpus: Path, folder: Path | None = None, **changes: Any) -> States:
    """The states of a corpus; float32 on disk unless changed, in memory without a folder."""
    cache = {"folder": str(folder) if folder else "", "dtype": "float32"} | changes.pop("cache", {})
    return prepare(settings(corpus, Path("unused"), cache=cache, **changes)).clips.states


def assert_same_states(one: States, other: States) -> None:
    assert one.digests == other.digests
    np.testing.assert_array_equal(one.seconds, other.seconds)
    assert len(one.augmented) == len(other.augmented)
    for row in range(len(one.digests)):
        for view in range(len(one.augmented) + 1):
            ours, theirs = one.clip(row, view), other.clip(row, view)
            assert torch.equal(ours.pooled, theirs.pooled)
            assert (ours.states is None) == (theirs.states is None)
            if ours.states is not None and theirs.states is not None:
                assert ours.states.dtype == theirs.states.dtype
                assert torch.equal(ours.states, theirs.states)


def shards(folder: Path, *, layer: bool = True) -> list[Path]:
    """Shards of frames, or else of pooled vectors."""
    keys = {path.parent: json.loads(path.read_text()) for path in folder.glob("*/key.json")}
    return sorted(
        shard
        for path, key in keys.items()
        if (key["layer"] != "pooled") == layer
        for shard in path.glob("*.safetensors")
    )


# -- the same numbers, once ------------------------------------------------------------------------------------------


def test_a_run_from_disk_equals_one_in_memory_and_the_second_computes_nothing(
    tiny_corpus: Path, tmp_path: Path, passes: list[int], decoded: list[int]
) -> None:
    train(settings(tiny_corpus, tmp_path / "memory"))
    assert len(passes) == CLIPS
    cache = {"folder": str(tmp_path / "cache"), "dtype": "auto"}
    cold = train(settings(tiny_corpus, tmp_path / "cold", cache=cache))
    assert len(passes) == len(decoded) == 2 * CLIPS
    warm = train(settings(tiny_corpus, tmp_path / "warm", cache=cache))
    assert len(passes) == len(decoded) == 2 * CLIPS
    assert_same_result(tmp_path / "memory", cold)
    assert_same_result(tmp_path / "memory", warm)
    costs = [json.loads((run / "report.json").read_text())["cost"] for run in (cold, warm)]
    assert [cost["clips_encoded"] for cost in costs] == [CLIPS, 0]
    assert costs[0]["cache_mib"] == costs[1]["cache_mib"] > 0


def test_half_precision_reads_what_it_computed(tiny_corpus: Path, tmp_path: Path) -> None:
    for _ in range(2):
        stored = states_of(tiny_corpus, tmp_path / "cache", precision="bf16", cache={"dtype": "auto"})
        assert_same_states(stored, states_of(tiny_corpus, precision="bf16"))


def test_the_environment_names_the_folder(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[int]
) -> None:
    monkeypatch.setenv(disk.VARIABLE, str(tmp_path / "cache"))
    states_of(tiny_corpus)
    states_of(tiny_corpus)
    assert len(passes) == CLIPS
    assert shards(tmp_path / "cache")


def test_a_corpus_that_moved_is_known_by_its_samples(
    tiny_corpus: Path, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = states_of(tiny_corpus, tmp_path / "cache")
    moved = shutil.copytree(tiny_corpus, tmp_path / "moved")
    assert_same_states(first, states_of(moved, tmp_path / "cache"))
    again = shutil.copytree(tiny_corpus, tmp_path / "again")
    # also where nothing may be written any more
    assert_same_states(first, states_of(again, tmp_path / "cache", cache={"disk_gib": 0.0}))
    assert len(passes) == CLIPS


def test_a_frozen_encoder_needs_pooled_vectors_alone(tiny_corpus: Path, tmp_path: Path, passes: list[int]) -> None:
    states_of(tiny_corpus, tmp_path / "cache", method={"name": "frozen"})
    assert shards(tmp_path / "cache", layer=False)
    assert not shards(tmp_path / "cache")
    two = states_of(tiny_corpus, tmp_path / "cache", method={"layers": 2})
    assert len(passes) == 2 * CLIPS
    assert states_of(tiny_corpus, tmp_path / "cache", method={"name": "frozen"}).passes == 0
    assert_same_states(two, states_of(tiny_corpus, method={"layers": 2}))


# -- never an old state ----------------------------------------------------------------------------------------------


def another_weight(encoder: Path, _: Path) -> None:
    tensors = load_file(encoder / "model.safetensors")
    tensors["encoder.layers.0.attention.q_proj.weight"][0, 0] += 0.5
    save_file(tensors, encoder / "model.safetensors", {"format": "pt"})


def another_setting_of_the_model(encoder: Path, _: Path) -> None:
    described = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(described | {"hidden_act": "relu"}))


def another_extractor(encoder: Path, _: Path) -> None:
    described = json.loads((encoder / "preprocessor_config.json").read_text())
    (encoder / "preprocessor_config.json").write_text(json.dumps(described | {"do_normalize": False}))


def another_rate(encoder: Path, _: Path) -> None:
    described = json.loads((encoder / "preprocessor_config.json").read_text())
    (encoder / "preprocessor_config.json").write_text(json.dumps(described | {"sampling_rate": 8000}))


def another_sound(_: Path, corpus: Path) -> None:
    """The same path, size and time of change as before; the system notes the change all the same."""
    for file in (corpus / "wav").glob("*.wav"):
        before = file.stat()
        samples, rate = soundfile.read(file)
        soundfile.write(file, samples[::-1], rate, subtype="PCM_16")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_size == before.st_size


@pytest.mark.parametrize(
    ("change", "settings_changed"),
    [
        (another_weight, {}),
        (another_setting_of_the_model, {}),
        (another_extractor, {}),
        (another_rate, {}),
        (another_sound, {}),
        (None, {"audio": {"crop": 0.5}}),
        (None, {"method": {"layers": 2}}),
        (None, {"precision": "bf16"}),
        (None, {"augment": NOISE, "cache": {"views": 2}}),
    ],
    ids=lambda value: getattr(value, "__name__", "settings"),
)
def test_what_changes_the_numbers_changes_the_states(
    change: Callable[[Path, Path], None] | None,
    settings_changed: dict[str, Any],
    tiny_corpus: Path,
    encoder_folder: Path,
    tmp_path: Path,
) -> None:
    encoder = shutil.copytree(encoder_folder, tmp_path / "encoder") if change is not None else "builtin:random"
    corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    old = states_of(corpus, tmp_path / "cache", encoder=str(encoder))
    if change is not None:
        change(Path(encoder), corpus)
    wanted = states_of(corpus, encoder=str(encoder), **settings_changed)
    found = states_of(corpus, tmp_path / "cache", encoder=str(encoder), **settings_changed)
    assert_same_states(found, wanted)
    assert found.passes == CLIPS
    draw = 1 if "augment" in settings_changed else 0  # the clips as they are stay the same
    for row in range(CLIPS):
        new = found.clip(row, draw)
        before = old.clip(row)
        assert new.states is not None
        assert before.states is not None
        same = new.states.shape == before.states.shape and torch.equal(new.states.float(), before.states.float())
        assert not same


def test_other_augmentation_seeds_and_types_have_their_own_states(tiny_corpus: Path, tmp_path: Path) -> None:
    views = {"views": 2, "folder": str(tmp_path / "cache")}
    first = states_of(tiny_corpus, augment=NOISE, cache=views)
    for changes in ({"augment": {"wave_noise": [5.0, 11.0]}}, {"augment": NOISE, "seed": 1}):
        other = states_of(tiny_corpus, cache=views, **changes)
        assert not torch.equal(_frames(first, 0, 1)[:5], _frames(other, 0, 1)[:5])
        assert torch.equal(_frames(first, 0, 0), _frames(other, 0, 0))
    half = states_of(tiny_corpus, tmp_path / "cache", cache={"dtype": "float16"})
    assert torch.equal(_frames(half, 0, 0), _frames(first, 0, 0).half().float())


def _frames(states: States, row: int, view: int) -> torch.Tensor:
    found = states.clip(row, view).states
    assert found is not None
    return found


# -- killed, damaged, shared -----------------------------------------------------------------------------------------

SLOWLY = """
import sys, time
import sertune.train.cache as disk
from sertune.model.encoder import Encoder
from sertune.cli import main
disk.SHARD_SECONDS = 0.0
fast = Encoder.clip_layers
def slow(*args, **options):
    time.sleep(0.2)
    return fast(*args, **options)
Encoder.clip_layers = slow
sys.exit(main(["cache", "build", "--config", sys.argv[1]]))
"""


def start_slowly(config: RunConfig, file: Path) -> "subprocess.Popen[str]":
    """A process that builds a cache, a fifth of a second per clip and a shard after each."""
    file.write_text(dump_yaml(config))
    command = [sys.executable, "-c", SLOWLY, str(file)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for_shards(process: "subprocess.Popen[str]", folder: Path, count: int) -> None:
    deadline = time.monotonic() + 100
    while len(list(folder.glob("*/*.safetensors"))) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processes_may_build_at_once_and_be_killed(tiny_corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    config = settings(tiny_corpus, Path("unused"), cache={"folder": str(folder), "dtype": "float32"})
    killed, other = (start_slowly(config, tmp_path / f"{name}.yaml") for name in ("killed", "other"))
    wait_for_shards(killed, folder, 6)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("*/*.safetensors")}
    ours = states_of(tiny_corpus, folder)  # while the other one goes on
    assert 0 < ours.passes < CLIPS
    _, said = other.communicate(timeout=100)
    assert other.returncode == 0, said
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    wanted = states_of(tiny_corpus)
    assert_same_states(ours, wanted)
    both = states_of(tiny_corpus, folder)
    assert both.passes == 0
    assert_same_states(both, wanted)
    assert main(["cache", "verify", "--folder", str(folder)]) == 0


def truncate(file: Path) -> None:
    with file.open("rb+") as stream:
        stream.truncate(file.stat().st_size - 100)


def flip_a_byte(file: Path) -> None:
    flip(file, file.stat().st_size - 1000)


def flip_a_name(file: Path) -> None:
    """One digit of the first clip's name, in the header."""
    content = file.read_bytes()
    place = content.index(b'[\\"') + 4
    file.write_bytes(content[:place] + (b"0" if content[place : place + 1] != b"0" else b"1") + content[place + 1 :])


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "layer", "forgotten"),
    [
        (truncate, True, False),
        (flip_a_byte, True, False),
        (flip_a_byte, True, True),
        (flip_a_byte, False, False),
        (flip_a_name, True, False),
        (empty, False, False),
    ],
)
def test_a_damaged_shard_is_named_and_computed_again(
    damage: Callable[[Path], None],
    layer: bool,
    forgotten: bool,
    tiny_corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    states_of(tiny_corpus, tmp_path / "cache")
    wanted = states_of(tiny_corpus)
    (shard,) = shards(tmp_path / "cache", layer=layer)
    damage(shard)
    capsys.readouterr()
    assert main(["cache", "verify", "--folder", str(tmp_path / "cache")]) == 1
    assert str(shard) in capsys.readouterr().out
    if forgotten:  # which file holds which clip: the damage is found only once they are read
        shutil.rmtree(tmp_path / "cache" / "files")
    found = states_of(tiny_corpus, tmp_path / "cache")
    assert_same_states(found, wanted)
    if damage is flip_a_name:  # the clip under that name is never asked for
        assert found.passes == 1
    else:
        said = capsys.readouterr().err
        assert f"{shard}: damaged" in said
        assert "; 0 of 16 clips are there" in said
        assert not shard.exists()
        assert found.passes == CLIPS
    assert states_of(tiny_corpus, tmp_path / "cache").passes == 0


def test_large_sets_are_checked_when_a_clip_is_first_read(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states_of(tiny_corpus, tmp_path / "cache")
    wanted = states_of(tiny_corpus)
    (shard,) = shards(tmp_path / "cache")
    flip_a_byte(shard)
    monkeypatch.setattr(disk, "CHECKED_AT_ONCE", 0)
    found = states_of(tiny_corpus, tmp_path / "cache")
    assert found.passes == 0
    with pytest.raises(SertuneError, match=f"{shard}: damaged, and removed; the same command goes on"):
        [_frames(found, row, 0) for row in range(CLIPS)]
    assert not shard.exists()
    assert_same_states(states_of(tiny_corpus, tmp_path / "cache"), wanted)


def test_shards_are_read_lazily(tmp_path: Path) -> None:
    states = StateSet(tmp_path / "set", {"dtype": "float16"}, "any", at_once=False)
    for clip in range(40):
        states.add(f"{clip}", torch.full((1000, 1024), float(clip)))
    states.close()
    assert sum(file.stat().st_size for file in (tmp_path / "set").glob("*.safetensors")) > 70 * 2**20
    before = resident()
    read = StateSet(tmp_path / "set", {"dtype": "float16"}, "any", at_once=False)
    read._at_once = False
    assert float(read.read("7").float().mean()) == 7
    assert resident() - before < 20 * 2**20, "the whole file was read"


def resident() -> int:
    """Memory of this process that is in use, in bytes."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("no /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


# -- numbers on disk -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e6])
def test_int8_is_off_by_half_a_step_at_most(scale: float, tmp_path: Path) -> None:
    rows = torch.randn(50, 32, generator=torch.Generator().manual_seed(0)) * scale
    rows[3] = 0
    rows[4, 0] = 100 * scale  # an outlier costs its own frame alone
    states = StateSet(tmp_path / "set", {"dtype": "int8"}, "any", at_once=True)
    states.add("clip", rows)
    states.close()
    read = StateSet(tmp_path / "set", {"dtype": "int8"}, "any", at_once=True).read("clip")
    step = rows.abs().amax(1, keepdim=True) / 127
    assert ((read - rows).abs() <= step / 2 * (1 + 1e-4)).all()
    assert torch.equal(read[3], rows[3])
    assert quantise(rows)[0].abs().max() == 127


def test_float16_that_overflows_names_the_file(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_layers = Encoder.clip_layers

    def huge(self: Encoder, *args: Any, **options: Any) -> Any:
        frames, pooled = clip_layers(self, *args, **options)
        return {layer: states + 7e4 for layer, states in frames.items()}, pooled

    monkeypatch.setattr(Encoder, "clip_layers", huge)
    with pytest.raises(SertuneError, match=r"\.wav: its states reach 7\d+.*--cache\.dtype bfloat16"):
        states_of(tiny_corpus, tmp_path / "cache", cache={"dtype": "float16"})
    assert float(_frames(states_of(tiny_corpus, tmp_path / "cache", cache={"dtype": "bfloat16"}), 0, 0).max()) > 6e4


# -- no place for them -----------------------------------------------------------------------------------------------


def refused(corpus: Path, folder: Path, **changes: Any) -> str:
    with pytest.raises(SertuneError) as caught:
        states_of(corpus, folder, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_over_the_cap(tiny_corpus: Path, tmp_path: Path) -> None:
    line = refused(tiny_corpus, tmp_path / "cache", cache={"disk_gib": 0.0001})
    assert "MiB more would pass cache.disk_gib = 0.0001; raise it, make room with sertune cache prune" in line
    assert not (tmp_path / "cache").exists()


def test_over_what_the_disk_has_left(tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert "the disk has only 0.0 MiB left; make room" in refused(tiny_corpus, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_can_not_be_written(tiny_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "file: is a file; choose a folder" in refused(tiny_corpus, tmp_path / "file")
    assert "is a file; choose another place" in refused(tiny_corpus, tmp_path / "file" / "cache")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    assert "holds something else (cat.jpg); choose an empty or a new" in refused(tiny_corpus, tmp_path / "photos")


def test_a_folder_of_a_newer_sertune(tiny_corpus: Path, tmp_path: Path) -> None:
    states_of(tiny_corpus, tmp_path / "cache")
    (tmp_path / "cache" / "cache.json").write_text(json.dumps({"format": disk.FORMAT + 1}))
    line = refused(tiny_corpus, tmp_path / "cache")
    assert f"a newer sertune wrote it (format {disk.FORMAT + 1}, this one reads up to {disk.FORMAT}); update" in line


def test_a_disk_that_is_full_in_the_middle_keeps_what_is_complete(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0

    def full(*args: Any) -> None:
        nonlocal done
        done += 1
        if done > 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save_file(*args)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "SHARD_SECONDS", 0.0)
        patch.setattr("sertune.train.cache.save_file", full)
        line = refused(tiny_corpus, tmp_path / "cache")
    assert "can't be written (No space left on device); make room or choose another place, then run it again" in line
    assert len(list((tmp_path / "cache").glob("*/*.safetensors"))) == 10
    assert not list((tmp_path / "cache").rglob("*.part"))
    states = states_of(tiny_corpus, tmp_path / "cache")
    assert 0 < states.passes < CLIPS
    assert_same_states(states, states_of(tiny_corpus))


def test_a_bad_file_is_bad_in_every_run(tiny_corpus: Path, tmp_path: Path) -> None:
    corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    bad = sorted((corpus / "wav").glob("*.wav"))[2]
    bad.write_bytes(b"")
    for _ in range(2):
        assert f"{bad.name}: empty file" in refused(corpus, tmp_path / "cache")
        assert len(states_of(corpus, tmp_path / "cache", skip_bad=True).digests) == CLIPS - 1
    longer = states_of(corpus, tmp_path / "cache", skip_bad=True).seconds.min() + 0.01
    assert "too short" in refused(corpus, tmp_path / "cache", audio={"min_seconds": longer}, skip_bad=False)


# -- views -----------------------------------------------------------------------------------------------------------


def test_waveform_augmentation_asks_for_views_or_live_states(tiny_corpus: Path, tmp_path: Path) -> None:
    assert "--cache.views N (e.g. 4), or" in refused(tiny_corpus, tmp_path / "cache", augment=NOISE)
    assert "--cache.views N (e.g. 4), or" in refused(
        tiny_corpus, tmp_path / "cache", augment=NOISE, method={"name": "frozen"}
    )
    assert "all views would be the same" in refused(tiny_corpus, tmp_path / "cache", cache={"views": 3})
    many = {"views": 3, "states": False}
    assert "no states are kept" in refused(tiny_corpus, tmp_path / "cache", augment=NOISE, cache=many)


def test_views_differ_and_only_training_sees_them(tiny_corpus: Path, tmp_path: Path) -> None:
    config = settings(tiny_corpus, Path("unused"), augment=NOISE, cache={"views": 3})
    kept = {"views": 3, "folder": str(tmp_path / "cache"), "dtype": "float32"}
    on_disk = settings(tiny_corpus, Path("unused"), augment=NOISE, cache=kept)
    memory, stored, again = prepare(config).clips, prepare(on_disk).clips, prepare(on_disk).clips
    assert_same_states(memory.states, stored.states)
    assert_same_states(memory.states, again.states)
    assert (stored.states.passes, again.states.passes) == (3 * CLIPS, 0)
    plain = states_of(tiny_corpus)
    for row in range(CLIPS):
        assert torch.equal(memory.states.clip(row).pooled, plain.clip(row).pooled)
        pooled = torch.stack([memory.states.clip(row, view).pooled for view in range(3)])
        assert len(torch.unique(pooled, dim=0)) == 3
    rows = list(range(CLIPS))
    as_it_is = memory.batch(rows, audio=False)
    assert as_it_is.pooled is not None
    assert torch.equal(as_it_is.pooled, plain.pooled)
    epochs = []
    for epoch in range(12):
        drawn = memory.batch(rows, audio=False, epoch=(0, "fold", epoch))
        assert drawn.pooled is not None
        alone = memory.batch(rows, audio=False, pooled_only=True, epoch=(0, "fold", epoch)).pooled
        assert alone is not None
        assert torch.equal(drawn.pooled, alone)
        epochs.append(drawn.pooled)
    assert [len(torch.unique(torch.stack([e[row] for e in epochs]), dim=0)) for row in rows] == [3] * CLIPS


def test_states_that_are_not_kept_are_augmented_afresh(tiny_corpus: Path) -> None:
    clips = prepare(settings(tiny_corpus, Path("unused"), augment=NOISE, cache={"states": False})).clips
    plain = states_of(tiny_corpus)
    rows = [0, 1, 2]

    def entering(epoch: tuple[object, ...] | None) -> torch.Tensor:
        batch = clips.batch(rows, audio=False, epoch=epoch)
        assert batch.entering is not None
        return batch.entering.states

    wanted = torch.nn.utils.rnn.pad_sequence([_frames(plain, row, 0) for row in rows], batch_first=True)
    assert torch.equal(entering(None), wanted)
    assert torch.equal(entering((0, "fold", 1)), entering((0, "fold", 1)))
    assert not torch.equal(entering((0, "fold", 1)), entering((0, "fold", 2)))
    assert not torch.equal(entering((0, "fold", 1)), wanted)
    heard = [clips.batch(rows, audio=True, epoch=epoch).audio for epoch in ((0, "fold", 1), (0, "fold", 2), None)]
    assert len({tuple(np.concatenate(audio)[:50].tolist()) for audio in heard if audio is not None}) == 3


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("states", [True, False])
def test_a_run_on_views_goes_on_to_the_same_result(
    states: bool, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = {"views": 3, "folder": str(tmp_path / "cache")} if states else {"states": False}
    options = {"cache": cache, "augment": NOISE, "train": {"checkpoint_minutes": 0.0, "epochs": 2, "batch_clips": 4}}
    whole = train(settings(tiny_corpus, tmp_path / "whole", **options))
    plain = train(settings(tiny_corpus, tmp_path / "plain", train=options["train"]))
    weights = [load_file(run / "model" / "model.safetensors")["head.output.weight"] for run in (whole, plain)]
    assert not torch.equal(*weights), "training saw the clips as they are"
    step, done = Fit._step, 0

    def stopping(self: Fit, rows: np.ndarray, number: int) -> float:
        nonlocal done
        done += 1
        if done == 3:
            raise KilledError
        return step(self, rows, number)

    config = settings(tiny_corpus, tmp_path / "run", **options)
    monkeypatch.setattr(Fit, "_step", stopping)
    with pytest.raises(KilledError):
        train(config)
    monkeypatch.setattr(Fit, "_step", step)
    assert_same_result(whole, train(config))


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tiny_corpus: Path, tmp_path: Path) -> Path:
    """A cache with three sets: pooled vectors, and two layers, the first of which was used long ago."""
    folder = tmp_path / "cache"
    for layers in (1, 2):
        flags = ["--method.layers", str(layers), "--cache.folder", str(folder), "--split", "official"]
        assert (
            main(["cache", "build", "--encoder", "builtin:random", "--data", f"synthetic:{tiny_corpus}", *flags]) == 0
        )
    listed = {entry["layer"]: entry["id"] for entry in sets(folder)}
    os.utime(folder / listed[3] / "key.json", (1e9, 1e9))
    return folder


def sets(folder: Path) -> list[dict[str, Any]]:
    from sertune.train.cache_tools import as_json, list_sets

    listed: list[dict[str, Any]] = json.loads(as_json(list_sets(folder)))
    return listed


def test_ls_says_what_is_there(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["cache", "ls", "--folder", str(cache), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {(row["layer"], row["dtype"], row["clips"]) for row in listed} == {
        ("pooled", "float32", CLIPS),
        (2, "float32", CLIPS),
        (3, "float32", CLIPS),
    }
    assert listed[-1]["layer"] == 3
    assert main(["cache", "ls", "--folder", str(cache)]) == 0
    assert all(row["id"] in capsys.readouterr().out for row in listed[:1])


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (["ID"], {"pooled", 2}),
        (["--older", "30"], {"pooled", 2}),
        (["--to", "0.0012"], {"pooled", 2}),
        (["--to", "1"], {"pooled", 2, 3}),
        (["--all"], set()),
        (["--all", "--older", "30"], {"pooled", 2}),
    ],
)
def test_prune_removes_what_it_is_told(flags: list[str], left: set[object], cache: Path) -> None:
    oldest = next(entry["id"] for entry in sets(cache) if entry["layer"] == 3)
    flags = [oldest[:6] if flag == "ID" else flag for flag in flags]
    assert main(["cache", "prune", "--folder", str(cache), *flags]) == 0
    assert {entry["layer"] for entry in sets(cache)} == left


def test_verify_names_and_repairs(cache: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = shards(cache)
    truncate(one)
    key = other.parent / "key.json"
    key.write_text(key.read_text().replace('"fp32"', '"bf16"'))  # these are no states in bf16
    capsys.readouterr()
    assert main(["cache", "verify", "--folder", str(cache)]) == 1
    said = capsys.readouterr().out
    assert f"{one}: damaged" in said
    assert f"{other.parent}: damaged" in said
    assert main(["cache", "verify", "--folder", str(cache), "--repair"]) == 0
    assert not one.exists()
    assert not other.parent.exists()
    assert main(["cache", "verify", "--folder", str(cache)]) == 0
    wanted = states_of(tiny_corpus, cache={"dtype": "float32"})
    assert_same_states(states_of(tiny_corpus, cache), wanted)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["ls"], "no cache: say where it is with --folder FOLDER or the environment variable SERTUNE_CACHE"),
        (["ls", "--folder", "nowhere"], "no such folder"),
        (["sweep"], "unknown cache command 'sweep'"),
        (["prune", "--folder", "."], "say what to remove"),
        (["prune", "--older", "x", "--folder", "."], "expected a number"),
        (["build"], "no data"),
        (["build", "--data", "synthetic"], "no cache: say where it goes with --cache.folder"),
        (["build", "--data", "synthetic", "--cache.folder", "c", "--cache.states", "false"], "nothing to build"),
    ],
)
def test_mistakes_are_one_line(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["cache", *flags]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_prune_of_an_unknown_set(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "prune", "zz", "--folder", str(cache)]) == 1
    assert "no set 'zz' (known: " in capsys.readouterr().err


def test_many_small_tables_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MOST_FILES", 3)
    for number in range(6):
        table = disk.FileDigests(tmp_path)
        table.note(f"key {number}", f"digest {number}", number)
        table.save()
    assert len(list(tmp_path.iterdir())) <= 3
    table = disk.FileDigests(tmp_path)
    assert [table.find(f"key {number}") for number in range(6)] == [(f"digest {n}", n) for n in range(6)]


def test_a_file_that_has_just_changed_is_read_again(
    tiny_corpus: Path, tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one step of the clock a file may change and keep its time."""
    monkeypatch.setattr(disk, "SETTLED_SECONDS", 1e9)
    for runs in (1, 2):
        states = states_of(tiny_corpus, tmp_path / "cache")
        assert len(decoded) == runs * CLIPS
    assert states.passes == 0
