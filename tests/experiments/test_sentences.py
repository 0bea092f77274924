"""Is a user's file read as it says, whatever its kind, and does every flaw end in a sentence that says where it is?"""

import json

import numpy as np
import pytest
from etils import epath

from experiments.common.errors import UserError
from experiments.sst2 import sentences

ROWS = [("a joy", 1), ("so dull", 0), ('"quoted", with a comma', 1), ("café au lait \N{SNOWMAN}", 0)]


def as_tsv(rows, header="sentence\tlabel") -> str:
    return "\n".join([header, *(f"{sentence}\t{label}" for sentence, label in rows)]) + "\n"


def as_csv(rows) -> str:
    quoted = ['"{}"'.format(sentence.replace('"', '""')) for sentence, _ in rows]
    return "\r\n".join(["label,sentence", *(f"{label},{q}" for q, (_, label) in zip(quoted, rows, strict=True))])


def as_jsonl(rows) -> str:
    return "\n".join(json.dumps({"id": 3, "sentence": sentence, "label": label}) for sentence, label in rows)


@pytest.fixture
def file(tmp_path):
    """`file("a.tsv", content) -> path`."""

    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


@pytest.mark.parametrize(("name", "write"), [("a.tsv", as_tsv), ("a.csv", as_csv), ("a.jsonl", as_jsonl)])
def test_every_kind_gives_the_same_texts(name, write, file, capsys):
    for path in (file(name, write(ROWS)), file(name.upper(), "\ufeff" + write(ROWS))):  # as spreadsheets save it
        texts, _ = sentences.read(path)
        assert texts.sentences == tuple(sentence for sentence, _ in ROWS)
        assert texts.labels.tolist() == [1, 0, 1, 0] and texts.labels.dtype == np.int32
    assert capsys.readouterr().out == ""


def test_other_columns_blank_lines_and_windows_line_ends_are_no_matter(file):
    path = file("a.tsv", "id\tlabel\tsentence \r\n7\t1\t a joy \r\n\r\n8\t0\tdull\r\n\r\n")
    texts, _ = sentences.read(path)
    assert (texts.sentences, texts.labels.tolist()) == (("a joy", "dull"), [1, 0])


def test_labels_may_be_digits_in_json(file):
    texts, _ = sentences.read(file("a.jsonl", '{"sentence": "a", "label": "1"}\n\n{"sentence": "b", "label": 0}'))
    assert texts.labels.tolist() == [1, 0]


def test_a_line_of_csv_may_hold_a_line_break(file):
    assert sentences.read(file("a.csv", 'sentence,label\n"two\nlines",1\n'))[0].sentences == ("two\nlines",)


@pytest.mark.parametrize(("name", "write"), [("a.tsv", as_tsv), ("a.csv", as_csv), ("a.jsonl", as_jsonl)])
def test_empty_sentences_are_counted_and_skipped(name, write, file, capsys):
    path = file(name, write([("", 1), ("a", 1), ("  ", "?"), ("b", 0)]))
    assert sentences.read(path)[0].labels.tolist() == [1, 0]
    assert capsys.readouterr().out == f"--train_file: {path}: 2 empty sentences skipped\n"


FLAWS = [
    ("a.txt", "a joy", "is of no known kind; give .tsv, .csv, .jsonl with a column of texts and one of labels"),
    ("a.tsv", "", "the file is empty"),
    ("a.tsv", "sentence,label\na,1\n", "nor 'text' or the like; there are 'sentence,label': say which by --text_field"),
    ("a.csv", "words,label\na,1\n", "nor 'text' or the like; there are 'words', 'label': say which by --text_field"),
    ("a.csv", "text,kind\na,1\n", "nor 'labels' or the like; there are 'text', 'kind': say which by --label_field"),
    ("a.csv", "Text,Review,label\na,b,1\n", "'Text' and 'Review' may both be the texts; say which by --text_field"),
    ("a.csv", "sentence,label,label\na,1,0\n", "the column 'label' comes 2 times; give each a name of its own"),
    ("a.jsonl", '{"sentence": "a", "label": 1, "label": 0}', "line 1 is no JSON ('label' comes 2 times in one object)"),
    ("a.csv", "sentence,label\na,\u00e9\nb,e\u0301\n", "differ in how their letters are encoded alone; write them alike"),
    ("a.csv", "sentence,label\na,Yes\nb,yes\n", "the labels 'Yes' and 'yes' differ in case alone; write them alike"),
    ("a.csv", "sentence,label\na,1.5\nb,2.5\n", "the label of line 2 is '1.5'; it must be a word, or a whole number from 0"),
    ("a.csv", "sentence,label\n" + "".join(f"a,{n}\n" for n in range(9)), "9 labels in 9 sentences are too many for classes"),
    ("a.tsv", "sentence\tlabel\na\t1\nb\n", "line 3 has 1 columns, and the header has 2"),
    ("a.csv", "sentence,label\na, b,1\n", "line 2 has 3 columns, and the header has 2"),
    ("a.csv", 'sentence,label\n"a,1\n', "line 2 cannot be read as a table (unexpected end of data)"),
    ("a.csv", "sentence,label\na,\n", "the label of line 2 is ''; it must be a word"),
    ("a.csv", "sentence,label\n" + "a,9." + "9" * 99 + "\n", "the label of line 2 is '9." + "9" * 37 + "...; it must"),
    ("a.jsonl", '{"sentence": "a", "label": 1}\n{"sentence": "b", "label": true}', "the label of line 2 is True; it must"),
    ("a.jsonl", '{"sentence": "a", "label": 0.5}', "the label of line 1 is 0.5; it must be"),
    ("a.jsonl", '{"sentence": 5, "label": 1}', "the sentence of line 1 is 5, and no text"),
    ("a.jsonl", '{"sentence": "\\ud83d", "label": 1}', "the sentence of line 1 holds half a surrogate pair"),
    ("a.jsonl", '{"sentence": "a", "label": 1}\n{"sentence": "a"}', "line 2 has no 'label'; it has 'sentence'"),
    ("a.jsonl", "{}", "line 1: there is no column 'sentence' with the texts"),
    ("a.jsonl", "[1]", "line 1 is no object with a text and a label"),
    ("a.jsonl", '{"sentence": "a"', "line 1 is no JSON (Expecting ',' delimiter"),
    ("a.jsonl", "\n", "there is no sentence in it"),
    ("a.tsv", "sentence\tlabel\n \t1\n\t0\n", "there is no sentence in it, only 2 empty ones"),
    ("a.tsv", b"sentence\tlabel\na\t1\ncaf\xe9\t1\n", "is not UTF-8: line 3 has the byte 0xe9; save it as UTF-8"),
    ("a.jsonl", "sentence".encode("utf-16"), "is not UTF-8: line 1 has the byte 0xff"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "part"), FLAWS)
