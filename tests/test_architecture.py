"""Rules of the code: imports, names and sizes of files, the wording of docstrings (docs/architecture.md)."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from setuptools import find_packages

from runs.source_tree import PACKAGES

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
MAX_FILES = 20  # flat in a folder
MAX_LINES = 400  # of a file
MAX_FUNCTION_LINES = 61  # with its docstring
# A docstring opens with a subject ("The ...", "Whether ...", "What ...") or a verb ("Return ...", "Raises ...").
FORBIDDEN_OPENINGS = (
    *(
        "Of",
        "That of",
        "Those of",
        "Likewise",
        "As",
        "Where",
        "None where",
        "Beside",
        "Inside",
        "In",
        "On",
        "At",
        "From",
    ),
    *("For", "With", "Without", "See", "If", "When"),
)
WHERE_FOR_IF = re.compile(r"(Error|None|True|False|[Nn]othing|raised),? where ")


def read_table() -> dict[str, set[str]]:
    """{folder: folders it may import} of the table, from "everything", "all below" and the named ones."""
    rows = re.findall(r"^\| `(\w+)/` \|[^|]*\|([^|]*)\|$", DOCUMENT.read_text(), re.MULTILINE)
    folders = [folder for folder, _ in rows if list((ROOT / folder).glob("*.py"))]
    allowed = {}
    for folder, may_import in rows:
        if folder not in folders:
            continue
        below = folders[folders.index(folder) + 1 :]
        named = {name for name in re.findall(r"`?(\w+)`?", may_import) if name in folders}
        wide = "everything" in may_import or "all below" in may_import
        allowed[folder] = {folder} | (set(below) if wide else named)
    return allowed


def imported(file: Path) -> set[str]:
    """The top-level names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


TABLE = read_table()
FILES = [file for folder in TABLE for file in sorted((ROOT / folder).rglob("*.py"))]


def test_the_table_names_the_packages():
    assert tuple(TABLE) == PACKAGES
    assert set(find_packages(str(ROOT), exclude=["tests*", "benchmarks*", "docs*", "*.*"])) == set(PACKAGES)
    for package in ("models", "data", "engines", "losses", "tensors"):
        assert TABLE[package] == {package, "tensors"}
    assert TABLE["evaluation"] == {"evaluation", "inference", "models", "data", "engines", "losses", "tensors"}
    assert "runs" not in TABLE["trainers"]
    assert len(FILES) > 30


def test_nobody_imports_launch():
    assert not [file for file in FILES if "launch" in imported(file) and file.relative_to(ROOT).parts[0] != "launch"]


def test_no_name_stands_at_the_top_of_two_packages():
    stems: dict[str, str] = {}
    for package in PACKAGES[1:]:  # a command in launch/ is named like its subject
        for file in (ROOT / package).glob("[!_]*.py"):
            assert file.stem not in stems, f"{package}/{file.name} and {stems[file.stem]}/{file.name}"
            stems[file.stem] = package


@pytest.mark.parametrize(
    "folder", sorted({file.parent for file in FILES}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_few_files_lie_flat_in_a_folder(folder):
    if folder in (ROOT / "losses", ROOT / "data" / "formats"):  # one file per loss, one per format
        return
    assert len(list(folder.glob("[!_]*.py"))) <= MAX_FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_are_short(file):
    text = file.read_text()
    assert text.count("\n") <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{file}:{node.lineno} {node.name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down_the_table(file):
    folder = file.relative_to(ROOT).parts[0]
    forbidden = (imported(file) & set(TABLE)) - TABLE[folder]
    assert not forbidden, f"{folder}/ may not import {sorted(forbidden)}: see docs/architecture.md"


def test_losses_import_torch_and_the_standard_library_alone():
    names = {name for file in (ROOT / "losses").rglob("*.py") for name in imported(file)}
    assert names <= {"torch", "losses", "tensors"} | set(sys.stdlib_module_names)


def kinds_of_model() -> set[str]:
    """The classes in models/ that derive from those of models/capabilities.py, and BM25, which declares the same."""
    kinds = {"ModelOptions", "RankingModel", "FolderOptions", "PretrainedOptions", "EmbedderOptions", "TextModel"}
    trees = [ast.parse(file.read_text()) for file in (ROOT / "models").rglob("*.py")]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return kinds | {c.name for c in classes if kinds & {b.id for b in c.bases if isinstance(b, ast.Name)}} | {"BM25"}


def classes_of(folder: str) -> set[str]:
    trees = [ast.parse(file.read_text()) for file in (ROOT / folder).rglob("*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def test_nobody_asks_for_the_kind_of_a_model_engine_evaluator_or_data_set():
    """Parts declare what they give and need. A kind of data set may be asked for where it is defined."""
    models = kinds_of_model()
    assert {"BiEncoder", "BiEncoderConfig", "CrossEncoder", "CrossEncoderConfig", "LLMReranker"} < models
    assert "StaticEmbedderConfig" in models
    others = {
        name for name in classes_of("engines") | classes_of("evaluation") if re.search("Engine|Config|Evaluator", name)
    }
    others |= {"Mixture", "MixtureConfig", "Collection"}
    assert {"TorchEngine", "DeepSpeedEngine", "RerankingConfig", "RetrievalEvaluator"} < others
    for file in FILES:
        folder = file.relative_to(ROOT).parts[0]
        kinds = others if folder == "models" else others | models
        if file.name == "mixture.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1
            if is_call and node.func.id in ("isinstance", "issubclass", "hasattr"):
                asked = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
                asked |= {name.attr for name in ast.walk(node.args[1]) if isinstance(name, ast.Attribute)}
                asked |= {text.value for text in ast.walk(node.args[1]) if isinstance(text, ast.Constant)}
                forbidden = asked & (kinds | {"sample"})  # a policy's: losses.contracts.is_policy
                assert not forbidden, f"{file}:{node.lineno}: ask what it declares, not whether it is {forbidden}"


def documented(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and the docstring of every module, class and function that has one."""
    for node in ast.walk(tree):
        has_one = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if has_one and (docstring := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), docstring


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_docstrings_open_with_a_subject_or_a_verb(file):
    opening = re.compile(rf"({'|'.join(FORBIDDEN_OPENINGS)})[ ,]")
    for line, docstring in documented(ast.parse(file.read_text())):
        first = docstring.splitlines()[0]
        assert not opening.match(first), f"{file}:{line}: open with a subject or a verb: {first}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_conditions_say_if(file):
    """ "Raises ValueError if ...", "None if ...": "where" is for places."""
    text = file.read_text()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    for line, prose in [*documented(ast.parse(text)), *comments]:
        found = WHERE_FOR_IF.search(" ".join(prose.split()))
        assert not found, f"{file}:{line}: say if: {found and found.group()}"
