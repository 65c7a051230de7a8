"""Corpus readers and tables: the contract of every reader, the mistakes of users' tables, the real corpora."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from sertune.corpora import corpus, keep_apart, list_corpora, names, published, read_all, read_data
from sertune.data.audio import read_audio
from sertune.data.labels import CATEGORIES, DIMENSIONS
from sertune.data.manifest import Manifest, Scheme
from sertune.errors import SertuneError

# The contract

CORPORA = [name for name in names() if corpus(name).INFO.kind != "format"]  # tests/test_formats.py has the others


@pytest.fixture(scope="module", params=CORPORA)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    """A corpus's name, and its example as it is read."""
    root = tmp_path_factory.mktemp(request.param) / "root"
    corpus(request.param).example(root)
    return request.param, read_data(f"{request.param}:{root}")


def test_every_reader_reads_its_example(example: tuple[str, Manifest]) -> None:
    name, manifest = example
    reader = corpus(name)
    assert reader.INFO.name == name
    manifest.validate()
    frame = manifest.utterances
    assert manifest.name == name
    assert frame["id"].is_unique
    there = np.array([Path(file).is_absolute() and Path(file).is_file() for file in frame["file"]])
    assert there.mean() > 0.75  # a label whose file is missing is for the check to say
    assert frame["duration"][there].notna().all()
    assert frame["speaker"].nunique() >= min(3, reader.INFO.speakers)
    assert set(frame["language"]) <= set(reader.INFO.language.split("+"))
    assert len(read_audio(str(frame["file"][there].iat[0]), 16000)) > 0


def test_every_reader_says_what_it_knows(example: tuple[str, Manifest]) -> None:
    name, manifest = example
    info = corpus(name).INFO
    assert set(info.labels) <= {*CATEGORIES, *DIMENSIONS}
    assert info.speakers > 0
    assert info.hours > 0
    assert info.raters == 0 or info.ratings
    categories = {label for label in info.labels if label in CATEGORIES}
    assert set(manifest.schemes) == {*(["emotion"] if categories else []), *(set(info.labels) & set(DIMENSIONS))}
    if categories:
        assert set(manifest.schemes["emotion"].labels) == categories
        assert set(manifest.utterances["emotion"].dropna()) <= categories
    if info.raters:
        assert manifest.ratings is not None
        assert manifest.ratings["rater"].nunique() > 1


def test_every_published_protocol_cuts_the_example(example: tuple[str, Manifest]) -> None:
    """Parts without overlap, in every fold; an example may be too small for a protocol, which then says so."""
    name, manifest = example
    protocols = published(manifest)
    assert [p.name for p in protocols] == [p.name for p in getattr(corpus(name), "PROTOCOLS", ())]
    assert len({p.name for p in protocols}) == len(protocols)
    for protocol in protocols:
        assert protocol.source
        assert protocol.text
        try:
            folds = protocol.cut(manifest.utterances)
        except SertuneError:
            continue
        for fold in folds:
            rows = np.concatenate([fold.train, fold.dev, fold.test])
            assert len(rows) == len(set(rows.tolist())) > 0
            assert rows.max() < len(manifest)


@pytest.mark.parametrize("name", CORPORA)
def test_every_reader_says_what_it_looked_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "gone"):
        with pytest.raises(SertuneError) as caught:
            read_data(f"{name}:{folder}")
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_list_corpora() -> None:
    infos = list_corpora()
    assert [info.name for info in infos] == names()
    assert {"emodb", "urdu", "synthetic"} <= set(names())
    assert all(info.title and info.licence and info.layout for info in infos)


def test_names_import_nothing_heavy() -> None:
    heavy = ("pandas", "numpy", "soundfile")
    code = f"import sys, sertune.corpora as c; c.names(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The corpora


def test_emodb_flat_or_in_wav_with_foreign_files(tmp_path: Path) -> None:
    reader = corpus("emodb")
    reader.example(tmp_path)
    frame = reader.read(tmp_path).utterances
    assert reader.read(tmp_path / "wav").utterances["id"].tolist() == frame["id"].tolist()
    row = frame[frame["id"] == "03a02La"].iloc[0]
    assert (row["speaker"], row["gender"], row["text"], row["emotion"]) == ("03", "male", "a02", "boredom")
    for file in (tmp_path / "wav").glob("*[WLEAF]a.wav"):
        file.unlink()
    assert reader.read(tmp_path).schemes["emotion"].labels == ("neutral", "sadness")
    soundfile.write(tmp_path / "wav" / "holiday.wav", np.zeros(10), 16000)
    with pytest.raises(SertuneError, match=r"holiday.wav: not named as EmoDB"):
        reader.read(tmp_path)


