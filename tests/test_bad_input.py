"""Every mistake that a user can make is one clear line and a non-zero status, and leaves nothing behind."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from families import save_family
from safetensors.torch import load_file, save_file

from bad_audio import BAD, noise, write
from sertune.cli import main

Refuse = Callable[..., str]
Change = Callable[[pd.DataFrame], pd.DataFrame]
PROGRESS = ("States of layer", "[")
"""How lines begin that tell of work, before an error that comes amid it."""


def tree(folder: Path) -> dict[str, int]:
    """All files and folders below, with the time of their last change."""
    return {str(path): path.stat().st_mtime_ns if path.is_file() else 0 for path in folder.rglob("*")}


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Runs a command that must fail with one line, which it returns, and change nothing in the folder of the test."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, status: int = 1) -> str:
        before = tree(tmp_path)
        capsys.readouterr()  # what building the test's own files said
        assert main([str(argument) for argument in arguments]) == status
        *earlier, line = capsys.readouterr().err.splitlines()
        assert line.startswith("sertune: ")
        assert all(said.startswith(PROGRESS) for said in earlier)
        assert tree(tmp_path) == before
        return line

    return run


@pytest.fixture
def train(refuse: Refuse, tiny_corpus: Path) -> Refuse:
    """Trains on the tiny corpus, or on other data, and must fail."""

    def run(*flags: object, data: object = None, **options: Any) -> str:
        fixed = [
            "--encoder",
            "builtin:random",
            "--data",
            data or f"synthetic:{tiny_corpus}",
            "--out",
            "out",
            "--baseline",
            "false",
        ]
        return refuse("train", *fixed, "--method", "frozen", *flags, **options)

    return run


@pytest.fixture
def table(tiny_corpus: Path) -> pd.DataFrame:
    """The tiny corpus as a user's table with absolute paths."""
    frame = pd.read_csv(tiny_corpus / "utterances.csv")
    return frame.assign(file=[str(tiny_corpus / file) for file in frame["file"]])


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--methd frozen", "unknown flag --methd; did you mean --method?"),
        ("--overwite", "did you mean --overwrite?"),
        ("--method frosen", "unknown method 'frosen'; did you mean 'frozen'?"),
        ("--method partial --method.layers 9", "method.layers = 9: encoder builtin:random has 4 layers; choose 1 to 4"),
        ("--method.layers two", "method.layers: expected int or 'auto', 'all', found two"),
        ("--precision fp8", "precision: expected one of"),
        ("--precision fp16", "precision = fp16: needs a GPU"),
        ("--train.epochs 3 --train.unfreeze_epoch 3", "the encoder would never train in 3 epochs"),
        ("--train.unfreeze_epoch -1", "train.unfreeze_epoch = -1"),
        ("--train.plateau_patience 0", "train.plateau_patience = 0"),
        ("--train.lr nan", "train.lr"),
        ("--cache.limit_gib -1", "cache.limit_gib = -1"),
        ("--head x.yaml", "--head: is a section"),
        ("--head.layers 7", "head.layers = [7]: the encoder has layers 0 to 4"),
        ("--audio.crop 0", "audio.crop = 0"),
        ("--audio.crop 0.01", "audio.crop = 0.01: expected no less than audio.min_seconds = 0.05"),
        ("--target dimenson", "unknown target 'dimenson'; did you mean 'dimension'?"),
        ("--target.labels anger sadnes", "'sadnes'; did you mean 'sadness'?"),
        ("--target.labels anger anger", "target.labels = anger anger: expected each name once"),
        ("--target.labels anger", "only one label (anger)"),
        ("--target dimension --target.dimensions pride", "has no pride (it has arousal, valence, dominance)"),
        ("--split kfold --split.folds 9", "9 folds need at least 9 speakers, the data has 4"),
        ("--split loso --split.dev_speakers 3", "needs at least 5 speakers, the data has 4"),
        ("--split.test 1.5", "share of test must be between 0 and 1"),
        ("--columns.emotion x", "no table is among the data"),
        ("--columns.emotion", "--columns.emotion: expected a value"),
        ("--seed", "--seed: expected a value"),
        ("--seed 1 2", "--seed: expected one value, found 2"),
        ("--encoder ''", "encoder = ''"),
        ("--encoder builtin:tiny", "unknown embedded encoder 'builtin:tiny'; did you mean 'builtin'?"),
        ("--encoder ./nowhere", "encoder ./nowhere: no such folder"),
        ("--encoder nobody/nothing", "nobody/nothing: no such folder, not downloaded before, and the model hub can't"),
        ("--encoder 'no name'", "unknown encoder 'no name': neither a folder nor a model on the hub"),
        ("--config nowhere.yaml", "nowhere.yaml: no such configuration file"),
        ("--config .", ".: no such configuration file"),
        ("--skip-bad perhaps", "skip_bad: expected bool"),
        ("--out ''", "no run folder: say where the run goes with --out"),
    ],
)
def test_a_setting_that_makes_no_sense(train: Refuse, flags: str, words: str) -> None:
    import shlex

    assert words in train(*shlex.split(flags))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: [1", "not valid YAML: while parsing a flow sequence"),
        ("a: b: c", "not valid YAML: mapping values are not allowed here"),
        ("!!python/object:os.system x", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        ("- a", "expected keys and values, found list"),
        ("5", "expected keys and values, found int"),
        ("train: 5", "train: expected keys and values, found 5"),
        ("train: {lrr: 1}", "unknown key 'train.lrr'; did you mean 'train.lr'?"),
        ("methd: full", "unknown key 'methd'; did you mean 'method'?"),
        ("seed: {a: 1}", "seed: expected a value, found keys and values"),
        ("train: {lr: fast}", "train.lr: expected float or 'auto', found fast"),
        ("train: {epochs: 1.5}", "train.epochs: expected int"),
        ("head: {hidden: [a]}", "head.hidden: expected int"),
        ("target: {labels: anger}", "target.labels: expected list"),
    ],
)
def test_a_configuration_file(train: Refuse, tmp_path: Path, text: str | bytes, words: str) -> None:
    file = tmp_path / "my run.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = train("--config", file.name)
    assert words in line
    # a value of the wrong type is named by its key alone: a flag may have given it
    assert file.name in line or ": expected" in line


