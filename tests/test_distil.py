"""sertune distil: the student's front, the loss, resuming to the very result, teachers of every kind."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from families import save_family
from safetensors.torch import load_file

import sertune
from sertune.cli import main
from sertune.config import AugmentConfig
from sertune.data.batch import LayerStates
from sertune.errors import SertuneError
from sertune.model.emotion_model import load_model
from sertune.model.encoder import Encoder, load_encoder
from sertune.model.student import (
    Shape,
    batched_front,
    build_student,
    can_start_from,
    mel_features,
    sinusoids,
    start_from,
)
from sertune.model.targets import CategoryTarget, DimensionTarget
from sertune.train.distil.config import DISTIL, DistilConfig, LossConfig
from sertune.train.distil.loop import DistilFit
from sertune.train.distil.loss import Distiller, matched, output_distance
from sertune.train.distil.pairs import PairBatch, make_pairs
from sertune.train.distil.run import distil
from sertune.train.distil.teacher import load_teacher
from sertune.train.distil.windows import find_windows
from sertune.train.states import OCCASIONAL, Views

SMALL = ("--student.layers", "2", "--student.width", "32", "--train.batch_clips", "4", "--precision", "fp32")


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERTUNE_CACHE", raising=False)


def settings(data: object, out: Path, *flags: str) -> DistilConfig:
    """A quick run: two epochs, two views, a tiny student of the random encoder."""
    given = {flag for flag in flags if flag.startswith("--")}
    usual = {"--teacher": "builtin:random", "--train.epochs": "2", "--cache.views": "2"}
    fixed = [part for flag, value in usual.items() if flag not in given for part in (flag, value)]
    return DISTIL.from_flags(["--data", str(data), "--out", str(out), *SMALL, *fixed, *flags])


def report_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "report.json").read_text())
    return found


@pytest.fixture(scope="module")
def whole(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return distil(settings(tiny_corpus, tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture(scope="module")
def student() -> Encoder:
    return Encoder(build_student(Shape(2, 32)), mel_features(), "student")


# -- the student -----------------------------------------------------------------------------------------------------


def test_a_batch_enters_the_layers_as_each_clip_alone(student: Encoder) -> None:
    """Also where a clip has an odd number of mel frames, and its neighbours are longer."""
    clips = [student.noise(1.0)[:samples] for samples in (16000, 9120, 8960, 4960)]
    mels = [student.features(clip)["input_features"][0].T for clip in clips]
    lengths = torch.tensor([len(mel) for mel in mels])
    assert {int(length) % 2 for length in lengths} == {0, 1}
    with torch.no_grad():
        together = batched_front(student, torch.nn.utils.rnn.pad_sequence(mels, batch_first=True), lengths)
    for row, clip in enumerate(clips):
        alone = student.front(clip).states[0]
        assert int(together.lengths[row]) == len(alone)
        torch.testing.assert_close(together.states[row, : len(alone)], alone, rtol=1e-5, atol=1e-5)
        assert not together.states[row, len(alone) :].any()


def test_a_student_is_the_same_everywhere() -> None:
    assert Encoder(build_student(Shape(1, 16)), mel_features(), "s", check=False).digest == (
        "01e481ec4702416d60a218d1e1a7c2e0"
    )


def test_positions_are_sinusoids() -> None:
    made = sinusoids(100, 8)
    assert made.shape == (100, 8)
    torch.testing.assert_close(made[:, 0], torch.arange(100.0).sin(), rtol=0, atol=5e-4)
    torch.testing.assert_close(made[:, 7], (torch.arange(100.0) / 10000).cos(), rtol=0, atol=5e-4)
    assert torch.equal(made, made.half().float())


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (Shape(0, 32), "student.layers = 0: expected 1 or more"),
        (Shape(3, 32), "student.layers = 3: a width of 32 allows 2, one for every 16 channels"),
        (Shape(1, 33), "student.width = 33: expected an even number from 16 on"),
        (Shape(1, 8), "student.width = 8"),
        (Shape(1, 32, heads=5), "student.heads = 5: expected a number that divides the width, 32"),
        (Shape(1, 32, feed_forward=-1), "student.feed_forward = -1"),
    ],
)
def test_sizes_that_cannot_be(shape: Shape, words: str) -> None:
    with pytest.raises(SertuneError) as error:
        shape.check()
    assert words in str(error.value)


# -- its start -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide() -> Encoder:
    """A teacher of a student's shape: three layers of 64 channels, four heads of 16."""
    return Encoder(build_student(Shape(3, 64, 4, 96), seed=1), mel_features(), "teacher", check=False)


