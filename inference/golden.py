"""Golden texts: what a model gives for a few texts, kept in its export to compare serving with training."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from data.batch import TokenSequences
from inference.export_files import file_hashes, tensor_sums
from inference.runner import ModuleRunner, row_collator, similarity_of
from inference.score import score_sequences
from models.capabilities import Layout, RankingModel
from models.control_tokens import control_tokens
from models.loading.folder import read_json
from tensors.ragged import Ragged

FILE = "golden.json"
FORMAT = 1
KEPT_VALUES = 256  # of a vector; the similarities are of whole vectors
LONG_TEXT_TOKENS = 512  # the long document is at least so long, or longer than the model reads
TOKEN_BUDGET = 4096  # tokens per forward pass
PACKAGES = ("torch", "transformers", "tokenizers")

QUERY = "what is the capital of France?"
OTHER_QUERIES = ("日本で一番高い山は何ですか", "?")
DOCUMENTS = (
    "Paris is the capital and the largest city of France.",
    "Berlin ist die Hauptstadt von Deutschland; die Stadt liegt an der Spree und hat 3,7 Millionen Einwohner.",
    "富士山は日本で最も高い山で、標高は3776メートルです。",
    "القاهرة هي عاصمة مصر وأكبر مدنها.",
    "def open_file(path):\n    return open(path, encoding='utf-8')",
    ".",
)
LONG = "The history of France goes on for many centuries, of which this sentence tells one. "
SPELLED = "This text spells {tokens} as if it were a prompt."


@dataclass(frozen=True)
class GoldenRow:
    """One text, or one pair of query and document, with its tokens and what the model gives for it.

    `texts`: (text,) or (query, document). `role`: query or document of a single text, "" of a pair. `values`: [score],
    the raw score, or the first values of the embedding. `truncated`: the model does not read it whole.
    `control_tokens`: it spells control tokens of the tokenizer.
    """

    texts: tuple[str, ...]
    role: str
    input_ids: tuple[int, ...]
    values: tuple[float, ...]
    truncated: bool
    control_tokens: bool


@dataclass(frozen=True)
class Golden:
    """The content of golden.json. `rows` of layout "pairs" have raw scores, those of "texts" embeddings, of which
    `similarities` are [queries, documents]. `prompts` stand before texts by role; `files` and `tensors` describe the
    export (`inference.export_files`)."""

    layout: Layout
    rows: tuple[GoldenRow, ...]
    max_length: int
    prompts: Mapping[str, str]
    activation: str
    similarity: str
    dimension: int | None
    similarities: tuple[tuple[float, ...], ...]
    splits_control_tokens: bool
    versions: Mapping[str, str]
    files: Mapping[str, str]
    tensors: Mapping[str, Sequence[float]]

    @property
    def values(self) -> Tensor:
        """[rows] raw scores, or [rows, kept values] of embeddings, float32."""
        values = torch.tensor([row.values for row in self.rows])
        return values[:, 0] if self.layout == "pairs" else values

    def texts_of(self, role: str) -> list[str]:
        """The single texts of a role, in the order of the rows."""
        return [row.texts[0] for row in self.rows if row.role == role]


def make_golden(model: RankingModel, device: torch.device) -> Golden:
    """Score or embed the golden texts in float32. Call it on all ranks with the model that is exported, its prompts
    adopted; `write_golden` then adds what is known of the files."""
    tokenizer: Any = model.tokenizer
    spelled = _spelled(tokenizer)
    documents = [*DOCUMENTS, LONG * (min(tokenizer.max_length, LONG_TEXT_TOKENS) // 8 + 1), spelled]
    rows = _pairs(tokenizer, documents) if tokenizer.layout == "pairs" else _single_texts(tokenizer, documents)
    texts = [row for row, _, _ in rows]
    roles = [role for _, role, _ in rows]
    sequences = TokenSequences.concatenate([encoded for _, _, encoded in rows])
    name = "score" if tokenizer.layout == "pairs" else "embedding"
    collator = row_collator(model, tokenizer.padding, TOKEN_BUDGET)
    output = score_sequences(ModuleRunner(model, device), sequences, collator, name).cpu()
    return _golden(model, sequences, output, texts, roles, spelled)


def _pairs(tokenizer: Any, documents: list[str]) -> list[tuple[tuple[str, ...], str, TokenSequences]]:
    """(texts, role, tokens) of each row: one query with all documents, the others with the first of them."""
    pairs = [(QUERY, document) for document in documents] + [(query, documents[0]) for query in OTHER_QUERIES]
    return [(pair, "", TokenSequences.from_encoding(tokenizer.encode_list(pair[0], [pair[1]]))) for pair in pairs]


def _single_texts(tokenizer: Any, documents: list[str]) -> list[tuple[tuple[str, ...], str, TokenSequences]]:
    """(texts, role, tokens) of each row: the queries, then the documents."""
    queries = (QUERY, *OTHER_QUERIES)
    texts = [(query, "query") for query in queries] + [(document, "document") for document in documents]
    rows: list[tuple[tuple[str, ...], str, TokenSequences]] = []
    for text, role in texts:
        encoded = tokenizer.encode_list(text if role == "query" else QUERY, [text])
        index = 0 if role == "query" else 1
        one = TokenSequences.from_encoding({name: ids[index : index + 1] for name, ids in encoded.items()})
        rows.append(((text,), role, one))
    return rows


def _spelled(tokenizer: Any) -> str:
    """A text that spells control tokens of the model's tokenizer."""
    own = getattr(tokenizer, "tokenizer", None)
    tokens = control_tokens(own, "")[:3] if own is not None else []
    return SPELLED.format(tokens=" and ".join(tokens or ["[SEP]"]))


