"""An inspection of a data set: what is read, measured and found, and what training would say."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.collection import Collection
from data.formats.beir import BEIRConfig
from data.formats.file import FileConfig
from data.inspection.collections import read_collection
from data.inspection.content import Content, Limits
from data.inspection.facts import facts_of
from data.inspection.files import available_of_rows, read_lists
from data.inspection.finding import Finding
from data.inspection.folders import available_of_judgements, read_folder
from data.inspection.judged import find_label_problems
from data.inspection.leakage import find_leakage
from data.inspection.measures import RoleMeasures, measure_roles, measure_splits
from data.inspection.near_duplicates import find_near_duplicates
from data.inspection.report import Inspection, Losses
from data.inspection.texts import find_damage, find_duplicates
from data.inspection.tokens import CountingTokenizer, TokenCounts, count_tokens
from data.source import SourceOptions
from data.truncation import cut_line
from losses.contracts import OUTPUTS, REQUIREMENTS, missing_requirements, reads_one_vector, required_outputs
from losses.matryoshka import cuts_embeddings
from losses.quantization_aware import quantizes_embeddings
from losses.xtr import reads_token_vectors
from recipes.checks.data_fit import ADD_NEGATIVES, has_only_positives

MAX_UNKNOWN = 0.05  # share of unknown tokens from which a model cannot read the texts
ONE_VECTOR = "one vector per text"
TOKEN_VECTORS = "a vector per token"
ORDERED = "dimensions of which the first may be used alone"
DENSE = "embeddings that are stored with all their values"
NEEDED = {  # split -> what its absence means
    "train": "it can be evaluated (launch/evaluate.py), and not be trained on",
    "test": "launch/train.py measures what it has trained",
}


@dataclass(frozen=True)
class Chosen:
    """What the data is looked at for: the model that reads it, the losses, the length of training lists."""

    list_size: int
    losses: Mapping[str, Any]  # those of conf/loss, by name
    loss: Any = None  # the one that the user has chosen
    tokenizer: CountingTokenizer | None = None
    model: str = ""
    outputs: frozenset[str] | None = None  # of the model, names of losses.contracts.OUTPUTS; None: of any model
    one_vector: bool | None = None  # whether the model's embedding of a text is one vector; None: of any model
    ordered_dimensions: bool = True  # whether the first dimensions of an embedding may be used alone
    limits: Limits = field(default_factory=Limits)


def inspect_data(path: str, options: SourceOptions, chosen: Chosen) -> Inspection:
    """Inspect a data set. Raises ValueError or FileNotFoundError, as training does, if it cannot be read."""
    start = time.monotonic()
    with collected_warnings() as said:
        inspection = _inspected(path, options, chosen)
    return replace(inspection, said=tuple(dict.fromkeys(said)), seconds=time.monotonic() - start)


def _inspected(path: str, options: SourceOptions, chosen: Chosen) -> Inspection:
    content = read(options, chosen.limits)
    tokens = _tokens(content, options, chosen)
    roles = measure_roles(content, tokens)
    findings = [
        *content.findings,
        *_missing_splits(content),
        *find_label_problems(content),
        *find_leakage(content),
        *find_damage(content),
        *find_duplicates(content),
        *find_near_duplicates(content, chosen.limits),
        *_token_findings(tokens, roles),
    ]
    collection: Collection | None = None
    refused: list[Finding] = []
    if not any(finding.severity == "error" for finding in findings):
        collection, refused = _prepared(content, options, chosen)
    findings += refused
    fails = any(finding.severity == "error" for finding in findings)
    available = None if fails else _available(content, collection, options, chosen)
    findings += [] if available is None else _loss_findings(chosen, available)
    order = ("error", "warning", "note")
    return Inspection(
        path,
        content.size,
        content.format,
        content.reason,
        content.sampled,
        facts=dict(facts_of(content, collection, tokens)) | _advice(available),
        splits=measure_splits(content),
        roles=roles,
        model=chosen.model if tokens else "",
        max_length=max(tokens.limits.values()) if tokens else None,
        losses=None if available is None else fitting(chosen, available),
        findings=sorted(findings, key=lambda finding: order.index(finding.severity)),
        records=content.records,
    )


def _loss_findings(chosen: Chosen, available: frozenset[str]) -> Iterator[Finding]:
    """What the chosen loss lacks, if one is chosen: of the data, or of the model."""
    if chosen.loss is None:
        return
    needed = [f"{name} ({REQUIREMENTS[name]})" for name in missing_requirements(chosen.loss, available)]
    needed += [f"{OUTPUTS[name]}, and the model gives none" for name in _missing_outputs(chosen.loss, chosen.outputs)]
    needed += [f"{what}, which the model does not give" for what in _missing_embeddings(chosen.loss, chosen)]
    if needed:
        message = f"loss {type(chosen.loss).__name__} needs {' and '.join(needed)}"
        yield Finding("error", "loss does not fit", message, "choose one of the losses that fit")


def _missing_outputs(loss: Any, outputs: frozenset[str] | None) -> list[str]:
    """The outputs that a loss needs and a model lacks."""
    return [] if outputs is None else sorted(required_outputs(loss) - outputs)


def _missing_embeddings(loss: Any, chosen: Chosen) -> list[str]:
    """What a loss needs of embeddings and the model does not give."""
    needed = [ONE_VECTOR] if reads_one_vector(loss) and chosen.one_vector is False else []
    needed += [TOKEN_VECTORS] if reads_token_vectors(loss) and chosen.one_vector else []
    if not chosen.ordered_dimensions:
        needed += [ORDERED] * cuts_embeddings(loss) + [DENSE] * quantizes_embeddings(loss)
    return needed


def read(options: SourceOptions, limits: Limits) -> Content:
    """Read the data set that the options name, at most as much as the limits allow."""
    if isinstance(options, FileConfig):
        return read_lists(options, limits)
    if isinstance(options, BEIRConfig) and Path(options.path).expanduser().is_dir():
        return read_folder(options, limits)
    return read_collection(options.build(), limits)


def _tokens(content: Content, options: SourceOptions, chosen: Chosen) -> TokenCounts | None:
    if chosen.tokenizer is None:
        return None
    prompts = (options.query_prompt, options.document_prompt)
    return count_tokens(content, chosen.tokenizer, chosen.model, chosen.limits, *prompts)


def _missing_splits(content: Content) -> Iterator[Finding]:
    """The splits that training needs, in data with judgements of their own for each."""
    for split, why in NEEDED.items() if content.has_ids else ():
        if split not in content.judged_splits:
            yield Finding(
                "error",
                f"no {split} queries",
                f"there are judgements of {' and '.join(content.judged_splits) or 'nothing'} only: {why}",
                f"add the judgements of {split} queries, or choose other data",
            )


def _token_findings(tokens: TokenCounts | None, roles: list[RoleMeasures]) -> Iterator[Finding]:
    if tokens is None:
        return
    if tokens.truncation is not None and tokens.truncation.is_large:
        said = cut_line({"": tokens.truncation}, tokens.limits).removeprefix("warning: ")
        message, _, remedy = said.partition(" (raise")
        advice = f"raise{remedy.removesuffix(')')}" if remedy else ""
        yield Finding("warning", "long texts", f"{message}{_in(tokens.sampled)}", advice)
    for role in roles:
        if (role.unknown_share or 0) > MAX_UNKNOWN:
            yield Finding(
                "warning",
                "unknown tokens",
                f"{role.unknown_share:.1%} of the tokens of {role.role} texts are unknown to {tokens.model}",
                "choose a model that reads this script",
            )


def _in(sampled: str) -> str:
    return f", in {sampled}" if sampled else ""


def _prepared(content: Content, options: SourceOptions, chosen: Chosen) -> tuple[Collection | None, list[Finding]]:
    """The data as training prepares them, and what it refuses. Large data are not prepared."""
    if not content.is_complete or len(content.documents) > chosen.limits.built:
        return None, []
    try:
        collection = options.build()
        for split in NEEDED:
            collection.split(split)
    except (ValueError, OSError) as error:
        return None, [Finding("error", "refused", " ".join(str(error).split()))]
    return collection, []


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings of reading and preparing data: the report repeats them, and stderr does not."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("data")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def _available(
    content: Content, collection: Collection | None, options: SourceOptions, chosen: Chosen
) -> frozenset[str]:
    """What training lists give to a loss: those of the collection, or of the rows that were read of large data."""
    if collection is not None:
        return collection.available_with(chosen.list_size)
    found = available_of_judgements(content) if content.has_ids else available_of_rows(content, options)
    return found if chosen.list_size > 1 else found - {"relevance", "comparison", "several"}


def _advice(available: frozenset[str] | None) -> dict[str, str]:
    return {"for more losses": ADD_NEGATIVES} if available is not None and has_only_positives(available) else {}


def fitting(chosen: Chosen, available: frozenset[str]) -> Losses:
    """The losses that fit lists that give `available` and the chosen model, and what the others lack."""
    by_missing: dict[tuple[str, ...], list[str]] = {}
    for name, loss in chosen.losses.items():
        if getattr(loss, "is_penalty", False):
            continue
        lacking = [f"a model with {OUTPUTS[output]}" for output in _missing_outputs(loss, chosen.outputs)]
        lacking += [f"a model with {what}" for what in _missing_embeddings(loss, chosen)]
        by_missing.setdefault((*missing_requirements(loss, available), *lacking), []).append(name)
    fit = tuple(by_missing.pop((), []))
    others = {" and ".join(missing): tuple(names) for missing, names in sorted(by_missing.items())}
    return Losses({name: REQUIREMENTS[name] for name in sorted(available)}, fit, others)
