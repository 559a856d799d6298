"""Tokenised sequences, candidate lists and batches, made by data workers and read by trainers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_128_digest

from data.truncation import Truncation
from tensors.ragged import take

# What every rank knows of a sequence of a step whose tokens are divided over the ranks: the rank that made its tokens,
# whether they are here, a hash of them, and how many of them the sequences of its list have in common.
SHARED = np.dtype([("holder", np.int32), ("here", np.bool_), ("content", np.int64, 2), ("prefix", np.int32)])


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to `device`. The host does not wait: neither for the copy nor for what the device
    does before it. The copy keeps the original as its attribute `on_host` (`losses.math.masking.on_host`)."""
    pinned = values.pin_memory() if device.type == "cuda" and values.device.type == "cpu" else values
    moved: Any = pinned.to(device, non_blocking=True)
    if moved is not values:
        moved.on_host = values
    return moved


@dataclass(frozen=True)
class TokenSequences:
    """Tokenised sequences of any lengths. `features[name]` holds them one after the other; sequence i has `lengths[i]`
    tokens.

    `truncated` [sequences, 2]: the numbers of tokens cut from the query and from the document of each sequence; None if
    the tokenizer does not count them. `shared` [sequences] of dtype SHARED: the tokens are divided over the ranks, and
    `features` holds those of the sequences that are here; None: it holds all.
    """

    features: Mapping[str, np.ndarray]
    lengths: np.ndarray
    truncated: np.ndarray | None = None
    shared: np.ndarray | None = None

    @classmethod
    def from_encoding(cls, encoding: Mapping[str, Sequence[Sequence[int]]]) -> TokenSequences:
        """Convert a tokenizer's unpadded output (lists of lists). The attention mask is dropped: it follows from the
        lengths. "truncated" has two numbers per sequence."""
        lengths = np.array([len(row) for row in encoding["input_ids"]], dtype=np.int32)
        features = {
            name: np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(lengths.sum()))
            for name, rows in encoding.items()
            if name not in ("attention_mask", "truncated")
        }
        lost = encoding.get("truncated")
        return cls(features, lengths, None if lost is None else np.array(lost, dtype=np.int32).reshape(-1, 2))

    @classmethod
    def concatenate(cls, parts: Sequence[TokenSequences]) -> TokenSequences:
        """Join several, in their order."""
        names = parts[0].features.keys()
        features = {name: np.concatenate([part.features[name] for part in parts]) for name in names}
        lost = [part.truncated for part in parts if part.truncated is not None]
        truncated = np.concatenate(lost) if len(lost) == len(parts) else None
        known = [part.shared for part in parts if part.shared is not None]
        assert len(known) in (0, len(parts)), "all are divided over the ranks, or none"
        shared = np.concatenate(known) if known else None
        return cls(features, np.concatenate([part.lengths for part in parts]), truncated, shared)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> np.ndarray:
        """The place in `features` where the tokens of each sequence begin, and the last ones end [sequences + 1]. Those
        that are not here have none."""
        here = self.lengths if self.shared is None else np.where(self.shared["here"], self.lengths, 0)
        return np.concatenate([[0], np.cumsum(here, dtype=np.int64)])

    @cached_property
    def contents(self) -> np.ndarray:
        """A hash of all tokens and features of each sequence [sequences, 2] int64. No two sequences of any run share
        these 128 bits."""
        if self.shared is not None:
            return self.shared["content"]
        tokens = np.stack(list(self.features.values()), axis=1)
        content = memoryview(tokens.tobytes())
        places = (self.starts * tokens.itemsize * tokens.shape[1]).tolist()
        digests = b"".join(xxh3_128_digest(content[start:end]) for start, end in pairwise(places))
        return np.frombuffer(digests, dtype=np.int64).reshape(-1, 2)

    def select(self, chosen: np.ndarray) -> TokenSequences:
        """The sequences of these indices [any], in their order."""
        starts = self.starts[:-1][chosen]
        here = self.starts[1:][chosen] - starts
        before = np.cumsum(here) - here
        tokens = np.repeat(starts - before, here) + np.arange(int(here.sum()))
        features = {name: values[tokens] for name, values in self.features.items()}
        truncated = None if self.truncated is None else self.truncated[chosen]
        return TokenSequences(
            features, self.lengths[chosen], truncated, None if self.shared is None else self.shared[chosen]
        )

    def repeats(self, kinds: np.ndarray | None = None) -> Repeats | None:
        """Which sequences are equal, in every feature of every token; None if all differ. `kinds` [sequences]: those
        of two kinds count as different."""
        of_kind = [0] * len(self) if kinds is None else kinds.tolist()
        known: dict[tuple[int, ...], int] = {}
        place: list[int] = []
        first: list[int] = []
        for index, key in enumerate(zip(of_kind, *self.contents.T.tolist(), strict=True)):
            place.append(known.setdefault(key, len(first)))
            if place[-1] == len(first):
                first.append(index)
        return None if len(first) == len(self) else Repeats(np.array(first), np.array(place))

    def common_prefixes(self, sizes: Sequence[int]) -> list[int]:
        """The number of first tokens that all sequences of a list have in common, at most one less than the shortest
        has; 0 if it has no sequences. `sizes`: the number of sequences of each list, in their order."""
        if set(sizes) == {1}:
            return (self.lengths - 1).tolist()
        firsts = (np.cumsum(sizes) - sizes).tolist()
        if self.shared is not None:
            return [int(self.shared["prefix"][first]) if size else 0 for first, size in zip(firsts, sizes, strict=True)]
        tokens, starts = self.features["input_ids"], self.starts.tolist()
        rows = [tokens[start:end] for start, end in pairwise(starts)]
        return [_common_prefix(rows[first : first + size]) for first, size in zip(firsts, sizes, strict=True)]