def test_a_student_of_its_teachers_size_starts_as_its_first_layers(wide: Encoder) -> None:
    student = Encoder(build_student(Shape(2, 64, 4, 96)), mel_features(), "s", check=False)
    start_from(student.model, wide.model, torch.ones(64))
    clip = wide.noise(0.5)
    frames = [encoder.clip_layers(clip, [0, 1], top=1)[0] for encoder in (student, wide)]
    for layer in (0, 1):
        torch.testing.assert_close(frames[0][layer], frames[1][layer], rtol=0, atol=0)


def test_a_smaller_student_starts_from_a_part_of_every_weight(wide: Encoder) -> None:
    """Its channels are those that spread most; inside the feed-forward part those with the largest weights."""
    student = build_student(Shape(1, 32, 2, 16))
    spread = torch.linspace(1, 2, 64)
    start_from(student, wide.model, spread)
    mine, theirs = student.state_dict(), wide.model.state_dict()
    kept = torch.arange(32, 64)
    assert torch.equal(mine["conv1.weight"], theirs["conv1.weight"][kept])
    torch.testing.assert_close(mine["conv2.weight"], 2**0.5 * theirs["conv2.weight"][kept][:, kept])
    heads = torch.cat([torch.arange(16), torch.arange(48, 64)])  # the first and the last
    name = "layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(mine[name], 2**0.5 * theirs[name][heads][:, kept])
    into, out = theirs["layers.0.fc1.weight"][:, kept], theirs["layers.0.fc2.weight"][kept]
    inner = (into.norm(dim=1) * out.norm(dim=0)).argsort(descending=True)[:16].sort().values
    torch.testing.assert_close(mine["layers.0.fc1.weight"], 2**0.5 * into[inner])
    torch.testing.assert_close(mine["layers.0.fc2.weight"], 6**0.5 * out[:, inner])


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (Shape(4, 64, 4, 96), "it has 3 layers, the student 4"),
        (Shape(1, 64, 2, 96), "its attention heads have 16 channels, the student's 32"),
        (Shape(1, 80, 5, 96), "it has 64 channels, the student 80"),
        (Shape(1, 64, 4, 97), "it has 96 channels inside its feed-forward parts, the student 97"),
        (Shape(1, 64, 4, 96), ""),
    ],
)
def test_who_can_start_from_whom(wide: Encoder, shape: Shape, words: str) -> None:
    assert can_start_from(shape, wide.model) == words


def test_maps_start_solved(wide: Encoder) -> None:
    """Where a teacher's layer is a linear map of the student's, the loss starts at nearly nothing."""
    student = Encoder(build_student(Shape(1, 64, 4, 96)), mel_features(), "s", check=False)
    torch.manual_seed(0)
    spread = torch.rand(48) + 0.5
    distiller = Distiller(student, {3: (torch.randn(48), spread)}, LossConfig(cosine=0.0, mean=0.0))
    mels = torch.randn(2, 60, 80)
    batch = PairBatch(mels, torch.tensor([60, 41]), {}, None, ["a", "b"])
    with torch.no_grad():
        frames = distiller.hidden(batch)[1].pack().states[0]
        batch.states[3] = frames[:, :48].double().float() @ torch.randn(48, 48) + 3
        before = distiller.distances(batch.lengths, distiller.predicted(batch)[1], None, batch)["layer 3"]
        distiller.solve_maps([batch])
        after = distiller.distances(batch.lengths, distiller.predicted(batch)[1], None, batch)["layer 3"]
    assert float(after) < 0.1 * float(before)


