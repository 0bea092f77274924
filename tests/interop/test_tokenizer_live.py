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


CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"é": 1}}}]}
SAYS_ALL = (
    "{{ cls_token }}|{{ sep_token }}|{{ mask_token }}|{{ additional_special_tokens }}|{{ unk_token }}|{{ bos_token }}"
)
TOOLED = "{% for m in messages %}{{ m.role }}:{{ m.content or '' }}{% if m.tool_calls %}{{ m.tool_calls|tojson }}{% endif %};{% endfor %}"
TOOL = [{"type": "function", "function": {"name": "add"}}]


@pytest.mark.parametrize(
    ("template", "messages", "variables"),
    (
        ([{"name": "tool_use", "template": "T{{ tools|tojson }}"}, {"name": "default", "template": "D"}], [cases.QUESTION], {"tools": TOOL}),
        ([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}], [cases.QUESTION], {}),
        ([{"name": "default", "template": "D"}], [cases.QUESTION], {"tools": TOOL}),
        ({"default": "D", "tool_use": "T"}, [cases.QUESTION], {"tools": []}),
        (SAYS_ALL, [cases.QUESTION], {}),
        (TOOLED, [cases.QUESTION, CALL, {"role": "tool", "content": "3"}], {}),
        (TOOLED, [cases.QUESTION, {**CALL, "content": None}], {}),
        ("{{ documents }}{{ foo }}", [cases.QUESTION], {"documents": [{"title": "a", "text": "b"}], "foo": 1}),
        ("{{ messages|tojson(indent=2) }}{{ messages|tojson(sort_keys=true, separators=(',',':')) }}", [cases.QUESTION], {}),
        ("\n\n  {% if true %}\n  a  \n  {% endif %}\n{{ 'b' }}\n\n", [cases.QUESTION], {}),
    ),
)  # fmt: skip
def test_odd_templates_are_filled_alike(tmp_path, template, messages, variables):
    cases.chat_folder(tmp_path, "smollm2")
    said = {"cls_token": cases.SPECIAL[1], "sep_token": cases.SPECIAL[2], "chat_template": template}
    config = {**json.loads((tmp_path / "tokenizer_config.json").read_text()), **said}
    config["additional_special_tokens"] = [
        cases.SPECIAL[1],
        {"__type": "AddedToken", "content": cases.SPECIAL[2], "lstrip": False},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = both(tmp_path)
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
    assert ours.chat(messages, **variables) == expected


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


WORDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>", "<extra>")
NAMED_TEXTS = (*TEXTS, "<extra>a <extra> b<|im_start|> <pad>c<|im_end|>")


@pytest.mark.parametrize(
    ("config", "mapped"),
    (
        ({"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<pad>"}, None),
        ({"eos_token": "<|im_end|>", "additional_special_tokens": ["<extra>", "<|im_start|>"]}, None),
        ({}, {"additional_special_tokens": ["<extra>", {"content": "<|im_start|>", "lstrip": True}]}),
        ({"additional_special_tokens": ["<extra>"]}, {"additional_special_tokens": ["<|im_start|>"]}),
        ({"mask_token": "<extra>", "cls_token": "<pad>", "sep_token": "<|im_end|>"}, None),
        ({}, {"mask_token": {"content": "<extra>", "lstrip": True, "rstrip": True, "normalized": False}}),
        ({"eos_token": "<|im_end|>"}, {"eos_token": "<|endoftext|>"}),
        ({"eos_token": None}, {"eos_token": "<|endoftext|>"}),
        ({"eos_token": "<|im_end|>", "added_tokens_decoder": {"2": {"content": "<|im_end|>", "special": True}}}, {"eos_token": "<|endoftext|>"}),
        ({"added_tokens_decoder": {"4": {"content": "<extra>", "special": True, "lstrip": True}}}, {"eos_token": "<|endoftext|>"}),
    ),
)  # fmt: skip
@pytest.mark.parametrize("added", (True, False))
def test_special_tokens_that_are_named_alone_are_whole(tmp_path, config, mapped, added):
    made = json.loads(cases.byte_pairs(WORDS).to_str())
    made["added_tokens"] = [{**token, "special": False} for token in made["added_tokens"]] if added else []
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config})
    )
    if mapped is not None:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(mapped))
    assert_same_ids(*both(tmp_path), NAMED_TEXTS)


@pytest.mark.parametrize("lowered", (True, False))
@pytest.mark.parametrize(
    "said",
    (
        {},
        {"do_lower_case": False},
        {"do_lower_case": True},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
    ),
)
@pytest.mark.parametrize("kind", ("BertTokenizer", "DistilBertTokenizer", "PreTrainedTokenizerFast", None))
def test_what_the_config_says_of_capitals_goes_before_the_vocabulary(tmp_path, kind, said, lowered):
    folder = tmp_path / "words"
    folder.mkdir()
    cases.word_pieces(folder)
    made = transformers.BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=lowered)
    made.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    named = {} if kind is None else {"tokenizer_class": kind}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**named, **said}))
    assert_same_ids(*both(tmp_path))


@pytest.mark.parametrize("inside", (True, False))
@pytest.mark.parametrize("said", ({}, {"add_prefix_space": True}, {"add_prefix_space": False}))
@pytest.mark.parametrize("kind", ("GPT2Tokenizer", "Qwen2Tokenizer", "PreTrainedTokenizerFast", "RobertaTokenizer"))
def test_what_the_config_says_of_the_first_space_goes_before_the_vocabulary(tmp_path, kind, said, inside):
    from tokenizers import pre_tokenizers

    made = cases.byte_pairs((*ROBERTA, "<|endoftext|>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=inside)
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **said}))
    assert_same_ids(*both(tmp_path))


@pytest.mark.parametrize(
    "values",
    (
        *({"model_type": name} for name in ("llama", "mistral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3")),
        *({"model_type": name} for name in ("roberta", "xlm-roberta", "camembert", "gpt2")),
        {"model_type": "llama", "tokenizer_class": "GPT2Tokenizer"}, {"model_type": "gpt2", "tokenizer_class": "LlamaTokenizer"},
    ),
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("told", (True, False))
def test_a_folder_that_names_no_class_has_the_models(tmp_path, values, told):
    special = ("<s>", "</s>", "<unk>", "<pad>", "<mask>", "<bos>", "<eos>", "<|endoftext|>")
    cases.byte_pairs(special).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps(values))
    if told:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    assert_same_ids(*both(tmp_path))
