"""The audit of written texts: the table that is printed, the JSON beside the output, and the content of its page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.inspection.finding import shorten
from inference.questions.audit import Sample, WritingAudit
from inference.questions.cleaning import CHANGES, REASONS
from recipes.negatives.mined_output import written_at_the_end
from recipes.questions.config import MakeQueriesConfig
from recipes.questions.grading import GRADES, GRADING, GradedList, mean_scores
from recipes.questions.task import Task
from runs.report.mining_page import Shown, ShownQuery
from runs.report.questions_page import QuestionsPage, write_questions_page

TEXT = 300  # characters of a text that are shown
PRINTED = 3  # samples in the table
WORDS = {**REASONS, **GRADING}


@dataclass
class WritingReport:
    """What a run says of its result. It exists on rank 0. `num_rows` is known once the output is written."""

    settings: MakeQueriesConfig
    task: Task
    audit: WritingAudit
    lists: Sequence[GradedList]
    seconds: float
    num_rows: int = 0

    @property
    def files(self) -> tuple[Path, Path]:
        """The JSON and the page."""
        output = self.settings.path
        return output.with_name(f"{output.name}.audit.json"), output.with_name(f"{output.name}.audit.html")

    @property
    def written(self) -> int:
        return sum(self.audit.written.values())

    @property
    def kept(self) -> int:
        return sum(self.audit.kept.values())

    def write(self) -> None:
        """Write the JSON and the page."""
        file, page = self.files
        with written_at_the_end(file) as stream:
            stream.write(json.dumps(self.as_json(), ensure_ascii=False, indent=1) + "\n")
        write_questions_page(self._page(), page)

    def as_json(self) -> dict[str, Any]:
        """All figures in JSON types. They do not depend on the time or the number of ranks."""
        settings, audit = self.settings, self.audit
        return {
            "output": str(settings.path),
            "rows": self.num_rows,
            "make": settings.make,
            "data": self.task.collection.name,
            "data_hash": self.task.collection.fingerprint,
            "split": None if self.task.split is None else settings.split,
            "documents": len(self.task.collection.documents),
            "options": self._options(),
            "prompts": settings.templates(),
            "written_about": audit.asked,
            "not_written_about": dict(audit.left_out),
            "cut_to_length": audit.cut,
            "written": dict(audit.written),
            "kept": dict(audit.kept),
            "share_kept": round(audit.share_kept, 4),
            "changes": dict(audit.changes.most_common()),
            "dropped": dict(audit.dropped.most_common()),
            "round_trip": self._round_trip(),
            "teacher_scores": mean_scores(self.lists),
            "labels": self._labels(),
            "samples": [self._sample(sample) for sample in audit.samples],
            "dropped_examples": {
                reason: [self._sample(sample) for sample in examples] for reason, examples in audit.examples.items()
            },
            "changes_in_words": CHANGES,
            "reasons_in_words": WORDS,
        }

    def _options(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "model": settings.model.name_or_path,
            "retriever": _name(settings.retriever) if settings.searches else None,
            "teacher": _name(settings.teacher),
            "round_trip": settings.round_trip if settings.searches else None,
            "num_texts": settings.num_texts,
            "num_documents": settings.num_documents,
            "num_queries": settings.num_queries,
            "seed": settings.seed,
            **{f"generate.{name}": value for name, value in vars(settings.generate).items()},
            "generate.max_new_tokens": settings.max_new_tokens,
            **{f"clean.{name}": value for name, value in vars(settings.clean).items()},
        }

    def _round_trip(self) -> dict[str, Any] | None:
        if not self.settings.searches:
            return None
        searched, first = sum(self.audit.ranks.values()), self.audit.ranks[1]
        return {
            "searched_for": searched,
            "found": self.audit.found,
            "share": round(self.audit.found / searched, 4) if searched else None,
            "first": first,
            "ranks": {str(rank): self.audit.ranks[rank] for rank in sorted(self.audit.ranks) if rank},
        }

    def _labels(self) -> dict[str, int]:
        counts = Counter(str(int(each.labels[name])) for each in self.lists for name in each.written)
        return {label: counts[label] for label in sorted(counts)}

    def _sample(self, sample: Sample) -> dict[str, Any]:
        texts = self.task.texts_of(sample.name)
        about = "document" if self.task.split is None else "query"
        entry: dict[str, Any] = {
            "id": sample.name,
            "kind": sample.kind,
            "text": sample.text,
            about: shorten(texts[about], TEXT),
        }
        if sample.raw.strip() != sample.text:
            entry["before_cleaning"] = shorten(sample.raw, TEXT)
        if self.settings.searches:
            entry["rank"] = sample.rank
        return entry

    def lines(self) -> Iterator[str]:
        """The report for a terminal."""
        audit, settings = self.audit, self.settings
        unit = "documents" if self.task.split is None else f"{settings.split} queries"
        yield (
            f"{self.task.collection.name}: {settings.make} for {audit.asked:,} {unit} by {settings.model.name_or_path} "
            f"in {self.seconds:.0f} s: {self.num_rows:,} rows in {settings.path}"
        )
        yield f"kept: {self.kept:,} of {self.written:,} texts ({audit.share_kept:.1%})"
        for name, number in audit.left_out.items():
            yield f"not written about: {number:,} {unit} {name}"
        if audit.cut:
            yield f"cut so that the prompt has at most model.max_length tokens: the texts of {audit.cut:,} {unit}"
        for title, counts, words in (("changed", audit.changes, CHANGES), ("left out", audit.dropped, WORDS)):
            if counts:
                yield f"{title}:"
                yield from (f"  {number:>7,}  {words[name]}" for name, number in counts.most_common())
        yield from self._round_trip_lines()
        yield from self._teacher_lines()
        for sample in list(audit.samples)[:PRINTED]:
            yield f"  {sample.name}: {shorten(sample.text, 100)}"
        yield f"audit: {self.files[0]} and {self.files[1].name}, with {len(list(audit.samples))} texts to judge by eye"
        yield self._how_to_train()

    def _round_trip_lines(self) -> Iterator[str]:
        found = self._round_trip()
        if found is not None and found["searched_for"]:
            yield (
                f"round trip by {_name(self.settings.retriever)}: found among the first {self.settings.round_trip}: "
                f"{found['found']:,} of {found['searched_for']:,} ({found['share']:.1%}), first: {found['first']:,}"
            )

    def _teacher_lines(self) -> Iterator[str]:
        for kind, values in mean_scores(self.lists).items():
            what = f"{values['number']:,} {kind.replace('_', ' ')} documents"
            yield f"teacher: {values['mean']:>9.4f} on average for {what}"
        if self.settings.is_graded:
            labels = ", ".join(f"{label}: {number:,}" for label, number in self._labels().items())
            yield f"labels of written texts: {labels}; a relevant document has {GRADES} times its own"

    def _how_to_train(self) -> str:
        train = f"train on it: python launch/train.py +exp=NAME data=file data.path={self.settings.path}"
        if self.settings.is_graded:
            return f"{train}; losses that know only relevant and not relevant need data.relevant_from={GRADES}"
        return train.replace("NAME", "reranker_listwise" if self.lists else "embedder_infonce")

    def _page(self) -> QuestionsPage:
        audit, found = self.audit, self._round_trip()
        tables: dict[str, Mapping[str, str]] = {
            "Texts": {
                "written about": f"{audit.asked:,}",
                "written": f"{self.written:,}",
                "kept": f"{self.kept:,} ({audit.share_kept:.1%})",
                "rows in the output": f"{self.num_rows:,}",
            },
            "Changed by cleaning": {CHANGES[name]: f"{number:,}" for name, number in audit.changes.most_common()},
            "Left out": {WORDS[name]: f"{number:,}" for name, number in audit.dropped.most_common()},
            "Rank of the source in the round trip": {} if found is None else _as_text(found["ranks"]),
            "Labels of written texts": _as_text(self._labels()),
        }
        lines = list(self.lines())
        return QuestionsPage(
            title=str(self.settings.path),
            lead=f"{audit.asked:,} written about, {self.kept:,} of {self.written:,} texts kept",
            tables=tables,
            prompts=self.settings.templates(),
            samples=[self._shown(sample, f"rank {sample.rank}" if sample.rank else "kept") for sample in audit.samples],
            dropped=[
                self._shown(sample, WORDS[reason]) for reason, examples in audit.examples.items() for sample in examples
            ],
            settings={**self._options(), "next": lines[-1]},
        )

    def _shown(self, sample: Sample, note: str) -> ShownQuery:
        texts = self.task.texts_of(sample.name)
        about = shorten(texts["document" if self.task.split is None else "query"], TEXT)
        parts = [Shown(f"{sample.kind.replace('_', ' ')}, {note}", about, is_relevant=bool(sample.rank))]
        return ShownQuery(shorten(sample.text or sample.raw, TEXT), sample.name, parts)


def _name(options: Any) -> str | None:
    """The name of a model for a report."""
    return None if options is None else getattr(options, "name_or_path", None) or options.name


def _as_text(counts: Mapping[str, int]) -> dict[str, str]:
    return {name: f"{number:,}" for name, number in counts.items()}
