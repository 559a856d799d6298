"""A prompt template as a Jinja chat template, which sentence-transformers, transformers and servers render."""

from __future__ import annotations

import json

from models.prompt_template import PromptTemplate

MESSAGES = """\
{%- set query = messages | selectattr("role", "eq", "query") | map(attribute="content") | first -%}
{%- set document = messages | selectattr("role", "eq", "document") | map(attribute="content") | first -%}
{%- set instruction = messages | selectattr("role", "eq", "system") | map(attribute="content") | first \
| default(INSTRUCTION, true) -%}
"""


def chat_template(template: PromptTemplate) -> str:
    """Jinja that renders messages of the roles query, document and, for another instruction, system."""
    prefix, suffix = (_literal(text) for text in template.instruction_format.split("{instruction}"))
    values = {
        "instruction": f'({prefix} ~ instruction ~ {suffix} if instruction else "")',
        "query": "query",
        "document": f"{_literal(template.document_prompt)} ~ document" if template.document_prompt else "document",
    }
    parts = []
    for slot_or_text in _parts("".join(template.pieces)):
        parts.append(values[slot_or_text[1:-1]] if slot_or_text[1:-1] in values else _literal(slot_or_text))
    expression = " ~ ".join(part for part in parts if part != '""')
    return MESSAGES.replace("INSTRUCTION", _literal(template.instruction)) + "{{- " + expression + " -}}"


def _parts(text: str) -> list[str]:
    """The text cut before and after its slots."""
    for slot in ("{instruction}", "{query}", "{document}"):
        text = text.replace(slot, f"\0{slot}\0")
    return text.split("\0")


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
