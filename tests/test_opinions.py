"""Opinions in reports: distributions scored, ceilings, spread, annotators; and a saved model on data without them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sertune.apps import evaluate as app
from sertune.cli import main
from sertune.corpora import read_data
from sertune.data.manifest import Manifest
from sertune.metrics.opinions import OwnParts, Planes, has_opinions, opinions, rater_map, rating_metrics
from sertune.metrics.summary import compare, lower_is_better, main_metrics, summarise
from sertune.model.emotion_model import EmotionModel, load_model
from sertune.model.predictions import plane_maker, task_of
from sertune.model.targets import JoinedTarget, Plane, PlaneTarget, RaterLabelTarget, RaterTarget, VotesTarget

LABELS = ["anger", "happiness", "sadness"]
PLANE: dict[str, Any] = {
    "target": "dimension",
    "dimensions": ["arousal", "valence"],
    "scales": {"arousal": [1.0, 5.0], "valence": [1.0, 5.0]},
    "opinions": "rater",
    "grid": [2, 2],
}
VOTES: dict[str, Any] = {"target": "category", "labels": LABELS, "opinions": "votes", "cost": (1 - np.eye(3)).tolist()}


def plane_table(true: list[Any], made: list[Any]) -> pd.DataFrame:
    count = len(true)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"utterance": [f"c{i}" for i in range(count)], "speaker": [f"s{i % 3}" for i in range(count)]})
    for name in PLANE["dimensions"]:
        table[f"{name}_true"] = rng.uniform(1, 5, count)
        table[name] = table[f"{name}_true"] + rng.normal(0, 0.3, count)
    return table.assign(true_plane=pd.Series(true, dtype=object), plane=pd.Series(made, dtype=object))


def votes_table(true: np.ndarray, made: np.ndarray) -> pd.DataFrame:
    count = len(true)
    table = pd.DataFrame({"utterance": [f"c{i}" for i in range(count)], "speaker": [f"s{i % 3}" for i in range(count)]})
    names = np.array(LABELS, dtype=object)
    known = names[np.nan_to_num(true).argmax(1)]
    known[np.isnan(true[:, 0])] = None
    table["true"] = known
    table["predicted"] = names[made.argmax(1)]
    for k, label in enumerate(LABELS):
        table[f"v_{label}"], table[f"p_{label}"] = true[:, k], made[:, k]
    return table


def values(report: dict[str, Any]) -> dict[str, Any]:
    return {name: entry["value"] for name, entry in report["metrics"].items()}


# Distributions in the summary


def test_a_perfect_plane_has_no_distance_and_one_moved_along_an_axis_what_moving_it_costs() -> None:
    corner = [np.eye(4)[i % 4] for i in range(6)]
    perfect = values(summarise(plane_table([*corner], [*corner]), PLANE))
    assert [perfect[name] for name in ("tvd", "jsd", "kl", "emd")] == [0, 0, 0, 0]
    assert perfect["ccc_expected_arousal"] == pytest.approx(1)
    assert perfect["uar_largest"] == 1
    moved = [np.roll(row.reshape(2, 2), 1, axis=1).ravel() for row in corner]  # valence on the other side
    found = values(summarise(plane_table([*corner], moved), PLANE))
    assert found["tvd"] == 1
    assert found["jsd"] == pytest.approx(np.log(2))
    assert found["emd"] == pytest.approx(1)
    assert found["ccc_expected_arousal"] == pytest.approx(1)
    assert found["ccc_expected_valence"] == pytest.approx(-1)


def test_a_clip_without_a_true_plane_does_not_count() -> None:
    true: list[Any] = [np.eye(4)[0], None, np.eye(4)[1]]
    found = values(summarise(plane_table(true, [np.full(4, 0.25)] * 3), PLANE))
    assert found["tvd"] == pytest.approx(0.75)
    none = summarise(plane_table([None] * 3, [np.full(4, 0.25)] * 3), PLANE)
    assert none["metrics"]["tvd"] == {"value": None, "low": None, "high": None}
    assert none["metrics"]["ccc_arousal"]["value"] is not None
    assert "distribution" not in none


def test_votes_are_scored_by_the_consensus_and_by_their_shares() -> None:
    true = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1], [np.nan] * 3])
    made = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1], [1, 0, 0]])
    found = values(summarise(votes_table(true, made), VOTES))
    assert found["tvd"] == pytest.approx(0.5 / 3)
    assert found["emd"] == pytest.approx(found["tvd"])
    assert found["uar"] == 1
    assert main_metrics(VOTES) == ["uar", "tvd"]
    unknown = {key: value for key, value in VOTES.items() if key != "cost"}
    assert "emd" not in summarise(votes_table(true, made), unknown)["metrics"]
    assert "emd" not in summarise(votes_table(true, made), VOTES, transport=False)["metrics"]


def test_joined_tasks_stand_side_by_side_and_a_second_distribution_is_named_after_its_kind() -> None:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.ones(3), 12)
    planes = list(rng.dirichlet(np.ones(4), 12))
    votes = votes_table(shares, shares).drop(columns=["utterance", "speaker"])
    table = pd.concat([plane_table(planes, planes[::-1]), votes], axis=1)
    found = summarise(table, {**PLANE, "also": [VOTES]})
    assert found["metrics"]["tvd_votes"]["value"] == pytest.approx(0)
    assert found["metrics"]["tvd"]["value"] > 0.1
    assert next(iter(found["metrics"])) == "ccc_arousal"
    assert found["metrics"]["uar"]["value"] == 1
    assert found["per_class"].keys() == set(LABELS)
    assert {"uar", "ccc_valence", "clips"} <= set(found["speakers"][0])
    category = {"target": "category", "labels": LABELS}
    plain = summarise(table, {**category, "also": [PLANE]})
    assert plain["metrics"]["tvd"] == found["metrics"]["tvd"]
    assert main_metrics({**category, "also": [PLANE]}) == ["uar"]


def test_main_metrics_end_with_the_distance_which_is_better_where_it_is_lower() -> None:
    assert main_metrics(PLANE) == ["ccc_arousal", "ccc_valence", "tvd"]
    assert main_metrics({k: v for k, v in PLANE.items() if k != "grid"}) == ["ccc_arousal", "ccc_valence"]
    assert [n for n in ("tvd", "jsd_votes", "rmse_arousal", "ccc_arousal", "uar") if lower_is_better(n)] == [
        "tvd",
        "jsd_votes",
        "rmse_arousal",
    ]
    rng = np.random.default_rng(2)
    true, bad = rng.dirichlet(np.ones(4), 30), rng.dirichlet(np.ones(4), 30)
    good = 0.8 * true + 0.2 * bad
    found = compare(plane_table(list(true), list(good)), plane_table(list(true), list(bad)), PLANE)
    assert set(found) == {"ccc_arousal", "ccc_valence", "tvd"}
    assert found["tvd"]["high"] < 0
    assert found["tvd"]["p"] < 0.05
    assert found["ccc_arousal"]["value"] == 0


# Ceilings, spread, annotators


@pytest.fixture(scope="module")
def panel() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Table, ratings and rated ones of 40 clips by four annotators; "high" rates .8 above the others."""
    rng = np.random.default_rng(3)
    table = plane_table([None] * 40, [np.full(4, 0.25)] * 40)
    names, rows = ("calm", "first", "high", "new"), []
    for clip in range(40):
        for name in names:
            for dimension in PLANE["dimensions"]:
                value = table[f"{dimension}_true"][clip] + 0.8 * (name == "high") + rng.normal(0, 0.2)
                rows.append((f"c{clip}", name, dimension, value))
    ratings = pd.DataFrame(rows, columns=["utterance", "rater", "attribute", "value"])
    own = ratings.rename(columns={"value": "true"})
    rated = own.assign(
        speaker=own["utterance"].map(dict(zip(table["utterance"], table["speaker"], strict=True))),
        known=own["rater"] != "new",
        predicted=own["true"] - 0.1,
    )
    spread = rng.uniform(0.2, 0.8, 40)
    table["true_spread_arousal"], table["spread_arousal"] = spread, spread / 2
    return table, ratings, rated


