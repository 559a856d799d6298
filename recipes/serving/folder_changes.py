"""What has changed in the files of an export since its golden texts were written."""

from __future__ import annotations

from collections.abc import Sequence

from inference.export_files import file_hashes, tensor_sums
from recipes.serving.contract import Export
from recipes.serving.reference import Reference

MEANING = {
    "chat_template.jinja": "chat template",
    "prompt_template.json": "prompt template",
    "1_Pooling/config.json": "pooling",
    "modules.json": "modules",
    "config_sentence_transformers.json": "prompts, activation, similarity",
    "tokenizer.json": "tokenizer",
    "tokenizer_config.json": "tokenizer",
    "sentence_bert_config.json": "maximum length, task",
    "model.safetensors": "weights",
    "config.json": "architecture, dtype",
}


def changed_files(export: Export) -> list[str]:
    """The files that are missing or have another content, in words."""
    now = file_hashes(export.path)
    found = []
    for name, digest in export.golden.files.items():
        if now.get(name) != digest:
            what = f" ({MEANING[name]})" if name in MEANING else ""
            found.append(f"{name}{what} {'has changed' if name in now else 'is missing'} since the export")
    return found


def changed_tensors(export: Export) -> list[str]:
    """The weights outside the layers that are missing, of other values, or of the same values in another order."""
    try:
        now, found = tensor_sums(export.path), []
    except ValueError as error:
        return [str(error)]
    for name, (total, placed) in export.golden.tensors.items():
        file, _, tensor = name.partition(":")
        if name not in now:
            if file in export.golden.files and (export.path / file).is_file():
                found.append(f"{tensor} is missing in {file}: libraries draw it at random")
            continue
        total_now, placed_now = now[name]
        if _close(placed, placed_now):
            continue
        how = "holds the same values in another order (shuffled)" if _close(total, total_now) else "has other values"
        found.append(f"{tensor} {how}")
    return [f"weights: {line}" for line in found]


def _close(first: float, second: float) -> bool:
    return abs(first - second) <= 1e-6 * max(1.0, abs(first), abs(second))


def changed_tokens(reference: Reference) -> str | None:
    """How the folder's tokens of the golden texts differ from those of the export; None if they do not."""
    own = reference.rows()["input_ids"]
    rows = reference.export.golden.rows
    both = [(list(row.input_ids), ids) for row, ids in zip(rows, own, strict=True)]
    differences = [(golden, ids) for golden, ids in both if golden != ids]
    if not differences:
        return None
    tokenizer = reference.tokenizer.tokenizer
    whole = [pair for row, pair in zip(rows, both, strict=True) if not row.truncated]
    if all(ids == golden[1:] for golden, ids in whole):
        return f"BOS: the first token, {tokenizer.convert_ids_to_tokens(whole[0][0][0])!r}, is missing"
    if all(ids == golden[:-1] for golden, ids in whole):
        return f"special tokens: the last token, {tokenizer.convert_ids_to_tokens(whole[0][0][-1])!r}, is missing"
    if all(ids == golden[1:-1] for golden, ids in whole):
        return "special tokens: those at the beginning and the end (BOS, EOS, [CLS], [SEP]) are missing"
    lengths = {len(ids) for _, ids in differences}
    if len(differences) < len(own) and len(lengths) == 1 and all(len(g) > len(ids) for g, ids in differences):
        return f"truncation: texts are cut at {max(lengths)} tokens, not at {reference.export.golden.max_length}"
    missing, extra = _block(*differences[0])
    shown = [f"{what} {tokenizer.decode(ids)!r}" for what, ids in (("without", missing), ("with", extra)) if ids]
    topic = "prompt or template" if len(differences) == len(own) else "tokens"
    return f"{topic}: a text is read {' and '.join(shown)} ({len(differences)} of {len(own)} golden texts)"


def _block(golden: Sequence[int], own: Sequence[int]) -> tuple[list[int], list[int]]:
    """The tokens of both that lie between a common beginning and a common end."""
    start = 0
    while start < min(len(golden), len(own)) and golden[start] == own[start]:
        start += 1
    end = 0
    while end < min(len(golden), len(own)) - start and golden[-1 - end] == own[-1 - end]:
        end += 1
    return list(golden[start : len(golden) - end]), list(own[start : len(own) - end])
