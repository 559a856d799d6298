"""Packed rows have the outputs and gradients of padded ones: every architecture with every kind of model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.batch import TokenSequences
from data.collate import pad
from models.bi_encoder import BiEncoderConfig
from models.capabilities import RankingModel
from models.cross_encoder import CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from models.lora import LoRAConfig
from models.packing.lengths import lengths_are_known
from models.packing.rows import PACKABLE, pack_rows
from models.pooling import POOLINGS

# Texts of different and of equal length; some are longer than every sliding window.
QUERIES = ["what is the rank of a pear?", "red", "apple", "what is the rank of a pear?", ""]
DOCUMENTS = [
    "python returns the value of a list in the train to the document " * 3,
    "a green apple is blue",
    "a",
    "the blue pear",
    "",
]
CAUSAL = ("llama", "mistral", "qwen2", "qwen3")
DECODERS = ("llama", "qwen3")  # of the LLM rerankers
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lora": {"lora": LoRAConfig(r=4)},
    "checkpointing": {"gradient_checkpointing": True},
    "lora and checkpointing": {"lora": LoRAConfig(r=4), "gradient_checkpointing": True},
}
KINDS = (*POOLINGS, "cross-encoder", "llm-reranker")
ALL = [
    (architecture, kind, variant)
    for architecture, kind, variant in product(sorted(PACKABLE), KINDS, VARIANTS)
    if (kind != "llm-reranker" or architecture in DECODERS)
    and not (architecture == "mpnet" and "checkpointing" in variant)  # it has none
]
# Every architecture with a pooling and with a score head, every pooling, both rerankers, every variant.
SOME = [
    *(
        (architecture, (*POOLINGS,)[index % len(POOLINGS)], (*VARIANTS,)[index % 4])
        for index, architecture in enumerate(sorted(PACKABLE))
    ),
    *((architecture, "cross-encoder", (*VARIANTS,)[index % 2]) for index, architecture in enumerate(sorted(PACKABLE))),
    ("llama", "llm-reranker", "lora and checkpointing"),
    ("qwen3", "llm-reranker", "plain"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_models) -> Callable[[str, bool], Path]:
    """The folder of an architecture, of a whole language model or of a model without a head."""

    @cache
    def folder(architecture: str, is_language_model: bool) -> Path:
        place = tmp_path_factory.mktemp(architecture)
        if is_language_model:
            return tiny_models.write_tiny_causal(place, architecture=architecture)
        return tiny_models.write_tiny(place, architecture)

    return folder


def build(folders: Callable[[str, bool], Path], architecture: str, kind: str, **options: Any) -> RankingModel:
    if kind == "llm-reranker":
        path = str(folders(architecture, True))
        return LLMRerankerConfig(path, template="qwen3", packing=False, **options).build(seed=0)
    path = str(folders(architecture, False))
    options |= {} if architecture in CAUSAL else {"dropout": 0.0}
    if kind == "cross-encoder":
        return CrossEncoderConfig(path, packing=False, **options).build(seed=0)
    return BiEncoderConfig(path, pooling=kind, similarity="dot", packing=False, **options).build(seed=0)


def packed(model: RankingModel) -> RankingModel:
    """A copy whose rows are packed."""
    model = copy.deepcopy(model)
    backbone: Any = getattr(model, "backbone", None) or model.tower.backbone
    model.packings = [pack_rows(getattr(backbone, "get_base_model", lambda: backbone)())]
    return model


def rows_of(model: RankingModel) -> dict[str, Tensor]:
    tokenizer: Any = model.tokenizer
    texts = (QUERIES, DOCUMENTS) if tokenizer.layout == "pairs" else (DOCUMENTS,)
    sequences = TokenSequences.from_encoding(tokenizer(*texts))
    return pad(sequences, range(len(sequences)), tokenizer.padding)


def outputs_and_gradients(model: RankingModel, features: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The values of all rows, and the gradient of their weighted sum; a bi-encoder also gives those of its layers."""
    outputs = {name: value for name, value in model(**features).items() if name not in ("scale", "bias")}
    values = torch.cat([value.flatten(1) if value.ndim > 1 else value.unsqueeze(1) for value in outputs.values()], 1)
    weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    (values * weights).sum().backward()
    return values.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_packed_equals_padded(model: RankingModel, features: dict[str, Tensor]) -> None:
    model.prepare(wanted_outputs=model.outputs - {"score", "embedding"})
    other = packed(model)
    assert other.packs_rows
    assert not model.packs_rows
    values, gradients = outputs_and_gradients(model, features)
    found, found_gradients = outputs_and_gradients(other, features)
    torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-5 * values.abs().max().item())
    assert found_gradients.keys() == gradients.keys()
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, rtol=0, atol=1e-5 * largest, msg=name)
    assert {*other.state_dict()} == {*model.state_dict()}


@pytest.mark.parametrize(("architecture", "kind", "variant"), SOME)
def test_packed_rows_equal_padded_ones(architecture: str, kind: str, variant: str, folders) -> None:
    model = build(folders, architecture, kind, **VARIANTS[variant])
    assert_packed_equals_padded(model, rows_of(model))


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "kind", "variant"), sorted({*ALL} - {*SOME}))
def test_packed_rows_equal_padded_ones_in_every_combination(
    architecture: str, kind: str, variant: str, folders
) -> None:
    model = build(folders, architecture, kind, **VARIANTS[variant])
    assert_packed_equals_padded(model, rows_of(model))


def test_every_architecture_that_is_packed_is_tested(tiny_models) -> None:
    assert {*tiny_models.ARCHITECTURES} == PACKABLE