def test_the_part_of_opinions_in_a_report(panel: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> None:
    table, ratings, rated = panel
    made = OwnParts(["calm", "first", "high"], np.array([[0.0, 0], [0.1, 0], [2.0, 1]]))
    found = opinions(table, ratings, rated, PLANE, own=made)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["kind"], found["grid"], found["labels"], found["dimensions"]) == (
        "rater", [2, 2], None, ["arousal", "valence"],
    )  # fmt: skip
    assert [entry["metric"] for entry in found["ceilings"]] == ["ccc_arousal", "ccc_valence"]
    assert all(entry["low"] <= entry["value"] <= entry["high"] and entry["text"] for entry in found["ceilings"])
    assert found["spread"].keys() == {"arousal"}
    assert (found["spread"]["arousal"]["slope"], found["spread"]["arousal"]["ratio"]) == (2.0, 0.5)
    assert sum(row["count"] for row in found["spread"]["arousal"]["bins"]) == 40
    raters = found["raters"]
    assert (raters["count"], raters["met"]) == (4, 3)
    by_name = {row["rater"]: row for row in raters["rows"]}
    assert by_name["high"]["ratings"] == 40  # clips, not values
    assert by_name["high"]["bias"]["arousal"] == pytest.approx(-0.1)
    response = {name: row["response"]["valence"]["bias"] for name, row in by_name.items()}
    assert response["high"] - response["calm"] == pytest.approx(0.8, abs=0.15)
    assert raters["map"]["raters"] == ["calm", "first", "high"]
    assert sum(raters["map"]["share"]) == pytest.approx(1)
    assert "map" not in opinions(table, ratings, rated, PLANE)["raters"]


