import itertools
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from data.batch import ListExample
from data.collection import Collection, Split
from data.sampling.epoch_plan import EpochPlan
from data.sampling.list_options import ListOptions
from data.sampling.loader import ListLoader
from data.sampling.training_lists import TrainingLists

NUM_QUERIES = 11


class Tokenizer:
    """Token ids that tell whether this process's tokenizers may use threads."""

    def encode_list(self, query: str, documents: list[str]) -> Mapping[str, list[list[int]]]:
        threads = 0 if os.environ.get("TOKENIZERS_PARALLELISM") == "false" else 1
        return {"input_ids": [[threads, *map(ord, query + document)] for document in documents]}


@pytest.fixture
def lists() -> TrainingLists:
    documents = {f"d{i}": f"text {i}" for i in range(50)}
    queries = {f"q{i}": f"query {i}" for i in range(NUM_QUERIES)}
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(NUM_QUERIES)}
    split = Split(queries, qrels, {query: [(f"d{i}", 1.0) for i in range(20)] for query in queries})
    collection = Collection("tiny", documents, {"train": split}, "hash")
    return TrainingLists(collection, Tokenizer(), list_size=4, seed=0, options=ListOptions())


def loader(lists: TrainingLists, rank: int = 0, world_size: int = 1, workers: int = 0, seed: int = 0) -> ListLoader:
    plan = EpochPlan(len(lists), batch_size=4, seed=seed, source="tiny")
    return ListLoader(lists, plan, rank=rank, world_size=world_size, workers=workers)


def take(loader: ListLoader, first: int, count: int) -> list[list[tuple[str, list[str]]]]:
    batches = loader.iterate(first)
    found = [[(e.query_id, e.document_ids) for e in batch] for batch in itertools.islice(batches, count)]
    batches.close()
    return found


def test_an_epoch_meets_each_query_at_most_once(lists: TrainingLists):
    first = loader(lists)
    assert first.plan.batches_per_epoch == 2
    batches = take(first, 0, 6)
    epochs = [[query for batch in batches[i : i + 2] for query, _ in batch] for i in (0, 2, 4)]
    assert all(len(epoch) == len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3  # another order, other queries left out
    assert len({frozenset(epoch) for epoch in epochs}) > 1
    assert take(loader(lists, seed=1), 0, 6) != batches


def test_ranks_share_the_batches_of_one_process(lists: TrainingLists):
    whole = take(loader(lists), 0, 5)
    shares = [take(loader(lists, rank, 3), 0, 5) for rank in range(3)]
    for number, batch in enumerate(whole):
        assert [shares[i % 3][number][i // 3] for i in range(4)] == batch
    assert take(loader(lists, 4, 5), 0, 2) == [[], []]  # more ranks than lists


def test_resuming_gives_the_same_batches(lists: TrainingLists):
    assert take(loader(lists), 3, 4) == take(loader(lists), 0, 7)[3:]


def test_workers_give_the_same_batches_and_stop(lists: TrainingLists, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    state = torch.random.get_rng_state()
    batches = loader(lists, workers=2).iterate(1)
    found: list[list[ListExample]] = list(itertools.islice(batches, 5))
    assert [[(e.query_id, e.document_ids) for e in batch] for batch in found] == take(loader(lists), 1, 5)
    assert {int(e.sequences.features["input_ids"][0]) for batch in found for e in batch} == {0}
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    assert torch.equal(torch.random.get_rng_state(), state)
    assert multiprocessing.active_children()
    batches.close()
    assert not multiprocessing.active_children()


HELD_AT_EXIT = """
from data.sampling.loader import ListLoader

class Numbers:
    def __getitem__(self, key): return key

class Plan:
    def batch(self, number): return [number]

batches = ListLoader(Numbers(), Plan(), rank=0, world_size=1, workers=1).iterate(0)
print(next(batches))
__import__("sys").batches = batches  # nobody closes it
"""


def test_a_process_ends_with_a_worker_that_nobody_has_stopped():
    done = subprocess.run([sys.executable, "-c", HELD_AT_EXIT], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[0]\n"), done.stderr


KILLED = """
import multiprocessing, time
from data.sampling.loader import ListLoader

class Large:
    def __getitem__(self, key): return bytes(1 << 20)  # more than a pipe holds: the worker waits to hand it on

class Plan:
    def batch(self, number): return [number]

batches = ListLoader(Large(), Plan(), rank=0, world_size=1, workers=1).iterate(0)
next(batches)
print(multiprocessing.active_children()[0].pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's doing")
def test_a_worker_dies_with_its_killed_rank():
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout is not None
        worker = Path(f"/proc/{rank.stdout.readline().strip()}/stat")
        rank.kill()
    deadline = time.monotonic() + 20
    while is_alive(worker):
        assert time.monotonic() < deadline, "it waits for ever"
        time.sleep(0.05)


def is_alive(process: Path) -> bool:
    try:
        return process.read_text().rpartition(")")[2].split()[0] != "Z"  # nobody may have taken its exit status
    except OSError:
        return False


def test_bad_options(lists: TrainingLists):
    with pytest.raises(
        ValueError, match=r"trainer.batch_size=12 must be between 1 and 11, the number of training queries"
    ):
        EpochPlan(len(lists), batch_size=12, seed=0, source="tiny")
    with pytest.raises(ValueError, match=r"trainer.workers=-1 must be at least 0"):
        loader(lists, workers=-1)
