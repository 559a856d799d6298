"""Read pairs of a docstring's summary sentence and its rest from Python sources, without importing them."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.hashing import stable_hash

SKIPPED_FOLDERS = {"tests", "test", "testing", "_testing", "_vendor", "vendor", "third_party", "externals"}
SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)[.!?](?=\s|$)")
SENTENCE_START = re.compile(r"[A-Z][a-z]* ")
ROLE = re.compile(r":[\w:+-]+:`~?\.?([^`<]*?)(?:\s*<[^`]*>)?`")  # :func:`~torch.add` -> torch.add
MARKUP_LINE = re.compile(r"^\s*(\.\. .*|[-=~^*]{3,}|```.*|(>>>|\.\.\. ).*)$", re.MULTILINE)  # also doctests
MAX_WORD_LENGTH = 40  # characters: longer ones are addresses and tables
IMPERATIVE = re.compile(
    r"add|apply|assert|assign|broadcast|build|calculate|call|check|clear|clip|close|combine|compute|construct|"
    r"convert|copy|count|create|decode|define|delete|determine|disable|display|draw|enable|encode|ensure|"
    r"estimate|evaluate|execute|expand|export|extract|fetch|fill|filter|find|fit|fix|format|generate|get|give|"
    r"group|handle|initialize|insert|interpolate|iterate|join|list|load|locate|make|map|mark|merge|modify|"
    r"normalize|open|parse|perform|place|plot|prepare|print|process|produce|read|register|remove|rename|render|"
    r"replace|replicate|reset|reshape|resolve|restore|retrieve|return|round|run|sample|save|scale|select|send|"
    r"set|show|solve|sort|split|stack|store|swap|transform|truncate|unpack|update|use|validate|verify|wrap|"
    r"write"
)
QUESTIONS = ("How do I {}?", "How can I {}?", "Which function can {}?", "What should I call to {}?")


@dataclass(frozen=True)
class DocstringPair:
    """The docstring of one public function or class: `sentence` is its summary, `rest` is the docstring without it."""

    module: str
    qualified_name: str  # below the module: "Class.method"
    sentence: str
    rest: str

    @property
    def identifier(self) -> str:
        return f"{self.module}.{self.qualified_name}"

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    @property
    def name(self) -> str:
        """The last part of the name."""
        return self.qualified_name.rpartition(".")[2]


def package_root(package: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"data.packages: no package {package!r} is installed; install it or leave it out")
    return Path(next(iter(spec.submodule_search_locations)))


def source_files(package: str) -> list[Path]:
    """The package's Python sources in a stable order, without tests, vendored libraries, and private subpackages
    (except `_core`, which contains numpy's functions)."""
    root = package_root(package)
    paths = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    return [
        root / path
        for path in paths
        if not SKIPPED_FOLDERS.intersection(path.parts)
        and (len(path.parts) == 1 or not path.parts[0].startswith("_") or path.parts[0] == "_core")
    ]


def read_pairs(package: str, max_words: int) -> list[DocstringPair]:
    """Read all pairs of one package, in source order. The rest is cut to `max_words`."""
    root = package_root(package)
    pairs = []
    for path in source_files(package):
        module = ".".join([package, *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")
        for name, docstring in public_docstrings(path.read_bytes()):
            parts = split_docstring(docstring, max_words)
            if parts is not None:
                pairs.append(DocstringPair(module, name, *parts))
    return pairs


def public_docstrings(source: bytes) -> Iterator[tuple[str, str]]:
    """The (name below the module, docstring) of every public function and class; empty if the source cannot be
    parsed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a template, or a file for another Python version
        return
    yield from _walk(tree, "")


def split_docstring(docstring: str, max_words: int) -> tuple[str, str] | None:
    """The summary sentence and the rest (at most `max_words` words), or None if the docstring is not used.

    It is used if the summary has 4 to 25 words and starts like a sentence, and the rest has at least 12 words and does
    not repeat the summary.
    """
    first, _, later = inspect.cleandoc(docstring).partition("\n\n")
    summary = _plain(first)
    end = SENTENCE_END.search(summary)
    sentence, remainder = (summary[: end.start()], summary[end.end() :]) if end else (summary, "")
    words = [word for word in f"{remainder} {_plain(later)}".split() if len(word) <= MAX_WORD_LENGTH][:max_words]
    rest = " ".join(words)
    if not 4 <= len(sentence.split()) <= 25 or len(words) < 12 or not SENTENCE_START.match(sentence):
        return None
    return None if words_of(sentence) in words_of(rest) else (sentence, rest)


def words_of(text: str) -> str:
    """The words of a text without punctuation and case: a sentence that is repeated with other punctuation is found."""
    return " ".join(re.findall(r"\w+", text.lower()))


def as_query(sentence: str) -> str:
    """The sentence, or a question made from it for a fixed half of the sentences that start with a verb.

    >>> as_query("Return the number of edges in the graph")
    'Which function can get the number of edges in the graph?'
    """
    first, _, others = sentence.partition(" ")
    verb = next((form for form in _base_forms(first.lower()) if IMPERATIVE.fullmatch(form)), None)
    key = stable_hash("question", sentence)
    if verb is None or key % 2:
        return sentence
    verb = "get" if verb == "return" else verb
    return QUESTIONS[key // 2 % len(QUESTIONS)].format(f"{verb} {others}")


def _base_forms(word: str) -> list[str]:
    """The possible base forms of a verb: returns -> return, fetches -> fetch, applies -> apply."""
    return [word, word.removesuffix("s"), word.removesuffix("es"), f"{word.removesuffix('ies')}y"]


def _plain(text: str) -> str:
    """The text without markup, doctests and directives, with single spaces."""
    text = ROLE.sub(r"\1", MARKUP_LINE.sub(" ", text))
    return " ".join(text.replace("`", "").replace("**", "").split())


def _walk(parent: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            docstring = ast.get_docstring(node, clean=False)
            if not node.name.startswith("_"):
                if docstring:
                    yield prefix + node.name, docstring
                if isinstance(node, ast.ClassDef):
                    yield from _walk(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _walk(node, prefix)