def test_a_run_says_what_its_student_started_from(whole: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    assert report_of(whole)["student"]["start"] == "teacher"
    flags = ("--student.start", "random", "--train.epochs", "1")
    run = distil(settings(tiny_corpus, tmp_path / "run", *flags))
    assert report_of(run)["student"]["start"] == "random"
    deep = ("--student.layers", "5", "--student.width", "96", "--student.heads", "3")
    with pytest.raises(
        SertuneError, match=r"student.start = teacher: builtin:random can't be started from: it has 4 layers"
    ):
        distil(settings(tiny_corpus, tmp_path / "b", "--student.start", "teacher", *deep))


# -- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "layers", "how", "expected"),
    [
        (3, [1, 2, 3], "layers", {1: 1, 2: 2, 3: 3}),
        (2, [1, 2, 3], "layers", {1: 1, 2: 1, 3: 2}),
        (3, [6, 12], "layers", {6: 2, 12: 3}),
        (3, [4, 2], "last", {4: 3, 2: 3}),
        (1, [0, 1, 2, 3], "layers", {0: 1, 1: 1, 2: 1, 3: 1}),
    ],
)
def test_which_layer_gives_which(student: int, layers: list[int], how: str, expected: dict[int, int]) -> None:
    assert matched(student, layers, how) == expected


def example(student: Encoder, layer: int = 1) -> tuple[Distiller, PairBatch, dict[int, torch.Tensor]]:
    """A distiller, a batch of two clips whose teacher has 5 channels, and what the student gives."""
    torch.manual_seed(0)
    moments = {layer: (torch.randn(5), torch.rand(5) + 0.5)}
    distiller = Distiller(student, moments, LossConfig(l1=1.0, cosine=1.0, mean=1.0))
    mels = torch.randn(2, 30, 80)
    lengths = torch.tensor([30, 21])
    batch = PairBatch(mels * (torch.arange(30)[None, :, None] < lengths[:, None, None]), lengths, {}, None, ["a", "b"])
    hidden, given, _ = distiller.predicted(batch)
    assert hidden[0].lengths.tolist() == [15, 11]
    assert given[layer].shape == (26, 5)
    return distiller, batch, given


def test_no_distance_to_itself(student: Encoder) -> None:
    """Where the student gives the very states, only the least value of -log sigmoid(cosine) is left."""
    distiller, batch, given = example(student)
    mean, spread = distiller.get_buffer("mean_1"), distiller.get_buffer("spread_1")
    batch.states[1] = (given[1] * spread + mean).detach()
    found = distiller.distances(torch.tensor([15, 11]), given, None, batch)
    assert float(found["layer 1"].detach()) == pytest.approx(np.log1p(np.exp(-1.0)), abs=1e-5)


def test_the_loss_is_the_formula(student: Encoder) -> None:
    distiller, batch, given = example(student)
    mean, spread = distiller.get_buffer("mean_1"), distiller.get_buffer("spread_1")
    batch.states[1] = torch.randn(26, 5)
    true = ((batch.states[1] - mean) / spread).double().numpy()
    own = given[1].detach().double().numpy()
    cosine = (own * true).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(true, axis=1)
    means = [np.abs(own[part].mean(0) - true[part].mean(0)) for part in (slice(0, 15), slice(15, 26))]
    expected = np.abs(own - true).mean() + np.log1p(np.exp(-cosine)).mean() + np.mean(means)
    found = distiller.distances(torch.tensor([15, 11]), given, None, batch)
    assert float(distiller.total(found).detach()) == pytest.approx(expected, rel=1e-5)


def test_everything_but_the_positions_learns(student: Encoder) -> None:
    distiller, batch, given = example(student, layer=2)
    batch.states[2] = torch.randn(26, 5)
    distiller.total(distiller.distances(torch.tensor([15, 11]), given, None, batch)).backward()
    for name, parameter in distiller.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) != ("embed_positions" in name), name


def test_distance_of_outputs() -> None:
    target = CategoryTarget(("a", "b"))
    true = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    assert float(output_distance(target, true + 3, true)) == pytest.approx(0, abs=1e-6)
    p, q = true.softmax(1), torch.full((2, 2), 0.5)
    expected = float((p * (p / q).log()).sum() / 2)
    assert float(output_distance(target, torch.zeros(2, 2), true)) == pytest.approx(expected, rel=1e-5)
    values = DimensionTarget(("arousal", "valence"), ((1.0, 5.0), (1.0, 5.0)))
    assert float(output_distance(values, true + 0.25, true)) == pytest.approx(0.25)


# -- windows and views -----------------------------------------------------------------------------------------------


