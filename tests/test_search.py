"""`sertune search` from end to end: what it tries, what it tests, and that it goes on after any stop."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import yaml
from families import save_family

import sertune
from sertune.cli import main
from sertune.config import RunConfig, from_dict, load_yaml
from sertune.errors import SertuneError
from sertune.train.search.bench import Bench
from sertune.train.search.options import SearchOptions
from sertune.train.search.run import run_search, snapshot
from sertune.train.search.search import open_search
from sertune.train.search.space import read_space
from sertune.train.states import States

SPACE: dict[str, Any] = {
    "method.name": ["partial", "lora"],
    "method.layers": {"int": [1, 2]},
    "lora.rank": {"int": [2, 8], "log": True},
    "train.epochs": {"int": [1, 3]},
    "train.unfreeze_epoch": {"int": [0, 2], "below": "train.epochs"},
}
HEAD: dict[str, Any] = {
    "method.name": "frozen",
    "head.layers": {"span": [0, "depth"]},
    "head.regularisation": {"log": [1e-3, 1.0]},
}


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six speakers, 48 clips: enough for a test part and two inner folds."""
    from sertune.data.synthetic import write_corpus

    return write_corpus(tmp_path_factory.mktemp("speech") / "corpus", speakers=6, sentences=2, per_emotion=2, raters=3)


