"""Settings: YAML, flags and Python are one thing."""

from pathlib import Path

import pytest

from sertune.config import MethodConfig, RunConfig, dump_yaml, flags_help, from_dict, from_flags, load_yaml, to_dict
from sertune.errors import SertuneError


def test_flags_yaml_and_python_are_one_thing(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: [a.csv, b.csv]\nmethod: {name: partial, layers: 3}\ntrain: {lr: 1e-4}\n")
    flags = ["--data", "a.csv", "--data", "b.csv", "--method", "partial", "--method.layers", "3", "--train.lr", "1e-4"]
    by_flags, by_yaml, by_file = from_flags(flags), from_dict(load_yaml(file)), from_flags(["--config", str(file)])
    assert by_flags == by_yaml == by_file
    assert by_flags.method == MethodConfig("partial", 3)
    assert by_flags.train.lr == 1e-4


def test_written_settings_read_back_the_same(tmp_path: Path) -> None:
    config = from_flags(["--data", "emodb:a b", "--head.hidden", "32", "--columns.emotion", "etikett", "--skip-bad"])
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(config))
    assert from_dict(load_yaml(file)) == config
    assert from_dict(to_dict(config)) == config
    assert (config.head.hidden, config.columns, config.skip_bad) == ([32], {"emotion": "etikett"}, True)


def test_flags_go_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: a.csv\nmethod: full\ntarget: {labels: [anger, sadness]}\nseed: 3\n")
    config = from_flags(["--data", "b.csv", "--config", str(file), "--seed", "4", "--target.labels", "fear", "anger"])
    assert (config.data, config.method.name, config.seed) == (["b.csv"], "full", 4)
    assert config.target.labels == ["fear", "anger"]


def test_numbers_stay_text_where_text_is_meant() -> None:
    config = from_flags(["--data", "123", "--encoder", "456"])
    assert (config.data, config.encoder) == (["123"], "456")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--metod", "full"], "unknown flag --metod; did you mean --method?"),
        (["--train.rl", "1"], "did you mean --train.lr"),
        (["--method", "fulll"], "unknown method 'fulll'; did you mean 'full'?"),
        (["--train.lr", "fast"], "train.lr: expected float"),
        (["--train.epochs", "2.5"], "train.epochs: expected int"),
        (["--train.epochs", "3", "--train.unfreeze_epoch", "3"], "the encoder would never train"),
        (["--target.label_smoothing", "1.5"], "target.label_smoothing = 1.5"),
        (["--method.layers", "0"], "method.layers = 0"),
        (["--seed"], "--seed: expected a value"),
        (["emodb"], "unexpected 'emodb'"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such configuration file"),
        (["--encoder", "a", "b"], "--encoder: expected one value"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(flags: list[str], words: str) -> None:
    with pytest.raises(SertuneError) as caught:
        from_flags(flags)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"metod": "full"}, "unknown key 'metod'; did you mean 'method'"),
        ({"train": {"lrr": 1}}, "unknown key 'train.lrr'; did you mean 'train.lr'"),
        ({"train": 3}, "train: expected keys and values"),
        ({"augment": {"time_mask": 1.0}}, "augment.time_mask = 1.0"),
        ({"precision": "fp8"}, "precision"),
    ],
)
def test_wrong_values_in_python_and_yaml(values: dict[str, object], words: str) -> None:
    with pytest.raises(SertuneError) as caught:
        from_dict(values)
    assert words in str(caught.value)


def test_yaml_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("data: [a\n")
    with pytest.raises(SertuneError, match=r"bad\.yaml: not valid YAML"):
        load_yaml(file)
    file.write_text("- a\n")
    with pytest.raises(SertuneError, match="expected keys and values"):
        load_yaml(file)


def test_help_names_every_key_and_says_what_it_does() -> None:
    text = flags_help()
    for key in ("--data", "--method.layers", "--train.unfreeze_epoch", "--audio.crop", "--split.dev_speakers"):
        assert key in text
    assert "The run folder." in text


def test_defaults_are_valid() -> None:
    assert from_dict({}) == RunConfig()
