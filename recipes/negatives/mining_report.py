"""The audit of a mining run: the table that is printed, the JSON beside the output, and the content of its page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from data.inspection.finding import counted, have, shorten
from data.sampling.never_rows import NEVER
from data.store.texts import ids_of, texts_of
from inference.mining_audit import NO_RELEVANT, TOO_FEW, Audit, MinedQuery, joined, rounded, suspicion
from inference.mining_audit import why_suspected as words_of
from models.capabilities import ModelOptions
from recipes.negatives.mined_output import written_at_the_end
from recipes.negatives.mining import Miner
from recipes.negatives.rows import shortest
from runs.report.mining_page import MiningPage, Shown, ShownQuery, write_mining_page
from runs.source_tree import CONF

if TYPE_CHECKING:
    from recipes.negatives.mine_run import MineConfig

EXPERIMENT = ModelOptions.contrastive_experiment  # of a model that is not trained
TRAINER = CONF / "trainer" / "contrastive.yaml"
PRINTED = 5  # suspects in the table
ON_PAGE = 100  # and on the page
TEXT = 300  # characters of a text that are shown

EXPLAINED = {
    "slots": "places for negatives: mine.num_negatives for each query, whether or not it has a relevant document",
    "filled": "slots that have a negative",
    "full_queries": "queries whose slots are all filled",
    "empty_queries": "queries with a relevant document that got no negative: only mine.output=run holds them",
    "unfilled": "empty slots, each by what refused the best document that would have filled it",
    "passed": "documents that were ranked before the end of the window and took no rank, by reason",
    "window": "documents whose rank is in the window from mine.range_min to mine.range_max",
    "refused": "documents of the window that a margin or a bound refused, by the first that did",
    "not_drawn": "documents of the window that passed and were not needed",
    "left_out": "rows that the shape of the output cannot hold: tuples that are not full, and in a TREC run queries "
    "without a negative",
    "scores": "scores of the relevant documents, of the negatives, and how far each negative is below the lowest "
    "relevant document of its query",
    "suspected": "documents that may be relevant after all, the most suspicious first: likeness to a relevant document "
    "plus the share by which the score is above the lowest positive's, at most .2 either way",
    "samples": "queries to judge by eye, drawn by the seed",
}
REASONS = {
    **NEVER,
    "copy": "equal to a document that is ranked higher",
    "range_min": "ranked before mine.range_min",
    "absolute_margin": "not mine.absolute_margin below the lowest relevant document",
    "relative_margin": "not mine.relative_margin of its score below the lowest relevant document",
    "percentage": "above mine.percentage of the score of the lowest relevant document",
    "max_score": "above mine.max_score",
    "min_score": "below mine.min_score",
    "random": "too few random documents that a margin does not refuse",
    NO_RELEVANT: "the query has no relevant document to compare with",
    TOO_FEW: "the window has too few documents (mine.range_max, or the corpus)",
}


@dataclass(frozen=True)
class MiningReport:
    """What a mining run says of its result. It exists on rank 0."""

    audit: Audit
    miner: Miner
    settings: MineConfig
    num_rows: int

    @property
    def output(self) -> Path:
        return Path(self.settings.output).expanduser()

    @property
    def files(self) -> tuple[Path, Path]:
        """The JSON and the page."""
        return Path(f"{self.output}.audit.json"), Path(f"{self.output}.audit.html")

    @cached_property
    def suspects(self) -> np.ndarray:
        return self.audit.suspects()

    @cached_property
    def ids(self) -> Sequence[str]:
        return ids_of(self.miner.corpus.documents)

    @property
    def texts(self) -> Sequence[str]:
        return texts_of(self.miner.corpus.documents)

    def write(self) -> None:
        """Write the JSON and the page."""
        file, page = self.files
        with written_at_the_end(file) as stream:
            head = json.dumps(self.as_json(), ensure_ascii=False, indent=1)
            stream.write(f'{head[:-2]},\n "suspected": [')
            for number, suspect in enumerate(self.suspects):
                entry = json.dumps(self._suspect(suspect), ensure_ascii=False)
                stream.write(f"{',' * (number > 0)}\n  {entry}")
            stream.write("\n ]\n}\n")
        write_mining_page(self._page(), page)

    def as_json(self) -> dict[str, Any]:
        """All figures in JSON types, without the suspects."""
        audit, rescorer, options = self.audit, self.miner.rescorer, self.settings.mine
        values = {**vars(options), "range_max": options.window_end, "percentage": options.used_percentage}
        return {
            "output": str(self.output),
            "rows": self.num_rows,
            "data": self.miner.collection.name,
            "data_hash": self.miner.collection.fingerprint,
            "split": self.miner.split_name,
            "documents": len(self.miner.texts),
            "searched_by": self.miner.searcher.name,
            "rescored_by": None if rescorer is None else rescorer.name,
            "seed": self.settings.seed,
            "options": values,
            "queries": audit.queries,
            "full_queries": audit.full_queries,
            "empty_queries": audit.empty_queries,
            "slots": audit.slots,
            "filled": audit.filled,
            "unfilled": dict(audit.unfilled.most_common()),
            "passed": dict(audit.passed.most_common()),
            "window": audit.window,
            "refused": dict(audit.refused.most_common()),
            "not_drawn": audit.not_drawn,
            "left_out": audit.left_out,
            "scores": {name: rounded(values) for name, values in audit.distributions().items()},
            "suspected_negatives": int(self.suspects["negative"].sum()),
            "suspected_kept_out": int((~self.suspects["negative"]).sum()),
            "samples": [self._sample(query) for query in audit.samples],
            "explained": EXPLAINED,
            "reasons": REASONS,
        }

    def _suspect(self, suspect: Any) -> dict[str, Any]:
        score = suspect["score"]
        return {
            "query_id": self.miner.query_ids[int(suspect["query"])],
            "document_id": self.ids[int(suspect["row"])],
            "negative": bool(suspect["negative"]),
            "score": None if np.isnan(score) else shortest(score),
            "positive_score": shortest(suspect["positive"]),
            "likeness": shortest(suspect["likeness"]),
            "suspicion": round(float(suspicion(suspect[None] if suspect.ndim else np.array([suspect]))[0]), 4),
            "why": words_of(int(suspect["why"])),
        }

    def _sample(self, query: MinedQuery) -> dict[str, Any]:
        assert query.selection is not None
        relevant = zip(query.relevant.tolist(), query.relevant_scores, strict=True)
        chosen = query.selection
        mined = zip(chosen.rows.tolist(), chosen.scores, chosen.ranks.tolist(), strict=True)
        return {
            "query_id": query.query_id,
            "query": shorten(self.miner.split.queries[query.query_id], TEXT),
            "relevant": [{**self._document(row), "score": shortest(score)} for row, score in relevant],
            "negatives": [{**self._document(row), "score": shortest(s), "rank": rank} for row, s, rank in mined],
        }

    def _document(self, row: int) -> dict[str, str]:
        return {"document_id": self.ids[row], "text": shorten(self.texts[row], TEXT)}

    def lines(self) -> Iterator[str]:
        """The report for a terminal."""
        audit, json_file = self.audit, self.files[0]
        yield (
            f"{self.miner.collection.name}, {self.miner.split_name}: {counted(audit.filled, 'negative')} for "
            f"{counted(audit.queries, 'query', 'queries')}, {counted(self.num_rows, 'row')} "
            f"({self.settings.mine.output}) in {self.output}"
        )
        share = f"{audit.filled / audit.slots:.1%}"
        full = counted(audit.full_queries, "query", "queries")
        yield f"slots filled: {audit.filled:,} of {audit.slots:,} ({share}); {full} {have(audit.full_queries)} all"
        if audit.empty_queries and self.settings.mine.output != "run":
            yield (
                f"{counted(audit.empty_queries, 'query', 'queries')} {have(audit.empty_queries)} no negative and so no "
                "row: with data=beir, mine.output=run output=NAME.jsonl keeps them for training"
            )
        for title, counts in (
            ("empty slots", audit.unfilled),
            ("ranked, but never a negative", audit.passed),
            (f"refused, of {audit.window:,} documents in the window", audit.refused),
        ):
            if counts:
                yield f"{title}:"
                yield from (f"  {number:>9,}  {REASONS[name]}" for name, number in counts.most_common())
        yield from self._score_table()
        if audit.left_out:
            yield f"{audit.left_out:,} {EXPLAINED['left_out'].partition(':')[0]}{self._left_out_remedy()}"
        yield from self._suspect_lines()
        judged = counted(len(audit.samples), "query", "queries")
        yield f"audit: {json_file} and {self.files[1].name}, with {judged} to judge by eye"
        yield self._how_to_train()

    def _left_out_remedy(self) -> str:
        if self.settings.mine.output == "run":
            return ": output=NAME.jsonl holds their empty lists, which data/candidates=run needs"
        return " (not all slots are filled): mine.output=labelled_list holds them"

    def _score_table(self) -> Iterator[str]:
        parts = self.audit.distributions()
        names = [name for name in parts["positive"] if name != "number"]
        yield f"{'scores':<12}{'number':>10}" + "".join(f"{name:>11}" for name in names)
        for title, values in parts.items():
            cells = "".join(f"{values[name]:>11.4f}" for name in names if name in values)
            yield f"  {title:<10}{values['number']:>10,}{cells}"

    def _suspect_lines(self) -> Iterator[str]:
        chosen = self.suspects[self.suspects["negative"]]
        kept_out = len(self.suspects) - len(chosen)
        yield f"suspected to be relevant: {len(chosen):,} of the negatives; {kept_out:,} documents that were kept out"
        for suspect in chosen[:PRINTED]:
            found = self._suspect(suspect)
            why, text = "; ".join(found["why"]), shorten(self.texts[int(suspect["row"])], 60)
            yield f"  {found['suspicion']:.2f}  {found['query_id']} {found['document_id']}: {why}: {text}"

    def _how_to_train(self) -> str:
        options, output = self.settings.mine, self.output
        if options.output == "run" and self.audit.left_out and output.suffix != ".jsonl":
            return "training needs a list for every query: mine again with output=NAME.jsonl, which takes seconds now"
        if options.output == "run":
            return (
                f"train on it: the same data with data/candidates=run data.candidates.path={output} "
                f"data.candidates.others=bm25{self._list_size()}"
            )
        by_id = " data.corpus_path=DOCUMENTS data.queries_path=QUERIES" if options.content == "ids" else ""
        model = self.settings.model
        experiment = EXPERIMENT if model.retrieves_by_itself else model.contrastive_experiment
        train = f"python launch/train.py +exp={experiment} data=file data.path={output}"
        return f"train on it: {train}{by_id}{self._list_size()}"

    def _list_size(self) -> str:
        """The option by which a step takes all negatives of a query, if the default takes fewer."""
        default = yaml.safe_load(TRAINER.read_text(encoding="utf-8"))["list_size"]
        number = self.settings.mine.num_negatives
        if number < default:
            return ""
        few = counted(default - 1, "negative")
        return (
            f" (a step takes {few} of a query, drawn anew in each epoch; trainer.list_size={number + 1}: all {number})"
        )

    def _page(self) -> MiningPage:
        audit = self.audit
        scores = {"positive": joined(audit.positive_scores), "negative": joined(audit.negative_scores)}
        return MiningPage(
            title=str(self.output),
            lead=next(iter(self.lines())),
            counts=[
                ("slots", f"{audit.slots:,}", EXPLAINED["slots"]),
                ("filled", f"{audit.filled:,}", EXPLAINED["filled"]),
                ("queries with all", f"{audit.full_queries:,} of {audit.queries:,}", EXPLAINED["full_queries"]),
                ("queries with none", f"{audit.empty_queries:,}", EXPLAINED["empty_queries"]),
                ("in the window", f"{audit.window:,}", EXPLAINED["window"]),
                ("not needed", f"{audit.not_drawn:,}", EXPLAINED["not_drawn"]),
            ],
            reasons={
                EXPLAINED["unfilled"]: _in_words(audit.unfilled),
                EXPLAINED["passed"]: _in_words(audit.passed),
                EXPLAINED["refused"]: _in_words(audit.refused),
            },
            scores=scores,
            distributions=audit.distributions(),
            about_scores=EXPLAINED["scores"],
            about_suspects=EXPLAINED["suspected"],
            suspects=[self._shown_suspect(suspect) for suspect in self.suspects[:ON_PAGE]],
            num_suspects=len(self.suspects),
            samples=[self._shown_sample(query) for query in audit.samples],
            settings=self.as_json()["options"],
        )

    def _shown_suspect(self, suspect: Any) -> ShownQuery:
        found = self._suspect(suspect)
        query = self.miner.split.queries[found["query_id"]]
        kind = "negative" if found["negative"] else "kept out"
        note = f"{kind}, suspicion {found['suspicion']:.2f}: {'; '.join(found['why'])}"
        text = shorten(self.texts[int(suspect["row"])], TEXT)
        return ShownQuery(shorten(query, TEXT), found["query_id"], [Shown(note, text, is_relevant=False)])

    def _shown_sample(self, query: MinedQuery) -> ShownQuery:
        sample = self._sample(query)
        shown = [Shown(f"relevant, {each['score']:.4f}", each["text"], is_relevant=True) for each in sample["relevant"]]
        for each in sample["negatives"]:
            place = f"rank {each['rank']}" if each["rank"] else "random"
            shown.append(Shown(f"{place}, {each['score']:.4f}", each["text"], is_relevant=False))
        return ShownQuery(sample["query"], query.query_id, shown)


def _in_words(counts: Mapping[str, int]) -> dict[str, int]:
    return {REASONS[name]: number for name, number in sorted(counts.items(), key=lambda pair: -pair[1])}