def test_a_broken_file_is_left_for_the_check(tmp_path: Path) -> None:
    for name, file in (("emodb", "wav/03a01Wa.wav"), ("urdu", "Angry/SM1_F1_A001.wav")):
        corpus(name).example(tmp_path / name)
        (tmp_path / name / file).write_bytes(b"")
        frame = read_data(f"{name}:{tmp_path / name}").utterances
        assert frame.loc[frame["duration"].isna(), "id"].tolist() == [Path(file).stem]


def test_urdu_file_in_the_wrong_folder(tmp_path: Path) -> None:
    corpus("urdu").example(tmp_path)
    (tmp_path / "Sad" / "SM1_F9_A099.wav").write_bytes((tmp_path / "Angry" / "SM1_F1_A001.wav").read_bytes())
    with pytest.raises(SertuneError, match=r"SM1_F9_A099.wav: not named as URDU names the files of Sad"):
        read_data(f"urdu:{tmp_path}")


def test_bad_specs(tmp_path: Path) -> None:
    for spec, words in {
        "emobd:x": "unknown corpus 'emobd'; did you mean 'emodb'",
        "emodb": "needs its folder: emodb:FOLDER",
        "emodb:": "no folder after the colon",
        "emobd": "unknown corpus 'emobd'; did you mean 'emodb'",
        str(tmp_path): "without a saved manifest; say which corpus",
        str(tmp_path / "gone.csv"): "no such file",
        str(tmp_path / "gone"): "no such file or folder",
    }.items():
        with pytest.raises(SertuneError, match=words):
            read_data(spec)
    with pytest.raises(SertuneError, match="no data given"):
        read_all([])


def test_synthetic_without_a_folder_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sertune.data import synthetic

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[Path] = []
    write = synthetic.write_corpus

    def quick(root: Path) -> Path:
        made.append(root)
        return write(root, speakers=3, per_emotion=1)

    monkeypatch.setattr(synthetic, "write_corpus", quick)
    assert len(read_data("synthetic")) == len(read_data("synthetic")) == 12
    assert len(made) == 1
    assert tmp_path in made[0].parents


def test_several_corpora_as_one(tmp_path: Path) -> None:
    for name in ("emodb", "urdu"):
        corpus(name).example(tmp_path / name)
    specs = [f"{name}:{tmp_path / name}" for name in ("emodb", "urdu")]
    both = read_all(specs)
    assert both.schemes["emotion"].labels[:7] == corpus("emodb").INFO.labels
    assert set(both.utterances["corpus"]) == {"emodb", "urdu"}
    assert {"03", "SM1"} <= set(both.utterances["speaker"])


