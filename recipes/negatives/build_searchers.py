"""Build what searches the corpus and what scores the window, from the options of models."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.collection import Collection, Split, content_hash
from data.sampling.never_rows import CorpusTexts
from data.store.texts import texts_digest, texts_of
from engines.distributed import process_group
from engines.precision import MixedPrecision, autocast_dtype
from evaluation.evaluator import Prompts
from inference.fingerprint import model_key
from inference.interruptible import Interruptible
from inference.mine_options import MineOptions
from inference.pieces.ragged import encode_ragged
from inference.runner import similarity_of
from inference.vector_files import META, difference
from inference.vectors import encode_texts
from recipes.negatives.rescoring import Rescorer
from recipes.negatives.searchers import BM25Searcher, HybridSearcher, Searcher, Stored, VectorSearcher
from recipes.negatives.stored import StoredParts
from recipes.prompts import expect_prompts

logger = logging.getLogger(__name__)

FOLDER = "vectors"  # of the cache


@dataclass(frozen=True)
class Parts:
    """What searchers and rescorers are made from, beside the options of their model."""

    collection: Collection
    split: Split
    documents: Mapping[str, str]  # of the corpus
    texts: CorpusTexts
    cache: Path
    precision: str
    seed: int
    options: MineOptions
    may_be_interrupted: bool = False  # by a preemption, in a training run

    @property
    def query_prompts(self) -> str | Sequence[str | None] | None:
        """The prompt of the queries, or one for each if rows have their own."""
        if not self.split.prompts:
            return self.collection.query_prompt
        return Prompts.of(self.collection).of_queries(self.split, self.split.queries)

    def runner(self, options: Any) -> tuple[Any, dict[str, str]]:
        """The model of these options on this rank's device, and the key of what it gives."""
        device = process_group.device()
        model = options.build(self.seed).to(device)
        expect_prompts(model, self.collection)
        if model.reads_corpus:
            model.read_corpus(texts_of(self.documents))
        runner = MixedPrecision(model, autocast_dtype(self.precision, device))
        key = model_key(model, precision=runner.precision)
        return Interruptible(runner) if self.may_be_interrupted else runner, key


def build_searcher(parts: Parts, model: Any, hybrid: Any) -> Searcher:
    """The searcher of `model`, fused with that of `hybrid` if there is one. Vectors and indexes that the cache lacks
    are made."""
    first = _searcher(parts, model)
    if hybrid is None:
        return first
    return HybridSearcher(first, _searcher(parts, hybrid), parts.options.fusion_weight)


def _searcher(parts: Parts, options: Any) -> Searcher:
    if options.retrieves_by_itself:
        return BM25Searcher(options, parts.documents, parts.split.queries, parts.cache, parts.texts)
    runner, key = parts.runner(options)
    stored = {
        role: _vectors(parts, runner, key, role, texts, prompts)
        for role, texts, prompts in (
            ("query", parts.split.queries, parts.query_prompts),
            ("document", parts.documents, parts.collection.document_prompt),
        )
    }
    return VectorSearcher(options.name_or_path, stored["query"], stored["document"], runner.device)


def _vectors(
    parts: Parts,
    runner: Any,
    key: Mapping[str, str],
    role: str,
    texts: Mapping[str, str],
    prompts: str | Sequence[str | None] | None,
) -> Stored:
    """The vectors of texts, from the cache if they are there: its folder is named by all that they depend on."""
    name = f"{parts.collection.name}-{role}"
    whole = content_hash(dict(key), [texts_digest(texts), content_hash([prompts])])
    folder = parts.cache / FOLDER / f"{name}-{whole}"
    if process_group.is_main() and not folder.exists():
        wanted = {**key, "texts": texts_digest(texts), "prompt": content_hash([prompts])}
        if line := others_line(parts.cache / FOLDER, name, wanted):
            logger.warning("%s", line)
    encode: Any = encode_ragged if similarity_of(runner.model).is_ragged else encode_texts
    options: dict[str, Any] = {"role": role, "prompts": prompts, "token_budget": parts.options.token_budget, "key": key}
    stored: Stored = encode(runner, runner.model.tokenizer, texts, folder, **options)
    return stored


def others_line(folder: Path, name: str, wanted: Mapping[str, str]) -> str:
    """The line that says why vectors of the same name that the cache has are not used; empty if it has none."""
    keys = {file.parent.name: json.loads(file.read_text()).get("key", {}) for file in folder.glob(f"{name}-*/{META}")}
    if not keys:
        return ""
    closest = min(sorted(keys), key=lambda name: sum(keys[name].get(part) != wanted[part] for part in wanted))
    reason = difference({part: keys[closest].get(part) for part in wanted}, wanted)
    return f"{folder} has vectors {closest} of {reason}: they are not used"


def build_rescorer(parts: Parts, options: Any, found: Mapping[str, Any]) -> Rescorer | None:
    """The model that scores the windows of rankings with the key `found`; None if there is none."""
    if options is None:
        return None
    runner, key = parts.runner(options)
    window = parts.options
    beside = {
        "found": content_hash(dict(found)),
        "window": [window.range_min, window.window_end, window.near_duplicate],
        "prompts": content_hash([parts.query_prompts, parts.collection.document_prompt]),
    }
    return Rescorer(
        name=options.name_or_path,
        runner=runner,
        tokenizer=runner.model.tokenizer,
        queries=parts.split.queries,
        documents=parts.documents,
        prompts=parts.split.prompts,
        query_prompt=parts.collection.query_prompt,
        document_prompt=parts.collection.document_prompt,
        token_budget=parts.options.token_budget,
        parts=StoredParts.of(parts.cache, f"{parts.collection.name}-rescored", {**key, **beside}),
    )