def test_printed_settings_read_back_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = [
        "--data",
        "emodb:my corpus/ü",
        "--data",
        "x.csv",
        "--columns.emotion",
        "mein Gefühl",
        "--out",
        "12",
        "--seed",
        "3",
    ]
    flags += ["--head.hidden", "8", "4", "--target.labels", "yes", "null", "1", "--train.lr", "1e-5", "--skip-bad"]
    assert main(["train", *flags, "--print-config"]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "c.yaml"
    file.write_text(printed, encoding="utf-8")
    assert main(["train", "--config", str(file), "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    assert "mein Gefühl" in printed


# -- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("emodbb:x", "unknown corpus 'emodbb'; did you mean 'emodb'? (known: audb, audformat, cremad, "),
        ("emodbb", "unknown corpus 'emodbb'"),
        ("emodb", "'emodb' needs its folder: emodb:FOLDER"),
        ("emodb:", "no folder after the colon"),
        ("emodb:nowhere", "nowhere: no such folder"),
        ("synthetic:nowhere", "nowhere: not a synthetic corpus"),
        ("nowhere.csv", "nowhere.csv: no such file"),
        ("some/folder", "some/folder: no such file or folder"),
        (".", "a folder without a saved manifest; say which corpus it holds"),
        ("emodb:.", "no EmoDB in .: looked for files like 03a01Fa.wav"),
    ],
)
def test_data_that_is_not_there(train: Refuse, data: str, words: str) -> None:
    assert words in train(data=data)


@pytest.mark.parametrize(
    ("change", "flags", "words"),
    [
        (lambda t: t[["file", "speaker"]], "", "neither a label (column emotion or label) nor a dimension"),
        (lambda t: t.drop(columns="file"), "", "no column 'file'"),
        (lambda t: t.rename(columns={"file": "filee"}), "", "did you mean 'filee'?"),
        (lambda t: t.drop(columns="speaker"), "", "16 of 16 utterances have no speaker"),
        (lambda t: t.assign(speaker=t["speaker"].where(t.index != 3)), "", "the first is row 4"),
        (lambda t: t.assign(arousal="high"), "", "column arousal, row 1: expected a number, found 'high'"),
        (lambda t: t.assign(start="soon"), "", "column start, row 1: expected a number, found 'soon'"),
        (lambda t: t.assign(arousal=np.inf), "", "column arousal, row 1: the number is infinite"),
        (lambda t: t.assign(arousal=1234.5), "", "none of the known scales"),
        (lambda t: pd.concat([t, t[:2]]), "", "row 17: the same file and segment as row 1"),
        (lambda t: t.assign(id="a"), "", "repeats the id 'a' (and 14 more rows like it)"),
        (lambda t: t.assign(start=-1), "", "row 1 ({file}) starts at -1 s"),
        (lambda t: t.assign(start=0.5, end=0.2), "", "ends at 0.2 s, not after its start at 0.5 s"),
        (lambda t: t.assign(start=100.0), "", "{file}: the segment starts at 100 s, but the file lasts"),
        (lambda t: t[:0], "", "the table has no rows"),
        (lambda t: t.assign(emotion="anger"), "", "only one label (anger)"),
        (
            lambda t: t.drop(columns="emotion"),
            "",
            "no emotion labels; it has arousal, valence, dominance: use --target",
        ),
        (lambda t: t[["file", "emotion", "speaker"]], "--target dimension", "it has labels: use --target category"),
        (
            lambda t: t.drop(columns="arousal"),
            "--target dimension --target.dimensions arousal",
            "has no arousal (it has",
        ),
        (lambda t: t.assign(valence=3), "--target dimension", "valence is the same for every clip"),
        (lambda t: t, "--columns.emotion mood", "no column 'mood' (meant for emotion)"),
        (lambda t: t, "--columns.emtion text", "unknown column 'emtion'; did you mean 'emotion'?"),
        (lambda t: t[t["speaker"] != "sp01"][:8], "", "needs at least 3 speakers (train, dev, test), the data has 2"),
        (lambda t: t.assign(partition="exam"), "", "has partition 'exam', expected train, dev or test"),
        (lambda t: t.assign(partition="train"), "--split official", "no utterance is in the partition 'test'"),
        (lambda t: t.drop(columns="partition"), "--split official", "no partition column"),
        (
            lambda t: t.assign(partition=["test" if e == "anger" else "train" for e in t["emotion"]]),
            "--split official",
            "the class 'anger' is absent from the train part",
        ),
        (lambda t: t[:2].assign(emotion=["fear", "anger"]), "--split random", "part of fold 'random' is empty"),
    ],
)
def test_a_table(train: Refuse, table: pd.DataFrame, tmp_path: Path, change: Change, flags: str, words: str) -> None:
    file = tmp_path / "Tabelle mit Lücken.csv"
    change(table).to_csv(file, index=False)
    assert words.replace("{file}", table["file"][0]) in train(*flags.split(), data=file.name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the table is empty"),
        (b"PAR1", "the table has no rows"),
        (bytes(range(256)), "not UTF-8 text; save the table as CSV in UTF-8"),
        ("file,label\nä.wav,anger\n".encode("latin-1"), "not UTF-8 text"),
        (b"file,label\na.wav,anger\nb.wav,c,d,e\n", "Expected 2 fields in line 3, saw 4 (line 1 is the header)"),
    ],
)
def test_a_file_that_is_no_table(train: Refuse, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    assert words in train(data="t.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "t.schemes.json: not a JSON object in UTF-8"),
        ("[1]", "t.schemes.json: not a JSON object such as"),
        ('{"emoton": {"labels": ["anger"]}}', "t.schemes.json 'emoton'; did you mean 'emotion'?"),
        ('{"arousal": 5}', "t.schemes.json: the scheme of arousal needs either 'labels'"),
        ('{"emotion": {"labels": ["anger"]}}', "not one of the labels anger (and 11 more rows like it)"),
        ('{"arousal": {"low": 5, "high": 1}}', "must go from a low to a higher number, got 5.0 and 1.0"),
    ],
)
def test_schemes_beside_a_table(train: Refuse, table: pd.DataFrame, tmp_path: Path, text: str, words: str) -> None:
    table.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.schemes.json").write_text(text)
    assert words in train(data="t.csv")


