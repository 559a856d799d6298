"""An encoding run: the documents of a data set, or the queries of a split, become vectors in a folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from data.candidates import bm25_options_of
from data.collection import Collection
from engines.distributed import process_group
from engines.distributed.collectives import on_main
from engines.distributed.heartbeat import OnLostRank
from engines.precision import MixedPrecision, autocast_dtype, check_precision
from evaluation.evaluator import Prompts
from inference.fingerprint import model_key
from inference.pieces.ragged import RaggedVectors, check_ragged_precision, encode_ragged
from inference.pieces.sparse import SparseVectors, encode_sparse
from inference.quantize import Precision
from inference.runner import Runner, similarity_of
from inference.vector_files import in_mebibytes
from inference.vectors import StoredVectors, encode_texts
from recipes.build import read_corpus
from recipes.checks.compatibility import check_is_data, check_is_model
from recipes.evaluate.held_out import CandidatesOfSplits, check_split
from recipes.prompts import expect_prompts
from recipes.run_config import check_timeout

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """What is encoded, and how its vectors are stored."""

    role: Literal["documents", "queries"] = "documents"
    precision: Precision = "fp32"
    dim: int | None = None  # the first dimensions alone
    calibration: int | None = None  # texts from which the ranges of int8 are taken; None: the model's, or all texts
    token_budget: int = 16384

    def __post_init__(self) -> None:
        for name in ("dim", "token_budget"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"encode.{name}={value} must be at least 1")
        if self.calibration is not None and self.calibration < 2:
            raise ValueError(f"encode.calibration={self.calibration} must be null or at least 2: a range has two ends")
        if self.calibration is not None and self.precision != "int8":
            raise ValueError(f"encode.calibration: encode.precision={self.precision} has no ranges, leave it out")


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """The root of conf/encode.yaml."""

    model: Any  # models.capabilities.ModelOptions
    data: Any
    output: str
    encode: EncodeOptions
    split: str = "test"
    precision: str = "auto"
    seed: int = 42
    timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_timeout(self.timeout_s)
        check_is_model("model", self.model)
        check_is_data(self.data)
        if "embedding" not in self.model.outputs:
            what = "has no vectors" if self.model.retrieves_by_itself else "scores pairs and gives no vector of a text"
            raise ValueError(f"{_name(self.model)} {what}: choose model=bi_encoder")
        if not self.model.one_vector:
            check_ragged_precision(self.encode.precision)


def encode(
    settings: EncodeConfig, *, on_lost_rank: OnLostRank | None = None
) -> StoredVectors | RaggedVectors | SparseVectors:
    """Encode, print what was written where, and return the vectors."""
    process_group.start(settings.timeout_s, on_lost_rank)
    settings.model.check()  # before the data is read
    collection = read_data(settings)
    device = process_group.device()
    model = settings.model.build(settings.seed).to(device)
    check_dimension(settings.encode.dim, model.dimension)
    check_form(settings.encode, model.search)
    expect_prompts(model, collection)
    read_corpus(model, collection)
    texts, prompts = chosen_texts(settings, collection)
    runner = MixedPrecision(model, autocast_dtype(settings.precision, device))
    given: dict[str, Any] = {
        "role": "document" if settings.encode.role == "documents" else "query",
        "prompts": prompts,
        "token_budget": settings.encode.token_budget,
        "key": model_key(model, precision=runner.precision),
    }
    stored = encode_as(settings, model.search, runner, texts, given)
    on_main(lambda: print_result(stored, collection.name, settings))
    process_group.stop()
    return stored


def encode_as(
    settings: EncodeConfig, search: str, runner: Runner, texts: Mapping[str, str], given: Mapping[str, Any]
) -> StoredVectors | RaggedVectors | SparseVectors:
    """Encode to the output folder, in the form that fits the model's search and similarity."""
    what = {"runner": runner, "tokenizer": runner.model.tokenizer, "texts": texts, "folder": Path(settings.output)}
    given = {**what, **given}
    options = settings.encode
    if search == "inverted":
        return encode_sparse(**given)
    form: dict[str, Any] = {"precision": options.precision, "dim": options.dim}
    if similarity_of(runner.model).is_ragged:
        return encode_ragged(**given, **form)
    return encode_texts(**given, **form, calibration=options.calibration, replace=False)


