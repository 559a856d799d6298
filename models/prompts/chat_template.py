"""Convert a prompt template to a Jinja chat template, for sentence-transformers, transformers and servers."""

from __future__ import annotations

import json
from collections.abc import Iterable

from models.control_tokens import MARK, REPLACEMENT, TextReader
from models.prompts.template import SLOT, PromptTemplate

MESSAGES = """\
{%- set query = messages | selectattr("role", "eq", "query") | map(attribute="content") | first -%}
{%- set document = messages | selectattr("role", "eq", "document") | map(attribute="content") | first -%}
{%- set instruction = messages | selectattr("role", "eq", "system") | map(attribute="content") | first \
| default(INSTRUCTION, true) -%}
"""


def chat_template(template: PromptTemplate, reader: TextReader, instructions: Iterable[str] = ()) -> str:
    """Make a chat template for messages with the roles query, document and (for another instruction) system.

    Control tokens of the template are called by the names that the `reader` gives them, and so are those of its own
    instruction and of other `instructions`; no text spells these names.
    """
    known = "\0".join((template.instruction, *instructions))
    text = f" | replace({_literal(MARK)}, {_literal(REPLACEMENT)})" if reader.names else ""
    named = "".join(
        f" | replace({_literal(token)}, {_literal(name)})" for token, name in reader.names.items() if token in known
    )
    prefix, suffix = (_literal(reader.prompt(part)) for part in template.instruction_format.split("{instruction}"))
    before = _literal(reader.prompt(template.document_prompt))
    values = {
        "instruction": f'({prefix} ~ (instruction{text}{named}) ~ {suffix} if instruction else "")',
        "query": f"(query{text})",
        "document": f"{before} ~ (document{text})" if template.document_prompt else f"(document{text})",
    }
    parts = []
    for piece in template.pieces:
        for index, part in enumerate(SLOT.split(piece)):  # text, slot, text, ...
            parts.append(values[part] if index % 2 else _literal(reader.prompt(part)))
    expression = " ~ ".join(part for part in parts if part != '""')
    return (
        MESSAGES.replace("INSTRUCTION", _literal(template.own_line(template.instruction)))
        + "{{- "
        + expression
        + " -}}"
    )


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