def test_ratings_of_other_clips_do_not_count(panel: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> None:
    table, ratings, _ = panel
    some = table.iloc[:20]
    own = ratings[ratings["utterance"].isin(some["utterance"])]
    assert opinions(some, ratings, None, PLANE) == opinions(some, own, None, PLANE)
    assert "raters" not in opinions(some, ratings, None, PLANE)
    assert opinions(some, None, None, PLANE)["ceilings"] == []


def test_annotators_who_agree_leave_no_distance_to_the_truth() -> None:
    rng = np.random.default_rng(4)
    shares = np.eye(3)[rng.integers(0, 3, 30)]
    table = votes_table(shares, shares)
    rows = [(clip, f"r{r}", "emotion", label) for clip, label in zip(table["utterance"], table["true"], strict=True)
            for r in range(4)]  # fmt: skip
    ratings = pd.DataFrame(rows, columns=["utterance", "rater", "attribute", "value"])
    found = {entry["metric"]: entry["value"] for entry in opinions(table, ratings, None, VOTES)["ceilings"]}
    assert found == {"uar": 1.0, "tvd": 0.0, "jsd": 0.0}
    ratings["value"] = [LABELS[i] for i in rng.integers(0, 3, len(ratings))]
    random = {entry["metric"]: entry["value"] for entry in opinions(table, ratings, None, VOTES)["ceilings"]}
    assert random["uar"] < 0.6
    assert 0.15 < random["tvd"] < 0.5


def test_the_ceiling_of_the_plane_is_half_of_what_halves_differ_by() -> None:
    scales = ((1.0, 5.0), (1.0, 5.0))
    target = PlaneTarget(scales, Plane((3, 3)))
    rng = np.random.default_rng(5)
    utterances = pd.DataFrame({"id": [f"c{i}" for i in range(12)]})
    rows = [(f"c{i}", f"r{r}", name, float(rng.integers(1, 6)))
            for i in range(12) for r in range(4) for name in ("arousal", "valence")]  # fmt: skip
    ratings = pd.DataFrame(rows, columns=["utterance", "rater", "attribute", "value"])
    made = plane_maker(target, utterances, ratings)
    assert made is not None
    given, cells_of = made
    assert given.shape == (12, 4, 2)
    assert np.allclose(cells_of(given).sum(axis=1), 1)
    assert cells_of(given).shape == (12, 9)
    table = plane_table([None] * 12, [np.full(9, 1 / 9)] * 12)
    task = {**PLANE, "grid": [3, 3]}
    same = Planes(given, lambda halves: np.eye(9)[np.zeros(len(halves), dtype=int)])
    ceilings = opinions(table, ratings, None, task, planes=same)["ceilings"]
    assert [(e["metric"], e["value"]) for e in ceilings if e["metric"] in ("tvd", "jsd")] == [("tvd", 0), ("jsd", 0)]
    apart = Planes(given, lambda halves: np.eye(9)[rng.integers(0, 9, len(halves))])
    tvd = next(e for e in opinions(table, ratings, None, task, planes=apart)["ceilings"] if e["metric"] == "tvd")
    assert tvd["value"] == pytest.approx(0.5 * 8 / 9, abs=0.06)
    assert plane_maker(VotesTarget(tuple(LABELS)), utterances, ratings) is None


def test_single_ratings_are_scored_for_annotators_who_were_met(
    panel: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame],
) -> None:
    rated = panel[2].copy()
    rated.loc[rated["rater"] == "new", "predicted"] = 99.0
    found = rating_metrics(rated, PLANE)
    assert set(found) == {"ccc_rating_arousal", "ccc_rating_valence"}
    assert found["ccc_rating_arousal"]["value"] == pytest.approx(1, abs=0.02)
    assert rating_metrics(rated.assign(known=False), PLANE) == {}
    labels = pd.DataFrame(
        {"speaker": ["a", "b"] * 3, "known": True, "attribute": "emotion", "true": LABELS * 2, "predicted": "anger"}
    )
    assert rating_metrics(labels, VOTES)["uar_rating"]["value"] == pytest.approx(1 / 3)


