"""The texts that are left after cleaning, each once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from data.collection import text_key
from inference.questions.audit import Sample, WritingAudit
from inference.questions.cleaning import cleaned
from inference.questions.writer import Texts
from recipes.questions.config import MakeQueriesConfig
from recipes.questions.task import Task, known_queries


@dataclass(frozen=True)
class Candidates:
    """Cleaned texts in the order of what they are written about."""

    samples: list[Sample]

    @property
    def texts(self) -> list[str]:
        return [sample.text for sample in self.samples]


def clean_all(
    settings: MakeQueriesConfig, task: Task, written: Iterable[tuple[str, Texts]], audit: WritingAudit
) -> Candidates:
    """Clean the texts and leave out those that are no use, counted in the audit."""
    own, held_out = (set[int](), set[int]()) if task.is_passage else known_queries(task, settings.split)
    prompts = settings.templates()
    kept: list[Sample] = []
    for name, texts in written:
        audit.asked += 1
        audit.cut += texts.was_cut
        source = task.texts_of(name)[task.source]
        for kind, several in texts.by_kind.items():
            for number, text in enumerate(several):
                audit.written[kind] += 1
                result = cleaned(
                    text.text,
                    source,
                    prompts[kind],
                    settings.clean,
                    is_finished=text.is_finished,
                    is_passage=task.is_passage,
                )
                audit.changes.update(result.changes)
                key = text_key(result.text)
                reason = result.reason or ("held_out" if key in held_out else "duplicate" if key in own else "")
                sample = Sample(kind, name, number, result.text, text.text)
                if reason:
                    audit.drop(reason, sample)
                    continue
                own.add(key)
                kept.append(sample)
    return Candidates(kept)
