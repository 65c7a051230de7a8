import json
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sertune.apps.report import Axis, headline, number, seconds, write_report
from sertune.errors import SertuneError
from sertune.metrics.summary import summarise_categories, summarise_dimensions

LABELS = ["anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness"]
Scored = tuple[dict[str, Any], dict[str, Any], pd.DataFrame]
VOID = {"meta", "br", "link", "img", "hr", "input"}


def example_run(
    folder: Path,
    kind: str = "category",
    seed: int = 0,
    speakers: int = 10,
    clips: int = 53,
    labels: Sequence[str] = LABELS,
) -> Path:
    """A made-up run folder: kind "category" or "dimension" (trained, one fold a speaker), "evaluate" or "bare"."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    count = speakers * clips
    who = [f"{i + 3:02}" for i in range(speakers) for _ in range(clips)]
    frame = pd.DataFrame({"utterance": [f"u{i:04}" for i in range(count)]})
    frame["file"] = [f"/data/emodb/wav/{s}a{i % 10:02}W{i % 4}.wav" for i, s in enumerate(who)]
    frame["start"], frame["end"] = np.nan, np.nan
    frame["duration"], frame["speaker"], frame["fold"] = 2.0, who, who
    summarise = _dimensions if kind == "dimension" else _categories
    task, found, scored = summarise(rng, who, labels, seed)
    report: dict[str, Any] = {"format": 1, "sertune": "0.1.0", "kind": "evaluate" if kind == "evaluate" else "train"}
    report |= {"name": "emodb, partial-2, loso", "created": "2026-05-04T10:31:07Z", "task": task}
    report |= {key: found[key] for key in ("metrics", "per_class", "confusion", "speakers") if key in found}
    report["protocol"] = {
        "text": "Leave one speaker out: each of the ten speakers is the test set once, a second one the "
        "development set, and the other eight train. Predictions of all folds are pooled and scored once.",
        "split": "loso",
        "folds": speakers,
        "speaker_independent": True,
        "selection": "best epoch and frozen baseline by the development speaker's UAR",
        "interval": found["interval"],
    }
    report["cost"] = {"seconds_total": 312.4, "seconds_per_epoch": 2.07, "peak_memory_mib": 811.3}
    report["cost"] |= {"trainable_parameters": 3_551_239, "total_parameters": 8_208_384, "states_mib": 78.6}
    report["warnings"] = found["warnings"]
    report["method"] = {"name": "partial", "layers": 2, "cut": 2}
    report["encoder"] = {"name": "openai/whisper-tiny.en", "digest": "9f2c61aa07", "layers": 4, "width": 384}
    report["data"] = {"utterances": count, "speakers": speakers, "hours": 0.29, "names": ["emodb"]}
    if kind == "bare":
        report = {key: report[key] for key in ("metrics", "cost", "protocol", "warnings")}
    else:
        pd.concat([frame, scored], axis=1).to_parquet(folder / "predictions.parquet")
    if kind in ("category", "dimension"):
        if kind == "category":
            report["data"]["per_label"] = dict(zip(labels, map(sum, found["confusion"]), strict=True))
        report |= _training(rng, report, speakers, clips)
        report["skipped"] = [{"file": "/data/emodb/wav/broken one.wav", "reason": "empty file (0 bytes)"}]
        report["machine"] = {"cpu": "some CPU", "cores": 2, "device": "cpu", "precision": "fp32", "torch": "2.13"}
        config = "data: [emodb:/data/emodb]\nmethod: {name: partial, layers: 2}\nseed: 0\n"
        (folder / "config.yaml").write_text(config)
        lines = [json.dumps(row) for row in _log(rng, speakers)]
        (folder / "log.jsonl").write_text("\n".join(lines) + '\n{"fold": "03", "epo')
    (folder / "report.json").write_text(json.dumps(report, allow_nan=False))
    return folder


def _categories(rng: np.random.Generator, who: list[str], labels: Sequence[str], seed: int) -> Scored:
    n, c = len(who), len(labels)
    true = rng.integers(0, c, n)
    logits = rng.normal(size=(n, c)) + 3.4 * np.eye(c)[true] + 1.2 * np.eye(c)[(true + 1) % c]
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    predicted = share.argmax(1)
    scored = pd.DataFrame({"true": np.array(labels)[true], "predicted": np.array(labels)[predicted]})
    for i, label in enumerate(labels):
        scored[f"p_{label}"] = share[:, i]
    task = {"target": "category", "labels": list(labels)}
    return task, summarise_categories(true, predicted, labels, who, seed), scored


def _dimensions(rng: np.random.Generator, who: list[str], labels: Sequence[str], seed: int) -> Scored:
    n = len(who)
    true, predicted = {}, {}
    for name, noise in (("arousal", 0.45), ("valence", 0.9), ("dominance", 0.6)):
        true[name] = np.clip(np.round(rng.normal(3, 0.9, n) * 2) / 2, 1, 5)
        predicted[name] = np.clip(3 + 0.7 * (true[name] - 3) + rng.normal(0, noise, n), 0.8, 5.2)
    true["valence"][::17] = np.nan
    scored = pd.DataFrame({f"{k}_true": v for k, v in true.items()} | predicted)
    task = {"target": "dimension", "dimensions": list(true), "scales": {name: [1, 5] for name in true}}
    return task, summarise_dimensions(true, predicted, who, seed), scored


def _training(rng: np.random.Generator, report: dict[str, Any], speakers: int, clips: int) -> dict[str, Any]:
    """Baselines a little below the model, and the folds."""
    rows = []
    for i, name in enumerate(["layer 0", "layer 1", "layer 2", "layer 3", "layer 4", "all layers"]):
        drop = 0.02 + 0.05 * abs(3 - i) + 0.005 * rng.random()
        metrics = {
            key: {part: value and value - drop for part, value in metric.items()}
            for key, metric in report["metrics"].items()
        }
        rows.append({"name": name, "layers": [i], "dev": 0.9 - drop, "chosen": i == 3, "metrics": metrics})
    folds = [
        {"name": f"{i + 3:02}", "train": clips * (speakers - 2), "dev": clips, "test": clips, "best_epoch": 7}
        | {"epochs": 10, "dev_score": 0.9, "test_score": 0.85 + 0.01 * i, "seconds": 31.2}
        for i in range(speakers)
    ]
    main = next(iter(report["metrics"]))
    return {"baseline": rows, "folds": folds, "dev_metrics": {main: report["metrics"][main]}}


def _log(rng: np.random.Generator, speakers: int) -> Iterator[dict[str, Any]]:
    for fold in range(speakers):
        for epoch in range(9 + fold % 4):
            loss = None if epoch == 0 else 1.6 * np.exp(-epoch / 3) + 0.1 + 0.04 * rng.random()
            row = {"fold": f"{fold + 3:02}", "epoch": epoch, "loss": loss, "seconds": 2.1, "lr": 1e-4}
            row["dev_loss"] = 1.5 * np.exp(-epoch / 3) + 0.3 + 0.1 * rng.random()
            yield row | {"dev_score": 0.9 - 0.75 * np.exp(-epoch / 2) + 0.04 * rng.random()}


class Page(HTMLParser):
    """Collects text and attributes; fails on a tag that is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def report_of(run: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run / "report.json").read_text())
    return report