def base(corpus: Path, out: Path, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "data": [f"synthetic:{corpus}"],
        "encoder": "builtin:random",
        "split": {"name": "speaker", "test": 0.4, "dev": 0.2},
        "train": {"batch_clips": 8, "average": 0.5},
        "head": {"regularisation": [0.1]},
        "audio": {"crop": 0.5},  # short, for speed
        "precision": "fp32",
        "baseline": False,
        "out": str(out),
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(values.get(key), dict) else value
    return from_dict(values)


def searched(corpus: Path, out: Path, space: dict[str, Any], options: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The report of a search."""
    told = {
        "space": space,
        "trials": 4,
        "inner_folds": 2,
        "seeds": 1,
        "workers": 1,
        "sampler": "random",
        "confirm": 0,
        **options,
    }
    assert run_search(base(corpus, out, **changes), SearchOptions(**told)) == out
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


@pytest.fixture(autouse=True)
def _no_codecarbon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds to look around; `test_search_energy.py` is about it."""
    monkeypatch.setattr("sertune.train.search.energy._codecarbon", lambda: None)


@pytest.fixture(scope="module")
def found(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished nested search over methods."""
    out = tmp_path_factory.mktemp("search") / "found"
    return out, searched(
        speech, out, SPACE, {"sampler": "tpe", "trials": 6, "seeds": 2, "pruner": "none"}, baseline=True
    )


def speakers(frame: pd.DataFrame) -> set[str]:
    return set(frame["speaker"])


# -- what it leaves --------------------------------------------------------------------------------------------------


def test_what_scripts_may_rely_on(found: tuple[Path, dict[str, Any]]) -> None:
    out, report = found
    assert {"best_dev", "seconds_total", "trials"} <= set(report["search"])
    assert report["search"]["trials"] == 6
    assert report["search"]["best_dev"] == max(row["score"] for row in report["trials"])
    uar = report["metrics"]["uar"]
    assert uar["low"] <= uar["value"] <= uar["high"]
    assert uar["value"] == pytest.approx(np.mean(list(uar["seeds"].values())))
    assert set(uar["seeds"]) == {"0", "1"}
    assert report["search"]["gap"] == pytest.approx(report["search"]["best_dev"] - uar["value"])
    assert report["search"]["seconds_total"] >= report["search"]["seconds_trials"] > 0
    names = {entry.name for entry in out.iterdir()}
    assert {"search.yaml", "study.journal", "report.json", "winner.yaml", "trials.csv", "predictions.parquet"} <= names
    assert not list(out.rglob("*.part"))
    assert not list(out.rglob("*.safetensors.part"))


def test_the_test_part_has_no_share_in_the_search(speech: Path, found: tuple[Path, dict[str, Any]]) -> None:
    """Neither its clips nor its speakers are in any inner fold."""
    out, report = found
    search = open_search(
        base(speech, out, baseline=True),
        SearchOptions(space=SPACE, trials=6, inner_folds=2, seeds=2, sampler="tpe", pruner="none"),
    )
    frame = search.bench.manifest.utterances
    (outer,) = search.outers
    tested = speakers(frame.iloc[outer.fold.test])
    assert len(outer.inner) == 2
    dev_rows = np.concatenate([fold.dev for fold in outer.inner])
    for fold in outer.inner:
        assert not tested & speakers(frame.iloc[np.concatenate([fold.train, fold.dev])])
        assert not speakers(frame.iloc[fold.train]) & speakers(frame.iloc[fold.dev])
        assert not len(fold.test)
    # every other clip is in one dev part
    others = np.sort(np.concatenate([outer.fold.train, outer.fold.dev]))
    assert np.array_equal(np.sort(dev_rows), others)
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert set(predictions["utterance"]) == set(frame["id"].iloc[outer.fold.test])
    assert set(predictions["seed"]) == {0, 1}
    assert report["protocol"]["speaker_independent"]


def test_trials_say_what_they_tried_and_cost(found: tuple[Path, dict[str, Any]]) -> None:
    out, report = found
    for row in report["trials"]:
        assert row["state"] == "complete"
        assert len(row["folds"]) == 2
        assert row["score"] == pytest.approx(np.mean([fold["score"] for fold in row["folds"]]))
        assert ("method.lora.rank" in row["settings"]) == (row["settings"]["method.name"] == "lora")
        assert row["costs"]["parameters"] > 0
        assert row["ended"] >= row["began"]
    with (out / "trials.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["score"]) for row in table] == [row["score"] for row in report["trials"]]


def test_the_winners_settings_train_to_what_was_tested(
    found: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sertune train --config winner.yaml` gives the predictions that the search reports, clip by clip."""
    out, report = found
    assert main(["train", "--config", str(out / "winner.yaml"), "--out", str(tmp_path / "run")]) == 0
    ours = pd.read_parquet(out / "predictions.parquet").query("seed == 0").set_index("utterance")
    theirs = pd.read_parquet(tmp_path / "run" / "predictions.parquet").set_index("utterance")
    columns = [name for name in theirs.columns if name.startswith("p_")]
    pd.testing.assert_frame_equal(ours[columns], theirs.loc[ours.index, columns], rtol=0, atol=1e-6)
    own = json.loads((tmp_path / "run" / "report.json").read_text())
    assert own["metrics"]["uar"]["value"] == pytest.approx(report["metrics"]["uar"]["seeds"]["0"])
    assert "fitted on train and dev together, for all epochs" in own["protocol"]["selection"]
    capsys.readouterr()


def test_the_saved_model_is_the_winner_that_was_tested(speech: Path, found: tuple[Path, dict[str, Any]]) -> None:
    out, _ = found
    model = sertune.load(out)
    for _, row in pd.read_parquet(out / "predictions.parquet").query("seed == 0").head(3).iterrows():
        samples, rate = soundfile.read(str(row["file"]), frames=8000, dtype="float32")
        assert rate == 16000
        made = model.predict(samples, rate=rate)
        assert made["probabilities"]["anger"] == pytest.approx(row["p_anger"], abs=1e-5)


def test_what_the_search_brought_is_told_beside(found: tuple[Path, dict[str, Any]]) -> None:
    out, report = found
    beside = report["defaults"]
    difference = beside["difference"]["uar"]
    assert difference["value"] == pytest.approx(report["metrics"]["uar"]["value"] - beside["metrics"]["uar"]["value"])
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert sum(row["chosen"] for row in report["baseline"]) == 1
    assert not (out / "defaults" / "model").exists()


def test_importance_and_front_are_part_of_the_report(speech: Path, tmp_path: Path) -> None:
    report = searched(
        speech,
        tmp_path / "s",
        HEAD,
        {"trials": 8, "protocol": "holdout", "objectives": ("uar", "size", "latency"), "constraints": ("size<4",)},
    )
    assert [o["direction"] for o in report["search"]["objectives"]] == ["maximize", "minimize", "minimize"]
    (front,) = report["front"]
    kept = [row for row in report["trials"] if row["feasible"]]
    assert 0 < len(front) <= len(kept)
    points = np.array([row["values"] for row in kept]) * [1, -1, -1]
    for entry in front:
        own = np.array(entry["values"]) * [1, -1, -1]
        assert not ((points >= own).all(axis=1) & (points > own).any(axis=1)).any()
    assert all(entry["values"][1] <= 4 for entry in front)
    assert report["winners"][0]["dev_score"] == max(row["score"] for row in kept)
    by_layers = {row["settings"]["head.layers"][-1]: row["costs"]["size"] for row in report["trials"]}
    sizes = [by_layers[top] for top in sorted(by_layers)]
    assert sizes == sorted(sizes)  # lower layers need less of the encoder
    assert sizes[0] < sizes[-1]
    names = sorted(file.name for file in (tmp_path / "s" / "folds").glob("*/front-*.yaml"))
    assert len(names) == len(front)
    assert sum(report["importance"].values()) == pytest.approx(1, abs=1e-6) or not report["importance"]
    assert main(["search", "show", str(tmp_path / "s")]) == 0


def test_the_front_needs_nothing_below_a_constraint_that_cannot_be_kept(speech: Path, tmp_path: Path) -> None:
    with pytest.raises(SertuneError, match=r"no trial keeps to size<=0.001; the nearest, trial \d, misses"):
        searched(speech, tmp_path / "s", HEAD, {"trials": 2, "protocol": "holdout", "constraints": ("size<0.001",)})


# -- protocols -------------------------------------------------------------------------------------------------------


def test_every_outer_fold_has_a_search_of_its_own(speech: Path, tmp_path: Path) -> None:
    report = searched(speech, tmp_path / "s", HEAD, {"trials": 2}, split={"name": "kfold", "folds": 3})
    assert [row["fold"] for row in report["winners"]] == ["1", "2", "3", "final"]
    assert len(report["trials"]) == 4 * 2
    predictions = pd.read_parquet(tmp_path / "s" / "predictions.parquet")
    assert len(predictions) == 48
    assert predictions["utterance"].is_unique
    tested = [row["dev_score"] for row in report["winners"][:3]]
    assert report["search"]["best_dev"] == pytest.approx(np.mean(tested))
    assert any("each fold has a search and a winner of its own" in warning for warning in report["warnings"])
    assert (tmp_path / "s" / "model" / "model.json").is_file()
    final = load_yaml(tmp_path / "s" / "winner.yaml")["head"]["layers"]
    assert final == report["winners"][-1]["settings"]["head.layers"]


def test_paper_ds_protocol_cuts_dev_from_the_80_percent(speech: Path, tmp_path: Path) -> None:
    report = searched(
        speech,
        tmp_path / "s",
        {"train.epochs": {"int": [1, 2]}},
        {"trials": 1, "protocol": "paper-d"},
        split={"name": "auto"},
    )
    (row,) = report["winners"]
    assert row["test"] == pytest.approx(0.2 * 48, abs=4)
    assert row["dev"] == pytest.approx(0.16 * 48, abs=4)
    assert not report["protocol"]["speaker_independent"]
    assert "puts every speaker on both sides" in report["warnings"][0]


def test_a_published_protocol_of_many_folds_is_not_searched_unasked(tmp_path: Path) -> None:
    """EmoDB's leave-one-speaker-out would be eleven searches."""
    from sertune.corpora.emodb import example

    example(tmp_path / "emodb")
    config = base(tmp_path, tmp_path / "s", data=[f"emodb:{tmp_path / 'emodb'}"], split={"name": "auto"})
    bench = Bench.over(config, tmp_path / "states")
    from sertune.train.search.search import _with_split

    assert _with_split(config, bench).split.name == "speaker"


@pytest.mark.parametrize("target", ["dimension", "distribution", "rater"])
def test_other_targets_are_searched_by_their_own_score(target: str, speech: Path, tmp_path: Path) -> None:
    space = {"head.dropout": [0.0, 0.3], "train.epochs": {"int": [1, 2]}}
    options = {"trials": 2, "protocol": "holdout", "objectives": ("score",)}
    changes = {"target": {"name": target, "dimensions": ["arousal", "valence"]}, "method": {"layers": 1}}
    report = searched(speech, tmp_path / "s", space, options, **changes)
    judged = {"dimension": "mean CCC", "distribution": "1 - TVD", "rater": "mean CCC"}[target]
    assert report["search"]["judged"] == judged
    assert report["metrics"]
    assert -1 <= report["search"]["best_dev"] <= 1


def test_the_best_are_scored_again_and_that_chooses(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lucky trial does not win; the settings at the beginning are always among the candidates."""
    from types import SimpleNamespace

    from sertune.train.search import confirm

    scored: list[tuple[int, str]] = []

    def again(prepared: Any, fold: Any, config: RunConfig) -> Any:
        scored.append((config.train.epochs, fold.name))
        return SimpleNamespace(result=SimpleNamespace(dev_score={1: 0.2, 2: 0.9, 3: 0.4, 6: 0.5}[config.train.epochs]))

    monkeypatch.setattr(confirm, "fit_fold", again)
    space = {"train.epochs": [1, 2, 3, 6], "method.layers": 1}
    options = {"trials": 4, "sampler": "grid", "confirm": 2, "inner_folds": 2}
    report = searched(speech, tmp_path / "s", space, options)
    (row,) = report["winners"]
    tried = {entry["trial"]: entry["again"] for entry in row["again"]}
    epochs = {trial["trial"]: trial["settings"]["train.epochs"] for trial in report["trials"]}
    assert len(tried) in (2, 3)  # the two best, and the beginning (6 epochs) if it is not among them
    assert 6 in {epochs[trial] for trial in tried}
    best = max(tried, key=lambda trial: tried[trial])
    assert row["trial"] == best
    assert report["search"]["again_dev"] == pytest.approx(tried[best])
    assert report["search"]["winner_dev"] == row["dev_score"]
    assert report["search"]["best_dev"] == max(trial["score"] for trial in report["trials"])
    assert all(name.startswith("speaker, again") for _, name in scored)
    assert len(scored) == 2 * len(tried)
    assert "are scored again on 2 other folds, which choose" in report["protocol"]["selection"]
    scored.clear()
    monkeypatch.setattr("sertune.train.search.winner.start_fold", None)
    assert searched(speech, tmp_path / "s", space, options)["metrics"] == report["metrics"]
    assert not scored


@pytest.mark.parametrize("protocol", ["nested", "holdout", "paper-d"])
def test_other_folds_are_cut_from_what_the_test_leaves(protocol: str, speech: Path, tmp_path: Path) -> None:
    from sertune.train.search.confirm import other_folds

    split = {"name": "auto"} if protocol == "paper-d" else {}
    search = open_search(
        base(speech, tmp_path / "s", split=split), SearchOptions(space=HEAD, protocol=protocol, inner_folds=2, trials=1)
    )
    (outer,) = search.outers
    others = set(np.concatenate([outer.fold.train, outer.fold.dev]).tolist())
    folds = other_folds(search, outer)
    assert len(folds) == (2 if protocol == "nested" else 3)
    frame = search.bench.manifest.utterances
    for fold in folds:
        assert set(fold.train.tolist()) | set(fold.dev.tolist()) == others
        assert not set(fold.train.tolist()) & set(fold.dev.tolist())
        if protocol != "paper-d":
            assert not speakers(frame.iloc[fold.train]) & speakers(frame.iloc[fold.dev])
    assert {fold.name for fold in folds}.isdisjoint(fold.name for fold in outer.inner)


# -- going on --------------------------------------------------------------------------------------------------------


def stripped(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What must be the same when a search was stopped: slots, settings and scores."""
    return [(row["slot"], row["state"], row["settings"], row["score"]) for row in report["trials"]]


def command(corpus: Path, out: Path, *flags: str, trials: int = 6) -> list[str]:
    (out.parent / "space.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    head = [
        "search",
        "--encoder",
        "builtin:random",
        "--data",
        f"synthetic:{corpus}",
        "--out",
        str(out),
        "--space",
        str(out.parent / "space.yaml"),
    ]
    own = ["--split", "speaker", "--split.test", "0.4", "--split.dev", "0.2", "--train.batch_clips", "8"]
    more = [
        "--head.regularisation",
        "0.1",
        "--train.average",
        "0.5",
        "--precision",
        "fp32",
        "--inner-folds",
        "2",
        "--audio.crop",
        "0.5",
    ]
    last = ["--sampler", "tpe", "--pruner", "none", "--winner-seeds", "2", "--confirm", "0", "--trials", str(trials)]
    return [*head, *own, *more, *last, *flags]


def start(arguments: list[str]) -> "subprocess.Popen[str]":
    code = "import sys; from sertune.cli import main; sys.exit(main(sys.argv[1:]))"
    whole = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_search_that_is_killed_twice_goes_on_to_the_same_result(
    speech: Path, found: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, flags = tmp_path / "s", command(speech, tmp_path / "s", "--workers", "1")
    for after in (1, 2):
        process = start(flags)
        stderr = process.stderr
        assert stderr is not None
        done = 0
        for line in stderr:  # killed in the middle of the next trial
            done += line.startswith("[")
            if done == after:
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (out / "report.json").exists()
    assert main(flags) == 0
    report = json.loads((out / "report.json").read_text())
    assert stripped(report) == stripped(found[1])
    assert report["metrics"]["uar"] == found[1]["metrics"]["uar"]
    capsys.readouterr()


def test_the_same_command_on_a_finished_search_runs_nothing_again(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s"
    before = searched(speech, out, HEAD, {"trials": 2, "protocol": "holdout"})
    monkeypatch.setattr("sertune.train.search.trial.fit_fold", None)
    monkeypatch.setattr("sertune.train.search.winner.start_fold", None)
    again = searched(speech, out, HEAD, {"trials": 2, "protocol": "holdout"})
    assert stripped(again) == stripped(before)
    assert again["metrics"] == before["metrics"]


def test_more_trials_go_on_and_train_a_new_winner(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    before = searched(speech, out, HEAD, {"trials": 1, "protocol": "holdout"})
    after = searched(speech, out, HEAD, {"trials": 9, "protocol": "holdout"})
    assert stripped(after)[:1] == stripped(before)
    assert after["search"]["trials"] == 9
    note = json.loads(next((out / "folds").glob("*/winner.json")).read_text())
    assert note["trial"] == after["winners"][0]["trial"]
    whole = searched(speech, tmp_path / "w", HEAD, {"trials": 9, "protocol": "holdout"})
    assert stripped(whole) == stripped(after)


def test_another_space_in_the_same_folder_is_an_error(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    searched(speech, out, HEAD, {"trials": 1, "protocol": "holdout"})
    changed = {**HEAD, "head.regularisation": {"log": [1e-3, 2.0]}}
    for space, options, changes in (
        (changed, {"protocol": "holdout"}, {}),
        (HEAD, {"protocol": "nested"}, {}),
        (HEAD, {"protocol": "holdout"}, {"seed": 1}),
        (HEAD, {"protocol": "holdout", "objectives": ("score", "size")}, {}),
    ):
        with pytest.raises(SertuneError, match=r"holds a search with .*; give the same settings to go on") as caught:
            searched(speech, out, space, {"trials": 1, **options}, **changes)
        assert "\n" not in str(caught.value)


def test_other_data_under_the_same_study_is_an_error(speech: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    where = str(tmp_path / "shared.journal")
    options = {"trials": 1, "protocol": "holdout", "storage": where, "study": "mine"}
    searched(speech, tmp_path / "a", HEAD, options)
    with pytest.raises(SertuneError, match=r"study 'mine' in .*: was made with data: clips = 48, not 16"):
        searched(tiny_corpus, tmp_path / "b", HEAD, options)


@pytest.mark.slow
def test_workers_end_with_the_command_that_started_them(speech: Path, tmp_path: Path) -> None:
    import psutil

    process = start(command(speech, tmp_path / "s", "--workers", "2", trials=50))
    stderr = process.stderr
    assert stderr is not None
    for line in stderr:
        if line.startswith("["):
            break
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert len(gone) == 2


# -- what trials share -----------------------------------------------------------------------------------------------


def bench_of(corpus: Path, folder: Path, space: dict[str, Any], **changes: Any) -> Bench:
    bench = Bench.over(base(corpus, folder / "out", **changes), folder / "states")
    bench.space = read_space(space, bench.depth(bench.base.encoder))
    return bench


def passes_of(bench: Bench) -> int:
    bench.begin()
    return bench.passes


def test_every_clip_is_encoded_once_for_all_methods(speech: Path, tmp_path: Path) -> None:
    bench = bench_of(speech, tmp_path, {"method.name": ["partial", "frozen", "full"], "method.layers": {"int": [1, 3]}})
    assert passes_of(bench) == 48
    for method in ("frozen", "full", {"name": "partial", "layers": 3}, {"name": "lora", "layers": 1}):
        bench.states(base(speech, tmp_path, method=method))
    assert bench.passes == 48


def same_frames(one: States, other: States) -> bool:
    return all(torch.equal(one.clip(row).states, other.clip(row).states) for row in range(0, 48, 7))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["builtin:random", "wavlm"])
def test_states_lifted_from_a_lower_layer_are_those_that_would_be_kept(
    family: str, speech: Path, tmp_path: Path
) -> None:
    encoder = family if family == "builtin:random" else str(save_family(family, tmp_path / family))
    space = {"method.layers": {"int": [1, 2]}}
    roomy = bench_of(speech, tmp_path / "a", space, encoder=encoder)
    roomy.begin()
    depth = roomy.depth(encoder)
    tight = bench_of(speech, tmp_path / "b", space, encoder=encoder, cache={"disk_gib": 20.0})
    tight._layers = lambda *args: [depth - 2]  # type: ignore[method-assign]
    tight.begin()
    config = base(speech, tmp_path, encoder=encoder, method={"name": "partial", "layers": 1})
    kept, lifted = roomy.states(config), tight.states(config)
    assert kept.lift is None
    assert lifted.lift is not None
    for row in range(0, 48, 9):
        one, other = kept.clip(row).states, lifted.clip(row).states
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, atol=1e-5)


def test_where_the_disk_has_no_room_for_all_layers_the_lowest_is_kept(speech: Path, tmp_path: Path) -> None:
    space = {"method.layers": {"int": [1, 4]}}
    bench = bench_of(speech, tmp_path, space)
    bench.begin()
    needed = sum(file.stat().st_size for file in (tmp_path / "states").rglob("*") if file.is_file()) / 2**30
    tight = bench_of(speech, tmp_path / "tight", space, cache={"disk_gib": needed / 2})
    tight.begin()
    assert any("those of layer 0 are kept, and lifted" in note for note in tight.notes)
    assert tight.states(base(speech, tmp_path, method={"name": "partial", "layers": 1})).lift is not None


def test_a_shorter_crop_is_cut_from_kept_states_where_the_method_allows(speech: Path, tmp_path: Path) -> None:
    space = {"audio.crop": [0.5, 1.0, 4.0]}
    bench = bench_of(speech, tmp_path, space, method={"name": "partial", "layers": 1})
    bench.begin()
    assert bench.passes == 48
    short = base(speech, tmp_path, method={"name": "partial", "layers": 1}, audio={"crop": 0.5})
    states = bench.states(short)
    assert bench.passes == 48  # no clip was encoded again
    frames = states.clip(0).states
    assert frames is not None
    assert len(frames) == round(0.5 * bench.loaded("builtin:random").encoder.frames_per_second)
    whole = bench.states(base(speech, tmp_path, method={"name": "partial", "layers": 1}, audio={"crop": 4.0}))
    full = whole.clip(0).states
    assert full is not None
    assert torch.equal(frames, full[: len(frames)])
    # pooled vectors of the layers above follow from these frames, as training would compute them
    encoder = bench.loaded("builtin:random").restore()
    again = encoder.lift(frames, 3, [encoder.depth])[1]
    assert torch.allclose(states.pooled[0, 3:], again, atol=1e-5)
    assert states.pooled[0, :3].isnan().all()
    exact = bench.states(short, exact=True)
    assert bench.passes > 48
    assert exact.pooled[0, :3].isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "frozen"},
        {"method": {"layers": 1}, "head": {"layers": [2, 4]}},
        {"method": "full", "cache": {"states": False}},
    ],
)
def test_elsewhere_a_shorter_crop_is_encoded_anew(changes: dict[str, Any], speech: Path, tmp_path: Path) -> None:
    bench = bench_of(speech, tmp_path, {"audio.crop": [0.5, 4.0]}, **changes)
    assert not bench.crops_states(base(speech, tmp_path, **changes, audio={"crop": 0.5}))


def test_crops_that_leave_all_clips_whole_are_not_searched(speech: Path, tmp_path: Path) -> None:
    space = {"audio.crop": [2.0, 30.0, 60.0, 90.0], "train.epochs": {"int": [1, 2]}}
    search = open_search(
        base(speech, tmp_path / "s"),
        SearchOptions(space=space, trials=1, protocol="holdout", sampler="random", workers=1),
    )
    (dimension,) = [d for d in search.space.dimensions if d.key == "audio.crop"]
    assert dimension.choices == (2.0, 30.0)
    assert any("longer crops than 30 s are left out" in note for note in search.space.notes)


def test_an_encoder_is_as_pre_trained_for_every_trial(speech: Path, tmp_path: Path) -> None:
    """What a trial trained, halved or added is gone in the next one."""
    bench = bench_of(speech, tmp_path, SPACE)
    bench.begin()
    loaded = bench.loaded("builtin:random")
    before = {name: tensor.clone() for name, tensor in loaded.encoder.model.state_dict().items()}
    for method in ({"name": "lora", "layers": 2}, {"name": "partial", "layers": 2}, "full"):
        prepared = bench.prepared(base(speech, tmp_path, method=method, precision="bf16"))
        with torch.no_grad():
            for name in list(prepared.initial):
                prepared.encoder.model.get_parameter(name).add_(1.0)
    after = loaded.restore().model.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


def test_encoders_can_be_searched(speech: Path, tmp_path: Path) -> None:
    other = str(save_family("whisper", tmp_path / "whisper"))
    space = {"encoder": ["builtin:random", other], "method.layers": 1, "train.epochs": 1}
    report = searched(speech, tmp_path / "s", space, {"trials": 2, "protocol": "holdout", "sampler": "grid"})
    assert {row["settings"]["encoder"] for row in report["trials"]} == {"builtin:random", other}
    assert {row["state"] for row in report["trials"]} == {"complete"}


def test_the_same_settings_are_not_trained_twice(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"train.epochs": {"int": [1, 2]}, "method.layers": 1}
    report = searched(speech, tmp_path / "s", space, {"trials": 6, "protocol": "holdout", "pruner": "none"})
    assert report["search"]["repeated"] == 4
    by_epochs: dict[int, set[float]] = {}
    for row in report["trials"]:
        by_epochs.setdefault(row["settings"]["train.epochs"], set()).add(row["score"])
    assert all(len(scores) == 1 for scores in by_epochs.values())


def test_trials_that_are_worse_end_early(speech: Path, tmp_path: Path) -> None:
    space = {"train.head_lr": [1e-3, 50.0], "train.epochs": 6, "method.layers": 1, "head.start": "random"}
    report = searched(
        speech, tmp_path / "s", space, {"trials": 12, "protocol": "holdout", "pruner": "median"},
        train={"average": 0.0, "clip": 0.0},
    )  # fmt: skip
    ended = [row for row in report["trials"] if row["state"] == "pruned"]
    assert report["search"]["pruned"] == len(ended)
    assert all(row["score"] is None for row in ended)
    assert report["search"]["complete"] >= 4


# -- nothing to report -----------------------------------------------------------------------------------------------


def test_a_trial_that_fails_is_noted_and_the_others_go_on(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sertune.train.folds import fit_fold

    def sometimes(prepared: Any, fold: Any, config: RunConfig, **options: Any) -> Any:
        if config.train.epochs == 1:
            raise SertuneError("step 1: the loss is nan")
        return fit_fold(prepared, fold, config, **options)

    monkeypatch.setattr("sertune.train.search.trial.fit_fold", sometimes)
    space = {"train.epochs": {"int": [1, 2]}, "method.layers": 1}
    report = searched(speech, tmp_path / "s", space, {"trials": 4, "protocol": "holdout", "sampler": "grid"})
    states = {row["settings"]["train.epochs"]: (row["state"], row["error"]) for row in report["trials"]}
    assert states[1] == ("fail", "step 1: the loss is nan")
    assert states[2] == ("complete", None)


def fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def always(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("sertune.train.search.trial.fit_fold", always)


def test_all_trials_fail_and_the_first_error_is_shown(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, SertuneError("step 7 of fold x: the loss is nan"))
    with pytest.raises(SertuneError, match="all 3 trials failed; the first: step 7 of fold x: the loss is nan"):
        searched(speech, tmp_path / "s", HEAD, {"trials": 3, "protocol": "holdout"})
    with pytest.raises(SertuneError, match="the first 5 trials failed, and none succeeded: step 7"):
        searched(speech, tmp_path / "t", HEAD, {"trials": 50, "protocol": "holdout"})


def test_want_of_memory_fails_the_trial_not_the_search(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(monkeypatch, RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 80 GB"))
    with pytest.raises(SertuneError, match=r"all 2 trials failed; the first: not enough memory \(.*80 GB"):
        searched(speech, tmp_path / "s", HEAD, {"trials": 2, "protocol": "holdout"})


def test_an_undefined_objective_fails_the_trial(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sertune.train.loop.score", lambda *args: float("nan"))
    with pytest.raises(SertuneError, match=r"all 1 trials failed; the first: its score on the dev part .* \(NaN\)"):
        searched(
            speech, tmp_path / "s", {"train.epochs": [1, 2]}, {"trials": 1, "protocol": "holdout"}, method={"layers": 1}
        )


def test_minutes_that_are_too_few_for_one_trial(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    options = {"trials": 0, "minutes": 1e-6, "protocol": "holdout"}
    with pytest.raises(SertuneError, match="--minutes 1e-06: too small a budget for one trial; the same command with"):
        searched(speech, out, HEAD, options)
    report = searched(speech, out, HEAD, {"trials": 2, "minutes": 5.0, "protocol": "holdout"})
    assert report["search"]["trials"] == 2


def test_minutes_end_a_search_with_what_it_has(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial in the middle is stopped, and taken up by the next command."""
    from sertune.train.search.search import Search

    asked = [0]

    def over(self: Search) -> bool:
        asked[0] += 1
        return asked[0] > 12

    monkeypatch.setattr(Search, "out_of_time", over)
    options = {"trials": 30, "minutes": 1.0, "protocol": "holdout", "pruner": "none"}
    space = {"train.lr": {"log": [1e-4, 1e-2]}, "train.epochs": 2, "method.layers": 1}
    report = searched(speech, tmp_path / "s", space, options)
    done = report["search"]["complete"]
    assert 1 <= done < 30
    assert any("the search ended with its time" in warning for warning in report["warnings"])
    monkeypatch.undo()
    more = searched(speech, tmp_path / "s", space, {**options, "trials": done + 2})
    assert more["search"]["complete"] == done + 2
    assert stripped(more)[:done] == [row for row in stripped(report) if row[1] == "complete"][:done]


def test_energy_that_can_not_be_measured_is_no_objective(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sertune.train.search.energy.POWERCAP", tmp_path / "none")
    with pytest.raises(SertuneError, match=r"energy: can't be measured here .*; take seconds"):
        searched(speech, tmp_path / "s", HEAD, {"objectives": ("score", "energy")})
    report = searched(speech, tmp_path / "t", HEAD, {"trials": 1, "protocol": "holdout"})
    assert report["cost"]["energy_wh"] is None
    assert report["cost"]["energy"] == "not measured"
    assert report["cost"]["cpu_seconds"] > 0


# -- from outside ----------------------------------------------------------------------------------------------------


def test_show_tells_how_far_a_search_is(found: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    out, report = found
    assert main(["search", "show", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "6 of 6 trials: 6 complete" in shown
    assert f"score {report['search']['best_dev']:.4g}" in shown
    assert main(["search", "show", str(out), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["studies"][0]["trials"]) == 6
    found_again = snapshot(None, str(out / "study.journal"), "found")
    assert found_again["studies"] == data["studies"]


def test_show_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SertuneError, match=r"no search.yaml in it; expected the folder of a search"):
        snapshot(tmp_path)
    with pytest.raises(SertuneError, match="name the search's folder, or --storage and --study"):
        snapshot(None)
    with pytest.raises(SertuneError, match="no such file; has the search begun"):
        snapshot(None, str(tmp_path / "x.journal"), "s")


def test_optuna_dashboard_reads_the_study(found: tuple[Path, dict[str, Any]]) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    from sertune.train.search.store import open_storage

    application = dashboard.wsgi(open_storage(str(found[0] / "study.journal")))
    answers: list[str] = []

    def get(path: str) -> Any:
        environment = {
            "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "x", "SERVER_PORT": "80",
            "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr,
        }  # fmt: skip
        body = b"".join(application(environment, lambda status, *headers: answers.append(status)))
        return json.loads(body)

    studies = {study["study_name"]: study for study in get("/api/studies")["study_summaries"]}
    assert "found" in studies
    details = get(f"/api/studies/{studies['found']['study_id']}")
    assert [trial["state"] for trial in details["trials"]] == ["Complete"] * 6
    assert all(status.startswith("200") for status in answers)


def test_several_workers_of_one_command_make_each_trial_once_also_where_one_crashes(
    speech: Path, tmp_path: Path
) -> None:
    """A worker that is killed for memory ends its own trials, not the search."""
    code = (
        "import os, signal, sys\n"
        "import sertune.train.search.trial as trial\n"
        "from sertune.cli import main\n"
        "real, mark = trial.fit_fold, sys.argv.pop(1)\n"
        "def dies(*args, **options):\n"
        "    if not os.path.exists(mark):\n"
        "        open(mark, 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*args, **options)\n"
        "trial.fit_fold = dies\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    flags = command(speech, tmp_path / "s", "--workers", "2", "--baseline", "false", trials=4)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "mark"), *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "s" / "report.json").read_text())
    assert [row["slot"] for row in report["trials"]] == list(range(4))
    assert [row["state"] for row in report["trials"]] == ["complete"] * 4
    assert "UAR" in done.stdout
    assert sum(row["retried"] for row in report["trials"]) == 1
    assert os.path.exists(tmp_path / "mark")  # noqa: PTH110
