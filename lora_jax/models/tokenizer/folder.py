"""The tokenizer of a Hugging Face folder."""

import dataclasses
from typing import Any

from etils import epath

from lora_jax.errors import ModelError, first_line, shown
from lora_jax.files import parse, read_json, require_fields
from lora_jax.models.tokenizer import builds, kinds, named
from lora_jax.models.tokenizer.named import Named
from lora_jax.models.tokenizer.text import Tokenizer, require_package

WHOLE, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
SPECIAL, ADDED, GENERATION = "special_tokens_map.json", "added_tokens.json", "generation_config.json"
WORDS, VOCABULARY, MERGES = "vocab.txt", "vocab.json", "merges.txt"
FILES = (WHOLE, CONFIG, TEMPLATE, SPECIAL, ADDED, GENERATION, WORDS, VOCABULARY, MERGES)
FOREIGN = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)  # vocabularies that are not read here
MAX_BYTES = 256 * 2**20  # of one of them; the largest that is known has 35 million
FIELDS = {  # of tokenizer_config.json, beside the special tokens
    "tokenizer_class": str | None,
    "added_tokens_decoder": dict[str, dict],
    "add_bos_token": bool | None,
    "add_eos_token": bool | None,
    "add_prefix_space": bool | None,
    "do_lower_case": bool | None,
    "strip_accents": bool | None,
    "tokenize_chinese_chars": bool | None,
}
RELEASE_5 = "TokenizersBackend"  # its class for all that tokenizer.json says
DEFAULT = "default"  # of several chat templates
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclasses.dataclass(frozen=True)
class Said:
    """What the files beside a vocabulary say."""

    where: epath.Path
    config: dict[str, Any]
    special: Named
    kind: kinds.Kind
    tokenizer_class: str | None
    added: dict[int, dict[str, Any]]  # id -> what AddedToken takes
    ends: tuple[int, ...]
    templates: dict[str, str]


def read(folder: epath.Path) -> Tokenizer | None:
    """The tokenizer of a folder: tokenizer.json; else vocab.txt (WordPiece); else vocab.json and merges.txt (byte-level BPE); else None.

    Special tokens are those of tokenizer_config.json, added_tokens.json and, where the first has no added_tokens_decoder, of
    special_tokens_map.json, which then goes before it; the chat template is that of chat_template.jinja, else of tokenizer_config.json.

    Raises:
      ModelError: for files that cannot be read, or contradict one another; without the package `tokenizers`.
    """
    files = {name: _content(folder / name) for name in FILES if (folder / name).is_file()}
    if WHOLE not in files and WORDS not in files and not {VOCABULARY, MERGES} <= files.keys():
        _require_nothing_else(folder)
        return None
    require_package()
    said = _said(folder, files)
    backend = _backend(folder, files, said)
    named.add(backend, folder, said.added, said.special)
    padding = backend.padding or {}
    backend.no_truncation()  # what a sentence encoder's file asks for; a caller decides
    backend.no_padding()
    ids = {name.removesuffix("_token"): _id(backend, said, name) for name in NAMES}
    if ids["pad"] is None and backend.token_to_id(padding.get("pad_token", "")) == padding.get("pad_id"):
        ids["pad"] = padding.get("pad_id")
    more = {named.MORE: list(said.special.more)} if said.special.more else {}
    return Tokenizer(
        backend,
        files,
        **ids,
        ends=said.ends,
        chat_template=said.templates.get(DEFAULT),
        templates={name: text for name, text in said.templates.items() if name != DEFAULT},
        variables={**said.special.roles, **more},
        where=str(folder),
    )


def _require_nothing_else(folder: epath.Path) -> None:
    """Raises ModelError for a tokenizer that only others read."""
    found = [name for name in (*FOREIGN, VOCABULARY, MERGES) if (folder / name).is_file()]
    if found:
        raise ModelError(
            f"{folder}: of its tokenizer only {', '.join(found)} is there, and {WHOLE} is needed; on a machine with transformers, "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes it."
        )


