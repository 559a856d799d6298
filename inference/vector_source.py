"""Texts that become vectors: their tokens and embeddings, by rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batch import TokenSequences
from data.collate import Collator
from data.collection import content_hash
from data.progress import Progress
from data.store.texts import texts_of
from engines.distributed.collectives import gather_objects
from engines.distributed.process_group import rank, world_size
from engines.memory.allocator import return_freed_memory
from inference.encode import embed, tokenize_part, tokenize_texts
from inference.runner import Runner, row_collator, similarity_of
from inference.score import TOKENIZER_BATCH, run_chunks
from inference.vector_files import block_slices
from tensors.ragged import concatenate, take

Prompts = str | None | Sequence[str | None]  # one for all texts, or one for each; None: the model's own
Write = Callable[[int, Any, TokenSequences], None]  # a block: its number, the embeddings of its texts, and their tokens


@dataclass(frozen=True)
class TextSource:
    """What is encoded, and by what."""

    runner: Runner
    tokenizer: Any
    texts: Mapping[str, str]
    role: str
    prompts: Prompts
    token_budget: int
    dim: int | None

    @cached_property
    def collator(self) -> Collator:
        return row_collator(self.runner.model, self.tokenizer.padding, self.token_budget)

    @cached_property
    def by_row(self) -> Sequence[str]:
        return texts_of(self.texts)

    def prompts_of(self, rows: slice) -> list[str | None]:
        if self.prompts is None or isinstance(self.prompts, str):
            return [self.prompts] * (rows.stop - rows.start)
        return list(self.prompts[rows])

    def dimension(self) -> int:
        """The number of dimensions that are stored. One text is encoded, on all ranks, to know it."""
        own = self.of_rows(np.zeros(1, dtype=np.int64), cut=False).shape[1]
        if self.dim is not None and not 1 <= self.dim <= own:
            raise ValueError(f"dim={self.dim}: the model's embeddings have {own} dimensions, choose 1 to {own}")
        return self.dim or own

    def of_rows(self, rows: np.ndarray, *, cut: bool = True) -> np.ndarray:
        """The vectors of some rows, on all ranks."""
        prompts = [prompt for row in rows.tolist() for prompt in self.prompts_of(slice(row, row + 1))]
        sequences = tokenize_texts(self.tokenizer, [self.by_row[row] for row in rows.tolist()], self.role, prompts)
        return self.comparable(embed(self.runner, sequences, self.tokenizer, self.token_budget), cut=cut)

    def comparable(self, embeddings: Tensor, *, cut: bool = True) -> np.ndarray:
        similarity = similarity_of(self.runner.model)
        return similarity.comparable(embeddings, self.dim if cut else None).float().cpu().numpy()

    def tokens(self, rows: slice) -> TokenSequences:
        """The tokens of a block of rows."""
        texts, prompts = self.by_row[rows], self.prompts_of(rows)
        encoded = (
            tokenize_part(self.tokenizer, texts[part], self.role, prompts[part])
            for part in block_slices(len(texts), TOKENIZER_BATCH)
        )
        return TokenSequences.concatenate([TokenSequences.from_encoding(part) for part in encoded])


def prompts_digest(prompts: Prompts) -> str:
    """A hash of the prompts."""
    return content_hash([prompts if prompts is None or isinstance(prompts, str) else list(prompts)])


def num_cut(sequences: TokenSequences) -> int:
    """How many texts were cut at the model's length."""
    return 0 if sequences.truncated is None else int((sequences.truncated > 0).any(axis=1).sum())


def encode_blocks(source: TextSource, blocks: Sequence[slice], missing: Sequence[int], write: Write) -> None:
    """Encode the rows of the blocks that are missing, each on one rank, which writes it. All ranks run the model
    equally often: some runners count on it. A ValueError or OSError of one rank's `write` is raised on all."""
    rows, problem = blocks[-1].stop, None
    left = sum(blocks[number].stop - blocks[number].start for number in missing)
    with Progress("encoding", rows, "texts", done=rows - left) as progress:
        for start in range(0, len(missing), world_size()):
            number = missing[start + rank()] if start + rank() < len(missing) else None
            sequences = source.tokens(slice(0, 1) if number is None else blocks[number])
            plan = [] if number is None else source.collator.plan(sequences.lengths.tolist())
            rounds = _agree(len(plan), problem)
            chunks = _counted([*plan, *[[]] * (rounds - len(plan))], progress)
            outputs = run_chunks(source.runner, sequences, source.collator, chunks, ["embedding"])
            found = [output["embedding"].cpu() for output in outputs]
            if number is not None:
                order = torch.tensor([index for chunk in plan for index in chunk]).argsort()
                problem = _problem_of(write, number, take(concatenate(found), order), sequences)
            del sequences, found
            return_freed_memory()  # else the heap grows with every block, as its chunks have other shapes
        _agree(0, problem)


def _problem_of(write: Write, number: int, embeddings: Any, sequences: TokenSequences) -> Exception | None:
    try:
        write(number, embeddings, sequences)
    except (ValueError, OSError) as error:
        return error
    return None


def _counted(chunks: list[list[int]], progress: Progress) -> Iterator[list[int]]:
    """Yield chunks, and show the texts of all ranks as done, of which this rank has its share."""
    for chunk in chunks:
        yield chunk
        progress.advance(len(chunk) * world_size())


def _agree(rounds: int, problem: Exception | None) -> int:
    """The most rounds of any rank. The problem of any rank is raised on all."""
    gathered = gather_objects((rounds, problem))
    if errors := [error for _, error in gathered if error is not None]:
        raise errors[0]
    return max(rounds for rounds, _ in gathered)
