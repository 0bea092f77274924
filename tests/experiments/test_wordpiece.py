"""Vocabularies of a BERT's folder: what is read, and what is refused in a sentence."""

import json

import pytest
from etils import epath

from experiments.bert import wordpiece
from experiments.common.errors import UserError

TOKENS = [*wordpiece.SPECIAL, "Film", "film", "##s"]


def folder(tmp_path, tokens, **files: str):
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(content)
    return tmp_path


@pytest.mark.parametrize(("config", "token"), [({}, "film"), ({"do_lower_case": False}, "Film")])
def test_case_is_kept_where_the_folder_says_so(config, token, tmp_path):
    tokenizer = wordpiece.of_folder(folder(tmp_path, TOKENS, tokenizer_config=json.dumps(config)), len(TOKENS))
    assert tokenizer.encode("Films").tokens == ["[CLS]", token, "##s", "[SEP]"]


@pytest.mark.parametrize("kind", ["vocab.txt", "tokenizer.json"])
def test_a_vocabulary_in_a_bucket(kind, bucket):
    there = epath.Path("gs://bucket/bert")
    tokenizer = wordpiece.of_folder(folder(bucket, TOKENS), 99)
    (bucket / "bert").mkdir()
    (there / "vocab.txt").write_bytes(wordpiece.content(wordpiece.vocabulary(tokenizer)))
    if kind == "tokenizer.json":
        (there / kind).write_text(wordpiece.of_folder(there, 99).to_str())
        (there / "vocab.txt").unlink()
    assert wordpiece.of_folder(there, 99).encode("Films").tokens == ["[CLS]", "film", "##s", "[SEP]"]
    (there / kind).write_text("{}")
    with pytest.raises(UserError, match=f"gs://bucket/bert/{kind} is no vocabulary of a BERT"):
        wordpiece.of_folder(there, 99)


def test_a_vocabulary_is_written_as_it_was_read(tmp_path):
    tokenizer = wordpiece.of_folder(folder(tmp_path, TOKENS), 99)
    assert wordpiece.content(wordpiece.vocabulary(tokenizer)).decode().splitlines() == TOKENS
    assert wordpiece.of_words(wordpiece.vocabulary(tokenizer)).to_str() == tokenizer.to_str()


@pytest.mark.parametrize(
    ("tokens", "files", "part"),
    [
        ([], {}, "vocab.txt is no vocabulary of a BERT"),
        (["[PAD]", "[UNK]", "film"], {}, "vocab.txt is no vocabulary of a BERT"),
        (TOKENS[:4], {}, r"\[MASK\] missing in the vocabulary"),
        (["[UNK]", "[PAD]", *TOKENS[2:]], {}, r"\[PAD\] is not token 0"),
        ([*TOKENS, "one", "more"], {}, "the vocabulary has 10 tokens and the model 8 embeddings"),
        (TOKENS, {"tokenizer": "{}"}, "tokenizer.json is no vocabulary of a BERT"),
        (TOKENS, {"tokenizer_config": '{"do_lower_case": tru'}, "tokenizer_config.json cannot be read as JSON"),
        (TOKENS, {"tokenizer_config": "[]"}, "tokenizer_config.json holds ..; expected an object"),
        (
            TOKENS,
            {"tokenizer_config": '{"do_lower_case": "false"}'},
            'do_lower_case is "false"; expected true or false',
        ),
    ],
)
def test_every_flaw_is_one_sentence(tokens, files, part, tmp_path):
    with pytest.raises(UserError, match=part) as caught:
        wordpiece.of_folder(folder(tmp_path, tokens, **files), len(TOKENS))
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_vocabulary(tmp_path):
    with pytest.raises(UserError, match=r"there is no vocabulary in it, neither tokenizer.json nor vocab.txt"):
        wordpiece.of_folder(tmp_path, 8)
