"""The pages and the comments of conf/ name files, modules and commands that exist."""

from __future__ import annotations

import importlib
import re
import shlex

import pytest
import yaml

from launch.cli.compose import compose
from runs.source_tree import CONF, PACKAGES, ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "skills").rglob("*.md"))]
COMMENTED = [*sorted(CONF.rglob("*.yaml")), *sorted((ROOT / "launch" / "cluster").iterdir())]
FOLDERS = (*PACKAGES, "conf", "tests", "benchmarks", "docs")
# Files that an example tells the reader to write.
EXAMPLES = {
    "conf/data/my_mixture.yaml",
    "conf/engine/anomaly.yaml",
    "conf/exp/NAME.yaml",
    "conf/exp/reranker_hinge.yaml",
    "conf/loss/pairwise_hinge.yaml",
    "conf/loss/pairwise_hinge_wide.yaml",
    "conf/loss/x.yaml",
    "conf/model/token_table.yaml",
    "conf/trainer/flooded.yaml",
    "data/formats/ini_rows.py",
    "engines/anomaly_engine.py",
    "losses/pairwise_hinge.py",
    "losses/x.py",
    "tests/losses/test_pairwise_hinge.py",
    "tests/losses/test_x.py",
    "trainers/flooded.py",
}
NAMED_FILE = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]+\.(?:py|md|yaml|sh|txt)\b")
DOTTED_NAME = re.compile(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?!\w|=|\.\w)")
COMMAND = re.compile(
    r"^ {4}(?:python|torchrun)\b.*?launch/(train|evaluate|reason|plan|mine|make_queries)\.py ((?:.*\\\n)*.*)$", re.M
)
FENCED = re.compile(r"^```bash.*\n((?:(?!```).*\n)*)```$", re.M)
PIPED = re.compile(r"\s(?:\||>|2>|&|\|\|)\s.*$")  # what a shell reads of a line


@pytest.mark.parametrize("page", [*PAGES, *COMMENTED], ids=lambda file: str(file.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    named = set(NAMED_FILE.findall(page.read_text())) - EXAMPLES
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_files_of_the_examples_are_named_and_are_not_there():
    named = {name for page in [*PAGES, *COMMENTED] for name in NAMED_FILE.findall(page.read_text())}
    assert named >= EXAMPLES
    assert not [name for name in EXAMPLES if (ROOT / name).exists()]


def missing_name(dotted: str) -> str | None:
    """The name if it begins with a module that exists and goes on with an attribute that does not."""
    parts = dotted.split(".")
    for count in range(len(parts), 1, -1):
        module = ".".join(parts[:count])
        if (ROOT / module.replace(".", "/")).with_suffix(".py").is_file():
            value = importlib.import_module(module)
            for name in parts[count:]:
                if not hasattr(value, name):
                    return dotted
                value = getattr(value, name)
            return None
    return None  # an option such as data.path


@pytest.mark.parametrize("page", [*PAGES, *COMMENTED], ids=lambda file: str(file.relative_to(ROOT)))
def test_names_in_modules_that_a_page_mentions_exist(page):
    assert not [name for name in set(DOTTED_NAME.findall(page.read_text())) if missing_name(name)]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(configuration, settings) of every command of launch/ in an indented block."""
    found = []
    for command, arguments in COMMAND.findall(text):
        words = shlex.split(arguments.replace("\\\n", " "), comments=True)
        settings = words[: words.index("--cfg")] if "--cfg" in words else words
        found.append(("train" if command == "plan" else command, settings))
    return found


README = commands((ROOT / "README.md").read_text())
RESULTS = commands((ROOT / "docs" / "results.md").read_text())
SKILL = ROOT / "skills" / "train-retrieval-models" / "SKILL.md"


def fenced_commands(text: str) -> list[tuple[str, list[str]]]:
    """(configuration, settings) of every command in fenced blocks that needs no file of the page and no variable."""
    found = []
    for block in FENCED.findall(text):
        lines = [PIPED.sub("", line) for line in re.sub(r"\\\n\s*", "", block).splitlines()]
        found += commands("\n".join(f"    {line.strip()}" for line in lines if line.startswith(("python", "torchrun"))))
    return [
        (name, settings)
        for name, settings in found
        if not any("my_" in each or each.startswith(("$", "--")) for each in settings)
    ]


TAUGHT = [
    each
    for page in PAGES
    if page.parent.name in ("tutorials", SKILL.parent.name)
    for each in fenced_commands(page.read_text())
]


@pytest.mark.parametrize(("config_name", "settings"), [*README, *RESULTS, *TAUGHT], ids=str)
def test_a_command_composes(config_name, settings):
    assert compose(settings, config_name)["seed"] == next((int(s[5:]) for s in settings if s.startswith("seed=")), 42)


def test_the_commands_are_found():
    assert len(README) >= 12
    assert {name for name, _ in README} == {"train", "evaluate", "mine", "make_queries"}
    assert RESULTS
    assert {name for name, _ in TAUGHT} >= {"train", "evaluate"}


def test_the_skill_has_the_form_that_assistants_read():
    text = SKILL.read_text()
    fields = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
    assert fields["name"] == SKILL.parent.name
    assert len(fields["description"]) <= 1024
    assert not set(fields) - {"name", "description"}
    assert len(text.splitlines()) < 500


@pytest.mark.parametrize("page", [SKILL, ROOT / "AGENTS.md"], ids=lambda page: page.name)
def test_experiments_and_groups_that_an_assistant_is_told_exist(page):
    text = page.read_text()
    files = [CONF / "exp" / f"{name}.yaml" for name in re.findall(r"\+exp=(\w+)", text)]
    files += [CONF / group / f"{name}.yaml" for group, name in re.findall(r"\b(data|model|loss)=(\w+)", text)]
    files += [ROOT / "launch" / f"{name}.py" for name in re.findall(r"(?<!tests/)launch/(\w+)\.py", text)]
    assert files or page.name == "AGENTS.md"
    assert not [file for file in files if not file.is_file()]


def test_every_page_has_its_place_on_the_site():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    placed: list[str] = []
    waiting = list(site["nav"])
    while waiting:
        entry = waiting.pop()
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            waiting.extend(value) if isinstance(value, list) else placed.append(value)
    made = {"contributing.md", "changelog.md", "commands.md"}  # by docs/site_hooks.py
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert sorted(placed) == sorted(pages | made)
