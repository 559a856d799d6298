"""Source code: functions and classes. Python is parsed; of other languages the blocks of lines are read."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

from data.documents.document import Document, Section, one_line, paragraphs_of, with_text
from data.documents.sentences import first_sentence

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
COMMENT = re.compile(r"^\s*(?:/\*\*?|\*/|\*|//[/!]?|#+|--+|;+|%+)\s?|\s*\*/\s*$")
COMMENT_LINE = re.compile(r"\s*(?:/\*|\*|//|#(?!include|define|if|endif|pragma|!)|--|;;)")


def read_python(text: str) -> Document:
    """The module's docstring, and a section for each function and each class: the first sentence of its docstring is
    its summary, its paragraphs are the rest of that and the code. Source that cannot be parsed is read as that of other
    languages."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a template, another version of Python
        return read_code(text)
    docstring = ast.get_docstring(tree) or ""
    summary, rest = _parts(docstring)
    module = Section("", [summary] if summary else [], summary)
    for part in paragraphs_of(rest):
        module.add(part)
    lines = text.splitlines()
    sections = [module, *_definitions(tree, lines, "")]
    if not with_text(sections):
        return read_code(text)
    return Document("", with_text(sections))


def _definitions(parent: ast.AST, lines: list[str], prefix: str) -> Iterator[Section]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Definition):
            yield _section(node, lines, prefix)
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node, lines, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _definitions(node, lines, prefix)


def _section(node: Definition, lines: list[str], prefix: str) -> Section:
    """The section of a function or class; the functions of a class have their own."""
    summary, rest = _parts(ast.get_docstring(node) or "")
    section = Section(f"{prefix}{node.name}", [summary] if summary else [], summary)
    signature, body = _code(node, lines)
    for part in (*paragraphs_of(rest), *paragraphs_of("\n".join([*signature, *body]))):
        section.add(part)
    return section


def _code(node: Definition, lines: list[str]) -> tuple[list[str], list[str]]:
    """The lines of a signature, and those of the body without its docstring; of a class, those before its first
    function."""
    statements = list(node.body)
    first = statements[0]
    signature = lines[node.lineno - 1 : max(first.lineno - 1, node.lineno)]
    if ast.get_docstring(node) is not None:
        statements = statements[1:]
    if isinstance(node, ast.ClassDef):
        end = next((at for at, each in enumerate(statements) if isinstance(each, Definition)), len(statements))
        statements = statements[:end]
    if not statements or statements[0].lineno <= node.lineno:  # all on one line
        return signature, []
    return signature, lines[statements[0].lineno - 1 : statements[-1].end_lineno]


def _parts(docstring: str) -> tuple[str, str]:
    """The first sentence of a docstring and the rest."""
    text = inspect.cleandoc(docstring)
    first, _, later = text.partition("\n\n")
    sentence = first_sentence(one_line(first))
    rest = one_line(first)[len(sentence) :].strip()
    return sentence, "\n\n".join(part for part in (rest, later) if part)


def read_code(text: str) -> Document:
    """A section for each block of lines that begins at the margin after a blank line. The comment before it gives its
    summary (the first sentence)."""
    sections: list[Section] = []
    comment: list[str] = []
    for block in _blocks(text):
        lead = _leading_comment(block)
        if len(lead) == len(block):  # a comment alone: of what follows
            comment = lead
            continue
        said = one_line(" ".join(COMMENT.sub("", line) for line in (lead or comment)))
        sentence = first_sentence(said)
        section = Section("", [sentence] if sentence else [], sentence)
        section.add(said[len(sentence) :].strip())
        section.add("\n".join(block[len(lead) :]))
        sections.append(section)
        comment = []
    if comment:
        sections.append(Section("", [one_line(" ".join(COMMENT.sub("", line) for line in comment))]))
    return Document("", with_text(sections))


def _blocks(text: str) -> Iterator[list[str]]:
    block: list[str] = []
    for line in text.splitlines():
        starts = block and not block[-1].strip() and line[:1].strip() and line[0] not in ")}]"
        if starts and any(each.strip() for each in block):
            yield _stripped(block)
            block = []
        block.append(line)
    if any(line.strip() for line in block):
        yield _stripped(block)


def _stripped(block: list[str]) -> list[str]:
    lines = [line.rstrip() for line in block]
    while not lines[-1]:
        lines.pop()
    while not lines[0]:
        lines.pop(0)
    return lines


def _leading_comment(block: list[str]) -> list[str]:
    """The lines of the comment with which a block begins."""
    number, inside = 0, False
    for line in block:
        if not inside and not COMMENT_LINE.match(line):
            break
        inside = (inside or line.lstrip().startswith("/*")) and "*/" not in line
        number += 1
    return block[:number]