def _golden(
    model: RankingModel,
    sequences: TokenSequences,
    output: Any,
    texts: list[tuple[str, ...]],
    roles: list[str],
    spelled: str,
) -> Golden:
    tokenizer: Any = model.tokenizer
    pairs = tokenizer.layout == "pairs"
    ends = sequences.lengths.cumsum().tolist()
    ids = [sequences.features["input_ids"][end - n : end] for end, n in zip(ends, sequences.lengths, strict=True)]
    lost = [False] * len(texts) if sequences.truncated is None else (sequences.truncated.sum(1) > 0).tolist()
    values = output[:, None] if pairs else kept_values(output)
    rows = tuple(
        GoldenRow(text, role, tuple(map(int, row)), _rounded(value), bool(cut), spelled in text)
        for text, role, row, value, cut in zip(texts, roles, ids, values, lost, strict=True)
    )
    similarities: tuple[tuple[float, ...], ...] = ()
    if not pairs:
        queries, documents = (output[[i for i, r in enumerate(roles) if r == role]] for role in ("query", "document"))
        similarity = similarity_of(model)
        compared = similarity.matrix(similarity.comparable(queries), similarity.comparable(documents))
        similarities = tuple(map(_rounded, compared))
    activation = type(getattr(model, "activation", torch.nn.Identity()))
    return Golden(
        layout=tokenizer.layout,
        rows=rows,
        max_length=tokenizer.max_length,
        prompts=_prompts(tokenizer),
        activation=f"{activation.__module__}.{activation.__qualname__}",
        similarity=model.similarity,
        dimension=None if pairs else output.shape[1],
        similarities=similarities,
        splits_control_tokens=getattr(tokenizer, "split_special_tokens", True),
        versions={name: metadata.version(name) for name in PACKAGES},
        files={},
        tensors={},
    )


def kept_values(embeddings: Any) -> Tensor:
    """The first values of embeddings [rows, kept values]; of ragged ones, those of their first elements, and 0 behind
    the last."""
    if not isinstance(embeddings, Ragged):
        kept: Tensor = embeddings[:, :KEPT_VALUES]
        return kept
    values = embeddings.values.new_zeros(len(embeddings), KEPT_VALUES)
    for kept, row in zip(values, embeddings, strict=True):
        first = row.values.flatten()[:KEPT_VALUES]
        kept[: len(first)] = first
    return values


def _prompts(tokenizer: Any) -> dict[str, str]:
    """The prompts before queries and documents. That of an LLM reranker is its whole template, in its own file."""
    if tokenizer.layout == "pairs":
        return {
            "query": getattr(tokenizer, "query_prompt", ""),
            "document": getattr(tokenizer, "document_prompt", ""),
        }
    prompt = getattr(tokenizer, "prompt", lambda role: "")
    return {role: prompt(role) for role in ("query", "document")}


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.7g}") for value in values.tolist())


def write_golden(folder: Path, golden: Golden) -> None:
    """Write golden.json into an export, with what its files hold. The file is whole or absent."""
    content = {"format": FORMAT} | asdict(golden)
    content |= {"files": file_hashes(folder), "tensors": tensor_sums(folder)}
    lines = []
    for key, value in content.items():
        many = isinstance(value, tuple | list) and key == "rows"
        text = "[\n" + ",\n".join(f"  {_dumped(row)}" for row in value) + "\n ]" if many else _dumped(value)
        lines.append(f' "{key}": {text}')
    work = folder / f".{FILE}.{os.getpid()}.tmp"
    work.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    work.replace(folder / FILE)


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def read_golden(folder: Path) -> Golden:
    """Read golden.json. Raises FileNotFoundError if the export has none, ValueError if it cannot be read."""
    content = read_json(folder / FILE)
    if content is None:
        raise FileNotFoundError(
            f"{folder / FILE}: no golden texts; `python launch/export.py {folder} --golden` writes them from the model "
            "as it is now"
        )
    try:
        if content.pop("format") != FORMAT:
            raise ValueError(f"not format {FORMAT}")
        rows = tuple(_row(row) for row in content.pop("rows"))
        golden = Golden(**cast(Any, content), rows=rows)
        _check(golden)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{folder / FILE}: not golden texts of this release ({error}); `python launch/export.py {folder} --golden` "
            "writes them anew"
        ) from None
    return golden


def _check(golden: Golden) -> None:
    """Raise an error of some kind if a field is not what those who read it expect."""
    length = {"pairs": 2, "texts": 1}[golden.layout]
    if not golden.rows or any(len(row.texts) != length for row in golden.rows) or not golden.values.isfinite().all():
        raise ValueError("its rows are not those of one layout, with finite values")
    if set(golden.prompts) != {"query", "document"} or not all(
        isinstance(text, str) for text in golden.prompts.values()
    ):
        raise ValueError("its prompts are not those of query and document")
    if not isinstance(golden.max_length, int) or not isinstance(golden.activation, str):
        raise ValueError("its length or activation is none")
    sizes = [len(golden.texts_of(role)) for role in ("query", "document")] if golden.layout == "texts" else [0, 0]
    if [len(golden.similarities), *map(len, golden.similarities)] != [sizes[0], *[sizes[1]] * sizes[0]]:
        raise ValueError("its similarities are not those of its queries and documents")
    if any(len(sums) != 2 for sums in golden.tensors.values()) or not dict(golden.files):
        raise ValueError("it has no sums and hashes of the files")


def _row(row: Mapping[str, Any]) -> GoldenRow:
    lists: dict[str, Any] = {key: tuple(row[key]) for key in ("texts", "input_ids", "values")}
    return GoldenRow(**{**row, **lists})
