import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data.batch import ListBatch
from data.collection import JUDGED_LISTS
from data.formats.beir import BEIRConfig
from data.sampling.list_options import ListOptions
from data.sampling.mixture import MixtureConfig, make_loader
from losses.info_nce import InfoNCE


class Tokenizer:
    def encode_list(self, query: str, documents: list[str], query_prompt: str = "") -> dict[str, list[list[int]]]:
        return {"input_ids": [[len(query_prompt), *map(ord, document)] for document in documents]}


@pytest.fixture
def sources(write_beir: Callable[..., Path], tmp_path: Path) -> dict[str, BEIRConfig]:
    """ "many" has 12 training queries and lists of candidates alone, "few" has 7, a prompt, and held-out queries."""
    train = {f"q{i}": {f"d{i}": 1} for i in range(12)}
    few = {"train": {f"q{i}": {f"d{i}": 1} for i in range(8)}, "test": {"q15": {"d15": 1}}}
    cache = str(tmp_path)
    hard = ListOptions(random_fraction=0.0)
    many = BEIRConfig(path=str(write_beir("many", train=train)), cache_dir=cache, lists=hard, dev_fraction=0.0)
    return {"many": many, "few": BEIRConfig(path=str(write_beir("few", **few)), cache_dir=cache, query_prompt="ask: ")}


def test_each_source_keeps_its_lists_and_prompts(sources: dict[str, BEIRConfig]):
    data = MixtureConfig(sources=sources).build()
    assert (data.name, set(data.splits)) == ("many + few", {"dev", "test"})
    assert data.split("test").queries.keys() == {"q15"}
    assert data.available_with(list_size=4) == JUDGED_LISTS | {"unit_labels"}
    assert data.available_with(list_size=1) == {"positive"}
    loader = make_loader(
        data, Tokenizer(), list_size=3, batch_size=2, seed=0, rank=0, world_size=1, workers=0, in_batch_negatives=True
    )
    batches = [ListBatch(n, examples) for n, examples in enumerate(itertools.islice(loader.iterate(0), 20))]
    assert {batch.source for batch in batches} == {"many", "few"}
    for batch in batches:
        assert {example.source for example in batch.examples} == {batch.source}
        assert {int(row) for e in batch.examples for row in e.sequences.features["input_ids"][:1]} == {
            0 if batch.source == "many" else len("ask: ")
        }
        assert batch.num_duplicates == 0
    again = itertools.islice(loader.iterate(13), 2)
    assert [[e.document_ids for e in batch] for batch in again] == [
        [e.document_ids for e in batch.examples] for batch in batches[13:15]
    ]


def test_shares_by_weight_or_size(sources: dict[str, BEIRConfig]):
    assert MixtureConfig(sources=sources, weights={"few": 5, "many": 1}).build().shares == {"few": 5, "many": 1}
    assert MixtureConfig(sources=sources).build().shares == {"many": 11, "few": 7}  # dev of few leaves both
    shares = MixtureConfig(sources=sources, temperature=2.0).build().shares
    assert shares["many"] / shares["few"] == pytest.approx((11 / 7) ** 0.5)


@pytest.fixture
def tested(write_beir: Callable[..., Path], tmp_path: Path) -> BEIRConfig:
    """A data set of which only the test queries are used."""
    judged = {"train": {"q1": {"d1": 1}}, "test": {"q15": {"d15": 1}, "q3": {"d3": 1}}}
    return BEIRConfig(path=str(write_beir("tested", **judged)), cache_dir=str(tmp_path), dev_fraction=0.0)


def test_nothing_is_trained_on_of_what_is_held_out(sources: dict[str, BEIRConfig], tested: BEIRConfig):
    many, weights = {"many": sources["many"]}, {"few": 1, "many": 3}
    data = MixtureConfig(sources=many, held_out=tested).build()
    assert (data.name, data.shares, data.held_out_alone) == ("many", {"many": 11}, True), "q3 is a test query"
    assert data.split("test").queries.keys() == {"q15", "q3"}
    assert MixtureConfig(sources=sources, weights=weights, held_out=tested).build().shares == weights


