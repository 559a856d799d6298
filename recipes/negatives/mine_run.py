"""A mining run: negatives for the queries of a split, written in a shape that trainers read, with an audit beside."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.candidates import NoCandidates
from data.collection import Collection, Split, content_hash
from data.inspection.finding import counted
from data.sampling.never_rows import CorpusTexts
from data.store.texts import texts_digest
from engines.distributed import process_group
from engines.distributed.heartbeat import OnLostRank
from engines.precision import check_precision
from inference.mine_options import MineOptions
from inference.mining_audit import Audit
from recipes.checks.compatibility import check_is_data, check_is_model
from recipes.negatives.build_searchers import Parts, build_rescorer, build_searcher
from recipes.negatives.corpus import MiningCorpus, corpus_of
from recipes.negatives.mined_output import MinedRows, MinedWriter, written_at_the_end
from recipes.negatives.mining import GROUP, Miner, search_depth
from recipes.negatives.mining_report import MiningReport
from recipes.negatives.stored import StoredParts
from recipes.run_config import check_timeout

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MineConfig:
    """The root of conf/mine.yaml."""

    model: Any  # models.capabilities.ModelOptions, or data.bm25.BM25
    data: Any
    mine: MineOptions
    output: str
    hybrid: Any = None  # a second retriever, whose scores are fused with the model's
    rescore: Any = None  # a reranker or embedding model that scores the window
    split: str = "train"
    allow_held_out: bool = False
    overwrite: bool = False
    precision: str = "auto"
    seed: int = 42
    timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_timeout(self.timeout_s)
        check_is_data(self.data)
        check_retriever("model", self.model)
        if self.hybrid is not None:
            check_retriever("hybrid", self.hybrid)
        if self.rescore is not None:
            check_is_model("rescore", self.rescore)
            if self.rescore.retrieves_by_itself:
                raise ValueError("model@rescore=bm25 scores no pairs: choose model@rescore=cross_encoder or bi_encoder")
        if self.split != "train" and not self.allow_held_out:
            raise ValueError(
                f"split={self.split} is held out: training on what is mined of it would spoil its figures. Leave split "
                "out (train), or set allow_held_out=true if nothing is trained on it"
            )
        self._check_output()

    def _check_output(self) -> None:
        output = Path(self.output).expanduser()
        if not output.absolute().parent.is_dir():
            raise FileNotFoundError(f"output={self.output}: the folder {output.parent} does not exist: make it first")
        if output.is_dir():
            raise IsADirectoryError(f"output={self.output} is a folder: name a file in it")
        if self.mine.output != "run" and output.suffix != ".jsonl":
            raise ValueError(f"output={self.output}: {self.mine.output} is written as JSON lines: call it NAME.jsonl")
        if output.exists() and not self.overwrite:
            raise ValueError(f"output={self.output} is there already: choose another name, or set overwrite=true")


def check_retriever(role: str, options: Any) -> None:
    """Raise ValueError if a model cannot search a corpus."""
    check_is_model(role, options)
    name = "model" if role == "model" else f"model@{role}"
    if not options.retrieves_by_itself and "embedding" not in options.outputs:
        gives = (
            f"{' and '.join(sorted(options.outputs))} of pairs" if options.outputs else "neither scores nor embeddings"
        )
        rescores = "" if role == "retriever" else ", and let it score what these find: model@rescore=cross_encoder"
        raise ValueError(
            f"{name}: it gives {gives}, by which no corpus can be searched: choose {name}=bi_encoder or {name}=bm25"
            f"{rescores}"
        )


def mine(settings: MineConfig, *, on_lost_rank: OnLostRank | None = None) -> float:
    """Mine, write the output and its audit, print a summary. Returns the share of slots that are filled."""
    process_group.start(settings.timeout_s, on_lost_rank)
    for options in (settings.model, settings.hybrid, settings.rescore):
        if options is not None and not options.retrieves_by_itself:
            options.check(needs_head=True)  # before the data is read
    collection = read_data(settings)
    split = collection.split(settings.split)
    check_queries(settings, collection, split)
    corpus = corpus_of(collection, settings.split, settings.mine.corpus_path, settings.data.cache)
    check_corpus(settings.mine, corpus)
    miner = build_miner(settings, collection, split, corpus)
    say_memory(miner)
    audit, num_rows = write_output(settings, miner)
    if process_group.is_main():
        report = MiningReport(audit, miner, settings, num_rows)
        report.write()
        print("\n".join(report.lines()))
    process_group.stop()
    return audit.filled / audit.slots


def read_data(settings: MineConfig) -> Collection:
    """The collection, without candidates: nobody reads them. Raises ValueError for a mixture."""
    data = settings.data
    if getattr(data, "candidates", None) is None:
        raise ValueError("a mixture is mined data set by data set: choose data=beir or data=file and its data.path")
    return replace(data, candidates=NoCandidates()).build()


def check_queries(settings: MineConfig, collection: Collection, split: Split) -> None:
    """Raise ValueError if the split has no query, or none with a relevant document. Say that a split is held out."""
    if not split.queries:
        raise ValueError(f"data {collection.name}: split {settings.split} has no query")
    if split.degrees:
        raise ValueError(
            f"data {collection.name}: {split.degrees}: none is relevant, so negatives cannot be compared with it; "
            "data.relevant_from=NUMBER makes the higher labels relevant"
        )
    if not any(grade > 0 for judged in split.judgements.values() for grade in judged.values()):
        raise ValueError(
            f"data {collection.name}: of its {counted(len(split.queries), 'query', 'queries')} of {settings.split} "
            "none has a relevant document, by whose score negatives are chosen: add judgements above 0"
        )
    if settings.split != "train" and process_group.is_main():
        logger.warning(
            "warning: split=%s is held out: do not train on %s, its figures would be too good",
            settings.split,
            settings.output,
        )


def check_corpus(options: MineOptions, corpus: MiningCorpus) -> None:
    """Raise ValueError if the corpus is smaller than the number of negatives."""
    if len(corpus.documents) <= options.num_negatives:
        raise ValueError(
            f"mine.num_negatives={options.num_negatives}: the corpus has {counted(len(corpus.documents), 'document')}: "
            "lower it, or name a larger corpus (mine.corpus_path=FILE)"
        )


def build_miner(
    settings: MineConfig,
    collection: Collection,
    split: Split,
    corpus: MiningCorpus,
    *,
    may_be_interrupted: bool = False,
) -> Miner:
    """Encode or index what is searched, or open it, and put the parts of mining together. `may_be_interrupted`: a
    preemption ends it, as a part of a training run."""
    options, cache = settings.mine, settings.data.cache
    texts = CorpusTexts(corpus.documents)
    parts = Parts(
        collection,
        split,
        corpus.documents,
        texts,
        cache,
        settings.precision,
        settings.seed,
        options,
        may_be_interrupted=may_be_interrupted,
    )
    searcher = build_searcher(parts, settings.model, settings.hybrid)
    depth = min(search_depth(split, collection, options), len(texts))
    drawn = [options.num_random, options.near_duplicate, settings.seed] if options.num_random else []
    of_run = {"split": settings.split, "random": drawn, "group": GROUP, "depth": depth}
    key = {**searcher.key, **asked_key(collection, split), **of_run}
    return Miner(
        collection=collection,
        split=split,
        split_name=settings.split,
        corpus=corpus,
        texts=texts,
        searcher=searcher,
        rescorer=build_rescorer(parts, settings.rescore, key),
        options=options,
        seed=settings.seed,
        depth=depth,
        found=StoredParts.of(cache, f"{collection.name}-found", key),
    )


def asked_key(collection: Collection, split: Split) -> dict[str, str]:
    """A hash of each thing that decides, beside the corpus, which documents are searched for and scored."""
    return {
        "query texts": texts_digest(split.queries),
        "judged": content_hash((query, sorted(own.items())) for query, own in split.judgements.items()),
        "excluded": content_hash((query, sorted(own)) for query, own in collection.excluded.items()),
    }


def say_memory(miner: Miner) -> None:
    """Say in one line what is mined and what memory a rank needs for it."""
    queries, documents = len(miner.query_ids), len(miner.texts)
    group = min(queries, GROUP)
    needed = miner.searcher.rank_bytes(group, miner.depth) + group * miner.options.window_end * 200
    if process_group.is_main():
        logger.warning(
            "mining %s over %s by %s: about %s MiB a rank for the search, beside the model; results are kept in %s",
            counted(queries, "query", "queries"),
            counted(documents, "document"),
            miner.searcher.name,
            f"{needed / 2**20:,.0f}",
            miner.found.folder.parent,
        )


def write_output(settings: MineConfig, miner: Miner) -> tuple[Audit, int]:
    """Mine all queries and write the output on rank 0. Returns the audit and the number of rows.

    Raises ValueError, and nothing is written, if all slots stay empty.
    """
    audit, output = Audit(settings.mine, settings.seed), Path(settings.output).expanduser()
    rows = MinedRows(miner.collection, miner.split, miner.corpus, settings.mine)
    writer = MinedWriter(rows, output)
    with written_at_the_end(output) if process_group.is_main() else nullcontext() as file:
        for query in miner:
            audit.add(query)
            if file is not None:
                writer.write(file, query)
        check_filled(audit)
    audit.left_out = rows.left_out
    process_group.barrier()
    return audit, writer.num_rows


def check_filled(audit: Audit) -> None:
    """Raise ValueError if no query got a negative, naming the options that refused most."""
    if audit.filled:
        return
    reasons = ", ".join(f"{name}: {number:,}" for name, number in audit.unfilled.most_common(3))
    raise ValueError(
        f"no query got a negative (empty slots by reason: {reasons}): lower the margin (mine.percentage=null takes "
        "none), raise mine.range_max, name a larger corpus (mine.corpus_path=FILE), or choose another model (BM25 "
        "finds no document without a word of the query)"
    )
