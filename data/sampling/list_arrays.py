"""Training lists as arrays, and back: what a rank tells the others of its lists, which is all but their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from data.batch import SHARED, ListExample, TokenSequences

Arrays = dict[str, np.ndarray]

OWN = "sequences"  # in the names of arrays; those of auxiliary models begin with AUXILIARY
AUXILIARY = "auxiliary:"


def divide(examples: Sequence[ListExample], holder: int) -> list[ListExample]:
    """The lists of this rank, the `holder` of their tokens, in the form in which `lists_of` gives those of others."""
    return [
        replace(
            example,
            sequences=divide_sequences(example.sequences, [len(example.sequences)], holder),
            auxiliary={name: divide_sequences(each, [len(each)], holder) for name, each in example.auxiliary.items()},
        )
        for example in examples
    ]


def divide_sequences(sequences: TokenSequences, sizes: Sequence[int], holder: int) -> TokenSequences:
    """The same sequences, as those of this rank alone. They come list after list, list i having `sizes[i]`."""
    shared = np.zeros(len(sequences), SHARED)
    shared["holder"], shared["here"], shared["content"] = holder, True, sequences.contents
    shared["prefix"] = np.repeat(np.array(sequences.common_prefixes(sizes), dtype=np.int32), sizes)
    return replace(sequences, shared=shared)


def arrays_of(examples: Sequence[ListExample]) -> Arrays:
    """What all ranks must know of divided lists: everything but the tokens. No lists are no arrays."""
    if not examples:
        return {}
    arrays: Arrays = {
        "sizes": np.array([len(example.document_ids) for example in examples], dtype=np.int32),
        "query_hashes": np.array([example.query_hash for example in examples], dtype=np.int64),
        "weights": np.array([example.weight for example in examples], dtype=np.float64),
        "epochs": np.array([example.epoch for example in examples], dtype=np.int64),
        "isolated": np.array([example.isolated for example in examples], dtype=np.bool_),
        "never_sizes": np.array([len(example.never_negatives) for example in examples], dtype=np.int32),
        "never_negatives": np.concatenate([example.never_negatives for example in examples]),
        "labels": np.concatenate([example.labels for example in examples]),
        "teacher_scores": np.concatenate([example.teacher_scores for example in examples]),
        "document_hashes": np.concatenate([example.document_hashes for example in examples]),
        **_of_texts("query_ids", [example.query_id for example in examples]),
        **_of_texts("sources", [example.source for example in examples]),
        **_of_texts("document_ids", [name for example in examples for name in example.document_ids]),
        **arrays_of_sequences(OWN, [example.sequences for example in examples]),
    }
    for name in examples[0].auxiliary:
        arrays |= arrays_of_sequences(f"{AUXILIARY}{name}", [example.auxiliary[name] for example in examples])
    return arrays


def lists_of(arrays: Mapping[str, np.ndarray], holder: int) -> list[ListExample]:
    """The lists of such arrays, which are another rank's: the `holder` has their tokens."""
    if not arrays:
        return []
    sizes = arrays["sizes"]
    names = [name for name in arrays if name.startswith(AUXILIARY) and name.endswith("/counts")]
    roles = [name.removesuffix("/counts") for name in names]
    auxiliary = {role.removeprefix(AUXILIARY): sequences_of(role, arrays, holder) for role in roles}
    columns = zip(
        _texts_of("query_ids", arrays),
        _cut(_texts_of("document_ids", arrays), sizes),
        *(_cut(arrays[name], sizes) for name in ("labels", "teacher_scores")),
        sequences_of(OWN, arrays, holder),
        arrays["query_hashes"].tolist(),
        _cut(arrays["document_hashes"], sizes),
        arrays["weights"].tolist(),
        [dict(zip(auxiliary, of_list, strict=True)) for of_list in zip(*auxiliary.values(), strict=True)]
        or [{} for _ in sizes],
        _texts_of("sources", arrays),
        arrays["epochs"].tolist(),
        arrays["isolated"].tolist(),
        _cut(arrays["never_negatives"], arrays["never_sizes"]),
        strict=True,
    )
    return [ListExample(*fields) for fields in columns]


def arrays_of_sequences(role: str, lists: Sequence[TokenSequences]) -> Arrays:
    """What all ranks must know of divided sequences, in several parts, for the model of that role."""
    joined = TokenSequences.concatenate(lists)
    assert joined.shared is not None, "the lists are divided"
    arrays = {
        "counts": np.array([len(sequences) for sequences in lists], dtype=np.int32),
        "lengths": joined.lengths,
        "contents": joined.shared["content"],
        "prefixes": joined.shared["prefix"],
        **_of_texts("features", list(joined.features)),
    }
    if joined.truncated is not None:
        arrays["truncated"] = joined.truncated
    return {f"{role}/{name}": values for name, values in arrays.items()}


def sequences_of(role: str, arrays: Mapping[str, np.ndarray], holder: int) -> list[TokenSequences]:
    """The parts that such arrays are made of, without tokens: the `holder` has them."""
    own = {name.removeprefix(f"{role}/"): values for name, values in arrays.items() if name.startswith(f"{role}/")}
    counts, shared = own["counts"], np.zeros(len(own["lengths"]), SHARED)
    shared["holder"], shared["content"], shared["prefix"] = holder, own["contents"], own["prefixes"]
    features = {name: np.zeros(0, dtype=np.int32) for name in _texts_of("features", own)}
    cut = _cut(own["truncated"], counts) if "truncated" in own else [None] * len(counts)
    parts = zip(_cut(own["lengths"], counts), cut, _cut(shared, counts), strict=True)
    return [TokenSequences(features, *part) for part in parts]


def _of_texts(name: str, texts: Sequence[str]) -> Arrays:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    lengths = np.array([len(text) for text in encoded], dtype=np.int32)
    return {name: np.frombuffer(b"".join(encoded), dtype=np.uint8), f"{name}_lengths": lengths}


def _texts_of(name: str, arrays: Mapping[str, np.ndarray]) -> list[str]:
    parts = _cut(arrays[name].tobytes(), arrays[f"{name}_lengths"])
    return [part.decode("utf-8", "surrogatepass") for part in parts]


def _cut(values: Any, sizes: np.ndarray) -> list[Any]:
    """Cut values into consecutive parts of these sizes."""
    return [values[start:end] for start, end in pairwise([0, *np.cumsum(sizes).tolist()])]