@pytest.mark.parametrize("kind", ["category", "dimension", "evaluate", "bare"])
def test_one_well_formed_file_that_needs_no_network(tmp_path: Path, kind: str) -> None:
    run = example_run(tmp_path / "run", kind)
    html = write_report(run).read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not {"src", "href", "srcset", "action", "data"} & {name for name, _ in page.attributes}
    assert not re.search(r"url\(|@import|https?:|//\w", html)
    assert not re.search(r"\b(nan|NaN|None|inf)\b", page.text)
    assert not any(re.search(r"\b(nan|None|inf)\b", value or "") for _, value in page.attributes)
    assert len(html) < 1_500_000
    assert not list(run.glob(".report*"))


@pytest.mark.parametrize("kind", ["category", "dimension"])
def test_the_same_folder_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    first = write_report(example_run(tmp_path / "one", kind)).read_bytes()
    assert write_report(tmp_path / "one").read_bytes() == first
    assert write_report(example_run(tmp_path / "two", kind)).read_bytes() == first


def test_the_figures_are_those_of_the_report(tmp_path: Path) -> None:
    run = example_run(tmp_path)
    report, page = report_of(run), page_of(run)
    uar = report["metrics"]["uar"]
    shown = [f"{uar[key]:.3f}"[1:] for key in ("value", "low", "high")]
    assert shown[0] in page.text
    assert f"95 % interval {shown[1]} to {shown[2]}" in page.text
    for row in report["baseline"]:
        metric = row["metrics"]["uar"]
        assert f"{metric['value']:.3f}"[1:] in page.text
        assert f"[{metric['low']:.3f}, {metric['high']:.3f}]".replace("0.", ".") in page.text
    for name, row in report["per_class"].items():
        assert name in page.text
        assert f"{row['precision']:.3f}"[1:] in page.text
    cells = re.findall(r'<td style="--p:[\d.]+"[^>]*>(\d+)(?:<small>|</td>)', (tmp_path / "report.html").read_text())
    assert [int(c) for c in cells] == [n for row in report["confusion"] for n in row]
    for text in ("5 min 12 s", "811 MiB", "3,551,239", "broken one.wav", "method: {name: partial, layers: 2}"):
        assert text in page.text
    assert "no test speaker was heard in training" in page.text