def read_data(settings: EncodeConfig) -> Collection:
    """The collection that is encoded, without candidates: nobody reads them."""
    data = settings.data
    if settings.encode.role == "queries":
        data = data.map_sources(lambda source: source.for_evaluation(settings.split))
    else:
        data = data.map_sources(lambda source: source.for_encoding())
    if (bm25 := bm25_options_of(getattr(data, "candidates", None))) is not None:
        data = replace(data, candidates=CandidatesOfSplits(bm25, ()))
    collection = data.build()
    if settings.encode.role == "queries":
        check_split(settings.split, collection)
    return collection.evaluated


def chosen_texts(
    settings: EncodeConfig, collection: Collection
) -> tuple[Mapping[str, str], str | Sequence[str | None] | None]:
    """The texts that are encoded, and their prompts."""
    if settings.encode.role == "documents":
        return collection.documents, collection.document_prompt
    split = collection.split(settings.split)
    if not split.prompts:
        return split.queries, collection.query_prompt
    return split.queries, Prompts.of(collection).of_queries(split, split.queries)


def check_dimension(dim: int | None, own: int | None) -> None:
    """Raise ValueError if the model has fewer dimensions than are to be stored."""
    if dim is not None and own is not None and dim > own:
        raise ValueError(f"encode.dim={dim}: the model's embeddings have {own} dimensions, choose 1 to {own}")


def check_form(options: EncodeOptions, search: str) -> None:
    """Raise ValueError if vectors of mostly zeros are to be stored in a form that would keep the zeros."""
    form = {"precision": "fp32", "dim": None, "calibration": None}
    changed = next((name for name, plain in form.items() if getattr(options, name) != plain), None)
    if search == "inverted" and changed is not None:
        raise ValueError(
            f"encode.{changed}={getattr(options, changed)}: of sparse vectors the values that are not 0 are stored, as "
            "float32: leave it out"
        )


def print_result(stored: StoredVectors | RaggedVectors | SparseVectors, name: str, settings: EncodeConfig) -> None:
    """Print what the folder holds."""
    meta = stored.meta
    what = f"{meta['rows']:,} {settings.encode.role}"
    print(
        f"{name}: {what}, {_form(meta)}, compared by {meta['similarity']}, {in_mebibytes(stored.nbytes)} in "
        f"{stored.folder}"
    )
    if cut := meta.get("truncated"):
        print(
            f"{cut:,} of {what} ({cut / meta['rows']:.0%}) were cut at the model's length: {_limit(settings)} raises it"
        )


def _limit(settings: EncodeConfig) -> str:
    """The option that limits the length of these texts: that of their role, if the model has one and no other cuts
    them."""
    of_role = "document_length" if settings.encode.role == "documents" else "query_length"
    is_own = hasattr(settings.model, of_role) and settings.model.max_length is None
    return f"model.{of_role if is_own else 'max_length'}"


def _form(meta: Mapping[str, Any]) -> str:
    """What a row is, in words."""
    rows, dim = meta["rows"], meta["dim"]
    if "nonzeros" in meta:
        return f"{meta['nonzeros'] / rows:,.1f} of {dim:,} values are not 0"
    several = f"{meta['elements'] / rows:,.1f} vectors each, " if "elements" in meta else ""
    ranges = f" in the ranges of {meta['ranges_of']}" if meta.get("ranges_of") else ""
    return f"{several}{dim} dimensions, {meta['precision']}{ranges}"


def _name(model: Any) -> str:
    return f"model={getattr(model, 'name', '') or type(model).__name__.removesuffix('Config')}"
