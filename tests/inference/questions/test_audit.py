"""The samples of an audit depend on the seed alone."""

from __future__ import annotations

from inference.questions.audit import SAMPLES, Sample, WritingAudit


def audit_of(order, seed: int = 1) -> WritingAudit:
    audit = WritingAudit(seed)
    for number in order:
        audit.keep(Sample("question", f"d{number:03d}", 0, f"text {number}", ""))
    return audit


def test_samples_do_not_depend_on_the_order():
    found = list(audit_of(range(100)).samples)
    assert len(found) == SAMPLES
    assert list(audit_of(reversed(range(100))).samples) == found
    assert [sample.name for sample in found] == sorted(sample.name for sample in found)
    assert list(audit_of(range(100), seed=2).samples) != found


def test_counts():
    audit = WritingAudit(0)
    assert audit.share_kept == 0
    audit.written["question"] += 4
    audit.keep(Sample("question", "a", 0, "x", "x"))
    for number in range(5):
        audit.drop("empty", Sample("question", "a", number, "", ""))
    for rank in (1, 1, 3, 0):
        audit.look_up(rank)
    assert (audit.share_kept, audit.found, audit.dropped) == (0.25, 3, {"empty": 5})
    assert len(list(audit.examples["empty"])) == 3
