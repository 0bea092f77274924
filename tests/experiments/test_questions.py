"""Questions with answers: files, what every machine has, their encoding, and how answers are judged."""

import gzip
import json
import types

import numpy as np
import pytest

from experiments.common.errors import UserError
from experiments.data import questions
from experiments.data.questions import Pair
from experiments.following import said
from experiments.lm import answers, bpe, docstrings, icd10

ALPACA = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": "Say hello.", "input": "", "output": " Hello! "},
    {"instruction": "Nothing", "input": "", "output": "  "},
    {"instruction": " ", "input": "x", "output": "y"},
    {"instruction": "Odd", "input": "", "output": "\ufffd"},
    {"instruction": "Number", "input": "", "output": 3},
    "text",
]


@pytest.fixture
def file(tmp_path):
    def write(name: str, content: str | bytes):
        path = tmp_path / name
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(path)

    return write


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.jsonl", "a.jsonl.gz"])
def test_bad_rows_are_counted_and_left_out(name, file):
    lines = name.split(".")[1] == "jsonl"
    found = questions.read(file(name, "\n".join(map(json.dumps, ALPACA)) if lines else json.dumps(ALPACA)))
    assert found.pairs == (Pair("Add.\n1 and 2", "3", "1 and 2"), Pair("Say hello.", "Hello!"))
    assert found.left_out == {"no answer": 1, "no question": 1, "wrong encoding": 1, "no text": 1, "no object": 1}
    assert found.source == f"{name} (alpaca)"


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.jsonl", "a.jsonl.gz"])
def test_questions_in_a_bucket(name, bucket, file):
    read = questions.read(file(name, json.dumps(ALPACA[0])))
    (bucket.parent / name).rename(bucket / name)
    assert questions.read(f"gs://bucket/{name}") == read


def test_medical_questions(file):
    row = json.dumps({"question": "What is X?", "answer": "Y.", "focus": "X"})
    found = questions.read(file("a.jsonl", f"{row}\n\n{row}\n"))
    assert found.pairs == (Pair("What is X?", "Y."),) * 2 and found.left_out == {}


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.csv", "x", "is of no known kind; give .json or .jsonl"),
        ("a.json", "[]", "is empty"),
        ("a.json", "[", "cannot be read"),
        ("a.jsonl", b"\xff\xfe", "cannot be read"),
        ("a.json", '[{"ask": 1, "tell": 2}]', "its first row has ask, tell; give instruction and output"),
        ("a.json", '[{"question": "a", "answer": ""}]', "none of its 1 rows has a question and an answer"),
    ],
)
def test_every_flaw_is_one_sentence(name, content, part, file):
    with pytest.raises(UserError, match=part):
        questions.read(file(name, content))


def test_a_file_that_is_not_there():
    with pytest.raises(UserError, match=r"--questions: nowhere.json: there is no such file"):
        questions.read("nowhere.json")


def test_docstrings_are_read_without_importing(tmp_path, monkeypatch):
    package = tmp_path / "made_up"
    package.mkdir()
    (package / "__init__.py").write_text(
        '"""A package that says what it is for, at some length."""\nraise SystemExit\n'
    )
    (package / "mod.py").write_text(
        "def f(x):\n    '''Return x as it was given. Nothing else is done with it.'''\n"
        "class _Hidden:\n    '''A class that nobody should look up by name.'''\n"
        "add_newdoc('made_up.c', 'g', '''Compute g of its argument, in a language of its own.''')\n"
        "add_newdoc('made_up.c', 'K', ('m', '''Compute m of K, which lies elsewhere altogether.'''))\n"
        "def short():\n    '''Too short.'''\n"
    )
    (package / "broken.py").write_text("def (")
    monkeypatch.syspath_prepend(tmp_path)
    found = dict(docstrings.of_packages(("made_up", "not_installed")))
    assert set(found) == {"made_up", "made_up.mod.f", "made_up.mod._Hidden", "made_up.c.g", "made_up.c.K.m"}
    asked = {pair.question: pair.answer for pair in docstrings.pairs(("made_up",))}
    assert asked["What is made_up.mod.f?"] == "Return x as it was given."
    assert "What is made_up.mod._Hidden?" not in asked


def test_pythons_own_help_is_there():
    assert len(docstrings.topics()) > 50