def test_speakers_of_one_name_in_two_corpora_are_two_people(tmp_path: Path) -> None:
    corpus("emodb").example(tmp_path / "emodb")
    corpus("urdu").example(tmp_path / "urdu")
    for file in sorted((tmp_path / "urdu").rglob("*.wav")):
        file.rename(file.with_name(file.name.replace("SM1_", "SM3_")))
    from sertune.corpora import keep_apart

    one, two = (read_data(f"{name}:{tmp_path / name}") for name in ("emodb", "urdu"))
    two.utterances["speaker"] = two.utterances["speaker"].replace("SM3", "03").astype(object)
    renamed = [set(m.utterances["speaker"]) for m in keep_apart([one, two])]
    assert "emodb/03" in renamed[0]
    assert "urdu/03" in renamed[1]
    # Two tables can be two parts of one corpus.
    one.to_csv(tmp_path / "a.csv")
    one.to_csv(tmp_path / "b.csv")
    parts = read_all([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")])
    assert set(parts.utterances["speaker"]) == {"03", "08", "11"}


# Tables


def table(folder: Path, text: str, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_as_programs_write_it(tmp_path: Path, separator: str, encoding: str, newline: str) -> None:
    lines = ["File,Label,Speaker,Activation,split,note", "a b/ü 1.wav,Wut,03,2.5,val,x", "/abs/b.wav,,3,,train,NA"]
    path = table(tmp_path, newline.join(lines).replace(",", separator) + newline, encoding=encoding)
    manifest = read_data(str(path))
    frame = manifest.utterances
    assert frame["file"].tolist() == [str(tmp_path / "a b" / "ü 1.wav"), "/abs/b.wav"]
    assert frame["emotion"].tolist() == ["anger", None]
    assert frame["speaker"].tolist() == ["03", "3"]
    assert frame["partition"].tolist() == ["dev", "train"]
    np.testing.assert_array_equal(frame["arousal"], [2.5, np.nan])
    assert frame["note"].tolist() == ["x", "NA"]
    assert frame["id"].tolist() == ["a b/ü 1.wav", "/abs/b.wav"]
    assert manifest.name == "t"


def test_decimal_comma_with_semicolons(tmp_path: Path) -> None:
    path = table(tmp_path, "file;valence;start;end\na.wav;3,25;0,5;1,5\n")
    row = read_data(str(path)).utterances.iloc[0]
    assert (row["valence"], row["start"], row["end"]) == (3.25, 0.5, 1.5)
    assert row["id"] == "a.wav:0.5-1.5"


def test_quoted_text_with_separators_and_line_ends(tmp_path: Path) -> None:
    path = table(tmp_path, 'file,label,text\na.wav,sad,"one; two, ""three""\nfour"\n')
    assert read_data(str(path)).utterances["text"].tolist() == ['one; two, "three"\nfour']


@pytest.mark.parametrize("body", ['a.wav,sad,"x, y",03\n', 'a.wav, sad, "x, y", 03\n', '"a.wav","sad","x, y","03"\n'])
@pytest.mark.parametrize("end", ["", "\n", "b.wav,sad,z,04\n"])
def test_quotes_and_blanks_read_alike(tmp_path: Path, body: str, end: str) -> None:
    """Plain tables are read by another parser than those with blanks after the separator: what they say is the same."""
    frame = read_data(str(table(tmp_path, "file,label,note,speaker\n" + body + end))).utterances
    row = frame.iloc[0]
    assert (row["id"], row["emotion"], row["note"], row["speaker"]) == ("a.wav", "sadness", "x, y", "03")
    assert len(frame) == (2 if "b.wav" in end else 1)


def test_rows_that_are_too_short_lack_their_last_fields(tmp_path: Path) -> None:
    frame = read_data(str(table(tmp_path, "file,label,speaker\na.wav,sad\nb.wav,sad,1\n\n"))).utterances
    assert frame["speaker"].tolist() == [None, "1"]


def test_missing_values_as_programs_write_them(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "file,label,arousal,speaker\n"
        + "".join(f"{i}.wav,{m},{m},{m}\n" for i, m in enumerate(["", "nan", "NaN", "NA", "null", "None"]))
        + "z.wav,sad,3,1\n",
    )
    frame = read_data(str(path)).utterances
    assert frame["emotion"].tolist() == [*frame["speaker"].tolist()[:6], "sadness"] == [None] * 6 + ["sadness"]
    assert frame["arousal"].isna().sum() == 6


def test_a_column_map(tmp_path: Path) -> None:
    path = table(tmp_path, "path,my_label,emotion,who\na.wav,sad,7,x\nb.wav,happy,8,y\n")
    columns = {"file": "path", "label": "my_label", "speaker": "who"}
    frame = read_data(str(path), columns).utterances
    assert frame["emotion"].tolist() == ["sadness", "happiness"]
    assert frame["speaker"].tolist() == ["x", "y"]
    with pytest.raises(SertuneError, match=r"no column 'my_lable' .*did you mean 'my_label'"):
        read_data(str(path), {"file": "path", "emotion": "my_lable"})
    with pytest.raises(SertuneError, match="unknown column 'emotoin'; did you mean 'emotion'"):
        read_data(str(path), {"emotoin": "my_label"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "table is empty"),
        ("file,label\n", "no rows"),
        ("files,label\na.wav,sad\n", "no column 'file'; did you mean 'files'.* found columns files, label"),
        ("file,speaker\na.wav,1\n", "neither a label .* nor a dimension"),
        ("file,label,emotion\na.wav,sad,sad\n", "2 columns for emotion"),
        ("file,arousal\na.wav,3\nb.wav,high\n", "column arousal, row 2: expected a number, found 'high'"),
        ("file,label,start\na.wav,sad,x\n", "column start, row 1: expected a number, found 'x'"),
        ("file,label,start,end\na.wav,sad,2,1\n", "row 1 .*ends at 1 s, not after its start at 2 s"),
        ("file,label\na.wav,sad\nb.wav,sad\n./a.wav,happy\n", "row 3: the same file and segment as row 1"),
        ("file,label,start,end\na,sad,0,1\na,sad,1,2\na,sad,0,1\na,sad,1,2\n", r"row 3: .* as row 1 .*\(and 1 more"),
        ("file,label\n,sad\n", "row 1 has no file"),
        ("file,label,partition\na.wav,sad,held-out\n", "row 1 .*partition 'held-out', expected train, dev or test"),
        ("file,label\na.wav,sad\nb.wav,sad,3\n", "line 3"),
        ("file,label\na.wav,sad,3\n", "more fields than the header"),
        ("file,valence\na.wav,-3\nb.wav,3\n", r"valence goes from -3 to 3.*t?\.schemes\.json"),
    ],
)
def test_bad_tables_say_where(tmp_path: Path, text: str, words: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(SertuneError, match=words) as caught:
        read_data(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(SertuneError, match="not UTF-8"):
        read_data(str(table(tmp_path, "file,label\nä.wav,sad\n", encoding="latin-1")))
    with pytest.raises(SertuneError, match="not a Parquet table"):
        read_data(str(table(tmp_path, "file,label\na.wav,sad\n", name="t.parquet")))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(SertuneError, match="is a folder"):
        read_data(str(tmp_path / "folder.csv"))


def test_parquet_keeps_types(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"file": ["a.wav", "b.wav"], "label": ["sad", None], "speaker": [3, 4], "arousal": [1, 5], "age": [30, 40]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    read = read_data(str(tmp_path / "t.parquet")).utterances
    assert read["speaker"].tolist() == ["3", "4"]
    assert read["emotion"].tolist() == ["sadness", None]
    assert read["age"].tolist() == [30, 40]


def manifest(folder: Path) -> Manifest:
    frame: dict[str, Any] = {
        "file": [str(folder / "wav" / "a, b.wav"), "/elsewhere/c.wav", str(folder / "wav" / "a, b.wav")],
        "start": [0.1, np.nan, 1 / 3],
        "end": [0.3, np.nan, 2 / 3],
        "speaker": ["03", "3", None],
        "text": ['say "no"', None, "ü\nü"],
        "emotion": ["anger", "tired", None],
        "arousal": [0.1, 1 / 3, np.nan],
    }
    schemes = {"emotion": Scheme(labels=("tired", "anger", "fear")), "arousal": Scheme(low=0, high=3)}
    return Manifest.of("small", pd.DataFrame(frame), schemes)


def test_csv_out_and_in_gives_the_same(tmp_path: Path) -> None:
    before = manifest(tmp_path)
    before.to_csv(tmp_path / "small.csv")
    after = read_data(str(tmp_path / "small.csv"))
    pd.testing.assert_frame_equal(before.utterances, after.utterances)
    assert after.schemes == before.schemes
    assert after.name == before.name
    assert "wav/" in (tmp_path / "small.csv").read_text("utf-8").splitlines()[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.csv", "small.schemes.json"]


def test_saved_manifests_are_data_too(tmp_path: Path) -> None:
    manifest(tmp_path).save(tmp_path / "m")
    pd.testing.assert_frame_equal(read_data(str(tmp_path / "m")).utterances, manifest(tmp_path).utterances)


def test_stated_schemes_beside_a_table(tmp_path: Path) -> None:
    path = table(tmp_path, "file,label,valence\na.wav,sad,-3\nb.wav,fear,4\n")
    beside = tmp_path / "t.schemes.json"
    beside.write_text(json.dumps({"emotion": {"labels": ["sad", "fear"]}, "valence": {"low": -3, "high": 3}}))
    with pytest.raises(SertuneError, match=r"row 2 .*valence 4.0, outside the scale -3 to 3"):
        read_data(str(path))
    loose = read_data(str(path), strict=False)
    assert loose.schemes["emotion"].labels == ("sadness", "fear")
    for text, words in {"[1]": "not a JSON object", "{": "not a JSON object", '{"valence": 3}': "needs either"}.items():
        beside.write_text(text)
        with pytest.raises(SertuneError, match=words):
            read_data(str(path))


RATED = "file,label\na.wav,sad\nb.wav,\n"
RATINGS = "utterance,rater,attribute,value\na.wav,r1,emotion,sad\na.wav,r2,label,Wut\nb.wav,03,arousal,2.5\n"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_single_ratings_beside_a_table(tmp_path: Path, suffix: str) -> None:
    path = table(tmp_path, RATED)
    beside = table(tmp_path, RATINGS, "t.ratings.csv")
    if suffix == ".parquet":
        pd.read_csv(beside, dtype=str).to_parquet(tmp_path / "t.ratings.parquet")
        beside.unlink()
    manifest = read_data(str(path))
    assert manifest.ratings is not None
    assert manifest.ratings["value"].tolist() == ["sadness", "anger", 2.5]
    assert manifest.ratings["rater"].tolist() == ["r1", "r2", "03"]
    assert manifest.votes().loc[0].to_dict() == {"anger": 1, "sadness": 1}
    assert manifest.rater_matrix("arousal")[1] == ("03",)


def test_ratings_of_segments_and_with_decimal_commas(tmp_path: Path) -> None:
    path = table(tmp_path, "file;label;start;end\na.wav;sad;0,5;1,5\na.wav;sad;2;3\n")
    table(tmp_path, "Utterance;Rater;Attribute;Value\na.wav:0.5-1.5;r;valence;3,25\n", "t.ratings.csv")
    manifest = read_data(str(path))
    assert manifest.ratings is not None
    assert manifest.ratings["value"].tolist() == [3.25]
    ids = table(tmp_path, "id,file,label\nu1,a.wav,sad\n", "u.csv")
    table(tmp_path, "utterance,rater,attribute,value\nu1,r,emotion,sad\n", "u.ratings.csv")
    assert read_data(str(ids)).votes().to_numpy().tolist() == [[1]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RATINGS + "c.wav,r1,emotion,sad\n", r"ratings row 4 rates 'c.wav', which is not the id of an utterance"),
        (RATINGS + "a.wav,r1,emotion,fear\n", r"ratings row 4 is the second rating by rater 'r1' for the emotion of"),
        (RATINGS + "a.wav,,emotion,fear\n", "ratings row 4 has no rater"),
        (RATINGS + "a.wav,r3,emotion,NA\n", "ratings row 4 has no value"),
        (RATINGS + "a.wav,r3,arousal,high\n", "ratings, row 4: expected a number, found 'high'"),
        (RATINGS + "a.wav,r3,mood,sad\n", "unknown attribute in the ratings of .*t.csv 'mood'"),
        (RATINGS.replace("rater", "who"), r"t.ratings.csv: no column 'rater'; found columns utterance, who"),
        ("", r"t.ratings.csv: the table is empty"),
    ],
)
def test_bad_ratings_say_where(tmp_path: Path, text: str, words: str) -> None:
    path = table(tmp_path, RATED)
    table(tmp_path, text, "t.ratings.csv")
    with pytest.raises(SertuneError, match=words) as caught:
        read_data(str(path))
    assert str(tmp_path) in str(caught.value)


def test_two_tables_of_ratings_are_one_too_many(tmp_path: Path) -> None:
    path = table(tmp_path, RATED)
    table(tmp_path, RATINGS, "t.ratings.csv")
    pd.DataFrame({"utterance": []}).to_parquet(tmp_path / "t.ratings.parquet")
    with pytest.raises(SertuneError, match=r"two tables of ratings, t.ratings.csv and t.ratings.parquet"):
        read_data(str(path))


def test_csv_keeps_ratings(tmp_path: Path) -> None:
    table(tmp_path, RATINGS, "t.ratings.csv")
    before = read_data(str(table(tmp_path, RATED)))
    before.to_csv(tmp_path / "out" / "again.csv")
    after = read_data(str(tmp_path / "out" / "again.csv"))
    assert before.ratings is not None
    assert after.ratings is not None
    assert after.ratings["value"].tolist() == before.ratings["value"].tolist()
    plain = Manifest.of("plain", before.utterances)
    with pytest.raises(SertuneError, match=r"again.ratings.csv beside it has ratings of another table; move it"):
        plain.to_csv(tmp_path / "out" / "again.csv")
    assert read_data(str(tmp_path / "out" / "again.csv")).ratings is not None


def test_a_table_whose_parts_lack_one(tmp_path: Path) -> None:
    from sertune.data.splits import make_protocol

    for part in ("train", "test"):
        rows = "".join(f"{i}.wav,{'sad' if i % 2 else 'angry'},{part}\n" for i in range(6))
        frame = read_data(str(table(tmp_path, f"file,label,split\n{rows}"))).utterances
        other = {"train": "test", "test": "train"}[part]
        with pytest.raises(SertuneError, match=f"no utterance is in the partition '{other}'"):
            make_protocol(frame, "official", labels=None)


def test_tables_with_the_same_ids_are_told_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        table(tmp_path, RATED, f"{name}.csv")
        table(tmp_path, RATINGS, f"{name}.ratings.csv")
    both = read_all([str(tmp_path / "one.csv"), str(tmp_path / "two.csv")])
    assert both.utterances["id"].tolist() == ["one/a.wav", "one/b.wav", "two/a.wav", "two/b.wav"]
    assert both.ratings is not None
    assert set(both.ratings["utterance"]) == {"one/a.wav", "one/b.wav", "two/a.wav", "two/b.wav"}
    both.validate()


def test_several_corpora_have_no_published_protocol(tmp_path: Path) -> None:
    for name in ("emodb", "urdu"):
        corpus(name).example(tmp_path / name)
    assert published(read_data(f"emodb:{tmp_path / 'emodb'}"))
    assert published(read_all([f"{name}:{tmp_path / name}" for name in ("emodb", "urdu")])) == ()


def test_reading_a_table_opens_no_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these files exists: 20,000 rows with durations are read without looking at one."""

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("audio was opened")

    monkeypatch.setattr(soundfile, "SoundFile", opened)
    rows = "".join(f"wav/{i}.wav,{3 + i % 7},anger,{i % 50:02d}\n" for i in range(20000))
    read = read_data(str(table(tmp_path, "file,duration,label,speaker\n" + rows)))
    assert len(read) == 20000
    assert read.utterances["duration"].notna().all()


# The real corpora


@pytest.fixture
def real() -> Path:
    folder = os.environ.get("SERTUNE_REAL_DATA")
    if not folder:
        pytest.skip("SERTUNE_REAL_DATA is not set")
    return Path(folder)


@pytest.mark.real
def test_real_emodb(real: Path) -> None:
    whole = read_data(f"emodb:{real / 'emodb-2s'}")
    frame = whole.utterances
    assert (len(frame), frame["speaker"].nunique(), frame["text"].nunique()) == (535, 10, 10)
    assert Counter(frame["emotion"]) == {
        "anger": 127,
        "boredom": 81,
        "disgust": 46,
        "fear": 69,
        "happiness": 71,
        "neutral": 79,
        "sadness": 62,
    }
    assert frame.groupby("gender")["speaker"].nunique().to_dict() == {"female": 5, "male": 5}
    assert frame["duration"].max() == pytest.approx(2.0)
    part = read_data(f"emodb:{real / 'emodb-4class'}")
    assert len(part) == 339
    assert part.schemes["emotion"].labels == ("anger", "happiness", "neutral", "sadness")


@pytest.mark.real
def test_real_urdu(real: Path) -> None:
    frame = read_data(f"urdu:{real / 'urdu'}").utterances
    assert Counter(frame["emotion"]) == dict.fromkeys(("anger", "happiness", "neutral", "sadness"), 100)
    assert frame["speaker"].nunique() == 29
    assert frame["duration"].between(0.9, 3.1).all()


@pytest.mark.real
def test_the_real_files_are_sound(real: Path) -> None:
    from sertune.data.audit import check

    for spec in (f"emodb:{real / 'emodb-4class'}", f"urdu:{real / 'urdu'}"):
        found = check(read_data(spec))
        assert found.usable.all()
        assert not [p for p in found.problems if p.severity == "error"]


def test_raters_of_one_name_in_two_corpora_are_two_people(tmp_path: Path) -> None:
    for name in ("msp_improv", "msp_podcast"):
        corpus(name).example(tmp_path / name)
    one, two = (read_data(f"{name}:{tmp_path / name}") for name in ("msp_improv", "msp_podcast"))
    assert one.ratings is not None
    assert two.ratings is not None
    ratings = two.ratings.assign(rater=str(one.ratings["rater"].iat[0]))
    ratings = ratings.drop_duplicates(["utterance", "rater", "attribute"])
    three = Manifest(two.name, two.utterances, two.schemes, ratings)
    apart = [set(m.ratings["rater"]) for m in keep_apart([one, three]) if m.ratings is not None]
    assert not apart[0] & apart[1]
    assert all(name.startswith("msp_improv/") for name in apart[0])
    unlike = [set(m.ratings["rater"]) for m in keep_apart([one]) if m.ratings is not None]
    assert unlike == [set(one.ratings["rater"])]
