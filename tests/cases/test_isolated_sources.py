"""Mixtures of search and classes: in-batch negatives off for one source, small sources, remedies that exist."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from loss_samples import computed, configured, load_loss, target
from running import run_several
from torch import Tensor

from data.batch import ListBatch
from data.formats.beir import BEIRConfig
from data.formats.file import FileConfig
from data.sampling.list_options import ListOptions
from data.sampling.mixture import MixtureConfig, make_loader
from engines.distributed.testing import run_ranks
from launch.cli.compose import load
from losses.contracts import has_in_batch_negatives
from losses.info_nce import InfoNCE
from losses.math.in_batch import InBatch
from losses.math.similarity import DOT
from recipes.checks.data_fit import check_data
from trainers.loss_inputs import make_loss_inputs

CLASSES = ("praise", "complaint")
IN_BATCH = [
    name for name in configured() if target(name).contract != "list" and has_in_batch_negatives(load_loss(name))
]


class Tokenizer:
    def encode_list(self, query: str, documents: list[str], **prompts: str) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1]] * (len(documents) + 1)}


def used(loss: object, batch: ListBatch) -> Tensor:
    """[queries, documents] bool: the loss has a gradient for the similarity. Texts are one-hot vectors, so the gradient
    of a document at the place of a query is that of their similarity."""
    queries, size = len(batch.examples), int(batch.mask.sum())
    eye = torch.eye(queries + size)
    documents = batch.to_lists(eye[queries:])
    rows = torch.cat([torch.cat([eye[i : i + 1], documents[i][batch.mask[i]]]) for i in range(queries)])
    outputs = {"embedding": rows, "layers": rows.unsqueeze(1), "scale": torch.tensor([20.0]), "bias": torch.zeros(1)}
    inputs = make_loss_inputs(outputs, batch)
    inputs = replace(inputs, guide_queries=inputs.queries, guide_documents=inputs.documents, step=1)
    leaf = inputs.documents.clone().requires_grad_()
    gradient = torch.autograd.grad(computed(loss, replace(inputs, documents=leaf))[0], leaf)[0]
    return gradient[inputs.mask][:, :queries].T != 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """reviews.jsonl: 30 queries of two classes; few.jsonl: four pairs; pairs.jsonl: two queries share an answer."""
    files = {
        "reviews": [
            {"query": f"review {i}", "positive": CLASSES[i % 2], "negative": CLASSES[1 - i % 2]} for i in range(30)
        ],
        "few": [{"query": f"few {i}", "positive": f"answer {i}"} for i in range(4)],
        "pairs": [{"query": f"pair {i}", "positive": f"text {i // 2}"} for i in range(30)],
        "shared": [{"query": f"ask {i}", "positive": f"own {i}", "negative": f"other {i % 3}"} for i in range(30)],
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def file(folder: Path, name: str, **options: object) -> FileConfig:
    held_out = {"dev_fraction": 0.0, "test_fraction": 0.0}
    return FileConfig(path=str(folder / f"{name}.jsonl"), cache_dir=str(folder), **{**held_out, **options})


def batches(data: object, size: int, number: int, ranks: int = 1) -> list[ListBatch]:
    """The whole batches, put together from the shares of all ranks."""
    options = {"list_size": 2, "batch_size": size, "seed": 0, "world_size": ranks, "workers": 0}
    loaders = [
        make_loader(data, Tokenizer(), rank=rank, in_batch_negatives=True, **options).iterate(0)
        for rank in range(ranks)
    ]
    shares = [[next(loader) for loader in loaders] for _ in range(number)]
    return [
        ListBatch(i, [parts[k % ranks][k // ranks] for k in range(sum(map(len, parts)))])
        for i, parts in enumerate(shares)
    ]


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_a_small_source_bounds_its_own_batches_only(folder: Path, tiny_beir_dir: Path, ranks: int, caplog) -> None:
    search = BEIRConfig(path=str(tiny_beir_dir), cache_dir=str(folder))
    sources = {"search": search, "few": file(folder, "few"), "reviews": file(folder, "reviews", in_batch=False)}
    data = MixtureConfig(sources=sources, evaluate_on="search", weights=dict.fromkeys(sources, 1)).build()
    found = batches(data, 7, 20, ranks)
    sizes = {batch.source: {len(each.examples) for each in found if each.source == batch.source} for batch in found}
    assert sizes == {"search": {7}, "few": {4}, "reviews": {7}}
    assert all((batch.isolated is not None) == (batch.source == "reviews") for batch in found)
    assert "data.sources.few: its batches have 4 lists" in caplog.text


def three_lists(isolated: list[bool] | None) -> InBatch:
    flags = None if isolated is None else torch.tensor(isolated)
    labels, mask = torch.tensor([[1, 0]] * 3), torch.ones(3, 2, dtype=torch.bool)
    return InBatch.from_lists(torch.zeros(3, 1), torch.zeros(3, 2, 1), labels, mask, DOT, isolated=flags)


def test_an_isolated_list_takes_and_gives_no_negatives() -> None:
    batch, queries, documents = three_lists([False, True, False]), torch.arange(3), torch.arange(6)
    found = batch.negative_documents(queries, documents, "all").int().tolist()
    assert found == [[0, 1, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0], [1, 1, 0, 0, 0, 1]]
    found = batch.negative_queries(torch.tensor([0, 2, 4]), queries).int().tolist()
    assert found == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    none, off = (three_lists(flags).negative_documents(queries, documents, "all") for flags in (None, [False] * 3))
    assert torch.equal(none, off)


@pytest.mark.parametrize("name", [*IN_BATCH, "triplet"])
def test_no_loss_reads_other_lists_of_an_isolated_batch(folder: Path, name: str) -> None:
    loss = replace(load_loss("triplet"), in_batch="all") if name == "triplet" else load_loss(name)
    (batch,) = batches(file(folder, "reviews", in_batch=False).build(), 6, 1)
    pairs = used(loss, batch)
    own = torch.arange(6).repeat_interleave(batch.sizes) == torch.arange(6)[:, None]
    assert not (pairs & ~own).any()
    assert (pairs & own).any()


@pytest.mark.parametrize("options", [{}, {"partition_mode": "per_direction"}, {"decoupled": True}])
def test_an_isolated_list_has_the_loss_of_its_own_documents(options: dict) -> None:
    """Its value and its gradient are those of in_batch=none, whatever the directions; the others are as without it."""
    directions = ("doc_to_query", "query_to_doc", "query_to_query", "doc_to_doc")
    loss, alone = InfoNCE(directions=directions, **options), InfoNCE(in_batch="none", decoupled="decoupled" in options)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(5, 8, generator=generator, requires_grad=True)
    documents = torch.randn(5, 3, 8, generator=generator, requires_grad=True)
    labels, mask = torch.tensor([[1.0, 0, 0]] * 5), torch.ones(5, 3, dtype=torch.bool)
    texts = {"query_hashes": torch.arange(5), "document_hashes": torch.arange(15).reshape(5, 3)}

    def value(of: InfoNCE, lists: slice, isolated: Tensor | None) -> Tensor:
        own = {name: hashes[lists] for name, hashes in texts.items()}
        return of(queries[lists], documents[lists], labels[lists], mask[lists], isolated=isolated, **own)

    mixed = value(loss, slice(0, 5), torch.tensor([False, False, False, True, True]))
    apart = (3 * value(loss, slice(0, 3), None) + 2 * value(alone, slice(3, 5), None)) / 5
    torch.testing.assert_close(mixed, apart)
    gradients = [torch.autograd.grad(each, [queries, documents]) for each in (mixed, apart)]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def run(folder: Path, tiny_run: list[str], *settings: str) -> list[str]:
    kept = [option for option in tiny_run if not option.startswith("data")]
    search = next(option for option in tiny_run if option.startswith("data.path=")).split("=", 1)[1]
    return [
        *("model=bi_encoder", "loss=info_nce_symmetric", "trainer=contrastive", "eval=retrieval"),
        *kept,
        *("eval.depth=100", "data=mixture", "+data@data.sources.search=beir", f"data.sources.search.path={search}"),
        *("+data@data.sources.reviews=file", f"data.sources.reviews.path={folder / 'reviews.jsonl'}"),
        *(f"data.sources.{name}.cache_dir={folder}" for name in ("search", "reviews")),
        *("data.evaluate_on=search", "data.weights={search: 1, reviews: 1}", "trainer.batch_size=6"),
        *("trainer.list_size=2", "trainer.max_steps=6", "trainer.log_every=1", *settings),
    ]


def test_two_ranks_train_an_isolated_source_as_one(folder: Path, tiny_run: list[str]) -> None:
    settings = run(folder, tiny_run, "data.sources.reviews.in_batch=false", "run_name=classes")
    ((alone, _),) = run_ranks(run_several, 1, [settings])[0]
    moved = [f"{option}2" if option.startswith("output_dir=") else option for option in settings]
    ((first, _),) = run_ranks(run_several, 2, [moved])[0]
    steps, again = ([line for line in lines if line["split"] == "train"] for lines in (alone, first))
    assert {line["source"] for line in steps} == {"search", "reviews"}
    for one, two in zip(steps, again, strict=True):
        assert one["documents_per_query"] == two["documents_per_query"] == (2 if one["source"] == "reviews" else 12)
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def refused(folder: Path, name: str, size: int) -> str:
    data = MixtureConfig(sources={"a": file(folder, "few"), name: file(folder, name)}, evaluate_on="a").build()
    with pytest.raises(ValueError, match="is too large") as caught:
        batches(data, size, 1)
    return str(caught.value)


def test_the_remedies_of_a_source_are_options_that_help(folder: Path) -> None:
    message = refused(folder, "reviews", 4)
    assert "data.sources.reviews.in_batch=false" in message
    assert "no_duplicates" not in message, "it would not help"
    message = refused(folder, "shared", 8)
    assert "data.sources.shared.lists.no_duplicates=false" in message
    lists = file(folder, "shared").lists
    assert batches(file(folder, "shared", lists=replace(lists, no_duplicates=False)).build(), 8, 1)
    assert batches(file(folder, "shared", in_batch=False).build(), 8, 1)
    smaller = int(re.findall(r"lower trainer.batch_size to (\d+)", message)[0])
    assert batches(file(folder, "shared").build(), smaller, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "nowhere.jsonl"}, "data.sources.a.path=nowhere.jsonl: no such file"),
        ({"relevant_from": 9.0}, "data.sources.a.relevant_from=9: no "),
    ],
)
def test_errors_of_a_source_name_its_options(folder: Path, settings: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{re.escape(message)}"):
        MixtureConfig(sources={"a": replace(file(folder, "reviews"), **settings)}).build()


def test_options_that_a_source_rejects_are_named_as_the_sources(folder: Path, tiny_run: list[str]) -> None:
    for key, value in (("dev_fraction", 2), ("lists.positives", 0)):
        with pytest.raises(ValueError, match=rf"^data.sources.reviews.{key}={value}"):
            load(run(folder, tiny_run, f"data.sources.reviews.{key}={value}"))


def test_an_isolated_source_needs_negatives_of_its_own(folder: Path, tiny_run: list[str]) -> None:
    settings = load(run(folder, tiny_run))
    pairs = file(folder, "pairs", in_batch=False).build()
    with pytest.raises(ValueError, match=r"^data.in_batch=false leaves the queries of data pairs.jsonl no negatives"):
        check_data(settings, pairs)
    check_data(settings, file(folder, "pairs", in_batch=False, lists=ListOptions(random_fraction=0.5)).build())
    only = replace(settings, loss=InfoNCE(directions=("doc_to_query",)))
    with pytest.raises(ValueError, match=r"^data.in_batch=false: with loss.directions=.* add query_to_doc"):
        check_data(only, file(folder, "reviews", in_batch=False).build())
