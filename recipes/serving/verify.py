"""Replay the golden texts of an export through the libraries that serve it, and say which differ and why."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inference.golden import KEPT_VALUES, QUERY, Golden, kept_values, read_golden
from losses.math.similarity import similarity_named
from models.loading.activation import activation_named
from models.loading.backbone import quiet
from models.loading.folder import first_line
from recipes.serving.causes import Detective, largest_difference
from recipes.serving.contract import KINDS, Backend, Export, Replay, Unavailable
from tensors.ragged import Ragged

TOLERANCE = 1e-4
BACKENDS = {
    "plackett": "own",
    "sentence-transformers": "sentence_transformers_backend",
    "transformers": "transformers_backend",
    "onnx": "onnx_backend",
    "openvino": "openvino_backend",
    "flagembedding": "flag_embedding_backend",
    "infinity": "infinity_backend",
    "vllm": "vllm_backend",
    "tei": "tei_backend",
}
READ_ANY_KIND = ("plackett", "sentence-transformers")
EQUAL, DIFFERS, TOLD, FAILED, UNAVAILABLE = "equal", "differs", "told", "failed", "not checked"


@dataclass(frozen=True)
class Finding:
    """What a backend gave. `difference`: the largest of the compared rows; `order`: the share of pairs of documents
    that are ordered alike; `causes` of a difference or failure; `notes` on rows that are known to differ."""

    backend: str
    status: str
    difference: float | None = None
    order: float | None = None
    rows: int = 0
    causes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(folder: Path, backends: Sequence[str], tolerance: float = TOLERANCE, tei: str = "") -> list[Finding]:
    """Replay the golden texts of `folder` through `backends` (names of BACKENDS).

    Raises FileNotFoundError or ValueError, in one line, if the folder has no readable golden texts or a name is wrong.
    """
    if unknown := [name for name in backends if name not in BACKENDS]:
        raise ValueError(f"--backends {unknown[0]}: choose {', '.join(BACKENDS)}")
    export = Export(folder, read_golden(folder), tei)
    with quiet(), torch.no_grad():
        detective = Detective.of(export, tolerance)
        return [finding for name in backends for finding in _findings(name, export, detective)]


def is_right(findings: Sequence[Finding]) -> bool:
    """Whether something was checked, and nothing differs or failed."""
    checked = [finding for finding in findings if finding.status in (EQUAL, TOLD)]
    return bool(checked) and not [finding for finding in findings if finding.status in (DIFFERS, FAILED)]


def as_json(folder: Path, findings: Sequence[Finding], tolerance: float) -> dict[str, Any]:
    """The content of `launch/verify.py --json`."""
    return {
        "model": str(folder),
        "tolerance": tolerance,
        "right": is_right(findings),
        "backends": [asdict(finding) for finding in findings],
    }


def _findings(name: str, export: Export, detective: Detective) -> Iterator[Finding]:
    replay: Backend = importlib.import_module(f"recipes.serving.backends.{BACKENDS[name]}").replay
    try:
        if name not in READ_ANY_KIND and (kind := unusual_kind(export)):
            raise Unavailable(f"{kind} is checked by {' and '.join(READ_ANY_KIND)} alone")
        replays = replay(export)
    except Unavailable as reason:
        yield Finding(name, UNAVAILABLE, causes=[str(reason)])
        return
    except Exception as error:  # whatever a library raises is what its user would see
        causes = [f"{type(error).__name__}: {first_line(error)[:200]}", *detective.folder, *detective.files]
        yield Finding(name, FAILED, causes=causes)
        return
    for part, values in replays.items():
        yield _finding(f"{name} {part}".strip(), values, export.golden, detective)


def unusual_kind(export: Export) -> str:
    """What an export is that not every backend reads, in words; empty: any backend may."""
    if export.kind not in KINDS:
        return f"a {export.kind}"
    return "" if export.folder.has_transformer else "a model without a transformer"


def _finding(name: str, replay: Replay, golden: Golden, detective: Detective) -> Finding:
    activation = _activation(replay, golden, detective.export.path)
    expected = golden.values if activation is None else activation(golden.values)
    values = replay.values.detach().cpu().float()
    whole = values
    if golden.layout == "texts":
        if values.shape[-1] != golden.dimension:
            shape = f"shape: {values.shape[-1]} dimensions, not {golden.dimension}"
            cause = f"{shape}: a projection is missing, or embeddings are cut"
            return Finding(name, DIFFERS, causes=[cause, *detective.folder, *detective.files])
        values = kept_values(values)[:, : expected.shape[1]]
    covered, notes = _known_limits(replay, golden, values, expected, detective.tolerance)
    rows = torch.tensor([index for index in range(len(golden.rows)) if index not in covered], dtype=torch.long)
    if not len(rows):
        return Finding(name, UNAVAILABLE, causes=["no golden text is left to compare"], notes=notes)
    if values.shape != expected.shape:
        return Finding(name, DIFFERS, None, None, 0, detective.causes(values, expected, activation, rows), notes)
    difference = largest_difference(values[rows], expected[rows])
    compared = None if golden.layout == "pairs" else similarities(golden, whole, rows.tolist())
    order = order_agreement(compared or scores_of_query(golden, values, expected, rows.tolist()), detective.tolerance)
    if difference <= detective.tolerance:
        hidden = 0.0 if compared is None or holds_all(golden, whole) else hidden_difference(*compared)
        difference = max(difference, hidden)
        if hidden <= detective.tolerance or replay.informs:
            return Finding(name, EQUAL, difference, order, len(rows), notes=notes)
        cause = _hidden_cause(golden, compared, rows.tolist(), detective)
        return Finding(name, DIFFERS, difference, order, len(rows), [cause, *detective.folder, *detective.files], notes)
    if replay.informs and difference < float("inf"):
        return Finding(name, TOLD, difference, order, len(rows), [replay.informs], notes)
    causes = detective.causes(values, expected, activation, rows)
    return Finding(name, DIFFERS, difference, order, len(rows), causes, notes)


def _activation(replay: Replay, golden: Golden, folder: Path) -> Callable[[Tensor], Tensor] | None:
    """What the scores of a backend have gone through; None: they are raw."""
    if replay.through == "own":
        return activation_named(golden.activation, folder, default=nn.Identity)
    return torch.sigmoid if replay.through == "sigmoid" else None


def _known_limits(
    replay: Replay, golden: Golden, values: Tensor, expected: Tensor, tolerance: float
) -> tuple[set[int], list[str]]:
    """The rows that differ in a way that is known of this backend, and a note on each way."""
    covered: set[int] = set()
    notes: list[str] = []
    if values.shape != expected.shape:
        return covered, notes
    for kind, reason in replay.limits.items():
        rows = [index for index, row in enumerate(golden.rows) if getattr(row, kind)]
        rows = [i for i in rows if largest_difference(values[i], expected[i]) > tolerance]
        if kind == "control_tokens" and not golden.splits_control_tokens:
            continue
        if rows:
            size = max(largest_difference(values[i], expected[i]) for i in rows)
            covered |= set(rows)
            if replay.informs:
                continue
            notes.append(f"{len(rows)} golden text(s) differ by {size:.2g}, left out: this backend {reason}")
    return covered, notes


Compared = tuple[Tensor, Tensor]  # what a backend gives [queries, documents], and what training gave


def similarities(golden: Golden, vectors: Any, rows: Sequence[int]) -> Compared:
    """The similarities of the compared `rows`: those of whole embeddings, of which golden.json holds the first
    values."""
    similarity = similarity_named(golden.similarity)
    roles = [[index for index, row in enumerate(golden.rows) if row.role == role] for role in ("query", "document")]
    found = similarity.matrix(*(similarity.comparable(vectors[chosen]) for chosen in roles))
    kept = [[place for place, index in enumerate(chosen) if index in rows] for chosen in roles]
    return found[kept[0]][:, kept[1]], torch.tensor(golden.similarities)[kept[0]][:, kept[1]]


def holds_all(golden: Golden, vectors: Any) -> bool:
    """Whether golden.json holds all values of embeddings."""
    return not isinstance(vectors, Ragged) and golden.dimension is not None and golden.dimension <= KEPT_VALUES


def hidden_difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference of similarities, relative if they are above 1."""
    return largest_difference(found, wanted) / max(1.0, float(wanted.abs().max())) if wanted.numel() else 0.0


def _hidden_cause(golden: Golden, compared: Compared | None, rows: Sequence[int], detective: Detective) -> str:
    """Why similarities differ, although the values of golden.json are equal."""
    assert compared is not None
    for name, vectors in detective.unread():
        if hidden_difference(similarities(golden, vectors, rows)[0], compared[0]) <= detective.tolerance:
            return name
    return f"values beyond the first {KEPT_VALUES} of an embedding: similarities differ"


def scores_of_query(golden: Golden, values: Tensor, expected: Tensor, rows: list[int]) -> Compared:
    """The scores of the query that has several documents, of the compared `rows`."""
    chosen = [index for index in rows if golden.rows[index].texts[0] == QUERY]
    return values[chosen][None], expected[chosen][None]


def order_agreement(compared: Compared, tolerance: float) -> float:
    """The share of pairs of documents that a query's values order as the expected ones do; pairs that are as good as
    equal are left out."""
    alike = total = 0
    for found, wanted in zip(*compared, strict=True):
        ordered = wanted[:, None] - wanted[None, :] > tolerance
        total += int(ordered.sum())
        alike += int(((found[:, None] - found[None, :])[ordered] > 0).sum())
    return alike / total if total else 1.0
