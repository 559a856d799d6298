"""The commands of the tutorials run, and print what their pages show (make test-docs)."""

from __future__ import annotations

import pytest
import run_tutorials
from run_tutorials import alike, difference, read_blocks, refreshed

from runs.source_tree import ROOT

PAGES = [page for page in sorted((ROOT / "docs" / "tutorials").glob("*.md")) if page.stem != "index"]
TIMEOUT_S = 2400


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.mark.docs
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_and_prints_what_it_shows(page, home):
    assert not run_tutorials.check(page, home)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_output_that_is_compared(page):
    blocks = read_blocks(page.read_text(encoding="utf-8"))
    outputs = [block for block in blocks if block.is_output]
    assert len(outputs) >= 3
    assert all(block.content.strip() for block in outputs)
    unknown = [block.title for block in blocks if block.title and not block.is_output and not block.is_file]
    assert all(title.startswith("Not run here: ") for title in unknown)


PAGE = """\
```text title="my package/a.py"
```

```python title="mine/numbers.py"
VALUES = [1, 2]
```

```python
import sys
sys.path.insert(0, ".")
from mine.numbers import VALUES
print("values", *VALUES, "in 0.5 s")
print("end")
```

```text title="Output"
values 1 2.01 in 7 s
...
```

```bash title="Not run here: it fails"
exit 1
```
"""


def test_a_page_is_run_from_top_to_bottom(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert run_tutorials.check(page, tmp_path) == []
    page.write_text(PAGE.replace("2.01", "3"))
    [problem] = run_tutorials.check(page, tmp_path)
    assert problem.startswith("page.md, line 17:\nthe page shows   values 1 3 in 7 s")
    run_tutorials.check(page, tmp_path, write=True)
    assert "\nvalues 1 2 in 0.5 s\n...\n" in page.read_text()


def test_a_command_that_fails_is_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```bash\necho before\nexit 3\n```\n")
    with pytest.raises(RuntimeError, match=r"line 2: exit status 3 of\necho before\nexit 3\n\nbefore"):
        run_tutorials.check(page, tmp_path)


def test_a_file_in_a_folder_of_the_repository_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text('```python title="losses/mine.py"\n```\n')
    with pytest.raises(RuntimeError, match=r"line 2: losses/mine\.py would be written into the repository"):
        run_tutorials.check(page, tmp_path)
    assert not (ROOT / "losses" / "mine.py").exists()


@pytest.mark.parametrize(
    ("page", "printed", "expected"),
    [
        ("nDCG@10 0.4876", "nDCG@10   0.4990", True),
        ("nDCG@10 0.4876", "nDCG@10 0.5600", False),
        ("nDCG@10 0.4876", "MRR@10 0.4876", False),
        ("300 queries", "310 queries", True),
        ("300 queries", "400 queries", False),
        ("+0.12 [-0.01, +0.2], p = .003", "+0.11 [-0.02, +0.2], p < .001", True),
        ("took 12.5 s, 1,201 MiB", "took 3 s, 900 MiB", True),
        ("step 20", "step 20 of 40", False),
        ("row 1  0.81  ...", "row 1 0.82   12.5 s  1,201", True),
        ("row 1  0.81  ...", "row 1 0.92   12.5 s  1,201", False),
        ("row 1  0.81  best ...", "row 1 0.81 tied  1,201", False),
    ],
)
def test_lines_are_alike_up_to_rounding_times_and_p_values(page, printed, expected):
    assert alike(page, printed) is expected


def test_lines_of_the_page_are_found_in_their_order():
    printed = ["a 1", "b 2", "c 3"]
    assert difference(["a 1", "...", "c 3"], printed) == ""
    assert difference(["c 3", "a 1"], printed) == "the page shows   a 1\nbut printed was   (nothing more)"


def test_an_empty_block_takes_all_and_others_their_lines():
    assert refreshed([""], ["a 1", "b 2"]) == ["a 1", "b 2"]
    assert refreshed(["a 7", "...", "loss 0.3 at the end"], ["a 1", "b", "loss 0.2 at the end"]) == [
        "a 1",
        "...",
        "loss 0.2 at the end",
    ]
    assert refreshed(["row 7  0.11 best ..."], ["row 1   0.25 best  12 s", "end"]) == ["row 1   0.25 best ..."]


def test_progress_bars_show_their_last_state():
    assert run_tutorials.lines_of("10%\r50%\r100%\nend\n") == ["100%", "end", ""]
