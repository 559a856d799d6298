"""docs/coming_from.md agrees with the names in error messages, with conf/ and with the installed libraries."""

from __future__ import annotations

import dataclasses
import inspect
import re

import make_coming_from
import make_options
import pytest

from launch.cli.foreign_names import OPTIONS
from runs.source_tree import CONF

TEXT = make_coming_from.PAGE.read_text(encoding="utf-8")
ROWS = [line.split(" | ") for line in TEXT.splitlines() if line.startswith("| `")]
BY_LIBRARY = TEXT.partition("\n## sentence-transformers\n")[2]
NAME = re.compile(r"`([\w.]+)`")
# Options that a group or a class adds to the ones in a file: those of adapters are in conf/model/*_lora.yaml.
SETTING = re.compile(r"`((?:trainer|loss|model|data|engine|eval|mine|encode)(?:\.\w+)+)(?:=[^`]*)?`")
CHOICE = re.compile(r"(?<![\w.@])(loss|model|data|engine|logger)=(\w+)")


def test_the_table_of_shared_names_is_up_to_date():
    assert make_coming_from.page() == TEXT, "run: python docs/make_coming_from.py"


def test_the_tables_of_libraries_agree_with_error_messages():
    rows = [line.strip("| ").split(" | ") for line in BY_LIBRARY.splitlines() if line.startswith("| `")]
    differing = []
    for theirs, here, *_ in rows:
        for name in NAME.findall(theirs):
            option = OPTIONS.get(name, ("", ""))[0]
            if option and option not in here and "mine." not in here:
                differing.append((name, option, here))
    assert len(rows) > 60
    assert not differing


def known_options() -> set[str]:
    """GROUP.KEY of every file of a group, and KEY of every command."""
    names = set()
    for group in make_options.GROUPS:
        prefix = group.replace("/", ".")
        names |= {f"{prefix}.{each.name}" for file in make_options.group_files(group) for each in file.options}
    for command in make_options.COMMANDS:
        file = make_options.ConfFile.read(CONF / f"{command}.yaml", command)
        names |= {each.name for each in file.options}
    return names


def test_every_option_that_is_named_as_ours_exists():
    named = {re.sub(r"\bdata\.sources\.NAME\.", "data.", each) for each in SETTING.findall(TEXT)}
    assert len(named) > 50
    assert not named - known_options()


def test_every_choice_that_is_named_exists():
    chosen = set(CHOICE.findall(TEXT))
    assert len(chosen) > 30
    assert not [f"{group}={name}" for group, name in chosen if not (CONF / group / f"{name}.yaml").is_file()]


def table_of(header: str) -> list[str]:
    """The names in the first column of the table with that header."""
    rows = TEXT.partition(f"| {header} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [name for row in rows for name in NAME.findall(row.split(" | ")[0])]


@pytest.mark.parametrize(
    ("header", "module"),
    [
        ("losses of `SentenceTransformer`", "sentence_transformers.sentence_transformer.losses"),
        ("losses of `CrossEncoder`", "sentence_transformers.cross_encoder.losses"),
    ],
)
def test_losses_of_sentence_transformers_are_called_so(header, module):
    pytest.importorskip("sentence_transformers")
    names = table_of(header)
    losses = __import__(module, fromlist=["x"])
    assert names
    assert not [name for name in names if not hasattr(losses, name)]


def test_arguments_of_sentence_transformers_are_called_so():
    library = pytest.importorskip("sentence_transformers")
    arguments = {field.name for field in dataclasses.fields(library.SentenceTransformerTrainingArguments)}
    assert set(table_of("training arguments")) <= arguments | {"resume_from_checkpoint"}
    mining = inspect.signature(library.util.mine_hard_negatives).parameters
    assert table_of("`mine_hard_negatives`")
    assert set(table_of("`mine_hard_negatives`")) <= set(mining)


def test_arguments_of_trl_are_called_so():
    trl = pytest.importorskip("trl")
    fields = {name: {each.name for each in dataclasses.fields(getattr(trl, name))} for name in CONFIGS}
    assert set(table_of("`GRPOConfig`")) <= fields["GRPOConfig"]
    assert set(table_of("`DPOConfig`, `KTOConfig`")) <= fields["DPOConfig"] | fields["KTOConfig"]


CONFIGS = ("GRPOConfig", "DPOConfig", "KTOConfig")