@pytest.mark.parametrize("architecture", ["bert", "roberta", "mpnet", "modernbert", "mistral"])
@pytest.mark.parametrize("lengths", [(7,), (1,), (6, 6, 6), (1, 1, 20, 1), (20, 20, 7, 7, 7, 1)], ids=str)
def test_rows_of_any_lengths(architecture: str, lengths: tuple[int, ...], folders) -> None:
    model = build(folders, architecture, "mean")
    ids = torch.randint(5, 60, (len(lengths), max(lengths)))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    ids = torch.where(mask.bool(), ids, model.tokenizer.padding["input_ids"])
    assert_packed_equals_padded(model, {"input_ids": ids, "attention_mask": mask})


def test_token_types_go_with_their_tokens(folders) -> None:
    model = build(folders, "bert", "cross-encoder")
    features = rows_of(model)
    other = packed(model)
    swapped = features | {"token_type_ids": (1 - features["token_type_ids"]) * features["attention_mask"]}
    with torch.no_grad():
        score, of_swapped = other(**features)["score"], other(**swapped)["score"]
        torch.testing.assert_close(of_swapped, model(**swapped)["score"])
    assert (score - of_swapped).abs().min() > 1e-3


def test_a_decoder_that_attends_to_both_sides(tmp_path: Path, tiny_models) -> None:
    folder = tiny_models.write_tiny(tmp_path, "qwen3", is_causal=False)
    model = build(lambda *_: folder, "qwen3", "mean")
    features = rows_of(model)
    assert_packed_equals_padded(model, features)
    causal = build(lambda *_: folder, "qwen3", "mean")
    causal.tower.backbone.config.is_causal = True
    assert (causal(**features)["embedding"] - model(**features)["embedding"]).abs().max() > 1e-2


def test_padding_on_the_left(folders) -> None:
    model = build(folders, "qwen3", "lasttoken")
    features = {name: value.flip(1) for name, value in rows_of(model).items()}
    assert_packed_equals_padded(model, features)


def test_dropout_is_drawn_with_the_probability_of_padded_rows(folders) -> None:
    path = str(folders("bert", False))
    packing, padded = (
        BiEncoderConfig(path, similarity="dot", packing=packs, dropout=0.1).build(seed=0) for packs in (True, False)
    )
    features = rows_of(packing)
    with torch.no_grad():
        torch.manual_seed(0)
        first, second = packing(**features)["embedding"], packing(**features)["embedding"]
        torch.manual_seed(0)
        assert packing(**features)["embedding"].equal(first)
        assert not first.equal(second)
        draws = [torch.stack([model(**features)["embedding"] for _ in range(200)]) for model in (packing, padded)]
    (mean, expected), (deviation, same) = ([draw.mean(0) for draw in draws], [draw.std(0) for draw in draws])
    assert ((mean - expected) / same).square().mean() < 4 / 200  # 2 / 200 is expected
    assert (deviation / same).mean().item() == pytest.approx(1, abs=0.05)


def test_a_copy_of_a_packed_model_packs_by_itself(folders) -> None:
    model = packed(build(folders, "mpnet", "mean"))
    features = rows_of(model)
    twin = copy.deepcopy(model)
    assert twin.packings[0] is not model.packings[0]
    twin.pad_rows()
    assert model.packs_rows
    assert not twin.packs_rows
    torch.testing.assert_close(twin(**features)["embedding"], model(**features)["embedding"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert twin(**features)["embedding"].abs().min() > 0


def test_lengths_that_are_known_are_not_read(folders, monkeypatch: pytest.MonkeyPatch) -> None:
    model = packed(build(folders, "bert", "mean"))
    features = rows_of(model)
    lengths = features["attention_mask"].sum(1).tolist()
    expected = model(**features)["embedding"]
    with lengths_are_known([1, 2]):  # of other rows
        assert model(**features)["embedding"].equal(expected)
    monkeypatch.setattr(Tensor, "sum", lambda *_: pytest.fail("the mask was read"))
    with lengths_are_known(lengths):
        model.tower.backbone(**features)


def test_separate_towers_pack_each_their_rows(folders) -> None:
    options = BiEncoderConfig(str(folders("bert", False)), separate_towers=True, dropout=0.0)
    padded, model = (
        BiEncoderConfig(options.name_or_path, separate_towers=True, dropout=0.0, packing=packing).build(seed=0)
        for packing in (False, True)
    )
    assert len(model.packings) == 2
    features = rows_of(model)
    features["is_query"] = features["attention_mask"] * torch.tensor([1, 0, 0, 1, 0]).unsqueeze(1)
    expected = outputs_and_gradients(padded, features)
    found = outputs_and_gradients(model, features)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=0)
    assert all((found[1][name] - value).abs().max() < 1e-5 for name, value in expected[1].items())


def test_an_export_of_a_packed_model_is_that_of_a_padded_one(folders, tmp_path: Path) -> None:
    options = CrossEncoderConfig(str(folders("bert", False)), packing=True)
    model = options.build(seed=0)
    model.export(tmp_path / "packed")
    CrossEncoderConfig(options.name_or_path, packing=False).build(seed=0).export(tmp_path / "padded")
    names = {file.name for file in (tmp_path / "padded").iterdir()}
    assert {file.name for file in (tmp_path / "packed").iterdir()} == names
    for name in names & {"config.json", "model.safetensors"}:
        assert (tmp_path / "packed" / name).read_bytes() == (tmp_path / "padded" / name).read_bytes(), name
