"""Cut rows into chunks by padded tokens: the unit of one forward pass, of memory and of dropout's random key."""

from collections.abc import Sequence


def plan_chunks(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Row indices per chunk, longest rows first, so that rows times the longest row stays within `token_budget`.

    A row longer than the budget is a chunk of its own. The plan depends on the lengths alone (ties by index), not on
    the number of ranks, and rows of like length share a chunk, so that little is padded.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
    chunks: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if chunks and (len(chunks[-1]) + 1) * lengths[chunks[-1][0]] <= token_budget:
            chunks[-1].append(row)
        else:
            chunks.append([row])
    return chunks


def chunks_of_rank(chunks: Sequence[list[int]], rank: int, world_size: int) -> list[list[int]]:
    """The chunks of one rank, `chunks[rank::world_size]`, padded with empty chunks to the same number on every rank."""
    own = list(chunks[rank::world_size])
    rounds = -(-len(chunks) // world_size)
    return own + [[]] * (rounds - len(own))
