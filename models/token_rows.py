"""Rows of token ids, put together from the tokens of single texts exactly as the tokenizer itself would make them.

A tokenizer reads the texts of a row one by one, cuts them, and puts its own tokens around them. So a text that several
rows have is tokenised once, and its tokens can be kept (`TokenMemory`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from transformers import BatchEncoding, PreTrainedTokenizerBase

Counted = tuple[list[int], int]  # the first tokens of a text, and how many it has
Tokenize = Callable[[list[str]], list[Counted]]
TokenMemory = Callable[[Tokenize, list[str]], list[Counted]]  # of different texts; it tokenises those not known

PROBE_LENGTH, PROBE_ROOM = 64, 6  # tokens of a row, and those for its texts, with which frames are tried


@dataclass(frozen=True)
class RowFrame:
    """What a tokenizer puts around one text or two.

    `special`: its own tokens before each text, and after the last; `special_types` are their token types, `text_types`
    those of the texts.
    """

    special: tuple[tuple[int, ...], ...]
    special_types: tuple[tuple[int, ...], ...]
    text_types: tuple[int, ...]
    has_types: bool

    @property
    def num_special(self) -> int:
        return sum(map(len, self.special))

    def rows(self, *texts: Sequence[Counted], max_length: int) -> dict[str, list[list[int]]]:
        """The rows of texts [rows], or of first and second texts, cut to `max_length` tokens: "input_ids",
        "token_type_ids" if the model has them, and "truncated", the tokens cut from first and second."""
        room = max_length - self.num_special
        rows: dict[str, list[list[int]]] = {"input_ids": [], "token_type_ids": [], "truncated": []}
        for own in zip(*texts, strict=True):
            totals = [total for _, total in own]
            sizes = kept_tokens(totals, room)
            parts = [ids[:size] for (ids, _), size in zip(own, sizes, strict=True)]
            types = [[each] * size for each, size in zip(self.text_types, sizes, strict=True)]
            rows["input_ids"].append(_between(self.special, parts))
            rows["token_type_ids"].append(_between(self.special_types, types))
            lost = [total - size for total, size in zip(totals, sizes, strict=True)]
            rows["truncated"].append(lost if len(lost) == 2 else [*lost, 0])
        if not self.has_types:
            del rows["token_type_ids"]
        return rows


def _between(around: Sequence[Sequence[int]], parts: Sequence[Sequence[int]]) -> list[int]:
    row = list(around[0])
    for part, after in zip(parts, around[1:], strict=True):
        row += part
        row += after
    return row


def kept_tokens(totals: Sequence[int], room: int) -> list[int]:
    """The tokens that are kept of one text, or of two, if both together may have `room`: of two the longer one is cut
    first, by the rule of the library tokenizers."""
    if sum(totals) <= room:
        return list(totals)
    if len(totals) == 1:
        return [room]
    shorter = min(totals)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    return [shorter, longer] if totals[0] <= totals[1] else [longer, shorter]


@lru_cache(maxsize=32)
def row_frame(tokenizer: PreTrainedTokenizerBase, num_texts: int) -> RowFrame | None:
    """What `tokenizer` puts around `num_texts` texts (1 or 2); None if its rows are not made so: if it cuts texts at
    their beginning, for one. The answer is tried on texts of several lengths."""
    encoded = encode_whole(tokenizer, [["a"]] * num_texts, PROBE_LENGTH)
    sides, types = encoded.sequence_ids(0), encoded.get("token_type_ids")
    own_types = types[0] if types else [0] * len(sides)
    special: list[list[int]] = [[] for _ in range(num_texts + 1)]
    special_types: list[list[int]] = [[] for _ in range(num_texts + 1)]
    text_types: dict[int, int] = {}
    for token, kind, side in zip(encoded["input_ids"][0], own_types, sides, strict=True):
        if side is None:
            special[len(text_types)].append(token)
            special_types[len(text_types)].append(kind)
        else:
            text_types[side] = kind
    if list(text_types) != list(range(num_texts)):
        return None
    frame = RowFrame(
        tuple(map(tuple, special)), tuple(map(tuple, special_types)), tuple(text_types.values()), types is not None
    )
    rooms = (PROBE_ROOM, PROBE_ROOM + 1)
    return frame if all(_is_right(frame, tokenizer, frame.num_special + room) for room in rooms) else None


def _is_right(frame: RowFrame, tokenizer: PreTrainedTokenizerBase, max_length: int) -> bool:
    """Whether the rows of a frame are those of its tokenizer, for texts that are and are not cut."""
    texts = [" ".join("abcdefghijkl"[:size]) for size in (0, 1, 3, 4, 6, 7, 12)]
    counted = count_tokens(tokenizer, texts)
    sides = list(zip(*product(range(len(texts)), repeat=len(frame.text_types)), strict=True))
    rows = frame.rows(*([counted[i] for i in side] for side in sides), max_length=max_length)
    encoded = encode_whole(tokenizer, [[texts[i] for i in side] for side in sides], max_length)
    return all(rows[name] == values for name, values in encoded.data.items()) and len(rows) == len(encoded.data) + 1


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Counted]:
    """The tokens of each text, without special tokens and a limit."""
    if not texts:
        return []
    rows = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False).input_ids
    return [(row, len(row)) for row in rows]


def encode_whole(tokenizer: PreTrainedTokenizerBase, texts: Sequence[list[str]], max_length: int) -> BatchEncoding:
    """The rows that the tokenizer makes itself of texts, or of first and second texts."""
    return tokenizer(
        *texts,
        truncation="longest_first",
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
    )
