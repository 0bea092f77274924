"""Chat templates: a model's own program, in jinja2, that writes messages as the text it was trained on.

The rules are those of transformers: a sandbox whose objects cannot be changed, blocks trimmed, `raise_exception`, `strftime_now`,
`tojson` that escapes no HTML, `break` and `continue`, and the tag `generation`, which only marks text.
"""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lora_jax.errors import ModelError, first_line, shown

NEEDS = 'Chat templates need jinja2: pip install "lora_jax[models]".'
FILE = "<template>"  # what jinja2 calls a template's own lines in a traceback


OTHERS = {  # arguments of transformers' apply_chat_template that no template sees
    *("conversation", "messages", "chat_template", "tokenize", "tokenizer_kwargs", "continue_final_message"),
    *("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
}


def require_variables(variables: Mapping[str, Any]) -> None:
    """Raises ModelError for what is no variable of a template, and tools or documents that are no list of objects.

    >>> require_variables({"enable_thinking": False})
    """
    odd = [name for name in variables if name in OTHERS]
    if odd:
        raise ModelError(
            f"{odd[0]} is no variable of a chat template but an argument of transformers' apply_chat_template, which is not here; leave it out."
        )
    for name in ("tools", "documents"):
        value = variables.get(name)
        if value is None:
            continue
        if not isinstance(value, Sequence) or not all(isinstance(each, Mapping) for each in value):
            wanted = "JSON schemas, as transformers.utils.get_json_schema(function) makes of a function"
            raise ModelError(
                f"{name} are {shown(value)}; expected a list of {wanted if name == 'tools' else 'objects with title and text'}."
            )


def require_messages(messages: Any) -> None:
    """Raises ModelError unless it is a list of messages, each with a role and a content that are text.

    The content may be missing beside tool_calls.

    >>> require_messages([{"role": "user", "content": "Hello"}])
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise ModelError(
            f'the messages are {shown(messages)}; expected a list as [{{"role": "user", "content": "Hello"}}].'
        )
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ModelError(f'message {i} is {shown(message)}; expected {{"role": "user", "content": "Hello"}}.')
        for name in ("role", "content"):
            if name == "content" and message.get("tool_calls") and message.get(name) is None:
                continue  # an assistant that calls a tool may say nothing
            if not isinstance(message.get(name), str):
                said = shown(message[name]) if name in message else "missing"
                raise ModelError(
                    f'message {i}: its {name} is {said}; expected text, as {{"role": "user", "content": "Hello"}}.'
                )


def render(
    template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], where: str = "the chat template"
) -> str:
    """The text that a template makes of messages.

    Args:
      template: in jinja2.
      messages: each a mapping with a role and a content.
      variables: what else the template knows, as bos_token and add_generation_prompt.
      where: for messages.

    Raises:
      ModelError: for messages that are none, or variables that are none; with the template's own words and line, where it fails or refuses them.

    >>> render("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}", [{"role": "user", "content": "Hello"}], {})
    'user: Hello'
    """
    require_messages(messages)
    require_variables(variables)
    try:
        compiled = _compiled(template)
        return compiled.render(messages=messages, **{"tools": None, "documents": None, **variables})
    except ModelError:
        raise
    except Exception as error:  # a template is a program, and whatever a program raises
        line = _line(error)
        raise ModelError(
            f"{where} fails{f' in line {line}' if line else ''}: {first_line(error)} ({type(error).__name__})."
        ) from error


def _line(error: BaseException) -> int | None:
    """The template's line where an error came from."""
    found = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            found = trace.tb_lineno
        trace = trace.tb_next
    return found


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    return _environment().from_string(template)


@functools.cache
def _environment() -> Any:
    try:
        import jinja2
        import jinja2.ext
        import jinja2.sandbox
    except ImportError:
        raise ModelError(NEEDS) from None

    class Generation(jinja2.ext.Extension):
        """`{% generation %}...{% endgeneration %}` is what stands between."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_as_it_is"), [], [], body).set_lineno(line)

        def _as_it_is(self, caller: Any) -> str:
            return caller()

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def strftime_now(form: str) -> str:
        return datetime.datetime.now().strftime(form)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return environment
