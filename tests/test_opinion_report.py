import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sertune.apps.report import headline, lower_is_better, metric_name, write_report
from test_report import page_of, report_of

DIMENSIONS = ["arousal", "valence"]
LABELS = ["anger", "joy", "neutral"]


def entry(value: float, width: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": value + width}


def opinion_run(folder: Path, kind: str = "rater", clips: int = 40, raters: int = 6, grid: int = 4) -> Path:
    """A made-up run: "rater" (dimensions and a plane), "beta" (no plane, no single ratings) or "votes"."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    names = [f"r{i:02}" for i in range(raters)]
    table = pd.DataFrame({"utterance": [f"u{i:04}" for i in range(clips)]})
    table["file"] = [f"/data/wav/a clip {i:04}.wav" for i in range(clips)]
    table["start"], table["end"], table["speaker"] = np.nan, np.nan, "s1"
    table["raters"] = raters
    scales = {name: [1.0, 5.0] for name in DIMENSIONS}
    report: dict[str, Any] = {"format": 1, "kind": "train", "name": "made up"}
    if kind == "votes":
        task: dict[str, Any] = {"target": "category", "labels": LABELS, "opinions": "votes"}
        table["true"] = table["predicted"] = "joy"
        for letter in "pv":
            table[[f"{letter}_{label}" for label in LABELS]] = rng.dirichlet(np.ones(3), clips)
        metrics, told = {"uar": entry(0.6), "tvd": entry(0.3)}, {"labels": LABELS}
    else:
        task = {"target": "dimension", "dimensions": DIMENSIONS, "scales": scales, "opinions": kind}
        metrics, told = {f"ccc_{name}": entry(0.6) for name in DIMENSIONS}, {"dimensions": DIMENSIONS}
        for name in DIMENSIONS:
            table[f"{name}_true"], table[name] = rng.uniform(1, 5, clips), rng.uniform(2, 4, clips)
            table[f"true_spread_{name}"], table[f"spread_{name}"] = (
                rng.uniform(0, 1, clips),
                rng.uniform(0.2, 0.6, clips),
            )
    opinions: dict[str, Any] = {"kind": kind, "grid": None, **told}
    opinions["ceilings"] = [
        {"metric": "ccc_arousal", **entry(0.5), "text": "a single annotator against the mean of the others"},
        {"metric": "tvd", **entry(0.1), "text": "half of what halves differ by: a floor"},
    ]
    if kind == "rater":
        task["grid"] = opinions["grid"] = [grid, grid]
        table["true_plane"] = list(rng.dirichlet(np.full(grid * grid, 0.3), clips))
        table["plane"] = list(rng.dirichlet(np.full(grid * grid, 3.0), clips))
        metrics |= {"tvd": entry(0.4), "kl": entry(1.7), "ccc_expected_arousal": entry(0.61)}
        metrics |= {"ccc_rating_arousal": entry(0.55), "entropy_r": entry(0.2), "uar_largest": entry(0.3)}
        rated = [
            {"utterance": u, "speaker": "s1", "rater": r, "known": r != "r00", "attribute": name}
            | {"true": float(rng.integers(1, 6)), "predicted": float(rng.uniform(2, 4))}
            for u in table["utterance"]
            for r in names
            for name in DIMENSIONS
        ]
        pd.DataFrame(rated).to_parquet(folder / "ratings.parquet")
        opinions["raters"] = raters_entry(names, rng)
    if kind != "votes":
        spread = {"slope": 1.2, "intercept": 0.1, "pearson": 0.4, "ccc": 0.3, "ratio": 0.7}
        spread["bins"] = [{"predicted": 0.3, "true": 0.4, "count": 20}, {"predicted": 0.5, "true": 0.6, "count": 20}]  # type: ignore[assignment]
        opinions["spread"] = dict.fromkeys(DIMENSIONS, spread)
    report |= {"task": task, "metrics": metrics, "opinions": opinions}
    table.to_parquet(folder / "predictions.parquet")
    (folder / "report.json").write_text(json.dumps(report, allow_nan=False))
    return folder


def raters_entry(names: list[str], rng: np.random.Generator) -> dict[str, Any]:
    rows = [
        {"rater": name, "met": i > 0, "ratings": 10 + i, "bias": {}, "rmse": dict.fromkeys(DIMENSIONS, 0.8), "ccc": {}}
        | {"response": {d: {"bias": float(rng.normal()), "gain": 1.0, "noise": 0.3} for d in DIMENSIONS}}
        for i, name in enumerate(names)
    ]
    places = rng.normal(size=(2, len(names))).tolist()
    found = {"count": len(names), "met": len(names) - 1, "rows": rows}
    return found | {"map": {"raters": names, "x": places[0], "y": places[1], "share": [0.6, 0.2]}}


def change(run: Path, **keys: Any) -> Path:
    (run / "report.json").write_text(json.dumps(report_of(run) | keys))
    return run


SECTIONS = ["Beside annotators", "Opinions in the plane", "Votes", "Predicted and real spread", "Annotators", "Hardest"]


@pytest.mark.parametrize(("kind", "missing"), [("rater", {2}), ("beta", {1, 2, 4}), ("votes", {1, 3, 4})])
def test_sections_are_there_where_their_data_is(tmp_path: Path, kind: str, missing: set[int]) -> None:
    run = opinion_run(tmp_path / "run", kind)
    html = write_report(run).read_text()
    page = page_of(run)
    heads = re.findall(r"<h2>(.*?)</h2>", html)
    for place, section in enumerate(SECTIONS):
        assert (place in missing) == (not any(head.startswith(section) for head in heads)), section
    assert not re.search(r"\b(nan|NaN|None|inf)\b", page.text)
    assert not any(re.search(r"\b(nan|None|inf)\b", value or "") for _, value in page.attributes)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?:", html)
    assert write_report(run).read_text() == html


def test_distances_are_read_the_right_way_round(tmp_path: Path) -> None:
    assert [lower_is_better(name) for name in ("tvd", "jsd_votes", "rmse_arousal", "uar", "ccc_arousal")] == [
        *[True] * 3,
        *[False] * 2,
    ]
    run = opinion_run(tmp_path / "run")
    row = {"name": "layer 1", "dev": 0.5, "chosen": True, "metrics": {"tvd": entry(0.5)}}
    row["difference"] = {"tvd": {"value": -0.1, "low": -0.12, "high": -0.08, "p": 0.01}}
    change(run, baseline=[row])
    text = page_of(run).text
    assert "TVD .400 against .500" in text
    assert "fine-tuning paid" in text
    row["metrics"], row["difference"] = {"tvd": entry(0.3)}, {"tvd": {"value": 0.1, "low": 0.08, "high": 0.12}}
    change(run, baseline=[row])
    assert "the linear model is the better one here" in page_of(run).text


def test_the_headline_has_the_means_and_the_distance_alone(tmp_path: Path) -> None:
    line = headline(report_of(opinion_run(tmp_path / "run")))
    assert re.findall(r"(CCC \w+|TVD)", line) == ["CCC arousal", "CCC valence", "TVD"]
    assert metric_name("ccc_rating_arousal") == "CCC of single ratings, arousal"
    assert metric_name("ccc_expected_valence") == "CCC of expected valence"
    assert metric_name("tvd_votes") == "TVD of the votes"
    assert metric_name("uar_largest") == "UAR of the largest share"


def test_annotators_stand_beside_the_model(tmp_path: Path) -> None:
    run = opinion_run(tmp_path / "run")
    text = page_of(run).text
    assert "Line: .500, a single annotator against the mean of the others." in text
    section = text[text.index("Beside annotators") : text.index("Opinions in the plane")]
    assert section.index("CCC arousal") < section.index("better") < section.index("TVD") < section.index("worse")
    opinions = report_of(run)["opinions"]
    opinions["ceilings"] = [{"metric": "ccc_arousal", **entry(0.59), "text": "one"}]
    assert "intervals meet" in page_of(change(run, opinions=opinions)).text


def test_planes_put_arousal_up_and_valence_right(tmp_path: Path) -> None:
    run = opinion_run(tmp_path / "run", clips=1)
    table = pd.read_parquet(run / "predictions.parquet")
    corner = np.zeros((4, 4))
    corner[3, 0] = 1.0  # most aroused, least pleasant
    table["true_plane"] = pd.Series([corner.ravel()])
    table["plane"] = pd.Series([corner[::-1, ::-1].ravel()])
    table.to_parquet(run / "predictions.parquet")
    html = write_report(run).read_text()
    first, second = re.findall(r'<g class="cells"><rect x="([\d.]+)" y="([\d.]+)"', html)
    left, right = (float(x) for x in re.findall(r'class="frame" x="([\d.]+)"', html))
    top = float(re.findall(r'class="frame" x="[\d.]+" y="([\d.]+)"', html)[0])
    assert (float(first[0]), float(first[1])) == (left, top)
    assert float(second[0]) > right
    assert float(second[1]) > top
    assert "TVD 1.000" in html


def test_the_spread_is_put_into_words(tmp_path: Path) -> None:
    run = opinion_run(tmp_path / "run", "beta")
    assert "the model is too sure; clip by clip the correlation is .400;" in page_of(run).text
    opinions = report_of(run)["opinions"]
    for ratio, pearson, words in ((1.4, 0.4, "too unsure"), (1.05, 0.02, "about right"), (1.0, 0.02, "hardly tells")):
        opinions["spread"]["arousal"] |= {"ratio": ratio, "pearson": pearson}
        assert words in page_of(change(run, opinions=opinions)).text


def test_an_annotators_own_bias_stands_beside_the_predicted_one(tmp_path: Path) -> None:
    run = opinion_run(tmp_path / "run")
    opinions = report_of(run)["opinions"]
    opinions["raters"]["rows"][5]["response"]["arousal"]["bias"] = 1.25
    ratings = pd.read_parquet(run / "ratings.parquet")
    table = pd.read_parquet(run / "predictions.parquet").set_index("utterance")
    rows = (ratings["rater"] == "r05") & (ratings["attribute"] == "arousal")
    ratings.loc[rows, "predicted"] = ratings.loc[rows, "utterance"].map(table["arousal"]) - 0.75
    ratings.to_parquet(run / "ratings.parquet")
    html = write_report(change(run, opinions=opinions)).read_text()
    cells = re.search(r'<th scope="row">r05</th>(.*?)</tr>', html)
    assert cells is not None
    assert re.findall(r">([^<>]+)</td>", cells[1])[:4] == ["met", "15", "+1.25", "−0.75"]
    new = re.search(r'<th scope="row">r00</th>(.*?)</tr>', html)
    assert new is not None
    assert re.findall(r">([^<>]+)</td>", new[1])[3] == "–"


def test_the_hardest_clip_can_be_heard_and_shows_its_ratings(tmp_path: Path) -> None:
    run = opinion_run(tmp_path / "run")
    table = pd.read_parquet(run / "predictions.parquet")
    table.at[7, "plane"], table.at[7, "true_plane"] = np.eye(16)[0], np.eye(16)[15]
    table.loc[7, "file"], table.loc[7, "start"], table.loc[7, "end"] = "/x/é #1?.wav", 1.5, 3.0
    table.to_parquet(run / "predictions.parquet")
    html = write_report(run).read_text()
    part = html[html.index("<h2>Hardest clips") :]
    card = part[part.index("<article>") : part.index("</article>")]
    assert 'src="file:///x/%C3%A9%20%231%3F.wav#t=1.5,3"' in card
    assert 'preload="none"' in card
    ratings = pd.read_parquet(run / "ratings.parquet")
    own = ratings[(ratings["utterance"] == "u0007") & (ratings["attribute"] == "arousal")]
    assert ", ".join(f"{r} {v:g}" for r, v in zip(own["rater"], own["true"], strict=True)) in card
    assert card.count('class="vote"') == 12
    assert "media-src file:" in html


def test_no_audio_where_the_place_of_a_file_is_not_known(tmp_path: Path) -> None:
    run = opinion_run(tmp_path / "run", "beta")
    table = pd.read_parquet(run / "predictions.parquet")
    table["file"] = "wav/relative.wav"
    table.to_parquet(run / "predictions.parquet")
    html = write_report(run).read_text()
    assert "<audio" not in html
    assert "media-src" not in html


@pytest.mark.parametrize("kind", ["rater", "beta", "votes"])
def test_any_key_or_column_may_be_missing_or_null(tmp_path: Path, kind: str) -> None:
    run = opinion_run(tmp_path / "run", kind, clips=6, raters=3)
    report = report_of(run)
    for part in ("opinions", "task", "metrics"):
        for key in report[part]:
            page_of(change(run, **{part: report[part] | {key: None}}))
    for of in ("raters", "spread"):
        for key in report["opinions"].get(of, {}):
            page_of(change(run, opinions=report["opinions"] | {of: report["opinions"][of] | {key: None}}))
    change(run, **report)
    table = pd.read_parquet(run / "predictions.parquet")
    for column in table.columns:
        table.drop(columns=column).to_parquet(run / "predictions.parquet")
        page_of(run)
    numbers = table.select_dtypes("number").columns
    table[numbers] = np.nan
    for column in {"plane", "true_plane"} & set(table.columns):
        table[column] = None
    table.to_parquet(run / "predictions.parquet")
    assert not re.search(r"\b(nan|None|inf)\b", page_of(run).text)
    (run / "ratings.parquet").unlink(missing_ok=True)
    page_of(run)


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_names_are_escaped(tmp_path: Path, evil: str) -> None:
    run = opinion_run(tmp_path / "run")
    report, ratings = report_of(run), pd.read_parquet(run / "ratings.parquet")
    report["opinions"]["raters"]["rows"][0]["rater"] = report["opinions"]["raters"]["map"]["raters"][0] = evil
    report["opinions"]["ceilings"][0]["text"] = evil
    ratings["rater"] = ratings["rater"].replace("r01", evil)
    ratings.to_parquet(run / "ratings.parquet")
    table = pd.read_parquet(run / "predictions.parquet")
    table["speaker"], table["file"] = evil, "/x/" + evil.replace("/", "|")
    table.to_parquet(run / "predictions.parquet")
    page = page_of(change(run, **report))
    assert not {"script", "img"} & set(page.tags)
    assert evil in page.text


def test_many_clips_annotators_and_cells_stay_small(tmp_path: Path) -> None:
    run = opinion_run(tmp_path / "run", clips=3000, raters=3, grid=32)
    report = report_of(run)
    report["opinions"]["raters"] = raters_entry([f"rater {i:05}" for i in range(2000)], np.random.default_rng(0))
    html = write_report(change(run, **report)).read_text()
    assert len(html) < 1_500_000
    assert "1,200 of 3,000 clips are drawn" in html
    assert "1,970 annotators more, with 1,979 ratings at most." in html
    assert "Of 32 × 32 cells, 2 × 2 are drawn as one." in html
