"""Replay the golden texts of an export through the libraries that serve it, and say which differ and why."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inference.golden import KEPT_VALUES, QUERY, Golden, read_golden
from losses.math.similarity import similarity_named
from models.loading.activation import activation_named
from models.loading.backbone import quiet
from models.loading.folder import first_line
from recipes.serving.causes import Detective, largest_difference
from recipes.serving.contract import Backend, Export, Replay, Unavailable

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
        values = values[:, : expected.shape[1]]
    covered, notes = _known_limits(replay, golden, values, expected, detective.tolerance)
    rows = torch.tensor([index for index in range(len(golden.rows)) if index not in covered], dtype=torch.long)
    if not len(rows):
        return Finding(name, UNAVAILABLE, causes=["no golden text is left to compare"], notes=notes)
    if values.shape != expected.shape:
        return Finding(name, DIFFERS, None, None, 0, detective.causes(values, expected, activation, rows), notes)
    difference = largest_difference(values[rows], expected[rows])
    order = order_agreement(golden, values, expected, rows.tolist(), detective.tolerance)
    if difference <= detective.tolerance:
        hidden = hidden_difference(golden, whole, rows.tolist())
        difference = max(difference, hidden)
        if hidden <= detective.tolerance or replay.informs:
            return Finding(name, EQUAL, difference, order, len(rows), notes=notes)
        cause = f"values beyond the first {KEPT_VALUES} of an embedding: similarities differ"
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


def hidden_difference(golden: Golden, vectors: Tensor, rows: Sequence[int]) -> float:
    """The largest difference, relative if they are above 1, of the similarities of the compared `rows` from the golden
    ones: those are of whole embeddings, of which golden.json holds the first values. 0 if it holds all."""
    if golden.layout == "pairs" or golden.dimension is None or golden.dimension <= KEPT_VALUES:
        return 0.0
    similarity = similarity_named(golden.similarity)
    roles = [[index for index, row in enumerate(golden.rows) if row.role == role] for role in ("query", "document")]
    found = similarity.matrix(*(similarity.comparable(vectors[chosen]) for chosen in roles))
    kept = [[place for place, index in enumerate(chosen) if index in rows] for chosen in roles]
    if not all(kept):
        return 0.0
    wanted = torch.tensor(golden.similarities)[kept[0]][:, kept[1]]
    return largest_difference(found[kept[0]][:, kept[1]], wanted) / max(1.0, float(wanted.abs().max()))


def order_agreement(golden: Golden, values: Tensor, expected: Tensor, rows: list[int], tolerance: float) -> float:
    """The share of pairs of documents, of the compared `rows`, that a query's values order as the expected ones do;
    pairs that are as good as equal are left out."""
    if golden.layout == "pairs":
        chosen = [index for index in rows if golden.rows[index].texts[0] == QUERY]
        lists = [(values[chosen], expected[chosen])]
    else:
        similarity = similarity_named(golden.similarity)
        roles = [[index for index in rows if golden.rows[index].role == role] for role in ("query", "document")]
        theirs, ours = (
            similarity.matrix(*(similarity.comparable(part[chosen]) for chosen in roles)) for part in (values, expected)
        )
        lists = list(zip(theirs, ours, strict=True))
    alike = total = 0
    for found, wanted in lists:
        ordered = wanted[:, None] - wanted[None, :] > tolerance
        total += int(ordered.sum())
        alike += int(((found[:, None] - found[None, :])[ordered] > 0).sum())
    return alike / total if total else 1.0
