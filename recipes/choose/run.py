"""Choose among models: check them, measure each (or read what was measured), decide, print and write the result."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from data.bm25 import BM25
from data.collection import content_hash
from data.hashing import file_digest
from data.progress import show_progress
from data.store.texts import texts_of
from engines.distributed import process_group
from engines.distributed.collectives import broadcast_object, on_main
from engines.distributed.heartbeat import OnLostRank
from evaluation.known_models.catalogue import KnownModels, known_models
from recipes.choose.card import declared, published_on, trained_on_these
from recipes.choose.config import RERANKED, RETRIEVED, ChooseConfig
from recipes.choose.data import is_made, names_of, read_data
from recipes.choose.decision import decide, resolution
from recipes.choose.entries import Entry, embeds, read_entries
from recipes.choose.measure import Bench, measure_bm25, measure_model
from recipes.choose.output import write_output
from recipes.choose.store import Measurement, PerQuery, load, save
from recipes.choose.table import print_choice
from runs.places import contents_of
from runs.settings_tree import as_tree
from runs.source_tree import from_package_down, hash_sources

logger = logging.getLogger(__name__)

OF_A_MODEL = (ValueError, OSError, MemoryError, FloatingPointError)  # errors that leave the others as they are
FEW_QUERIES = 50
MANY_UNKNOWN, MANY_CUT = 0.01, 0.1  # shares that are warned of
KEPT = ("eval", "windows", "windows_from", "precision", "seed", "split")  # settings that figures depend on


def choose(settings: ChooseConfig, *, on_lost_rank: OnLostRank | None = None) -> dict[str, Any]:
    """Choose, print the table and write `output`. Returns the content of choose.json.

    Raises ValueError at the end if a model failed; everything is written then.
    """
    process_group.start(settings.timeout_s, on_lost_rank)
    known = known_models(settings.facts)
    entries = read_entries(settings)
    collection = read_data(settings, entries[0].options, retrieves=embeds(entries[0]))
    bench = Bench(settings, collection)
    first = Entry(BM25.name, BM25.name)
    rows, per_query = [], {}
    for entry in show_progress([first, *entries], "model", len(entries) + 1, "models"):
        outcome = _measured(bench, entry, retrieves=embeds(entries[0]))
        if isinstance(outcome, str):
            rows.append({"name": entry.name, "label": entry.label, "kind": _kind(entry), "error": outcome})
            continue
        per_query[entry.label] = outcome.per_query
        rows.append(_row(bench, entry, outcome, rows[0] if rows else None, known))
    summary = _summary(bench, entries, rows, per_query)
    if process_group.is_main():
        write_output(settings.folder, summary)
        print_choice(summary)
    process_group.stop()
    if failed := [row for row in rows if "error" in row]:
        raise ValueError(
            f"{len(failed)} of {len(entries)} models failed: {failed[0]['label']}: {failed[0]['error']} (the others "
            f"are in {settings.folder / 'choose.html'}; the same command tries again)"
        )
    return summary


def _measured(bench: Bench, entry: Entry, *, retrieves: bool) -> Measurement | str:
    """The measurement of a model, from disk if it is there, or the line of its error. With several ranks an error ends
    the run: the ranks might not agree on it. Call it on all ranks."""
    folder = bench.settings.folder / "models" / entry.folder
    key = on_main(lambda: _key(bench, entry, retrieves=retrieves))
    stored = broadcast_object(load(folder, key) if process_group.is_main() else None)
    if stored is not None:
        if process_group.is_main():
            logger.warning("%s: measured before, in %s", entry.label, folder)
        return stored
    if process_group.is_main():
        logger.warning("%s: measuring", entry.label)
    try:
        if entry.options is None:
            measurement = measure_bm25(bench, retrieves=retrieves)
        else:
            measurement = measure_model(bench, entry)
    except OF_A_MODEL as error:
        if entry.options is None or process_group.world_size() > 1:
            raise
        line = " ".join(str(error).split()) or type(error).__name__
        logger.warning("%s: failed: %s", entry.label, line)
        return line
    finally:
        gc.collect()
    on_main(lambda: save(folder, key, measurement))
    return broadcast_object(load(folder, key) if process_group.is_main() else None) or measurement


def _key(bench: Bench, entry: Entry, *, retrieves: bool) -> str:
    """A hash of all that the figures of a model depend on: its files and options, the data, the settings, the code, the
    machine. Its name is no part."""
    settings = bench.settings
    options = as_tree(entry.options) if entry.options is not None else {}
    options.pop("name_or_path", None)
    files = contents_of({"model": entry.options}) if entry.options is not None else {}
    chosen = {name: as_tree(getattr(settings, name)) for name in KEPT}
    device = process_group.device()
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    collection = bench.collection
    return content_hash(
        [
            options,
            files,
            chosen,
            retrieves,
            collection.fingerprint,
            collection.query_prompt,
            collection.document_prompt,
        ],
        [as_tree(getattr(settings.data, "candidates", None)), hash_sources(from_package_down("evaluation")), *_code()],
        [torch.__version__, transformers.__version__, machine, torch.get_num_threads(), process_group.world_size()],
    )


def _code() -> list[str]:
    """The code of this folder that figures depend on."""
    return [file_digest(Path(__file__).with_name(name)) for name in ("measure.py", "texts.py")]


def _kind(entry: Entry) -> str:
    return "bm25" if entry.options is None else "embedder" if embeds(entry) else "reranker"


def _row(
    bench: Bench, entry: Entry, measurement: Measurement, first: dict[str, Any] | None, known: KnownModels
) -> dict[str, Any]:
    """The row of a model: what was measured, and what is declared of it."""
    figures, settings = measurement.figures, bench.settings
    row = {"name": entry.name, "label": entry.label, "kind": _kind(entry), **figures}
    if entry.options is None:
        return row | {"index_bytes": figures["cost"]["index_bytes"]["terms"]}
    # A reranker has no index of its own: it needs that of the first stage.
    row["index_bytes"] = figures["forms"][0]["index_bytes"] if figures["forms"] else (first or {})["index_bytes"]
    names = names_of(settings.data, bench.collection)
    said = declared(entry.name, entry.options.folder(), known)
    facts = said["facts"].get("price") or [{}]
    price = settings.price.get(entry.label, settings.price.get(entry.name, facts[0].get("value")))
    tokens = (figures["texts"] or {}).get("corpus_tokens")
    return row | {
        "declared": said,
        "published": published_on(entry.name, known, names) if settings.eval.metric == "nDCG@10" else [],
        "trained_on_these_data": list(trained_on_these(said["trained_on"], names)),
        "price": price,
        "price_of_corpus": None if price is None or tokens is None or not embeds(entry) else price * tokens / 1e6,
    }


def _summary(
    bench: Bench, entries: Sequence[Entry], rows: list[dict[str, Any]], per_query: dict[str, PerQuery]
) -> dict[str, Any]:
    """The content of choose.json."""
    settings, collection = bench.settings, bench.collection
    decision = decide(settings, rows, per_query)
    retrieves = embeds(entries[0])
    depth = settings.eval.depth or (RETRIEVED if retrieves else RERANKED)
    made = is_made(collection)
    return {
        "data": collection.name,
        "data_hash": collection.fingerprint,
        "split": settings.split,
        "documents": len(texts_of(collection.documents)),
        "queries": len(bench.queries),
        "judgements": "made from the documents" if made else "given",
        "made": dict(collection.made),
        "kind": "embedders" if retrieves else "rerankers",
        "method": "retrieved from the whole corpus" if retrieves else f"reranked, the first {depth} candidates of BM25",
        "depth": depth,
        "metric": settings.eval.metric,
        "cost_by": settings.cost_by,
        "limits": dict(settings.limit),
        "decision": decision,
        "warnings": _warnings(bench, rows, decision),
        "models": rows,
    }


def _warnings(bench: Bench, rows: Sequence[dict[str, Any]], decision: dict[str, Any]) -> list[str]:
    """What a reader should know before he trusts the choice."""
    collection, number, found = bench.collection, len(bench.queries), []
    if is_made(collection):
        found.append(
            "no judgements were given: queries were made from the documents themselves (titles, headings, summaries, "
            "spans), each with the text that it was taken from as its answer. Real queries may rank models otherwise"
        )
    if number < FEW_QUERIES:
        found.append(f"queries: only {number}, so intervals are wide, and tests find large differences alone")
    if (most := resolution(decision)) is not None and most > 0:
        metric = bench.settings.eval.metric
        found.append(f"tied is not equal: a tied model may be up to {most:.4f} of {metric} below {decision['best']}")
    largest = max((row.get("dimension", 0) for row in rows), default=0)
    if largest and (unused := [dim for dim in bench.settings.eval.dims or () if dim >= largest]):
        found.append(f"eval.dims={unused}: no model has more than {largest} dimensions, so these are not measured")
    for row in rows:
        found += _warnings_of(row)
    return found


def _warnings_of(row: dict[str, Any]) -> list[str]:
    if "error" in row or row["kind"] == "bm25":
        return []
    label, texts, cut = row["label"], row["texts"] or {}, row["truncated"] or {}
    found = [
        f"{label} was trained on {each['data']} ({each['source']}), of which these data may be a part: its quality "
        "here may not hold for other data"
        for each in row["trained_on_these_data"][:1]
    ]
    if cut.get("documents", 0) >= MANY_CUT:
        gain = row["windows"]["test"]["difference"] if "windows" in row else None
        read = "" if gain is None else f" (read in windows: {gain:+.4f})"
        found.append(f"{label} reads {row['max_length']} tokens and cuts {cut['documents']:.1%} of the documents{read}")
    if texts.get("unknown_tokens", 0) >= MANY_UNKNOWN:
        found.append(f"{label} does not know {texts['unknown_tokens']:.1%} of the tokens of these texts")
    return found