@pytest.mark.parametrize("name", ["utterances.csv", "ratings.csv"])
@pytest.mark.parametrize(
    ("content", "words"), [(b"x\n1\n", "no column"), (b"", "can't be read"), (b"\xff", "can't be")]
)
def test_a_damaged_corpus(
    train: Refuse, tiny_corpus: Path, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    for file in ("utterances.csv", "ratings.csv"):
        shutil.copy(tiny_corpus / file, tmp_path / file)
    (tmp_path / name).write_bytes(content)
    line = train(data="synthetic:.")
    assert words in line
    assert name in line


# -- audio -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_an_audio_file(
    train: Refuse, refuse: Refuse, table: pd.DataFrame, tiny_run: Path, tmp_path: Path, name: str
) -> None:
    make, words = BAD[name]
    file = tmp_path / "Ärger und Öl" / name
    file.parent.mkdir()
    make(file)
    table.assign(file=[*table["file"][:-1], f"Ärger und Öl/{name}"]).to_csv(tmp_path / "t.csv", index=False)
    line = train(data="t.csv")
    assert "--skip-bad goes on without them" in line
    assert f"sertune: {file}: " in line
    assert words in line
    if file.is_file():
        predicted = refuse("predict", tiny_run, file)
        assert f"sertune: {file}: " in predicted
        assert words in predicted