def test_what_is_held_out_is_part_of_the_fingerprint_and_of_what_is_left_out(
    sources: dict[str, BEIRConfig], tested: BEIRConfig, write_beir: Callable[..., Path]
):
    other = replace(tested, path=str(write_beir("other", test={"q15": {"d15": 1}})))
    many = {"many": sources["many"]}
    first, second, third = (MixtureConfig(sources=many, held_out=each).build() for each in (tested, other, tested))
    assert first.fingerprint != second.fingerprint
    assert first.whole_fingerprint != second.whole_fingerprint
    assert (first.fingerprint, first.whole_fingerprint) == (third.fingerprint, third.whole_fingerprint)
    row = {"reason": "no text"}
    assert replace(first, evaluated=replace(first.evaluated, skipped=[row])).skipped == [row]
    made = replace(first, evaluated=replace(first.evaluated, made={"pairs": "title"})).made
    assert made == {"held_out": {"pairs": "title"}}


def test_options_of_what_is_held_out(sources: dict[str, BEIRConfig], tested: BEIRConfig):
    mixture = MixtureConfig(sources=sources, held_out=replace(tested, query_prompt="find: "))
    assert mixture.prompt_options()["held_out.query_prompt"] == "find: "
    changed = mixture.map_sources(lambda source: replace(source, cache_dir="elsewhere"))
    assert changed.held_out.cache_dir == changed.sources["few"].cache_dir == "elsewhere"
    with pytest.raises(ValueError, match=r"data\.held_out has no _target_ of a data set"):
        MixtureConfig(sources=sources, held_out={"path": "x"})
    with pytest.raises(ValueError, match=r"data\.evaluate_on=few has no effect beside data\.held_out"):
        MixtureConfig(sources=sources, held_out=tested, evaluate_on="few")
    own_loss = replace(tested, loss=InfoNCE())
    with pytest.raises(ValueError, match=r"data\.held_out\.loss has no effect"):
        MixtureConfig(sources=sources, held_out=own_loss)


def test_the_evaluated_source_can_be_chosen(sources: dict[str, BEIRConfig]):
    data = MixtureConfig(sources=sources, evaluate_on="many").build()
    assert not data.splits
    with pytest.raises(ValueError, match=r"data many has no test split \(it has: train\)"):
        data.split("test")
    first = MixtureConfig(sources=sources).build().fingerprint
    assert MixtureConfig(sources=sources, temperature=2.0).build().fingerprint != first


def test_mistakes_name_the_source(sources: dict[str, BEIRConfig]):
    broken = {**sources, "many": BEIRConfig(path="nowhere")}
    with pytest.raises(FileNotFoundError, match=r"^data.sources.many.path=nowhere: no such folder"):
        MixtureConfig(sources=broken).build()
    for options, message in (
        ({"sources": {"a": {"path": "x"}}}, "data.sources.a has no _target_ of a data set"),
        ({"weights": {"few": 1}}, "data.weights names few, expected a weight for each of data.sources: many, few"),
        ({"weights": {"few": 0, "many": 1}}, "data.weights={'few': 0, 'many': 1} must be above 0 and finite"),
        ({"temperature": 0.0}, "data.temperature=0.0 must be above 0"),
        ({"temperature": 2.0, "weights": {"few": 1, "many": 1}}, "data.temperature=2.0 has no effect beside"),
        ({"evaluate_on": "fwe"}, "data.evaluate_on=fwe is none of data.sources: many, few"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            MixtureConfig(**{"sources": sources, **options})
    with pytest.raises(ValueError, match=r"^data.sources is empty: name data sets, such as \+data@data.sources.a=beir"):
        MixtureConfig().build()
