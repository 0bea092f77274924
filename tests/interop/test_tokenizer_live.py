"""Do `transformers` and we make the same ids and the same conversations of one folder? Skipped where transformers is missing."""

import json

import pytest
from etils import epath

from lora_jax.errors import ModelError
from lora_jax.models import tokenizer
from tests import tokenizer_cases as cases

transformers = pytest.importorskip("transformers")
jinja2 = pytest.importorskip("jinja2")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the other side
TEXTS = (*cases.TEXTS, "Hello WORLD, Naïve testing! 日本 [MASK] x", "hello<mask> world <|endoftext|> x")


def both(folder):
    return tokenizer.read(epath.Path(folder)), transformers.AutoTokenizer.from_pretrained(folder)


def assert_same_ids(ours, theirs, texts=TEXTS):
    for text in texts:
        assert ours.encode(text) == theirs(text).input_ids, text
        plain = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text, add_special_tokens=False) == plain, text
        for skip in (True, False):
            said = theirs.decode(plain, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(plain, skip_special_tokens=skip) == said
    for name in ("bos", "eos", "pad", "unk"):
        assert getattr(ours, name) == getattr(theirs, f"{name}_token_id"), name


# Chat templates


@pytest.mark.parametrize("asked", (True, False))
@pytest.mark.parametrize("conversation", cases.CONVERSATIONS)
@pytest.mark.parametrize("kind", cases.TEMPLATES)
def test_conversations_are_written_alike(tmp_path, kind, conversation, asked):
    ours, theirs = both(cases.chat_folder(tmp_path, kind))
    messages = cases.CONVERSATIONS[conversation]
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked)
    assert ours.chat(messages, add_generation_prompt=asked) == text and "2+3" in text
    ids = theirs.apply_chat_template(messages, add_generation_prompt=asked)
    assert ours.chat_ids(messages, add_generation_prompt=asked) == ids
    assert_same_ids(ours, theirs, [text])


@pytest.mark.parametrize("kind", cases.TEMPLATES)
def test_a_system_message_is_written_alike_or_refused_in_the_same_words(tmp_path, kind):
    ours, theirs = both(cases.chat_folder(tmp_path, kind))
    messages = [cases.SYSTEM, *cases.CONVERSATIONS["two"][:3]]
    try:
        expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except jinja2.exceptions.TemplateError as error:
        with pytest.raises(ModelError) as told:
            ours.chat(messages)
        assert str(error) in str(told.value)
    else:
        assert ours.chat(messages) == expected


def test_variables_and_tools_reach_the_template(tmp_path):
    ours, theirs = both(cases.chat_folder(tmp_path, "qwen3"))
    messages = cases.CONVERSATIONS["two"][:3]
    said = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert ours.chat(messages, enable_thinking=False) == said and said.endswith("</think>\n\n")
    tool = {"type": "function", "function": {"name": "add", "description": "<ünder> & 'x'", "parameters": {}}}
    (tmp_path / "other").mkdir()
    ours, theirs = both(cases.chat_folder(tmp_path / "other", "qwen2.5"))
    assert ours.chat(messages, tools=[tool]) == theirs.apply_chat_template(
        messages, tools=[tool], tokenize=False, add_generation_prompt=True
    )


def test_the_assistants_words_are_those_that_a_generation_tag_marks(tmp_path):
    ours, theirs = both(cases.chat_folder(tmp_path, "generation"))
    found = theirs.apply_chat_template(
        cases.CONVERSATIONS["two"], return_dict=True, return_assistant_tokens_mask=True, add_generation_prompt=False
    )
    ids, said = ours.conversation(cases.CONVERSATIONS["two"])
    assert ids == found["input_ids"] and [int(each) for each in said] == found["assistant_masks"] and sum(said) > 8


# Vocabularies


@pytest.mark.parametrize(
    "said", ({}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False})
)
def test_word_pieces(tmp_path, said):
    assert_same_ids(*both(cases.word_pieces(tmp_path, **said)))


GPT2 = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
QWEN = {
    "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None,
    "added_tokens_decoder": {
        "349": {"content": "<|im_start|>", "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False},
        "350": {"content": "<|im_end|>", "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False},
    },
}  # fmt: skip
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
ROBERTAS = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), ROBERTA, strict=True))


@pytest.mark.parametrize(
    ("kind", "special", "said"),
    (
        ("GPT2Tokenizer", ("<|endoftext|>",), GPT2),
        ("GPT2Tokenizer", ("<|endoftext|>",), {**GPT2, "add_prefix_space": True}),
        ("Qwen2Tokenizer", ("<|endoftext|>",), QWEN),
        ("RobertaTokenizer", ROBERTA, ROBERTAS),
        ("RobertaTokenizer", ROBERTA, {**ROBERTAS, "add_prefix_space": True}),
    ),
)
def test_merges(tmp_path, kind, special, said):
    assert_same_ids(*both(cases.merged(tmp_path, kind, special, **said)))


@pytest.mark.parametrize("kind", ("PreTrainedTokenizerFast", "LlamaTokenizerFast", "GemmaTokenizerFast"))
@pytest.mark.parametrize("around", ({}, {"add_bos_token": True, "add_eos_token": True}, {"add_bos_token": False}))
def test_what_stands_around_a_text_is_as_its_class_says(tmp_path, kind, around):
    cases.byte_pairs(("<s>", "</s>", "<unk>", "<pad>")).save(str(tmp_path / "tokenizer.json"))
    said = {
        "tokenizer_class": kind,
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**said, **around}))
    assert_same_ids(*both(tmp_path))


def test_a_token_that_was_added_later_has_its_id(tmp_path):
    made = cases.byte_pairs()
    made.save(str(tmp_path / "tokenizer.json"))
    id = made.get_vocab_size()
    said = {
        "content": "<new>",
        "special": True,
        "normalized": False,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<new>",
        "added_tokens_decoder": {str(id): said},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = both(tmp_path)
    assert_same_ids(ours, theirs, ["x<new>y"])
    assert ours.pad == id and ours.vocab_size == id + 1 == len(theirs)


def test_a_sentence_encoders_truncation_and_padding_are_the_callers(tmp_path):
    made = cases.byte_pairs()
    made.enable_truncation(4)
    made.enable_padding(length=6, pad_id=2, pad_token=cases.SPECIAL[2])
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    assert_same_ids(*both(tmp_path), ["a text of more than four tokens", "a"])
