"""The tokens that the files beside a vocabulary name: special ones, and those that were added to it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from lora_jax.errors import ModelError, shown
from lora_jax.models.tokenizer.kinds import ALL

OPTIONS = ("lstrip", "rstrip", "normalized", "single_word", "special")
MORE = "additional_special_tokens"
TOKEN = str | dict | None
FIELDS = {**dict.fromkeys(ALL, TOKEN), MORE: list[TOKEN] | None}


class Named(NamedTuple):
    """Special tokens: role -> text ("eos_token" -> "</s>"); those without a role; text -> what AddedToken takes."""

    roles: dict[str, str]
    more: tuple[str, ...]
    options: dict[str, dict[str, Any]]


def named(file: epath.Path, said: Mapping[str, Any]) -> Named:
    """The special tokens that `said`, read from `file`, names.

    Raises:
      ModelError: for one that has no text.
    """
    tokens = {name: said[name] for name in ALL if said.get(name) is not None}
    more = [(MORE, token) for token in said.get(MORE) or ()]
    texts = {name: text(file, name, token) for name, token in tokens.items()}
    options = {text(file, name, token): options_of(token) for name, token in (*more, *tokens.items())}
    return Named(texts, tuple(text(file, name, token) for name, token in more), options)


def text(file: epath.Path, name: str, token: Any) -> str:
    """The text of a token, which is that or an object with its content."""
    found = token.get("content") if isinstance(token, dict) else token
    if not isinstance(found, str) or not found:
        raise ModelError(f"{file}: {name} is {shown(token)}; expected the text of a token.")
    return found


def options_of(token: Any) -> dict[str, Any]:
    """What AddedToken takes beside the text."""
    return {name: bool(token[name]) for name in OPTIONS if name in token} if isinstance(token, dict) else {}


def add(backend: Any, where: epath.Path, added: Mapping[int, Mapping[str, Any]], special: Named) -> None:
    """Makes tokens whole wherever they stand: those that are added with an id each, and special ones.

    Raises:
      ModelError: for an added token of another id, or a special one without a role that the vocabulary lacks.
    """
    from tokenizers import AddedToken

    for id, token in sorted(added.items()):
        content = token.get("content")
        if not isinstance(content, str) or not content:
            raise ModelError(f"{where}: added token {id} is {shown(token)}; expected its content.")
        options = options_of(token)
        made = AddedToken(content, **{**options, "special": options.get("special") or content in special.options})
        if repr(backend.get_added_tokens_decoder().get(id)) == repr(made):
            continue
        backend.add_tokens([made])
        if backend.token_to_id(content) != id:
            raise ModelError(
                f"{where}: the added token {content!r} is number {backend.token_to_id(content)} of the vocabulary; {id} is said."
            )
    missing = [content for content in special.more if backend.token_to_id(content) is None]
    if missing:
        raise ModelError(
            f"{where}: {MORE} names {missing[0]!r}, which is not in the vocabulary; leave it out, or give it a number in added_tokens_decoder."
        )
    whole = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    backend.add_tokens(
        [
            AddedToken(content, **{**_options(whole.get(content), options), "special": True})
            for content, options in special.options.items()
            if backend.token_to_id(content) is not None
        ]
    )


def _options(already: Any, said: dict[str, Any]) -> dict[str, Any]:
    """Those of the token that is already whole go before what is said."""
    return said if already is None else {name: getattr(already, name) for name in OPTIONS}
