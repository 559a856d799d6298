"""Replace lists that teach GRPO nothing: those whose sampled actions all have the same reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.batch import ListBatch, ListExample
from data.collate import Collator
from data.hashing import stable_hash
from data.sampling.loader import ListLoader
from engines.distributed.collectives import all_agree
from engines.distributed.process_group import rank, world_size
from engines.protocol import Engine
from losses.contracts import LossInputs
from trainers.batches import gather_batch
from trainers.loss_inputs import inputs_without_gradient
from trainers.sharded.share import Sharing


@dataclass(frozen=True)
class Draw:
    """The key of a fresh list: its place in the batch, its query, and the number of the attempt."""

    place: int
    query_id: str
    attempt: int


@dataclass(frozen=True)
class Replaced:
    """What became of a batch. `draws`: the lists that have replaced solved ones."""

    batch: int
    num_solved: int
    draws: Sequence[Draw]


class SolvedLists:
    """Draws fresh lists in the place of solved ones, up to `attempts` for each.

    The first is another list of the query, without random negatives. The others are lists of other queries of its data
    set. A list is kept if its rewards differ, under the actions that the step itself will sample; if none does, the
    solved list stays. All draws are keyed by (seed, batch, place, attempt).
    """

    def __init__(self, engine: Engine, collator: Collator, loader: ListLoader, *, attempts: int, seed: int):
        self.engine, self.collator = engine, collator
        self.sources = loader.lists.sources
        self.attempts, self.seed, self.sharing = attempts, seed, Sharing()

    def replace(self, batch: ListBatch, loss: Any) -> tuple[ListBatch, Replaced]:
        """Replace the solved lists of a batch. Call it on all ranks; all get the same."""
        waiting = solved = self._equal_rewards(batch, range(len(batch.examples)), loss) or []
        taken = {example.query_id for example in batch.examples}
        found: dict[Draw, ListExample] = {}
        for attempt in range(1, self.attempts + 1):
            draws = [draw for place in waiting if (draw := self._draw(batch, place, attempt, taken)) is not None]
            if not draws:
                break
            fresh = self._make(batch, draws)
            equal = self._equal_rewards(fresh, [draw.place for draw in draws], loss)
            if equal is None:
                break
            made = enumerate(zip(draws, fresh.examples, strict=True))
            found |= {draw: example for index, (draw, example) in made if index not in equal}
            kept = {draw.place for draw in found}
            waiting = [place for place in waiting if place not in kept]
        return _with_lists(batch, found), Replaced(batch.number, len(solved), list(found))

    def repeat(self, batch: ListBatch, replaced: Replaced) -> ListBatch:
        """Replace the same lists as an earlier process did."""
        made = self._make(batch, replaced.draws).examples if replaced.draws else []
        return _with_lists(batch, dict(zip(replaced.draws, made, strict=True)))

    def _draw(self, batch: ListBatch, place: int, attempt: int, taken: set[str]) -> Draw | None:
        """The key of the next fresh list for that place; None if all queries are `taken`, to which it is added."""
        example = batch.examples[place]
        if attempt == 1:
            return Draw(place, example.query_id, attempt)
        names = self.sources[example.source].query_ids
        first = stable_hash("other query", self.seed, batch.number, place, attempt) % len(names)
        places = ((first + offset) % len(names) for offset in range(len(names)))
        query_id = next((names[index] for index in places if names[index] not in taken), None)
        if query_id is None:
            return None
        taken.add(query_id)
        return Draw(place, query_id, attempt)

    def _make(self, batch: ListBatch, draws: Sequence[Draw]) -> ListBatch:
        """Make the lists of these draws, a share on each rank."""
        share = []
        for draw in draws[rank() :: world_size()]:
            example = batch.examples[draw.place]
            share.append(self.sources[example.source].make(example.epoch, draw.query_id, draw.attempt))
        return gather_batch(batch.number, share)

    def _equal_rewards(self, batch: ListBatch, places: Sequence[int], loss: Any) -> list[int] | None:
        """The lists of `batch` whose rewards are all equal under the actions that a step samples at these `places`.
        None if a score is not finite: of the step's own lists, the step says so."""
        sizes, share = batch.sequences_per_list, self.sharing.of(batch)
        lists = inputs_without_gradient(self.engine, batch.sequences, sizes, self.collator, batch, share)
        policy = old_policy(loss, lists)
        if not all_agree(all(bool(value[lists.mask].isfinite().all()) for value in policy.values())):
            return None
        own = [places[number] if number < len(places) else 0 for number in share.own(len(places)).tolist()]
        actions = loss.sample(mask=lists.mask, seeds=action_seeds(self.seed, batch.number, own), **policy)
        equal = share.gather(loss.equal_rewards(actions, lists.labels, lists.mask))
        return equal.nonzero().flatten().tolist()


def action_seeds(seed: int, batch: int, places: Sequence[int]) -> list[int]:
    """The seeds of the actions that are sampled for the lists at these places of a batch."""
    return [stable_hash("rankings", seed, batch, place) for place in places]


def old_policy(loss: Any, lists: LossInputs) -> dict[str, Tensor]:
    """What the policy of the current weights is made of: the scores, and for some losses further inputs."""
    values = {"scores": lists.list_scores(), **{name: getattr(lists, name) for name in loss.policy_inputs}}
    return {name: torch.as_tensor(value).detach() for name, value in values.items()}


def _with_lists(batch: ListBatch, found: dict[Draw, ListExample]) -> ListBatch:
    """The batch with these lists at their places; the same object if there are none."""
    if not found:
        return batch
    fresh = {draw.place: example for draw, example in found.items()}
    return ListBatch(batch.number, [fresh.get(place, example) for place, example in enumerate(batch.examples)])