def test_medical_terms_are_asked_for_their_diagnosis(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "icd10c-tabular.xml").write_text(
        "<t><diag><desc>Cholera</desc><inclusionTerm><note>Classical cholera</note><note>cholera</note></inclusionTerm>"
        "<diag><desc>Deeper</desc><inclusionTerm><note>Classical cholera</note><note>Below</note></inclusionTerm></diag>"
        "</diag></t>"
    )
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(icd10.importlib.util, "find_spec", lambda name: spec)
    assert icd10.pairs() == [Pair("What is Classical cholera?", "Cholera."), Pair("What is Below?", "Deeper.")]
    (tmp_path / "data" / "icd10c-tabular.xml").write_text("<t>")
    with pytest.raises(UserError, match="cannot be read"):
        icd10.pairs()
    monkeypatch.setattr(icd10.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="simple-icd-10-cm, which carries the medical terms, is not installed"):
        icd10.pairs()


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.trained(["What is a cat? A cat is an animal. It purrs."] * 3, 300)


def test_a_pair_is_question_answer_and_end(tokenizer):
    found = answers.encode(tokenizer, [Pair("What is a cat?", "An animal."), Pair("x", "y " * 50)], 40)
    (example,) = found.examples
    assert found.too_long == 1 and found.pairs == (Pair("What is a cat?", "An animal."),)
    asked, told = list(example.ids[: example.answer_at]), list(example.ids[example.answer_at :])
    assert asked == answers.prompt(tokenizer, "What is a cat?")
    assert (asked[0], asked[-1], told[-1]) == tuple(map(tokenizer.token_to_id, (bpe.QUESTION, bpe.ANSWER, bpe.END)))
    assert tokenizer.decode(told) == "An animal."
    with pytest.raises(UserError, match="none of 1 questions fits with its answer into 3 tokens"):
        answers.encode(tokenizer, [Pair("What is a cat?", "An animal.")], 3)


def test_a_word_has_the_same_tokens_where_an_answer_begins():
    """Else a model that copies cannot begin."""
    tokenizer = bpe.trained(["Which word comes first: market, plain, golden"] * 3, 400)
    (example,) = answers.encode(
        tokenizer, [Pair("Which word comes first: plain, golden, market", "plain")], 40
    ).examples
    told = example.ids[example.answer_at : -1]
    starts = range(example.answer_at - len(told))
    assert sum(np.array_equal(example.ids[at : at + len(told)], told) for at in starts) == 1


def test_parts_are_disjoint_and_know_no_order():
    pairs = [Pair(f"q{i % 40}", f"a{i}") for i in range(60)]
    parts = answers.split(pairs, (10, 20, 99))
    assert [len(part) for part in parts] == [10, 20, 10]
    assert len({pair.question for part in parts for pair in part}) == 40
    asked = [{pair.question for pair in part} for part in answers.split(pairs[::-1], (10, 20, 99))]
    assert asked == [{pair.question for pair in part} for part in parts]
    with pytest.raises(UserError, match="there are 40 different questions; at least 61 are needed"):
        answers.split(pairs, (30, 30, 5))


def test_tokens_are_bytes_and_are_read_again(tokenizer, tmp_path):
    odd = "naïve – 漢字 \n\t x <end>"  # a text that says <end> does not end anything
    assert tokenizer.decode(tokenizer.encode(odd).ids) == odd
    (tmp_path / bpe.FILE).write_bytes(bpe.content(tokenizer))
    assert bpe.read(tmp_path, 300).get_vocab() == tokenizer.get_vocab()
    with pytest.raises(UserError, match="tokens and the model 99 embeddings; they do not belong together"):
        bpe.read(tmp_path, 99)


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("", "blank"),
        (" \n", "blank"),
        ("a b c a b c a b c", "repetitive"),
        ("a a a a a", "repetitive"),
        ("a b c a b c", "other"),
        ("the big cat sat", "copied"),
        ("well: the big cat", "copied"),
        ("the cat", "other"),
        ("A cat is an animal.", "other"),
    ],
)
def test_outputs_are_of_one_kind(output, kind):
    assert said.kind("Tell me where the big cat sat", output) == kind


def test_rates_add_up():
    found = said.shares(["q"] * 4, ["", "x x x x x", "fine", "good"])
    assert found == {"blank": 0.25, "repetitive": 0.25, "copied": 0.0, "other": 0.5}
