"""What the site changes in the pages (the packages of the extra `docs`)."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from runs.source_tree import ROOT

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
pytest.importorskip("griffe", reason="the extra docs is not installed")

import site_docstrings
import site_hooks


def rewritten(text: str, page: str = "reference.md") -> str:
    files = [SimpleNamespace(src_uri=name) for name in ("losses.md", "tutorials/embedder.md", "contributing.md")]
    here = SimpleNamespace(file=SimpleNamespace(src_uri=page), meta={})
    return site_hooks.on_page_markdown(text, here, None, files)


def test_paths_of_pages_become_links():
    assert (
        rewritten("see docs/losses.md, `docs/losses.md`.")
        == "see [`docs/losses.md`](losses.md), [`docs/losses.md`](losses.md)."
    )
    assert rewritten("(docs/losses.md)", "tutorials/embedder.md") == "([`docs/losses.md`](../losses.md))"
    assert rewritten("CONTRIBUTING.md has it") == "[`CONTRIBUTING.md`](contributing.md) has it"


@pytest.mark.parametrize(
    "text",
    [
        "    python docs/losses.md",
        "```bash\ncat docs/losses.md\n```",
        "````text\n```\ndocs/losses.md\n````",
        "docs/nowhere.md",
        "[Losses](losses.md), `python docs/losses.md`",
        "## docs/losses.md",
    ],
)
def test_code_headings_and_unknown_names_stay(text):
    assert rewritten(text) == text


def test_links_to_sources_become_names():
    assert rewritten("[losses/bce.py](../losses/bce.py) and [`bce`](../losses/bce.py)") == "`losses/bce.py` and `bce`"


def test_every_command_has_a_section():
    titles = re.findall(r"^## launch/(\w+)\.py$", site_hooks.commands(), re.MULTILINE)
    assert titles == sorted(file.stem for file in (ROOT / "launch").glob("*.py") if file.stem != "__init__")


def test_examples_of_docstrings_are_blocks_of_code():
    text = "Whether it is.\n\n>>> a = [1,\n...      2]\n>>> a\n[1, 2]\n\nMore."
    expected = "Whether it is.\n\n\n```pycon\n>>> a = [1,\n...      2]\n>>> a\n[1, 2]\n```\n\nMore."
    assert site_docstrings.EXAMPLE.sub(site_docstrings.fenced, text) == expected


def test_a_page_that_loads_from_a_network_ends_the_build():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    text = '<a href="https://x.org">x</a><script src="assets/a.js"></script>'
    assert site_hooks.on_post_page(text, page, None) == text
    for loaded in (
        '<link href="https://x.org/a.css">',
        "<script src=//x.org/a.js>",
        '<img alt="" src="http://x.org/a.png">',
    ):
        with pytest.raises(site_hooks.PluginError, match=r"^a\.md loads \S*//x\.org/a\.\w+: "):
            site_hooks.on_post_page(text + loaded, page, None)
