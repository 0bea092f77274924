"""Chat templates of ours, in jinja2: for the models that are trained here, and for those that come without one."""

# What `tiny_lm.py --job=pretrain` leaves beside a model; its tokens are those of `bpe.SPECIAL`.
TINY = """\
{%- for message in messages -%}
{%- if message.role == "user" -%}<question>{{ message.content }}
{%- elif message.role == "assistant" -%}<answer>{{ message.content }}<end>
{%- else -%}{{ raise_exception("there is no role " ~ message.role ~ ", only user and assistant") }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<answer>{%- endif -%}
"""
# Plain text. An answer has a line of its own: before it a blank could become a part of its first token.
PLAIN = """\
{%- for message in messages -%}
{%- if message.role == "user" -%}{{ "Question: " ~ message.content ~ "\\n" }}
{%- elif message.role == "assistant" -%}{{ "Answer:\\n" ~ message.content ~ eos_token ~ "\\n" }}
{%- else -%}{{ message.content ~ "\\n" }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "Answer:\\n" }}{%- endif -%}
"""
BEGUN = "{{- bos_token -}}\n"  # before PLAIN, for a model whose texts begin with one
FILE = "chat_template.jinja"


def plain(*, begins: bool) -> str:
    """PLAIN for a model whose texts begin with a token of their own, or not.

    >>> plain(begins=True).startswith("{{- bos_token -}}")
    True
    """
    return BEGUN + PLAIN if begins else PLAIN
