"""What comes with the package: a pre-trained encoder, an emotion model on it, and their cards."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import sertune
from bad_audio import noise, write
from sertune.cli import main
from sertune.config import MethodConfig
from sertune.errors import SertuneError
from sertune.model.builtin import EMBEDDED, RANDOM_DIGEST
from sertune.model.emotion_model import load_model
from sertune.model.encoder import load_encoder
from sertune.model.student import batched_front, mel_features
from sertune.train.distil.pairs import mel_rows

MIB = 2**20


def test_the_encoder_is_small_and_its_weights_are_half() -> None:
    file = EMBEDDED / "encoder" / "model.safetensors"
    assert file.stat().st_size <= 4 * MIB
    weights = load_file(file)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert not [name for name in weights if "embed_positions" in name]  # a formula
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    encoder = load_encoder("builtin")
    assert {tensor.dtype for tensor in encoder.model.state_dict().values()} == {torch.float32}
    assert encoder.rate == 16000


def test_the_package_stays_small_and_holds_all_of_it() -> None:
    """The wheel is the package's folder, whose files are compressed at best."""
    package = Path(sertune.__file__).parent
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 8 * MIB
    held = {path.relative_to(package / "model" / "embedded").as_posix() for path in files if "embedded" in path.parts}
    weights = {f"{folder}/model.safetensors" for folder in ("encoder", "emotion")}
    cards = {f"{folder}/CARD.md" for folder in ("encoder", "emotion")}
    assert held == weights | cards | {"encoder/config.json", "encoder/LICENSE", "emotion/model.json"}


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("encoder", ("Whisper tiny.en", "MIT", "CC BY 4.0", "Apache-2.0", "LibriSpeech", "sertune distil", "Seed 0")),
        ("emotion", ("ten actors", "German", "acted", "EmoDB (2 s)", "leave one speaker out", "URDU", "must not be")),
    ],
)
def test_a_card_says_where_it_comes_from(folder: str, words: tuple[str, ...]) -> None:
    card = " ".join((EMBEDDED / folder / "CARD.md").read_text(encoding="utf-8").split())
    assert [word for word in words if word not in card] == []


def test_its_front_runs_on_batches_as_that_of_any_student() -> None:
    encoder, features = load_encoder("builtin", check=False), mel_features()
    clips = [noise(count).astype(np.float32) for count in (16000, 9600)]
    mels = [mel_rows(features, clip) for clip in clips]
    lengths = torch.tensor([len(rows) for rows in mels])
    with torch.no_grad():
        found = batched_front(encoder, torch.nn.utils.rnn.pad_sequence(mels, batch_first=True), lengths)
        for row, clip in enumerate(clips):
            alone = encoder.front(clip).states[0]
            torch.testing.assert_close(found.states[row, : len(alone)], alone, atol=1e-4, rtol=1e-4)


def test_models_of_the_untrained_builtin_of_before_still_load(tiny_corpus: Path, tmp_path: Path) -> None:
    fixed = ["--data", f"synthetic:{tiny_corpus}", "--method", "frozen", "--baseline", "false"]
    assert main(["train", *fixed, "--encoder", "builtin:random", "--out", str(tmp_path / "run")]) == 0
    file = tmp_path / "run" / "model" / "model.json"
    told = json.loads(file.read_text())
    assert told["encoder"]["digest"] == RANDOM_DIGEST
    clip = str(next((tiny_corpus / "wav").glob("*.wav")))
    expected = sertune.load(tmp_path / "run").predict(clip)
    file.write_text(json.dumps({**told, "encoder": {**told["encoder"], "name": "builtin"}}))
    assert sertune.load(tmp_path / "run").predict(clip) == expected
    again = load_model(tmp_path / "run")
    again.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "model.json").read_text())["encoder"]["name"] == "builtin:random"


def test_the_emotion_model_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "my.wav", noise(24000))
    assert main(["predict", "builtin:emotion", str(tmp_path / "my.wav"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["probabilities"]) == {
        "anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness",
    }  # fmt: skip
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert sertune.load("builtin:emotion").predict(str(tmp_path / "my.wav"))["label"] == found["label"]


def test_the_emotion_model_is_no_encoder_and_no_other_has_its_name() -> None:
    with pytest.raises(SertuneError, match="encoder builtin:emotion: is an emotion model, as for sertune predict"):
        load_encoder("builtin:emotion")
    with pytest.raises(SertuneError, match=r"unknown embedded encoder 'builtin:emotoin'"):
        load_encoder("builtin:emotoin")


def test_auto_trains_as_many_layers_as_there_are(tiny_corpus: Path, tmp_path: Path) -> None:
    """The defaults of training fit the embedded encoder of one layer, and its model remembers their number."""
    flags = ["--data", f"synthetic:{tiny_corpus}", "--train.epochs", "1", "--out", str(tmp_path / "run")]
    assert main(["train", *flags, "--baseline", "false"]) == 0
    assert json.loads((tmp_path / "run" / "report.json").read_text())["encoder"]["name"] == "builtin"
    told = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert told["method"] == {**asdict(MethodConfig("partial")), "layers": 1}
