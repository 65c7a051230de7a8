"""`sertune demo`: everything once, on the embedded default."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from sertune.apps.predict import load
from sertune.apps.report import headline
from sertune.config import RunConfig, from_dict
from sertune.corpora.synthetic import read
from sertune.data.synthetic import write_corpus
from sertune.errors import SertuneError
from sertune.files import check_writable
from sertune.model.builtin import EMOTION
from sertune.progress import progress


def run_demo(folder: Path, run_and_report: Callable[..., Path]) -> None:
    """Makes the synthetic corpus, trains a categorical and a dimensional model, and predicts one file.

    Args:
        folder: for all of it; a corpus that is already there is used again.
        run_and_report: trains a configuration and writes its report; returns the run folder.
    """
    began = time.perf_counter()
    if folder.is_file():
        raise SertuneError(f"{folder}: is a file; choose another --out")
    check_writable(folder)
    corpus = folder / "corpus"
    if not corpus.exists():
        with progress("Making the synthetic corpus", 1) as advance:
            write_corpus(corpus)
            advance(1)
    manifest = read(corpus)
    minutes = manifest.utterances["duration"].sum() / 60
    speakers = manifest.utterances["speaker"].nunique()
    print(f"1. Synthetic corpus in {corpus}: {len(manifest)} clips, {speakers} speakers, {minutes:.1f} minutes")
    runs = {}
    for number, target in ((2, "category"), (3, "dimension")):
        print(f"{number}. Training a model of {WORDS[target]} (speaker-independent test)", flush=True)
        runs[target] = run_and_report(demo_config(corpus, target, folder / target), overwrite=True)
        report = json.loads((runs[target] / "report.json").read_text(encoding="utf-8"))
        cost = report["cost"]
        print(f"   {headline(report)}")
        print(f"   {cost['seconds_total']:.0f} s, {cost['trainable_parameters']:,} trainable parameters")
        print(f"   report: {runs[target] / 'report.html'}", flush=True)
    file = str(manifest.utterances["file"].iloc[-1])
    result = load(runs["category"]).predict(file)
    values = load(runs["dimension"]).predict(file)
    shown = ", ".join(f"{label} {p:.2f}" for label, p in sorted(result["probabilities"].items(), key=lambda i: -i[1]))
    print(f"4. Prediction for {file}")
    print(f"   {result['label']} ({shown}); it was acted as {manifest.utterances['emotion'].iloc[-1]}")
    print("   " + ", ".join(f"{name} {entry['value']:.2f}" for name, entry in values.items() if name != "file"))
    print(
        f"Done in {time.perf_counter() - began:.0f} s. The voices are synthetic: this shows that everything works, and"
    )
    print("says nothing about people. Next, a recording of your own, and a model that was trained on acted German:")
    print(f"   sertune predict {EMOTION} my.wav")
    print(
        "and a corpus of your own or a public one; a larger encoder than the embedded one takes longer and is better:"
    )
    print("   sertune train --data emodb:FOLDER --encoder facebook/wav2vec2-base --split loso --out runs/emodb")


WORDS = {"category": "four emotions", "dimension": "arousal, valence and dominance"}


def demo_config(corpus: Path, target: str, out: Path) -> RunConfig:
    """The demo's settings: the corpus's official partitions, the embedded encoder, and few epochs."""
    return from_dict(
        {
            "data": [f"synthetic:{corpus}"],
            "encoder": "builtin",
            "target": target,
            "split": "official",
            "train": {"epochs": 6},
            "out": str(out),
        }
    )
