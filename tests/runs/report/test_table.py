"""The plain text table and its warning."""

import pytest

from runs.report.table import ORACLE, below_first_stage, below_start, format_table

ROWS = {"first stage": {"nDCG@10": 0.45, "MAP": 0.4}, "after": {"nDCG@10": 0.5}}


def test_columns_are_aligned_and_missing_values_shown():
    lines = format_table(ROWS).splitlines()
    assert lines[0].split() == ["nDCG@10", "MAP"]
    assert lines[2].split() == ["first", "stage", "0.4500", "0.4000"]
    assert lines[3].split() == ["after", "0.5000", "-"]
    assert len({len(line) for line in lines}) == 1


def test_a_model_below_its_first_stage_is_warned_of():
    assert below_first_stage(ROWS, "nDCG@10") is None
    worse = {**ROWS, "after": {"nDCG@10": 0.3}}
    retrieved = below_first_stage(worse, "nDCG@10")
    assert "0.3000 < 0.4500" in retrieved
    assert "eval.depth" not in retrieved  # the depth of candidates is an option of rerankers
    assert "eval.depth" in below_first_stage({**worse, ORACLE: {"nDCG@10": 1.0}}, "nDCG@10")
    assert below_first_stage({"BM25": ROWS["after"]}, "nDCG@10") is None


@pytest.mark.parametrize("row", ["first stage", "BM25"])
def test_the_fused_score_is_advised_only_above_the_first_stage(row: str):
    rows = {row: {"nDCG@10": 0.45}, "model": {"nDCG@10": 0.3}}
    for value, advised in ((0.46, True), (0.45, False), (0.4, False), (None, False)):
        fused = {} if value is None else {"fused": {"nDCG@10": value}}
        warning = below_first_stage(rows | fused, "nDCG@10")
        name = "BM25" if row == "BM25" else "the first stage"
        assert warning.startswith(f"warning: the model ranks worse than {name} (nDCG@10 0.3000 < 0.4500): ")
        assert ("use the fused score" in warning, f"{name} alone is best" in warning) == (advised, not advised)
    assert below_first_stage({**rows, "model": {"nDCG@10": 0.45}}, "nDCG@10") is None


def test_a_model_that_training_made_worse_is_said():
    worse = below_start({"before": {"nDCG@10": 0.52}, "after": {"nDCG@10": 0.5}}, "nDCG@10")
    assert worse.startswith(
        "warning: the model is worse than before training (nDCG@10 0.5000 < 0.5200): keep the model"
    )
    assert below_start({"before": {"nDCG@10": 0.50001}, "after": {"nDCG@10": 0.5}}, "nDCG@10") is None
    assert below_start({"model": {"nDCG@10": 0.5}}, "nDCG@10") is None
