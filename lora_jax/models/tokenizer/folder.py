"""The tokenizer of a Hugging Face folder."""

import dataclasses
from typing import Any

from etils import epath

from lora_jax.errors import ModelError, first_line, shown
from lora_jax.files import parse, read_json, require_fields
from lora_jax.models.tokenizer import builds, kinds
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
TOKEN = str | dict | None
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
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclasses.dataclass(frozen=True)
class Said:
    """What the files beside a vocabulary say."""

    where: epath.Path
    config: dict[str, Any]
    special: dict[str, str]  # "eos_token" -> its text
    kind: kinds.Kind
    added: dict[int, dict[str, Any]]  # id -> what AddedToken takes
    ends: tuple[int, ...]
    chat_template: str | None


def read(folder: epath.Path) -> Tokenizer | None:
    """The tokenizer of a folder: tokenizer.json; else vocab.txt (WordPiece); else vocab.json and merges.txt (byte-level BPE); else None.

    Special tokens are those of tokenizer_config.json, special_tokens_map.json and added_tokens.json; the chat template is that of
    chat_template.jinja, else of tokenizer_config.json.

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
    _add(backend, said)
    padding = backend.padding or {}
    backend.no_truncation()  # what a sentence encoder's file asks for; a caller decides
    backend.no_padding()
    ids = {name.removesuffix("_token"): _id(backend, said, name) for name in NAMES}
    if ids["pad"] is None and backend.token_to_id(padding.get("pad_token", "")) == padding.get("pad_id"):
        ids["pad"] = padding.get("pad_id")
    return Tokenizer(backend, files, **ids, ends=said.ends, chat_template=said.chat_template, where=str(folder))


def _require_nothing_else(folder: epath.Path) -> None:
    """Raises ModelError for a tokenizer that only others read."""
    found = [name for name in (*FOREIGN, VOCABULARY, MERGES) if (folder / name).is_file()]
    if found:
        raise ModelError(
            f"{folder}: of its tokenizer only {', '.join(found)} is there, and {WHOLE} is needed; where transformers is, "
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
        if said.kind.surrounds:
            bos, eos = said.config.get("add_bos_token", True), said.config.get("add_eos_token", False)
            builds.surround(backend, bos, eos, said.special, str(folder / WHOLE))
        return backend
    if WORDS in files:
        return builds.word_pieces(_text(folder / WORDS, files[WORDS]), said.config, said.special, str(folder / WORDS))
    vocabulary = parse(files[VOCABULARY], str(folder / VOCABULARY))
    require_fields({"it": vocabulary}, str(folder / VOCABULARY), {"it": dict[str, int]})
    merges = _text(folder / MERGES, files[MERGES])
    return builds.byte_pairs(vocabulary, merges, said.kind.pairs, said.config, said.special, str(folder / MERGES))


def _model_type(folder: epath.Path) -> str | None:
    file = folder / "config.json"
    return (
        require_fields(read_json(file), str(file), {"model_type": str | None}).get("model_type")
        if file.is_file()
        else None
    )


def _said(folder: epath.Path, files: dict[str, bytes]) -> Said:
    def values(name: str, fields: dict[str, Any]) -> dict[str, Any]:
        return require_fields(
            parse(files[name], str(folder / name)) if name in files else {}, str(folder / name), fields
        )

    tokens = dict.fromkeys(kinds.ALL, TOKEN)
    told = values(CONFIG, {**tokens, **FIELDS})
    config = {
        name: value for name, value in told.items() if value is not None or name in tokens
    }  # no token, where one is null
    kind = kinds.kind(config.get("tokenizer_class"), _model_type(folder))
    special = {**kind.special, **values(SPECIAL, tokens), **{name: config[name] for name in tokens if name in config}}
    texts = {name: _token_text(folder, name, special[name]) for name in tokens if special.get(name) is not None}
    added = {_number(folder, id): token for id, token in config.get("added_tokens_decoder", {}).items()}
    own = values(ADDED, {})
    for text, id in require_fields({"ids": own}, str(folder / ADDED), {"ids": dict[str, int]})["ids"].items():
        added.setdefault(id, {"content": text, "special": text in texts.values(), "normalized": False})
    ends = values(GENERATION, {"eos_token_id": int | list[int] | None}).get("eos_token_id")
    several = () if ends is None else tuple(ends) if isinstance(ends, list) else (ends,)
    return Said(folder, config, texts, kind, added, several, _template(folder, files, config))


def _token_text(folder: epath.Path, name: str, token: str | dict[str, Any]) -> str:
    text = token if isinstance(token, str) else token.get("content")
    if not isinstance(text, str) or not text:
        raise ModelError(f"{folder / CONFIG}: {name} is {shown(token)}; expected the text of a token.")
    return text


def _number(folder: epath.Path, id: str) -> int:
    if not id.isdecimal() or len(id) > 9:
        raise ModelError(f"{folder / CONFIG}: added_tokens_decoder names {shown(id)}; expected the number of a token.")
    return int(id)


def _template(folder: epath.Path, files: dict[str, bytes], config: dict[str, Any]) -> str | None:
    """chat_template.jinja; else tokenizer_config.json's, a text or a list of named ones."""
    if TEMPLATE in files:
        return _text(folder / TEMPLATE, files[TEMPLATE])
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default", None if named else found)
    if not isinstance(found, str | None):
        raise ModelError(
            f"{folder / CONFIG}: chat_template is {shown(found)}; expected a text, or a list of named ones."
        )
    return found


def _add(backend: Any, said: Said) -> None:
    """Adds the tokens that are named with an id and that the vocabulary lacks, each at its id."""
    from tokenizers import AddedToken

    for id, token in sorted(said.added.items()):
        text = token.get("content")
        if not isinstance(text, str) or not text:
            raise ModelError(f"{said.where}: added token {id} is {shown(token)}; expected its content.")
        options = {
            name: bool(token[name])
            for name in ("lstrip", "rstrip", "normalized", "single_word", "special")
            if name in token
        }
        if id in backend.get_added_tokens_decoder() and backend.id_to_token(id) == text:
            continue
        add = backend.add_special_tokens if options.get("special") else backend.add_tokens
        add([AddedToken(text, **options)])
        if backend.token_to_id(text) != id:
            raise ModelError(
                f"{said.where}: the added token {text!r} is number {backend.token_to_id(text)} of the vocabulary; {id} is said."
            )


def _id(backend: Any, said: Said, name: str) -> int | None:
    text = said.special.get(name)
    if text is None:
        return None
    id = backend.token_to_id(text)
    if id is None and text != said.kind.special.get(name):
        raise ModelError(
            f"{said.where}: the {name} {text!r} is not in the vocabulary; name one that is there, or null, in {CONFIG}."
        )
    return id
