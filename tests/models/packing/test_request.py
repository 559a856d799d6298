"""`model.packing`: what it decides, refuses and says; the chunks of a model that packs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from data.batch import TokenSequences
from data.collate import Collator, PackedCollator, plan_chunks
from inference.runner import row_collator
from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig

LENGTHS = [5, 30, 7, 7, 12, 3, 30, 1, 100]


@pytest.fixture(scope="module")
def electra(tmp_path_factory: pytest.TempPathFactory, tiny_models) -> Path:
    from transformers import ElectraConfig, ElectraModel

    folder = tmp_path_factory.mktemp("electra")
    tiny_models.write_tokenizer(folder)
    sizes = {"hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ElectraModel(ElectraConfig(**sizes, intermediate_size=64, vocab_size=200)).save_pretrained(folder)
    return folder


def test_an_architecture_that_cannot_be_packed_is_padded_and_says_so_once(electra: Path, caplog) -> None:
    options = CrossEncoderConfig(str(electra))
    with caplog.at_level(logging.INFO):
        options.check()
        model = options.build(seed=0)
    assert not model.packs_rows
    said = [record.getMessage() for record in caplog.records if "packed" in record.getMessage()]
    assert len(said) == 1
    assert "rows are padded, not packed: electra is not among" in said[0]


def test_packing_that_is_asked_for_and_impossible_is_refused(electra: Path, tiny_bert_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"^model.packing=true: .*: electra is not among .*: leave it out \(null\)"):
        CrossEncoderConfig(str(electra), packing=True).check()
    with pytest.raises(ValueError, match=r"model.packing=true: .*: attention=eager cannot be packed"):
        BiEncoderConfig(str(tiny_bert_dir), packing=True, attention="eager").check()


def test_rows_are_packed_unless_the_option_says_otherwise(tiny_bert_dir: Path) -> None:
    assert BiEncoderConfig(str(tiny_bert_dir)).build(seed=0).packs_rows
    assert CrossEncoderConfig(str(tiny_bert_dir)).build(seed=0).packs_rows
    assert not BiEncoderConfig(str(tiny_bert_dir), packing=False).build(seed=0).packings


def test_the_collator_of_a_model_is_that_of_its_rows(tiny_bert_dir: Path) -> None:
    for packing, kind in ((False, Collator), (True, PackedCollator)):
        model = BiEncoderConfig(str(tiny_bert_dir), packing=packing).build(seed=0)
        assert type(row_collator(model, model.tokenizer.padding, 64)) is kind
        model.pad_rows()
        assert type(row_collator(model, model.tokenizer.padding, 64)) is Collator


def test_a_packed_chunk_holds_as_many_tokens_as_the_budget() -> None:
    collator = PackedCollator({}, token_budget=60)
    chunks = collator.plan(LENGTHS)
    assert chunks == [[8], [1], [6], [4, 2, 3, 0, 5, 7]]
    assert [collator.cost(LENGTHS, chunk) for chunk in chunks] == [100, 30, 30, 35]
    assert collator.cost(LENGTHS, []) == 0
    assert max(len(chunk) for chunk in plan_chunks(LENGTHS, 60)) < max(map(len, chunks))


def test_a_packed_chunk_mixes_no_long_and_short_rows_without_limit() -> None:
    lengths = [50, *[1] * 100]
    chunks = PackedCollator({}, token_budget=60).plan(lengths)
    assert [len(chunk) for chunk in chunks] == [1, 34, 34, 32]
    assert sorted(index for chunk in chunks for index in chunk) == list(range(101))


def test_its_tensors_are_padded_as_ever() -> None:
    sequences = TokenSequences.from_encoding({"input_ids": [[1] * length for length in LENGTHS]})
    packed, padded = (kind({}, 60).collate(sequences, [1, 4]) for kind in (PackedCollator, Collator))
    assert packed.keys() == padded.keys()
    assert all(packed[name].equal(padded[name]) for name in padded)