def test_the_map_of_annotators_is_that_of_their_principal_components() -> None:
    rng = np.random.default_rng(6)
    along, across = rng.normal(size=20), 0.1 * rng.normal(size=20)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    own = np.stack([along, across, *np.zeros((3, 20))], axis=1) @ turn + 7
    places, shares = rater_map(own)
    assert abs(np.corrcoef(places[:, 0], along)[0, 1]) > 0.999
    assert shares.sum() == pytest.approx(1)
    assert shares[0] > 0.9
    assert np.allclose(np.linalg.norm(places - places[0], axis=1), np.linalg.norm(own - own[0], axis=1))
    assert np.allclose(rater_map(own[::-1])[0][::-1], places)  # the sides don't depend on the order
    assert not rater_map(np.ones((3, 4)))[0].any()
    assert not rater_map(np.ones((1, 4)))[1].any()
    assert rater_map(np.arange(4.0)[:, None])[1].tolist() == [1, 0]
    with pytest.raises(ValueError, match="own parts"):
        rater_map(np.full((2, 2), np.nan))


def test_the_task_says_what_is_predicted() -> None:
    scales = ((1.0, 5.0), (1.0, 5.0))
    rater = RaterTarget(("arousal", "valence"), scales, ("a", "b"), Plane((4, 4)))
    assert task_of(rater)["grid"] == [4, 4]
    assert has_opinions(task_of(rater))
    cost = np.array(task_of(VotesTarget(tuple(LABELS)))["cost"])
    assert cost.shape == (3, 3)
    assert not cost.diagonal().any()
    assert (cost == cost.T).all()
    assert "cost" not in task_of(VotesTarget(("anger", "of our own")))


# A saved model on new data


@pytest.fixture(scope="module")
def rated_run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("rated") / "run"
    flags = ["--target", "rater", "--method", "frozen", "--train.epochs", "1", "--out", str(run)]
    assert main(["train", "--encoder", "builtin:random", "--data", f"synthetic:{tiny_corpus}", *flags]) == 0
    return run


@pytest.fixture(scope="module")
def rated_model(rated_run: Path) -> EmotionModel:
    return load_model(rated_run)


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def test_a_run_with_annotators_reports_them(rated_run: Path) -> None:
    report = read(rated_run)
    rated = pd.read_parquet(rated_run / "ratings.parquet")
    assert {"ccc_rating_arousal", "tvd", "emd", "ccc_expected_valence"} <= set(report["metrics"])
    assert report["opinions"]["raters"]["count"] == rated["rater"].nunique() == 3
    assert report["opinions"]["raters"]["map"]["raters"] == sorted(rated["rater"].unique())
    assert {entry["metric"] for entry in report["opinions"]["ceilings"]} >= {"ccc_arousal", "tvd"}
    (chosen,) = [row for row in report["baseline"] if row["chosen"]]
    own = {name for name in report["metrics"] if not name.startswith("ccc_rating")}
    assert set(chosen["metrics"]) == own
    assert set(chosen["difference"]) == {"ccc_arousal", "ccc_valence", "ccc_dominance", "tvd"}
    # dev and test are judged alike
    ccc = [report["metrics"][f"ccc_{name}"]["value"] for name in report["task"]["dimensions"]]
    assert report["folds"][0]["test_score"] == pytest.approx(np.mean(ccc), abs=1e-3)  # the corpus rounds


def test_on_data_with_ratings_it_is_scored_as_in_training(
    rated_run: Path, rated_model: EmotionModel, tiny_corpus: Path, tmp_path: Path
) -> None:
    data = app.read_for(rated_model, [f"synthetic:{tiny_corpus}"])
    out = app.evaluate(rated_model, data, tmp_path / "scores")
    report, rated = read(out), pd.read_parquet(out / "ratings.parquet")
    assert report["opinions"]["raters"]["met"] == 3
    before = pd.read_parquet(rated_run / "ratings.parquet")
    both = before.merge(rated, on=["utterance", "rater", "attribute"])
    assert len(both) == len(before)
    np.testing.assert_allclose(both["true_x"], both["true_y"])
    np.testing.assert_allclose(both["predicted_x"], both["predicted_y"], atol=1e-4)
    tested = pd.read_parquet(rated_run / "predictions.parquet").merge(
        pd.read_parquet(out / "predictions.parquet"), on="utterance"
    )
    np.testing.assert_allclose(np.stack(tested["plane_x"].tolist()), np.stack(tested["plane_y"].tolist()), atol=1e-4)
    np.testing.assert_allclose(
        np.stack(tested["true_plane_x"].tolist()), np.stack(tested["true_plane_y"].tolist()), atol=1e-6
    )