def test_an_audio_file_to_be_scored(refuse: Refuse, table: pd.DataFrame, tiny_run: Path, tmp_path: Path) -> None:
    write(tmp_path / "silent.wav", np.zeros(16000))
    table.assign(file=[*table["file"][:-1], "silent.wav"]).to_csv(tmp_path / "t.csv", index=False)
    line = refuse("evaluate", tiny_run, "--data", "t.csv", "--out", "scores")
    assert f"{tmp_path / 'silent.wav'}: silent: its peak is below 0.0001 of full scale (--skip-bad goes on" in line


def test_an_unusual_rate_or_a_missing_extension_is_fine(tiny_run: Path, tmp_path: Path) -> None:
    write(tmp_path / "fast.wav", noise(384_000), 384_000)
    write(tmp_path / "slow.wav", noise(8000), 8000)
    (tmp_path / "slow.wav").rename(tmp_path / "no extension")
    assert main(["predict", str(tiny_run), str(tmp_path / "fast.wav"), str(tmp_path / "no extension")]) == 0


def test_a_clip_shorter_than_the_first_window(train: Refuse, table: pd.DataFrame, tmp_path: Path) -> None:
    encoder = save_family("wav2vec2-group", tmp_path / "encoder")
    write(tmp_path / "a.wav", noise(300))
    table.assign(file=[*table["file"][:-1], "a.wav"]).to_csv(tmp_path / "t.csv", index=False)
    line = train("--encoder", encoder, "--audio.min_seconds", "0", data="t.csv")
    assert f"{tmp_path / 'a.wav'}: too short: 300 samples at 16000 Hz; encoder {encoder} needs" in line


