"""Convert a prompt template to a Jinja chat template, for sentence-transformers, transformers and servers."""

from __future__ import annotations

import json

from models.prompts.template import SLOT, PromptTemplate

MESSAGES = """\
{%- set query = messages | selectattr("role", "eq", "query") | map(attribute="content") | first -%}
{%- set document = messages | selectattr("role", "eq", "document") | map(attribute="content") | first -%}
{%- set instruction = messages | selectattr("role", "eq", "system") | map(attribute="content") | first \
| default(INSTRUCTION, true) -%}
"""


def chat_template(template: PromptTemplate) -> str:
    """Make a chat template for messages with the roles query, document and (for another instruction) system."""
    prefix, suffix = (_literal(text) for text in template.instruction_format.split("{instruction}"))
    values = {
        "instruction": f'({prefix} ~ instruction ~ {suffix} if instruction else "")',
        "query": "query",
        "document": f"{_literal(template.document_prompt)} ~ document" if template.document_prompt else "document",
    }
    parts = []
    for piece in template.pieces:
        for index, part in enumerate(SLOT.split(piece)):  # text, slot, text, ...
            parts.append(values[part] if index % 2 else _literal(part))
    expression = " ~ ".join(part for part in parts if part != '""')
    return (
        MESSAGES.replace("INSTRUCTION", _literal(template.own_line(template.instruction)))
        + "{{- "
        + expression
        + " -}}"
    )


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