def _content(file: epath.Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({first_line(error)}).") from error
    if len(content) > MAX_BYTES:
        raise ModelError(f"{file} has more than {MAX_BYTES:,} bytes, which is the most that is read of a tokenizer.")
    return content


def _text(file: epath.Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{file} is not UTF-8, as text of a tokenizer is.") from error


def _backend(folder: epath.Path, files: dict[str, bytes], said: Said) -> Any:
    if WHOLE in files:
        parse(files[WHOLE], str(folder / WHOLE), halves=True)  # a token twice, of which the package would take one
        backend = builds.whole(_text(folder / WHOLE, files[WHOLE]), str(folder / WHOLE))
        _as_its_class_says(backend, said, str(folder / WHOLE))
        return backend
    if WORDS in files:
        return builds.word_pieces(
            _text(folder / WORDS, files[WORDS]), said.config, said.special.roles, str(folder / WORDS)
        )
    vocabulary = parse(files[VOCABULARY], str(folder / VOCABULARY))
    require_fields({"it": vocabulary}, str(folder / VOCABULARY), {"it": dict[str, int]})
    merges = _text(folder / MERGES, files[MERGES])
    return builds.byte_pairs(vocabulary, merges, said.kind.pairs, said.config, said.special.roles, str(folder / MERGES))


def _as_its_class_says(backend: Any, said: Said, where: str) -> None:
    """What transformers' class sets, whatever tokenizer.json has: what stands around a text, capitals, the space before it."""
    special, config = said.special.roles, said.config
    if said.kind == kinds.BERT:
        builds.normalise_as_bert(backend, config)
    if said.kind != kinds.LLAMA and (said.tokenizer_class != RELEASE_5 or "add_prefix_space" in config):
        builds.begin_with_space(backend, bool(config.get("add_prefix_space")))
    if said.kind.surrounds and (
        said.tokenizer_class is not None or backend.token_to_id(special.get("bos_token", "")) is not None
    ):
        bos, eos = config.get("add_bos_token", True), config.get("add_eos_token", False)
        builds.surround(backend, bos, eos, special, where)


def _said(folder: epath.Path, files: dict[str, bytes]) -> Said:
    def values(name: str, fields: dict[str, Any]) -> dict[str, Any]:
        return require_fields(
            parse(files[name], str(folder / name)) if name in files else {}, str(folder / name), fields
        )

    told = values(CONFIG, {**named.FIELDS, **FIELDS})
    config = {
        name: value for name, value in told.items() if value is not None or name in named.FIELDS
    }  # no token, where one is null
    tokenizer_class, model_type = _class(folder, config.get("tokenizer_class"))
    kind = kinds.kind(tokenizer_class, model_type)
    mapped = {} if "added_tokens_decoder" in config else values(SPECIAL, named.FIELDS)
    tokens = {**kind.special, **{name: config[name] for name in named.FIELDS if name in config}, **mapped}
    tokens[named.MORE] = [token for of in (config, mapped) for token in of.get(named.MORE) or ()]
    special = named.named(folder / CONFIG, tokens)
    added = {_number(folder, id): token for id, token in config.get("added_tokens_decoder", {}).items()}
    own = values(ADDED, {})
    for text, id in require_fields({"ids": own}, str(folder / ADDED), {"ids": dict[str, int]})["ids"].items():
        added.setdefault(id, {"content": text, "special": text in special.options, "normalized": False})
    ends = values(GENERATION, {"eos_token_id": int | list[int] | None}).get("eos_token_id")
    several = () if ends is None else tuple(ends) if isinstance(ends, list) else (ends,)
    templates = _templates(folder, files, config)
    return Said(folder, config, special, kind, tokenizer_class, added, several, templates)


def _class(folder: epath.Path, said: str | None) -> tuple[str | None, str | None]:
    """(the class of the tokenizer, the model's type), of which config.json may say both."""
    file, fields = folder / "config.json", {"model_type": str | None, "tokenizer_class": str | None}
    values = require_fields(read_json(file), str(file), fields) if file.is_file() else {}
    return said or values.get("tokenizer_class"), values.get("model_type")


def _number(folder: epath.Path, id: str) -> int:
    if not id.isdecimal() or len(id) > 9:
        raise ModelError(f"{folder / CONFIG}: added_tokens_decoder names {shown(id)}; expected the number of a token.")
    return int(id)


def _templates(folder: epath.Path, files: dict[str, bytes], config: dict[str, Any]) -> dict[str, str]:
    """By name: chat_template.jinja; else tokenizer_config.json's, a text, a list of named ones, or an object of them."""
    if TEMPLATE in files:
        return {DEFAULT: _text(folder / TEMPLATE, files[TEMPLATE])}
    found = config.get("chat_template")
    if found is None:
        return {}
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        named_ones = {each.get("name"): each.get("template") for each in found}
    else:
        named_ones = found if isinstance(found, dict) else {DEFAULT: found}
    if not all(isinstance(text, str) for pair in named_ones.items() for text in pair):
        raise ModelError(
            f"{folder / CONFIG}: chat_template is {shown(found)}; expected a text, or a list of named ones."
        )
    return named_ones


def _id(backend: Any, said: Said, name: str) -> int | None:
    text = said.special.roles.get(name)
    if text is None:
        return None
    id = backend.token_to_id(text)
    if id is None and text != said.kind.special.get(name):
        raise ModelError(
            f"{said.where}: the {name} {text!r} is not in the vocabulary; name one that is there, or null, in {CONFIG}."
        )
    return id