def test_headline_is_one_plain_line(tmp_path: Path) -> None:
    report = report_of(example_run(tmp_path / "c"))
    uar = [f"{report['metrics']['uar'][key]:.3f}"[1:] for key in ("value", "low", "high")]
    assert headline(report) == f"UAR {uar[0]} [{uar[1]}, {uar[2]}] over 10 speakers, 530 utterances"
    line = headline(report_of(example_run(tmp_path / "d", "dimension")))
    assert re.fullmatch(
        r"CCC arousal \.\d{3} \[\.\d{3}, \.\d{3}\], CCC valence .*, CCC dominance .* over 10 speakers, 530 utterances",
        line,
    )
    bad = {"metrics": {"ccc_arousal": {"value": -0.25, "low": None, "high": None}}}
    assert headline(bad) == "CCC arousal -.250"
    assert headline({}) == "no scores"


def test_a_test_part_is_not_called_the_whole_corpus(tmp_path: Path) -> None:
    report = report_of(example_run(tmp_path)) | {"data": {"utterances": 99_999, "speakers": 500}}
    assert headline(report).endswith("over 10 speakers, 530 utterances")


def test_worst_speaker_comes_first_and_one_without_a_score_last(tmp_path: Path) -> None:
    run = example_run(tmp_path, "evaluate")
    report = report_of(run)
    report["speakers"] = [
        {"speaker": name, "clips": 4, "uar": uar, "accuracy": uar}
        for name, uar in (("good", 0.9), ("unscored", None), ("bad", 0.2))
    ]
    (run / "report.json").write_text(json.dumps(report))
    text = page_of(run).text
    assert text.index("bad") < text.index("good") < text.index("unscored")


def test_confident_mistakes_are_the_surest_wrong_answers(tmp_path: Path) -> None:
    run = example_run(tmp_path)
    frame = pd.read_parquet(run / "predictions.parquet")
    wrong = frame[frame["true"] != frame["predicted"]]
    sure = wrong[[f"p_{label}" for label in LABELS]].max(axis=1).sort_values(ascending=False)
    html = write_report(run).read_text()
    part = html[html.index("Most confident mistakes") : html.index("<h2>Folds")]
    assert re.findall(r'<td class="n">(\.\d+)</td>', part) == [f"{p:.3f}"[1:] for p in sure[:12]]
    assert part.count(".wav") == 12


def test_largest_errors_of_dimensions_carry_file_and_segment(tmp_path: Path) -> None:
    run = example_run(tmp_path, "dimension")
    frame = pd.read_parquet(run / "predictions.parquet")
    frame.loc[7, ["arousal_true", "arousal", "start", "end"]] = [1.0, 5.0, 1.5, 3.0]
    frame.loc[7, "file"] = "/x/the worst.wav"
    frame.to_parquet(run / "predictions.parquet")
    text = page_of(run).text
    part = text[text.index("Largest errors") :]
    assert part.index("the worst.wav (1.5–3.0 s)") < part.index("100 %") < part.index(".wav", 200)


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b's"])
def test_everything_is_escaped(tmp_path: Path, evil: str) -> None:
    run = example_run(tmp_path, labels=[evil, *LABELS[1:]])
    report = report_of(run) | {"name": evil, "warnings": [evil]}
    report["speakers"][0]["speaker"] = report["skipped"][0]["file"] = report["machine"]["cpu"] = evil
    report["encoder"]["name"] = report["folds"][0]["name"] = report["baseline"][3]["name"] = evil
    (run / "report.json").write_text(json.dumps(report))
    (run / "config.yaml").write_text(f"name: '{evil}'\n")
    page = page_of(run)
    assert not {"script", "img"} & set(page.tags)
    assert page.text.count(evil) >= 10


