"""docs/options.md matches conf/ and has every option."""

from __future__ import annotations

import make_options
import pytest
import yaml

from runs.source_tree import CONF

FILES = [file for file in sorted(CONF.rglob("*.yaml")) if file.parent.name != "exp"]


def test_the_page_is_up_to_date():
    assert make_options.PAGE.read_text(encoding="utf-8") == make_options.page(), "run: python docs/make_options.py"


def leaves(tree: dict, prefix: str = "") -> set[str]:
    """The dotted names of all keys that hold no mapping, without those that are no options."""
    names = set()
    for key, value in tree.items():
        if key not in make_options.HIDDEN:
            inner = leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else set()
            names |= inner or {f"{prefix}{key}"}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_key_of_a_file_has_a_row_in_its_section(file):
    name = file.relative_to(CONF).with_suffix("")
    group = next((each for each in make_options.GROUPS[::-1] if name.is_relative_to(each)), None)
    title = f"## `{make_options.COMMANDS[str(name)]}`" if group is None else f"### `{group}={name.relative_to(group)}`"
    text = make_options.PAGE.read_text(encoding="utf-8")
    section = text.partition(f"\n{title}\n")[2].partition("\n#")[0]
    missing = {key for key in leaves(yaml.safe_load(file.read_text()) or {}) if f"| `{key}` |" not in section}
    assert section
    assert not missing


def test_comments_go_with_their_keys():
    text = "# First.\n_target_: a.B\none: 1 # of them\n       # and more\n"
    text += "two: # inside\n  three: '#4' # a | b\nfive: [1, 2]\n"
    options = list(make_options.walk(yaml.compose(text), "", text))
    assert [(each.name, each.default, each.meaning) for each in options] == [
        ("one", "`1`", "of them and more"),
        ("two", "", "inside"),
        ("two.three", "`'#4'`", "a | b"),
        ("five", "`[1, 2]`", ""),
    ]