def test_files_become_windows_of_equal_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, seconds in (("a.wav", 1.5), ("deep/b.flac", 9.0), ("deep/c.wav", 4.0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(int(seconds * 16000)), 16000)
    audio = load_teacher("builtin:random", [], DISTIL.from_dict({}).audio, "fp32", 16000).audio
    found = find_windows([str(tmp_path)], audio, held_out=0.1, skip_bad=False, seed=0)
    assert found.files == 3
    assert [Path(file).name for file in found.frame["file"]] == ["a.wav", "b.flac", "b.flac", "b.flac", "c.wav"]
    assert found.frame["duration"].tolist() == pytest.approx([1.5, 3, 3, 3, 4])
    assert found.frame["start"].tolist() == pytest.approx([0, 0, 3, 6, 0])
    # whole files are held out, at least one and not all
    assert found.frame["file"][found.held_out].nunique() == 1
    assert set(found.frame["file"][found.held_out]).isdisjoint(found.frame["file"][~found.held_out])


def test_views_with_some_of_the_effects() -> None:
    options = AugmentConfig(wave_speed=[0.5, 0.5], wave_reverb=[0.1, 0.6], wave_noise=[0.0, 0.0])
    audio = (0.1 * np.random.default_rng(1).standard_normal(8000)).astype(np.float32)
    views = {share: Views(options, 0, 2, 9.0, share) for share in (0.0, 0.5, 1.0)}
    names = {share: own.name("ab" * 16, 1) for share, own in views.items()}
    assert len(set(names.values())) == 3
    made = {share: own.kept(audio, 16000, "ab" * 16, 1) for share, own in views.items()}
    assert all(len(samples) == 16000 for samples in made.values())  # the speed is part of every view
    only_speed = Views(replace(options, wave_reverb=[], wave_noise=[]), 0, 2, 9.0).kept(audio, 16000, "ab" * 16, 1)
    draws = np.random.default_rng((0, int("ab" * 16, 16), 1)).random(len(OCCASIONAL))
    assert (draws >= 0).all()
    assert len(only_speed) == 16000
    np.testing.assert_allclose(made[0.0], only_speed, atol=1e-6)
    assert not np.allclose(made[1.0], only_speed, atol=1e-3)


# -- a run -----------------------------------------------------------------------------------------------------------


def test_what_a_run_leaves(whole: Path) -> None:
    names = {file.name for file in whole.iterdir()}
    assert names == {"config.yaml", "encoder", "log.jsonl", "report.json"}
    assert {file.name for file in (whole / "encoder").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert all(tensor.dtype == torch.float16 for tensor in load_file(whole / "encoder" / "model.safetensors").values())
    report = report_of(whole)
    assert report["student"]["gives"] == {"layer 1": 1, "layer 2": 1, "layer 3": 2}
    assert report["data"]["clips"] == 16
    assert report["data"]["held_out"] == 1
    assert [row["epoch"] for row in report["epochs"]] == [1, 2]
    assert report["epochs"][1]["train"]["layer 3"] < report["epochs"][0]["train"]["layer 3"]
    assert report["cost"]["student"]["parameters"] < report["cost"]["teacher"]["parameters"]
    encoder = load_encoder(str(whole / "encoder"))  # checks its split, too
    assert (encoder.depth, encoder.width, encoder.digest) == (2, 32, report["student"]["digest"])


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_a_run_goes_on_to_the_same_result(
    stop_at: int, tiny_corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tiny_corpus, tmp_path / "run", "--train.checkpoint_minutes", "5")
    step, done = DistilFit._step, 0

    def stopping(self: DistilFit, batch: PairBatch) -> list[float]:
        nonlocal done
        done += 1
        self._saved = -1e9  # a checkpoint after every step
        if done == stop_at:
            raise KilledError
        return step(self, batch)

    monkeypatch.setattr(DistilFit, "_step", stopping)
    with pytest.raises(KilledError):
        distil(config)
    assert (tmp_path / "run" / "states").is_dir()
    monkeypatch.setattr(DistilFit, "_step", step)
    run = distil(config)
    weights = [load_file(folder / "encoder" / "model.safetensors") for folder in (run, whole)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    logs = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in report_of(r)["epochs"]] for r in (run, whole)
    ]
    assert logs[0] == logs[1]


def test_a_second_run_computes_no_states(tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sertune.train.cache.SETTLED_SECONDS", -1e9)
    made: list[int] = []
    clip_layers = Encoder.clip_layers

    def counting(self: Encoder, *args: Any, **options: Any) -> Any:
        made.append(1)
        return clip_layers(self, *args, **options)

    monkeypatch.setattr(Encoder, "clip_layers", counting)
    monkeypatch.setattr("sertune.train.distil.run._cost", lambda *_: {})
    flags = ("--cache.folder", str(tmp_path / "cache"), "--train.epochs", "1")
    distil(settings(tiny_corpus, tmp_path / "one", *flags))
    assert len(made) == 2 * 16
    distil(settings(tiny_corpus, tmp_path / "two", *flags, "--student.layers", "1"))
    assert len(made) == 2 * 16
    assert (tmp_path / "cache").is_dir()


def test_nothing_kept(tiny_corpus: Path, tmp_path: Path) -> None:
    """Teacher and augmentation run for every batch; without augmentation that is what kept states give."""
    off = ("--augment.wave_speed", "[]", "--augment.share", "0", "--train.epochs", "1", "--cache.views", "1")
    live = distil(settings(tiny_corpus, tmp_path / "live", *off, "--cache.states", "false"))
    kept = distil(settings(tiny_corpus, tmp_path / "kept", *off, "--cache.dtype", "float32"))
    one, other = (report_of(run)["epochs"][0]["train"] for run in (live, kept))
    assert one == pytest.approx(other, rel=1e-4)
    assert report_of(live)["data"]["views"] is None


def test_the_report_and_the_command(
    tiny_corpus: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, probe = tmp_path / "run", f"synthetic:{corpus}"
    command = ["distil", "--teacher", "builtin:random", "--data", str(tiny_corpus), "--out", str(run), *SMALL]
    assert main([*command, "--train.epochs", "1", "--cache.views", "1", "--probe", probe]) == 0
    out = capsys.readouterr().out
    assert f"encoder: {run / 'encoder'}" in out
    assert "UAR of a frozen linear model: the student ." in out
    (found,) = report_of(run)["probes"]
    assert [row["name"] for row in found["rows"] if row["encoder"] == "student"] == [
        "layer 0",
        "layer 1",
        "layer 2",
        "all layers side by side",
    ]
    assert len([row for row in found["rows"] if row["encoder"] == "teacher"]) == 7
    assert report_of(run)["warnings"] == []
    page = (run / "report.html").read_text()
    assert "What each layer knows of emotion" in page
    assert "http" not in page.replace("http-equiv", "")
    assert main(["distil", "--teacher", "x", "--student.width", "64", "--print-config"]) == 0
    (tmp_path / "run.yaml").write_text(capsys.readouterr().out)
    assert main(["distil", "--config", str(tmp_path / "run.yaml"), "--print-config"]) == 0
    assert "width: 64" in capsys.readouterr().out
    assert main(["distil", "--help"]) == 0
    assert "--student.feed_forward" in capsys.readouterr().out


def test_a_probe_that_was_heard_is_named(tiny_corpus: Path, tmp_path: Path) -> None:
    flags = ("--probe", f"synthetic:{tiny_corpus}", "--train.epochs", "1", "--cache.views", "1")
    (warning,) = report_of(distil(settings(tiny_corpus, tmp_path / "run", *flags)))["warnings"]
    assert "16 files of the probe" in warning


# -- teachers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["wav2vec2-group", "wavlm", "sew", "w2v-bert", "whisper"])
def test_teachers_of_other_families(family: str, tiny_corpus: Path, tmp_path: Path) -> None:
    """Their frames, however many, are brought to the student's."""
    folder = save_family(family, tmp_path / "teacher")
    config = settings(tiny_corpus, tmp_path / "run", "--teacher", folder, "--layers", "1", "3", "--cache.views", "1")
    report = report_of(distil(config))
    assert report["student"]["gives"] == {"layer 1": 1, "layer 3": 2}
    assert report["epochs"][1]["train"]["layer 3"] < report["epochs"][0]["train"]["layer 3"]


def test_a_teacher_of_another_rate_hears_it_resampled(tiny_corpus: Path, tmp_path: Path) -> None:
    folder = Path(save_family("wav2vec2-layer", tmp_path / "teacher"))
    told = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**told, "sampling_rate": 8000}))
    config = settings(tiny_corpus, tmp_path / "run", "--teacher", str(folder), "--cache.states", "false")
    teacher = load_teacher(str(folder), [1], config.audio, "fp32", 16000)
    second = teacher.encoder.noise(1.0)
    assert len(second) == 16000
    whole = load_encoder(str(folder))
    assert (whole.rate, teacher.encoder.rate) == (8000, 16000)
    assert teacher.encoder.front(second).states.shape[1] == whole.front(second[::2]).states.shape[1]
    windows = find_windows([str(tiny_corpus)], teacher.audio, held_out=0, skip_bad=False, seed=0)
    batch = make_pairs(windows, teacher, config, tmp_path / "none").view([0, 1])
    assert len(batch.states[1]) == int(((batch.lengths + 1) // 2).sum())


def emotion_model(corpus: Path, out: Path, *flags: str) -> Path:
    fixed = ["--data", f"synthetic:{corpus}", "--encoder", "builtin:random", "--out", str(out), "--baseline", "false"]
    assert main(["train", *fixed, "--train.epochs", "1", "--precision", "fp32", *flags]) == 0
    return out


@pytest.mark.parametrize(
    "flags",
    [
        ("--method", "lora", "--method.layers", "2"),
        ("--method", "frozen", "--target", "dimension"),
    ],
)
def test_the_student_of_an_emotion_model(
    flags: tuple[str, ...], tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = emotion_model(tiny_corpus, tmp_path / "teacher", *flags)
    config = settings(tiny_corpus, tmp_path / "run", "--teacher", str(teacher), "--train.epochs", "8")
    run = distil(config)
    report = report_of(run)
    assert report["epochs"][-1]["train"]["outputs"] < report["epochs"][0]["train"]["outputs"]
    assert report["outputs"]["clips"] == 1
    # both folders move together, and the base is found from the model's own place
    moved = shutil.move(run, tmp_path / "elsewhere")
    file = str(next((tiny_corpus / "wav").glob("*.wav")))
    both = [sertune.load(folder).predict(file) for folder in (teacher, moved)]
    assert both[0].keys() == both[1].keys()
    assert main(["evaluate", str(moved), "--data", f"synthetic:{tiny_corpus}", "--out", str(tmp_path / "scores")]) == 0
    assert any("were in the model's training" in text for text in report_of(tmp_path / "scores")["warnings"])
    student = load_model(moved)
    assert student.info["distilled"]["clips"] == 16
    assert student.spec.audio == load_model(teacher).spec.audio
    student.save(tmp_path / "again")  # its base is still found
    assert sertune.load(tmp_path / "again").predict(file) == both[1]
    capsys.readouterr()


def test_states_of_a_trained_encoder_are_not_those_of_its_base(tiny_corpus: Path, tmp_path: Path) -> None:
    """Kept states are named by the weights as they were fine-tuned."""
    run = emotion_model(tiny_corpus, tmp_path / "run", "--method", "partial", "--method.layers", "1")
    window = DISTIL.from_dict({}).audio
    teacher = load_teacher(str(run), [], window, "fp32", 16000)
    base = load_teacher("builtin:random", [], window, "fp32", 16000)
    assert teacher.layers == (4,)
    assert teacher.encoder.digest != base.encoder.digest
    noise = base.encoder.noise(1.0)
    frames = [own.encoder.clip_layers(noise, [3, 4])[0] for own in (teacher, base)]
    assert torch.equal(frames[0][3], frames[1][3])
    assert not torch.equal(frames[0][4], frames[1][4])
    assert teacher.outputs(noise).shape == (1, 4)


def test_moments_are_those_of_the_frames(tiny_corpus: Path, tmp_path: Path) -> None:
    config = settings(tiny_corpus, tmp_path / "run", "--cache.dtype", "float32", "--cache.views", "1")
    teacher = load_teacher("builtin:random", [2], config.audio, "fp32", 16000)
    windows = find_windows([str(tiny_corpus)], teacher.audio, held_out=0.1, skip_bad=False, seed=0)
    pairs = make_pairs(windows, teacher, config, tmp_path / "cache")
    frames = torch.cat([pairs.view([row]).states[2] for row in pairs.train.tolist()])
    mean, spread = pairs.moments(0)[2]
    torch.testing.assert_close(mean, frames.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(spread, frames.std(0, correction=0), rtol=1e-4, atol=1e-5)
    # the very states that the encoder gives for the window as it is read
    own = teacher.encoder.clip_layers(pairs.reader(3), [2])[0][2]
    torch.testing.assert_close(pairs.view([3]).states[2], own)
    assert isinstance(teacher.encoder.front(pairs.reader(3)), LayerStates)
