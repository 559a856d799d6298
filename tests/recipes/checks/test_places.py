"""Local data that settings name are looked for before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.cli.compose import load
from recipes.checks.places import check_places

SUITE = ["+exp=embedder_infonce", "data@test_suite=suite"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["+exp=reranker_bce", "data=beir", "data.path=/no/folder"],
            r"^data\.path=/no/folder: no such folder, and no hub",
        ),
        (["+exp=reranker_bce", "data=file", "data.path=no.jsonl"], r"^data\.path=no\.jsonl: no such file or folder"),
        (["+exp=reranker_bce", "data=nanobeir", "data.path=no"], r"^data\.path=no: no such folder, and no hub id"),
        (["+exp=from_documents", "data.path=no"], r"^data\.path=no: no such folder or file"),
        (
            ["+exp=reranker_bce", "data/candidates=run", "data.candidates.path=no.trec"],
            r"^data\.candidates\.path=no\.trec: no such file",
        ),
        ([*SUITE, "test_suite.sources=[owner/name,/no]"], r"^test_suite\.sources \(/no\): /no: no such folder"),
        (
            ["+exp=reranker_bce", "data=mixture", "+data@data.sources.a=beir", "data.sources.a.path=/no"],
            r"^data\.sources\.a\.path=/no: no such folder",
        ),
        (
            ["+exp=reranker_three_stage", "data@stage.grpo.data=file", "stage.grpo.data.path=no.jsonl"],
            r"^stage\.grpo\.data\.path=no\.jsonl: no such file",
        ),
    ],
)
def test_what_is_not_there_is_named(given: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_places(load(given))


def test_what_is_there_or_on_a_hub_is_right(tmp_path: Path, tiny_beir_dir: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "a", "documents": ["b", "c"], "labels": [1, 0]}\n')
    check_places(load(["+exp=reranker_bce", "data=file", f"data.path={rows}"]))
    check_places(load(["+exp=reranker_bce", "data=beir", f"data.path={tiny_beir_dir}"]))
    check_places(load([*SUITE, f"test_suite.sources=[owner/name,{tiny_beir_dir}]"]))
    check_places(load(["+exp=reranker_bce"]))  # the docstrings of installed libraries