def _common_prefix(sequences: Sequence[np.ndarray]) -> int:
    length = min(map(len, sequences), default=1) - 1
    for sequence in sequences[1:]:
        differing = np.flatnonzero(sequence[:length] != sequences[0][:length])
        length = int(differing[0]) if len(differing) else length
    return length


@dataclass(frozen=True)
class Repeats:
    """Sequences of which some are equal. The first of equal ones stands for all of them.

    `first` [distinct]: the index of the first of each. `place` [sequences]: the number of each sequence's own among
    these.
    """

    first: np.ndarray
    place: np.ndarray

    def expand(self, values: Any) -> Any:
        """The values [distinct, ...] of all sequences [sequences, ...]."""
        return take(values, torch.from_numpy(self.place))

    def sizes(self, sizes: Sequence[int]) -> list[int]:
        """The number of sequences of each list that stand for others or for themselves. `sizes`: of all of its
        sequences, list after list."""
        list_of = np.repeat(np.arange(len(sizes)), sizes)
        return np.bincount(list_of[self.first], minlength=len(sizes)).tolist()

    def sum(self, values: Tensor) -> Tensor:
        """The sums over equal sequences: [sequences, ...] -> [distinct, ...]."""
        place = to_device(torch.from_numpy(self.place), values.device)
        return values.new_zeros(len(self.first), *values.shape[1:]).index_add(0, place, values)


@dataclass(frozen=True)
class ListExample:
    """One query with its candidate documents, tokenised.

    The layout of `sequences` depends on the model. "pairs": sequence i is (query, document i). "texts": sequence 0 is
    the query, sequence i + 1 is document i. `auxiliary` holds the sequences for further models that score or embed the
    list (a teacher, a guide), by the model's role.
    """

    query_id: str
    document_ids: list[str]
    labels: np.ndarray  # [n] float32 relevance, 0 = not relevant or not judged
    teacher_scores: np.ndarray  # [n] float32 score of a teacher (or of the first stage), NaN if it has none
    sequences: TokenSequences
    query_hash: int  # hash of the query's text: equal texts have equal hashes
    document_hashes: np.ndarray  # [n] int64, hashes of the documents' texts
    weight: float = 1.0  # factor of this list in the loss
    auxiliary: Mapping[str, TokenSequences] = field(default_factory=dict)
    source: str = ""  # the data set that it comes from
    epoch: int = 0  # of its data set; with the query it is the key of its random draws
    isolated: bool = False  # it is compared with no other list: no in-batch negatives
    # [any] int64, hashes of the texts that are never negatives of the query, in its list or not
    never_negatives: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass(frozen=True)