def test_a_folder_without_audio(refuse: Refuse, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "leer und still").mkdir()
    (tmp_path / "leer und still" / "notes.txt").write_text("none")
    assert "no audio in folder leer und still (looked for .wav" in refuse("predict", tiny_run, "leer und still")
    assert "no such file or folder: 語.wav" in refuse("predict", tiny_run, "語.wav")
    assert "name is empty" in refuse("predict", tiny_run, "")


# -- encoders --------------------------------------------------------------------------------------------------------

KEY = "encoder.layers.1.attention.k_proj.bias"


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def settings(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: halve(d / "model.safetensors"), "its weights are damaged or cut off"),
        (lambda d: (d / "model.safetensors").write_bytes(b""), "its weights are damaged or cut off"),
        (lambda d: (d / "model.safetensors").unlink(), "has no weights; expected model.safetensors"),
        (lambda d: weights(d, lambda w: {k: w[k] for k in w if k != KEY}), f"misses encoder weights {KEY}"),
        (lambda d: weights(d, lambda w: {**w, f"{KEY}2": w[KEY].clone()}), f"unexpected encoder weights {KEY}2"),
        (lambda d: weights(d, lambda w: {**w, KEY: torch.ones(3)}), f"another shape than config.json says: {KEY}"),
        (lambda d: weights(d, lambda w: {**w, KEY: w[KEY] * np.nan}), "its weights hold NaN"),
        (lambda d: settings(d, num_hidden_layers=4), "misses encoder weights encoder.layers.3."),
        (lambda d: settings(d, num_hidden_layers=2), "has unexpected encoder weights encoder.layers.2."),
        (lambda d: settings(d, num_hidden_layers="x"), "num_hidden_layers"),
        (lambda d: settings(d, model_type="wav9vec"), "wav9vec"),
        (lambda d: settings(d, model_type="own", auto_map={"AutoConfig": "a.B"}), "needs program code of its own"),
        (lambda d: (d / "config.json").write_text("{"), "config.json"),
        (lambda d: (d / "config.json").unlink(), "the folder has no config.json"),
        (lambda d: (d / "preprocessor_config.json").write_text("{"), "preprocessor_config.json"),
    ],
)
def test_an_encoder_folder(train: Refuse, tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    folder = tmp_path / "mein Encoder"
    save_family("wav2vec2-group", folder)
    damage(folder)
    line = train("--encoder", folder.name)
    assert "encoder mein Encoder: " in line
    assert words in line


def test_a_model_of_text_or_images(train: Refuse, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(**size, vocab_size=50)).save_pretrained(tmp_path / "text")
    ViTModel(ViTConfig(**size, image_size=32)).save_pretrained(tmp_path / "image")
    assert "encoder text: takes input_ids, not audio; expected a speech encoder" in train("--encoder", "text")
    assert "encoder image: takes pixel_values, not audio" in train("--encoder", "image")
    assert "config.json: is a file" in train("--encoder", "text/config.json")


def test_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub by itself would go on trying for half a minute per file."""
    import huggingface_hub

    from sertune.model.loading import hub_answers

    asked = []

    def unreachable(url: str, **options: object) -> None:
        asked.append(url)
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    assert not hub_answers("nobody/nothing")
    assert len(asked) == 1
    assert asked[0].endswith("nobody/nothing/resolve/main/config.json")
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: True)
    assert not hub_answers("nobody/nothing")
    assert len(asked) == 1


# -- saved models ----------------------------------------------------------------------------------------------------


def described(model: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = model / "model.json"
    description = json.loads(file.read_text())
    change(description)
    file.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda m: (m / "model.json").write_text("{"), "model.json: damaged, or not the description of a model"),
        (lambda m: (m / "model.json").write_text("[]"), "model.json: damaged, or not the description of a model"),
        (lambda m: (m / "model.json").write_bytes(b"\xff"), "model.json: damaged, or not the description of a model"),
        (lambda m: (m / "model.json").unlink(), "no model.json and model.safetensors in it"),
        (lambda m: (m / "model.safetensors").unlink(), "is the run finished?"),
        (lambda m: halve(m / "model.safetensors"), "model.safetensors: damaged"),
        (lambda m: (m / "model.safetensors").write_bytes(b""), "model.safetensors: damaged"),
        (lambda m: weights(m, lambda w: {**w, "extra": torch.ones(1)}), "'extra' is missing or unknown"),
        (lambda m: weights(m, lambda w: {**w, "head.mean": torch.ones(1)}), "head.mean has shape (1,), expected"),
        (lambda m: described(m, lambda d: d.pop("target")), "model.json: damaged, it has no 'target'"),
        (lambda m: described(m, lambda d: d["encoder"].pop("digest")), "model.json: damaged, it has no 'digest'"),
        (lambda m: described(m, lambda d: d.update(format=9)), "has format 9, this sertune reads up to 1; update"),
        (lambda m: described(m, lambda d: d["method"].update(rank=4)), "model.json: unknown key 'method.rank'"),
        (lambda m: described(m, lambda d: d["method"].update(name="lore")), "model.json: unknown method 'lore'"),
        (lambda m: described(m, lambda d: d["target"].update(name="rank")), "model.json: unknown target 'rank'"),
        (lambda m: described(m, lambda d: d.update(audio="x")), "model.json: damaged, or not the description"),
        (lambda m: described(m, lambda d: d["head"].update(layers=[99])), "head.layers = [99]: the encoder has layers"),
        (
            lambda m: described(m, lambda d: d["encoder"].update(digest="0" * 32)),
            "digest 000000000000, but builtin:random has",
        ),
        (
            lambda m: described(m, lambda d: d["encoder"].update(name="a/b/c", path="/no/a/b/c")),
            "no longer at /no/a/b/c",
        ),
    ],
)
def test_a_model_folder(
    refuse: Refuse, tiny_run: Path, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    model = tmp_path / "mein Modell"
    shutil.copytree(tiny_run / "model", model)
    damage(model)
    write(tmp_path / "a.wav", noise(16000))
    line = refuse("predict", model.name, "a.wav")
    assert "mein Modell" in line
    assert words in line


def test_a_base_encoder_that_changed_or_went(
    refuse: Refuse, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.wav", noise(16000))
    save_family("wav2vec2-group", tmp_path / "base")
    flags = ["--method", "frozen", "--baseline", "false", "--encoder", "base", "--out", "run"]
    assert main(["train", "--encoder", "builtin:random", "--data", f"synthetic:{tiny_corpus}", *flags]) == 0
    assert main(["predict", "run", "a.wav"]) == 0
    capsys.readouterr()
    shutil.copytree("base", "other")
    weights(tmp_path / "other", lambda w: {**w, KEY: w[KEY] + torch.eye(32)[0] * 1e-3})
    assert "run/model: trained on encoder base with digest" in refuse("predict", "run", "a.wav", "--encoder", "other")
    shutil.move("base", "elsewhere")
    line = refuse("predict", "run", "a.wav")
    assert f"no longer at {tmp_path / 'base'}; say where it is with --encoder FOLDER" in line
    assert main(["predict", "run", "a.wav", "--encoder", "elsewhere"]) == 0


# -- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("trian", "unknown command 'trian'; did you mean 'train'? (known: train, compare, search,"),
        ("--versio", "unknown command '--versio'"),
        ("train --out out", "no data: say what to train on with --data"),
        ("train --data x.csv", "no run folder: say where the run goes with --out"),
        ("predict", "the following arguments are required: model, files; sertune predict --help tells more"),
        ("predict {run}", "required: files"),
        ("predict {run} a.wav --jsn", "unknown flag --jsn; did you mean --json? (all flags: sertune predict --help)"),
        ("predict {run} a.wav --json --csv", "argument --csv: not allowed with argument --json"),
        ("predict nowhere a.wav", "nowhere: no such model folder; give a run folder of sertune train"),
        ("predict . a.wav", "no model.json and model.safetensors in it or in its model/; is the run finished?"),
        ("predict {run} a.wav --encoder nowhere/a/b", "encoder nowhere/a/b: no such folder"),
        ("evaluate {run} --out scores", "required: --data"),
        ("evaluate {run} --data {data}", "required: --out"),
        ("evaluate {run} --data {data} --out {corpus}", "already there; choose another --out"),
        ("evaluate {run} --data {data} --out {corpus}/ratings.csv", "already there; choose another --out"),
        ("evaluate {run} --data {data} --out {corpus}/ratings.csv/a", "ratings.csv is a file; choose another place"),
        ("evaluate {run} --data emodbx:a --out scores", "unknown corpus 'emodbx'"),
        (
            "evaluate {run} --data x.csv --out scores --columns.emotion",
            "--columns.emotion: expected the name of a column",
        ),
        ("evaluate nowhere --data {data} --out scores", "nowhere: no such model folder"),
        ("check", "required: data"),
        ("check emodbx:a", "unknown corpus 'emodbx'"),
        ("check {data} --max-seconds long", "argument --max-seconds: expected seconds, found 'long'"),
        ("check {data} --min-seconds nan", "argument --min-seconds: expected seconds, found 'nan'"),
        ("corpora --jsn", "unknown flag --jsn; did you mean --json?"),
        ("audit {run} --data {data} --out scores --clips 0", "--clips"),
        ("audit {run} --data {data} --out scores --groups gendr", "did you mean 'gender'"),
        ("audit {run} --data {data} --out scores --conditions telefone", "did you mean 'telephone'"),
        ("demo --ot x", "unknown flag --ot; did you mean --out?"),
        ("demo --out {corpus}/ratings.csv", "ratings.csv: is a file; choose another --out"),
        ("demo --out {corpus}/ratings.csv/a", "ratings.csv is a file; choose another place"),
    ],
)
def test_a_command(refuse: Refuse, tiny_corpus: Path, tiny_run: Path, command: str, words: str) -> None:
    filled = command.format(run=tiny_run, data=f"synthetic:{tiny_corpus}", corpus=tiny_corpus)
    assert words in refuse(*filled.split(" "))


def test_no_command_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("usage: sertune")
    assert shown.out == ""


def test_data_without_what_the_model_predicts(
    refuse: Refuse, tiny_run: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    table.assign(emotion="boredom").to_csv(tmp_path / "bored.csv", index=False)
    line = refuse("evaluate", tiny_run, "--data", "bored.csv", "--out", "scores")
    assert "bored: no clip has a label of the model (anger, happiness, neutral, sadness); its labels: boredom" in line
    table.drop(columns="emotion").to_csv(tmp_path / "rated.csv", index=False)
    assert "its labels: none" in refuse("evaluate", tiny_run, "--data", "rated.csv", "--out", "scores")


# -- places to write to ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [[], ["--overwrite"]])
def test_a_folder_of_something_else_is_left_alone(train: Refuse, tmp_path: Path, extra: list[str]) -> None:
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / "model" / "mine.bin").write_bytes(b"years of work")
    assert "out: the folder holds something else than a run; choose another --out" in train(*extra)


def test_a_run_that_is_there_already(train: Refuse, refuse: Refuse, tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "out")
    assert "out: holds a finished run; choose another --out, or --overwrite to replace it" in train()
    (tmp_path / "out" / "report.json").unlink()
    assert "out: holds an unfinished run with seed = 0, not 1; give the same settings to go on" in train("--seed", "1")
    (tmp_path / "out" / "config.yaml").write_text("sed: 1\n")
    assert "out/config.yaml: unknown key 'sed'; did you mean 'seed'?" in train()


def test_a_run_that_was_killed_at_its_very_start_goes_on(tiny_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml.part").write_text("da")
    flags = ["--method", "frozen", "--baseline", "false", "--out", str(tmp_path)]
    assert main(["train", "--encoder", "builtin:random", "--data", f"synthetic:{tiny_corpus}", *flags]) == 0
    assert not (tmp_path / "config.yaml.part").exists()


def test_no_place_for_a_run_is_found_out_before_the_work(train: Refuse, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "file: is a file" in train("--out", "file")
    assert "file/run: can't be made, as file is a file; choose another place" in train("--out", "file/run")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
def test_names_that_are_no_text(
    train: Refuse, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"sch\xf6n")  # Latin-1, as old disks have it
    assert "'sch\\udcf6n': its name is not valid UTF-8" in train("--out", name)
    write(tmp_path / "a.wav", noise(16000))
    (tmp_path / "a.wav").rename(tmp_path / f"{name}.wav")
    command = [sys.executable, "-m", "sertune", "predict", str(tiny_run), str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Path(json.loads(done.stdout)["file"]).name == f"{name}.wav"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_changed(train: Refuse, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    assert "locked/run: can't be written, as locked may not be changed" in train("--out", "locked/run")


WRITTEN = ["config.yaml", "test.parquet", "model.safetensors", "result.json", "report.json", "report.html"]


@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk(
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    run = tmp_path / "run"
    command = [
        "train",
        "--encoder",
        "builtin:random",
        "--data",
        f"synthetic:{tiny_corpus}",
        "--out",
        str(run),
        "--method",
        "frozen",
    ]
    command += ["--baseline", "false"]
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "replace", full)
        assert main(command) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("sertune: ")
    assert f"{name}: can't be written (No space left on device); make room" in line
    assert not (run / "report.json").exists()
    assert not list(tmp_path.rglob("*.part"))
    assert main(command) == 0
    assert json.loads((run / "report.json").read_text())["kind"] == "train"


@pytest.mark.parametrize("name", ["report.html", "scores"])
def test_a_full_disk_while_evaluating(
    refuse: Refuse, tiny_run: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    line = refuse("evaluate", tiny_run, "--data", f"synthetic:{tiny_corpus}", "--out", "scores")
    assert "sertune: scores" in line
    assert "can't be written (No space left on device)" in line


# -- the process -----------------------------------------------------------------------------------------------------


def test_an_interrupt(refuse: Refuse, train: Refuse, monkeypatch: pytest.MonkeyPatch, tiny_run: Path) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sertune.model.encoder.Encoder.clip_layers", interrupt)
    monkeypatch.setattr("sertune.apps.predict.find_audio", interrupt)
    assert train(status=130) == "sertune: stopped; the same command goes on from there"
    assert refuse("predict", tiny_run, "a.wav", status=130) == "sertune: stopped"


def test_not_enough_memory(train: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 99 bytes")

    monkeypatch.setattr("sertune.model.encoder.Encoder.clip_layers", allocate)
    line = train()
    assert "not enough memory" in line
    assert "--train.batch_seconds or --audio.crop" in line


def test_an_error_of_the_program_keeps_its_trace(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("sertune.model.encoder.Encoder.clip_layers", broken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(
            [
                "train",
                "--encoder",
                "builtin:random",
                "--data",
                f"synthetic:{tiny_corpus}",
                "--out",
                str(tmp_path / "run"),
            ]
        )


def test_a_closed_pipe_and_a_full_device_show_no_trace() -> None:
    command = [sys.executable, "-m", "sertune", "corpora"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    if Path("/dev/full").exists():
        with Path("/dev/full").open("wb") as device:
            done = subprocess.run(command, stdout=device, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "sertune: output: No space left on device\n")