def test_warnings_come_before_all_else(tmp_path: Path) -> None:
    run = example_run(tmp_path)
    report = report_of(run)
    report["warnings"] = ["Speakers of the test set were heard in training."]
    report["protocol"]["speaker_independent"] = False
    (run / "report.json").write_text(json.dumps(report))
    text = page_of(run).text
    assert text.index("Speakers of the test set were heard") < text.index("Did fine-tuning pay?")
    assert "test speakers were also heard in training" in text


@pytest.mark.parametrize(
    ("value", "low", "high", "difference", "expected"),
    [
        (0.90, 0.85, 0.95, None, "a difference is not shown"),
        (0.95, 0.91, 0.97, None, "fine-tuning paid"),
        (0.80, 0.75, 0.85, None, "the linear model is the better one here"),
        (0.90, 0.85, 0.95, {"value": 0.02, "low": 0.01, "high": 0.03, "p": 0.004}, "(p = .004): fine-tuning paid"),
        (0.95, 0.91, 0.97, {"value": 0.07, "low": -0.01, "high": 0.1, "p": 0.1}, "a difference is not shown"),
    ],
)
def test_the_verdict_claims_no_more_than_the_intervals_carry(
    tmp_path: Path, value: float, low: float, high: float, difference: dict[str, float] | None, expected: str
) -> None:
    run = example_run(tmp_path)
    report = report_of(run)
    report["metrics"]["uar"] = {"value": value, "low": low, "high": high}
    chosen = report["baseline"][3]
    chosen["metrics"]["uar"] = {"value": 0.88, "low": 0.84, "high": 0.92}
    if difference:
        chosen["difference"] = {"uar": difference}
    (run / "report.json").write_text(json.dumps(report))
    assert expected in page_of(run).text


@pytest.mark.parametrize("kind", ["category", "dimension"])
def test_any_key_may_be_missing_or_null(tmp_path: Path, kind: str) -> None:
    run = example_run(tmp_path, kind, speakers=3, clips=9)
    report = report_of(run)
    for key in report:
        for changed in ({k: v for k, v in report.items() if k != key}, report | {key: None}):
            (run / "report.json").write_text(json.dumps(changed))
            page_of(run)
            headline(changed)
    for key in ("metrics", "protocol", "cost", "data", "encoder", "method", "machine", "task"):
        for inner in report[key]:
            (run / "report.json").write_text(json.dumps(report | {key: report[key] | {inner: None}}))
            page_of(run)
    (run / "report.json").write_text("{}")
    page_of(run)


def test_one_epoch_one_clip_and_one_class_draw(tmp_path: Path) -> None:
    run = example_run(tmp_path / "c", speakers=1, clips=1, labels=["anger"])
    (run / "log.jsonl").write_text('{"fold": "03", "epoch": 1, "loss": 1.0, "dev_score": null}\n')
    assert "Learning curves" in page_of(run).text
    page_of(example_run(tmp_path / "d", "dimension", speakers=1, clips=1))


def test_a_large_run_stays_small_and_says_what_it_left_out(tmp_path: Path) -> None:
    run = example_run(tmp_path, "dimension", speakers=400, clips=30)
    html = write_report(run).read_text()
    assert len(html) < 1_500_000
    assert "1,200 of 12,000 clips are drawn" in html
    assert "The other 370 speakers" in html


def test_what_can_not_be_read_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SertuneError, match=r"no report\.json here"):
        write_report(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(SertuneError, match="not a readable JSON"):
        write_report(tmp_path)
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(SertuneError, match="JSON object"):
        write_report(tmp_path)
    run = example_run(tmp_path)
    before = write_report(run).read_bytes()
    (run / "predictions.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SertuneError, match=r"predictions\.parquet"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before


def test_numbers_as_text() -> None:
    shown = [number("uar", v) for v in (0.9123, 1.0, 0.0, -0.25, -0.0001, None)]
    assert shown == [".912", "1.000", ".000", "−.250", ".000", "–"]
    assert number("rmse_arousal", 0.534) == "0.53"
    assert [seconds(v) for v in (4.21, 312.4, 7380, None)] == ["4.2 s", "5 min 12 s", "2 h 03 min", "–"]


@pytest.mark.parametrize("values", [(0, 1), (0.871, 0.883), (-3, 12), (1e-6, 3e-6), (5, 5), (1, 70_000)])
def test_axes_hold_their_values_and_have_few_round_ticks(values: tuple[float, float]) -> None:
    axis = Axis.over(values)
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert 2 <= len(axis.ticks) <= 9
    assert len({axis.label(t) for t in axis.ticks}) == len(axis.ticks)
    assert axis.share(axis.low) == 0.0
    assert axis.share(axis.high) == 1.0
