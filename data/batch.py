"""Tokenised sequences, candidate lists and batches, made by data workers and read by trainers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from data.truncation import Truncation


@dataclass(frozen=True)
class TokenSequences:
    """Tokenised sequences of any lengths. `features[name]` holds them one after the other; sequence i has `lengths[i]`
    tokens.

    `truncated` [sequences, 2]: the numbers of tokens cut from the query and from the document of each sequence; None if
    the tokenizer does not count them.
    """

    features: Mapping[str, np.ndarray]
    lengths: np.ndarray
    truncated: np.ndarray | None = None

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
        return cls(features, np.concatenate([part.lengths for part in parts]), truncated)

    def __len__(self) -> int:
        return len(self.lengths)


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
        return lists.index_put(self.mask.to(values.device).nonzero(as_tuple=True), values)

    def split_texts(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Split values of layout "texts": [sequences, ...] -> queries [lists, ...], documents [lists, longest list,
        ...]."""
        first = torch.cat([torch.zeros(1, dtype=torch.int64), (self.sizes + 1).cumsum(0)])[:-1].to(values.device)
        is_document = torch.ones(len(values), dtype=torch.bool, device=values.device)
        is_document[first] = False
        return values[first], self.to_lists(values[is_document])

    def _documents(self, name: str) -> Tensor:
        return self.to_lists(torch.from_numpy(np.concatenate([getattr(example, name) for example in self.examples])))