class ListBatch:
    """The lists of one whole global step, in the same order on every rank.

    `number` counts batches from 0 over the whole run. With a list's position it is the key of random sampling.
    """

    number: int
    examples: list[ListExample]

    @property
    def source(self) -> str:
        """The data set that all the lists come from."""
        return self.examples[0].source

    @cached_property
    def num_duplicates(self) -> int:
        """The number of repeated texts: a query or document text counts once for each list after the first that has
        it."""
        texts = [(False, example.query_hash) for example in self.examples]
        texts += [(True, text) for example in self.examples for text in set(example.document_hashes.tolist())]
        return len(texts) - len(set(texts))

    @cached_property
    def sequences(self) -> TokenSequences:
        """The sequences of all lists, one list after the other."""
        return TokenSequences.concatenate([example.sequences for example in self.examples])

    @cached_property
    def repeats(self) -> Repeats | None:
        """Which of the sequences are equal; None if none is. A query counts as different from every document: with
        dropout, a query and a document of the same text have two masks, which is what SimCSE trains on."""
        sizes = [(len(example.sequences), len(example.document_ids)) for example in self.examples]
        is_query = [index < rows - documents for rows, documents in sizes for index in range(rows)]
        return self.sequences.repeats(np.array(is_query))

    @cached_property
    def sequences_per_list(self) -> list[int]:
        """The number of sequences of each list."""
        return [len(example.sequences) for example in self.examples]

    def sequence_ids(self, index: int) -> tuple[str, str | None]:
        """The ids of the query and of the document that a sequence holds; the document is None for the
        sequence of a query alone."""
        for example in self.examples:
            if index < len(example.sequences):
                first = len(example.sequences) - len(example.document_ids)  # 1 in layout "texts", the query itself
                return example.query_id, example.document_ids[index - first] if index >= first else None
            index -= len(example.sequences)
        raise IndexError(index)

    def auxiliary_sequences(self, name: str) -> TokenSequences:
        """The sequences of all lists for the auxiliary model of that role."""
        return TokenSequences.concatenate([example.auxiliary[name] for example in self.examples])

    @cached_property
    def sizes(self) -> Tensor:
        """The number of documents of each list [lists]."""
        return torch.tensor([len(example.document_ids) for example in self.examples])

    @cached_property
    def mask(self) -> Tensor:
        """The mask [lists, longest list]: True for documents, False for padding."""
        return torch.arange(int(self.sizes.max())) < self.sizes[:, None]

    @cached_property
    def labels(self) -> Tensor:
        """The labels [lists, longest list] float32, 0 for padding."""
        return self._documents("labels")

    @cached_property
    def teacher_scores(self) -> Tensor:
        """The teacher's scores [lists, longest list] float32, NaN if there is none, 0 for padding."""
        return self._documents("teacher_scores")

    @cached_property
    def document_hashes(self) -> Tensor:
        """Hashes of the documents [lists, longest list] int64, equal for equal texts, 0 for padding."""
        return self._documents("document_hashes")

    @cached_property
    def query_hashes(self) -> Tensor:
        """Hashes of the queries [lists] int64, equal for equal texts."""
        return torch.tensor([example.query_hash for example in self.examples])

    @cached_property
    def never_negatives(self) -> Tensor:
        """The pairs [pairs, 2] int64 of a list and the hash of a text of the batch that is no negative of its query."""
        keys = np.concatenate([example.never_negatives for example in self.examples])
        lists = np.repeat(np.arange(len(self.examples)), [len(example.never_negatives) for example in self.examples])
        in_batch = np.isin(keys, np.concatenate([example.document_hashes for example in self.examples]))
        return torch.from_numpy(np.stack([lists[in_batch], keys[in_batch]], axis=1).astype(np.int64))

    @cached_property
    def truncation(self) -> Truncation | None:
        """How many queries and documents were cut; None if the tokenizer does not count them."""
        return self._truncation(self.sequences, self.sequences_per_list)

    def auxiliary_truncation(self, name: str) -> Truncation | None:
        """The same for the sequences of an auxiliary model."""
        sizes = [len(example.auxiliary[name]) for example in self.examples]
        return self._truncation(self.auxiliary_sequences(name), sizes)

    def _truncation(self, sequences: TokenSequences, sizes: Sequence[int]) -> Truncation | None:
        return Truncation.of_rows(sequences.truncated, sizes, int(self.sizes.sum()))

    @cached_property
    def isolated(self) -> Tensor | None:
        """Whether each list is compared with no other [lists] bool; None if none is."""
        isolated = torch.tensor([example.isolated for example in self.examples])
        return isolated if isolated.any() else None

    @cached_property
    def weights(self) -> Tensor | None:
        """The weights of the lists [lists] float32; None if all are 1."""
        weights = torch.tensor([example.weight for example in self.examples], dtype=torch.float32)
        return None if (weights == 1).all() else weights

    def to_lists(self, values: Tensor) -> Tensor:
        """Arrange values [documents, ...] as [lists, longest list, ...], 0 for padding (differentiable)."""
        lists = values.new_zeros(*self.mask.shape, *values.shape[1:])
        # Found on the host: of a mask on a GPU the host would have to wait for the number of documents.
        rows, places = (to_device(index, values.device) for index in self.mask.nonzero(as_tuple=True))
        return lists.index_put((rows, places), values)

    def split_texts(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Split values of layout "texts": [sequences, ...] -> queries [lists, ...], documents [lists, longest list,
        ...]."""
        first = torch.cat([torch.zeros(1, dtype=torch.int64), (self.sizes + 1).cumsum(0)])[:-1]
        is_document = torch.ones(len(values), dtype=torch.bool)
        is_document[first] = False
        documents = to_device(is_document.nonzero().squeeze(1), values.device)
        return values[to_device(first, values.device)], self.to_lists(values[documents])

    def _documents(self, name: str) -> Tensor:
        return self.to_lists(torch.from_numpy(np.concatenate([getattr(example, name) for example in self.examples])))
