"""A share of the training queries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data.sampling.share import with_training_share
from launch.cli.compose import load
from recipes.preparation import prepare


@pytest.fixture(scope="module")
def collection(tiny_beir_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    cache = tmp_path_factory.mktemp("cache")
    return load(["data=beir", f"data.path={tiny_beir_dir}", f"data.cache_dir={cache}"]).data.build()


def queries(collection, split: str = "train") -> list[str]:
    return list(collection.splits[split].queries)


def test_a_share_is_keyed_by_seed_and_part_of_a_larger_one(collection):
    half, quarter = (with_training_share(collection, share, 1) for share in (0.5, 0.25))
    assert (len(queries(half)), len(queries(quarter))) == (12, 6)
    assert set(queries(quarter)) < set(queries(half))
    assert set(queries(half)) != set(queries(with_training_share(collection, 0.5, 2)))
    assert queries(half) == [query for query in queries(collection) if query in set(queries(half))], "their order stays"
    assert half.fingerprint != collection.fingerprint == half.whole_fingerprint == collection.whole_fingerprint
    assert half.splits["train"].candidates.keys() == half.splits["train"].queries.keys()


def test_dev_test_and_documents_stay_and_one_query_is_left_at_least(collection):
    least = with_training_share(collection, 1e-6, 1)
    assert len(queries(least)) == 1
    assert least.documents is collection.documents
    assert [queries(least, split) for split in ("dev", "test")] == [queries(collection, s) for s in ("dev", "test")]
    assert with_training_share(collection, 1.0, 1) is collection


def test_a_run_trains_on_its_share(tiny_overrides: Callable[[Path], list[str]], tmp_path: Path):
    prepared = prepare(load([*tiny_overrides(tmp_path), "train_share=0.5"]))
    assert [len(data.splits["train"].queries) for data in prepared.training] == [12]
    with pytest.raises(ValueError, match=r"train_share=0\.0 must be above 0 and at most 1"):
        load([*tiny_overrides(tmp_path), "train_share=0"])
