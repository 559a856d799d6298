"""The lines on costs: those of the index that was searched."""

from __future__ import annotations

from runs.report.costs import cost_lines, index_lines

COST = {
    "documents_per_s": 10.0,
    "query_ms_p50": 1.0,
    "query_ms_p95": 2.0,
    "peak_memory_bytes": 2**20,
    "memory": "all",
    "index_bytes": {"inverted": 3 * 2**20},  # of the sample, times the documents
    "index_documents": 8,
    "sampled_documents": 2,
    "sampled_queries": 1,
    "documents_per_query": 8,
    "device": "CPU",
    "threads": 1,
    "dtype": "float32",
}
SEARCHED = {"index": "inverted", "documents": 8, "bytes": 2 * 2**20}


def test_the_index_is_the_one_that_was_searched():
    summary = {"cost": COST, "index": {"searched": SEARCHED}}
    assert cost_lines(summary)[-1] == "  index: inverted 2 MiB"
    assert index_lines(summary) == ["inverted index of 8 documents: 2 MiB"]


def test_a_part_of_the_corpus_tells_nothing_of_the_whole_index():
    summary = {"cost": COST, "index": {"searched": SEARCHED | {"documents": 4}}}
    assert cost_lines(summary)[-1] == "  index: inverted 3 MiB"
    assert cost_lines({"cost": COST | {"index_bytes": {"fp32": 512, "int8": 128}}})[-1] == (
        "  index: fp32 512 bytes, int8 128 bytes"
    )