def test_every_flaw_is_one_sentence(name, content, part, file):
    path = file(name, content)
    with pytest.raises(UserError) as caught:
        sentences.read(path, "--validation_file")
    said = str(caught.value)
    assert said.startswith(f"--validation_file: {path}") and part in said and said.endswith(".") and "\n" not in said


@pytest.mark.parametrize("read", [sentences.read, sentences.read_lines])
def test_a_file_that_is_not_there(read, tmp_path):
    for path in (tmp_path / "absent.tsv", tmp_path):
        with pytest.raises(UserError, match=rf": {path}: there is no such file\.$"):
            read(str(path))


def test_a_file_that_may_not_be_read(file, monkeypatch):
    def refused(self):
        raise PermissionError(13, "Permission denied")

    path = file("a.tsv", as_tsv(ROWS))
    monkeypatch.setattr(type(epath.Path(".")), "read_bytes", refused)
    with pytest.raises(UserError, match=r"a\.tsv cannot be read: Permission denied\.$"):
        sentences.read(path)


# Lines to classify.


def test_lines_are_read_as_they_are(file, capsys):
    path = file("a.txt", "\ufeffa joy\r\n  so\tdull\n\nth\N{LINE SEPARATOR}ird, 'and last'\n\n")
    assert sentences.read_lines(path) == ("a joy", "so\tdull", "th\N{LINE SEPARATOR}ird, 'and last'")
    assert capsys.readouterr().out == f"--sentences: {path}: 1 empty sentence skipped\n"


def test_lines_without_a_sentence(file):
    for content in ("", " \n\n"):
        with pytest.raises(UserError, match="there is no sentence in it"):
            sentences.read_lines(file("a.txt", content))
    with pytest.raises(UserError, match="is not UTF-8: line 2 has the byte 0xff"):
        sentences.read_lines(file("a.txt", b"fine\nnot \xff\n"))


# Two files as a data set.

MANY = [(f"sentence {n}", n % 2) for n in range(40)]


def test_two_files_are_training_and_validation(file, capsys):
    train, validation = file("a.tsv", as_tsv(MANY[:30])), file("b.csv", as_csv(MANY[30:]))
    data = sentences.load(train, validation)
    assert data.train.sentences == tuple(sentence for sentence, _ in MANY[:30])
    assert data.validation.labels.tolist() == [n % 2 for n in range(30, 40)]
    assert data.record() == {
        "source": data.source, "is_full_sst2": False, "sha256": data.checksum, "train": 30, "tuning": 0, "validation": 10,
    }  # fmt: skip
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"data: 30 training and 10 validation sentences, of {train}, validation of {validation}"


def test_without_a_validation_file_a_tenth_is_cut_off(file):
    repeated = [*MANY, *((sentence.upper(), label) for sentence, label in MANY)]
    path = file("a.tsv", as_tsv(repeated))
    data = sentences.load(path)
    keys = [{sentence.lower() for sentence in texts.sentences} for texts in (data.train, data.validation)]
    assert [len(key) for key in keys] == [36, 4] and not keys[0] & keys[1]
    assert (len(data.train.labels), len(data.validation.labels)) == (72, 8)
    assert all(
        int(sentence.split()[1]) % 2 == label for sentence, label in zip(*vars(data.train).values(), strict=True)
    )
    assert sentences.load(path).checksum == data.checksum  # the same cut every time


def test_the_checksum_tells_data_apart(file):
    paths = [
        file(f"{n}.tsv", as_tsv(rows)) for n, rows in enumerate([MANY, MANY[1:], [*MANY[:-1], ("sentence 39", 0)]])
    ]
    found = {sentences.load(path, paths[0]).checksum for path in paths} | {sentences.load(paths[0]).checksum}
    assert len(found) == 4


def test_sentences_on_both_sides_are_told(file, capsys):
    train, validation = file("a.tsv", as_tsv(MANY)), file("b.tsv", as_tsv([("SENTENCE 3", 1), ("new", 0)]))
    sentences.load(train, validation)
    assert "data: 1 of 2 validation sentences are trained on, too" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        (MANY[::2], "all 18 training sentences have the label '0'"),
        (MANY[:1], "all 0 training sentences have the label '0'"),
    ],
)
def test_training_needs_both_labels(rows, part, file):
    with pytest.raises(UserError, match=f"{part}; a classifier is trained on sentences of two labels or more"):
        sentences.load(file("a.tsv", as_tsv(rows)))