def test_strangers_are_predicted_as_the_average_annotator(
    rated_model: EmotionModel, tiny_corpus: Path, tmp_path: Path
) -> None:
    data = app.read_for(rated_model, [f"synthetic:{tiny_corpus}"])
    ratings = data.manifest.ratings
    assert ratings is not None
    strangers = Manifest(
        "others", data.manifest.utterances, data.manifest.schemes, ratings.assign(rater="other-" + ratings["rater"])
    )
    out = app.evaluate(rated_model, replace(data, manifest=strangers), tmp_path / "scores")
    report, rated = read(out), pd.read_parquet(out / "ratings.parquet")
    assert (report["opinions"]["raters"]["count"], report["opinions"]["raters"]["met"]) == (3, 0)
    assert "ccc_rating_arousal" not in report["metrics"]
    assert "tvd" in report["metrics"]
    assert rated.groupby(["utterance", "attribute"])["predicted"].nunique().max() == 1


def test_without_ratings_the_consensus_alone_is_scored(
    rated_model: EmotionModel, tiny_corpus: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(tiny_corpus / "utterances.csv")
    frame["file"] = [str(tiny_corpus / file) for file in frame["file"]]
    frame.to_csv(tmp_path / "plain.csv", index=False)
    out = app.evaluate(rated_model, app.read_for(rated_model, [str(tmp_path / "plain.csv")]), tmp_path / "scores")
    report = read(out)
    assert "opinions" not in report
    assert "tvd" not in report["metrics"]
    assert "grid" not in report["task"]
    assert report["metrics"]["ccc_arousal"]["value"] is not None
    assert not (out / "ratings.parquet").exists()


def test_annotators_are_known_again_where_they_are_the_same_people(
    rated_model: EmotionModel, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_data(f"synthetic:{tiny_corpus}")

    def named(name: str, trained: str) -> tuple[set[str], list[str]]:
        monkeypatch.setitem(rated_model.info, "data", trained)
        told, said = app._told_apart(
            rated_model, Manifest(name, manifest.utterances, manifest.schemes, manifest.ratings)
        )
        assert told.ratings is not None
        return set(told.ratings["rater"]), said

    own = set(manifest.ratings["rater"]) if manifest.ratings is not None else set()
    assert named("synthetic", "synthetic") == (own, [])
    assert named("emodb", "synthetic") == ({f"emodb/{name}" for name in own}, [])  # other people of the same names
    names, said = named("my-table", "synthetic")
    assert names == own
    assert said == ["3 annotators have names of annotators of synthetic, and are taken for them"]


def test_categories_are_left_out_wherever_the_annotators_stand() -> None:
    torch.manual_seed(0)
    rater = RaterLabelTarget(tuple(LABELS), ("a", "b"))
    plane = PlaneTarget(((1.0, 5.0), (1.0, 5.0)), Plane((2, 2)))
    allowed = torch.tensor([True, False, True])
    alone = torch.randn(5, 3 + 2 * 3 + 2)
    joined = JoinedTarget((plane, rater), (1.0, 1.0), lead=1)
    for target, outputs, begin in ((rater, alone, 0), (joined, torch.cat([torch.randn(5, 4), alone], dim=1), 4)):
        masked = app._masked(target, outputs, allowed)
        assert masked[:, [begin + 1, begin + 4, begin + 7]].isneginf().all()
        assert torch.equal(masked[:, :begin], outputs[:, :begin])
        assert torch.equal(masked[:, -2:], outputs[:, -2:])
        assert masked[:, begin : begin + 3].exp().sum(1) == pytest.approx(torch.ones(5).numpy())
        assert app._dropped(target, masked, allowed).shape[1] == outputs.shape[1] - 3
    votes = JoinedTarget((VotesTarget(tuple(LABELS)), plane), (1.0, 1.0))
    outputs = torch.randn(5, 7)
    assert torch.equal(app._masked(votes, outputs, allowed)[:, 3:], outputs[:, 3:])
    assert torch.equal(app._dropped(votes, outputs, allowed), outputs[:, [0, 2, 3, 4, 5, 6]])
