"""Sparse encoders: vectors and folders of sentence-transformers, options, roles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.loading.backbone import without_weights
from models.loading.kind import declared_kind, options_for
from models.lora import LoRAConfig
from models.sparse.sparse_encoder import SparseEncoder, SparseEncoderConfig, keep_largest

TEXTS = ["what is python?", "python returns the value of a list " * 12, "x", "Green Apple"]


def features(model: SparseEncoder, texts: list[str], role: str | None, *, more: int = 3) -> dict[str, Tensor]:
    encoding = model.tokenizer(texts, role)
    rows = {**encoding, "attention_mask": [[1] * len(row) for row in encoding["input_ids"]]}
    del rows["truncated"]
    width = max(map(len, rows["input_ids"])) + more
    padded = {
        name: [row + [model.tokenizer.padding.get(name, 0)] * (width - len(row)) for row in values]
        for name, values in rows.items()
    }
    return {name: torch.tensor(values) for name, values in padded.items()}


def embed(model: SparseEncoder, texts: list[str] = TEXTS, role: str | None = None) -> Tensor:
    with torch.no_grad():
        return model(**features(model, texts, role))["embedding"]


def oracle(folder: Path):
    return pytest.importorskip("sentence_transformers").SparseEncoder(str(folder), device="cpu")


def assert_equal_to_oracle(model: SparseEncoder, folder: Path) -> None:
    """Sentence-transformers gives the same weights and scores of queries and documents."""
    theirs = oracle(folder)
    assert theirs.similarity_fn_name == "dot"
    options = {"convert_to_tensor": True, "convert_to_sparse_tensor": False}
    found = {}
    for role, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
        expected = encode(TEXTS, **options)
        found[role] = embed(model, role=role)
        torch.testing.assert_close(found[role], expected, atol=1e-5, rtol=1e-5)
        assert (expected > 0).float().mean() > 0
    expected = theirs.similarity(theirs.encode_query(TEXTS, **options), theirs.encode_document(TEXTS, **options))
    torch.testing.assert_close(found["query"] @ found["document"].T, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def size(tiny_bert_dir) -> int:
    """The number of tokens of the tokenizer."""
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(tiny_bert_dir))


@pytest.fixture(scope="module")
def masked(tmp_path_factory, tiny_models, size) -> dict[str, Path]:
    """Folders of masked language models, by architecture."""
    from transformers import AutoModelForMaskedLM

    found = {}
    for name in ("bert", "roberta", "modernbert"):
        folder = tiny_models.write_tiny(tmp_path_factory.mktemp(f"masked_{name}"), name, vocab_size=size)
        model = AutoModelForMaskedLM.from_pretrained(folder)
        with torch.no_grad():
            model.get_output_embeddings().bias.normal_()
        model.save_pretrained(folder)
        found[name] = folder
    return found


@pytest.fixture(scope="module")
def folders(masked, tmp_path_factory, tiny_models, size, tiny_causal_dir) -> dict[str, Path]:
    headless = tiny_models.write_tiny_bert(tmp_path_factory.mktemp("headless"), vocab_size=size)
    return {**masked, "no head": headless, "causal": tiny_causal_dir}


def build(folder: Path, **options) -> SparseEncoder:
    return SparseEncoderConfig(str(folder), **{"max_length": 48, **options}).build(0).eval()


@pytest.mark.parametrize("start", ["bert", "roberta", "modernbert"])
def test_a_masked_language_model_gives_the_vectors_of_sentence_transformers(start, folders, tmp_path):
    st = pytest.importorskip("sentence_transformers.sparse_encoder.models")
    from sentence_transformers import SparseEncoder as Theirs

    transformer = st.MLMTransformer(str(folders[start]), max_seq_length=48)
    theirs = Theirs(modules=[transformer, st.SpladePooling("max")], device="cpu")
    theirs.save_pretrained(str(tmp_path / "theirs"))
    model = SparseEncoder.load(tmp_path / "theirs")
    assert model.packs_rows
    assert_equal_to_oracle(model, tmp_path / "theirs")
    torch.testing.assert_close(embed(build(folders[start])), embed(model))


def test_a_folder_of_sentence_transformers_with_free_queries_is_read(folders, tmp_path):
    """Its queries have learned weights, and no transformer; its documents those of a masked language model."""
    st = pytest.importorskip("sentence_transformers.sparse_encoder.models")
    from sentence_transformers import SparseEncoder as Theirs
    from sentence_transformers.models import Router

    transformer = st.MLMTransformer(str(folders["bert"]), max_seq_length=48)
    static = st.SparseStaticEmbedding(transformer.tokenizer, weight=torch.rand(len(transformer.tokenizer)))
    documents = [transformer, st.SpladePooling("max", activation_function="log1p_relu")]
    router = Router.for_query_document(query_modules=[static], document_modules=documents)
    Theirs(modules=[router], device="cpu").save_pretrained(str(tmp_path / "theirs"))
    model = SparseEncoder.load(tmp_path / "theirs")
    assert model.token_weights is not None
    assert model.tower.log_twice
    assert_equal_to_oracle(model, tmp_path / "theirs")


@pytest.mark.parametrize("options", [{}, {"activation": "log1p_relu", "document_terms": 9, "query_terms": 9}])
@pytest.mark.parametrize("query_weights", [None, "ones"])
@pytest.mark.parametrize("start", ["bert", "no head", "causal"])
def test_an_export_gives_its_vectors_here_and_in_sentence_transformers(
    start, query_weights, options, folders, tmp_path
):
    model = build(folders[start], query_weights=query_weights, prompts={"query": "what is ", "document": ""}, **options)
    with torch.no_grad():
        for parameter in {*model.tower.head.parameters(), *(model.token_weights or model.tower.head).parameters()}:
            parameter.add_(0.1 * torch.randn_like(parameter))
    before = {role: embed(model, role=role) for role in ("query", "document")}
    model.export(tmp_path / "out", card="# about")
    assert_equal_to_oracle(model, tmp_path / "out")
    again = SparseEncoder.load(tmp_path / "out")
    assert declared_kind(str(tmp_path / "out")) == "sparse_encoder"
    assert options_for(str(tmp_path / "out")) == SparseEncoderConfig(str(tmp_path / "out"))
    for role, values in before.items():
        assert torch.equal(embed(again, role=role), values)
        assert torch.equal(embed(model, role=role), values)
    again.export(tmp_path / "again")
    assert torch.equal(embed(SparseEncoder.load(tmp_path / "again")), before["document"])


@pytest.mark.parametrize("start", ["bert", "no head", "causal"])
def test_packed_rows_and_rows_in_any_company_have_the_same_weights(start, folders):
    model = build(folders[start], packing=True)
    packed = embed(model)
    torch.testing.assert_close(torch.cat([embed(model, [text]) for text in TEXTS]), packed, atol=1e-5, rtol=1e-5)
    model.pad_rows()
    torch.testing.assert_close(embed(model), packed, atol=1e-5, rtol=1e-5)


def test_queries_without_a_transformer_have_the_weights_of_their_tokens(folders):
    model = build(folders["bert"], query_weights="idf").train()
    model.read_corpus(["red apple", "red pear", "green apple tree"])
    weights = model.token_weights.weight
    ids = model.tokenizer.tokenizer.convert_tokens_to_ids
    expected = torch.tensor([(3 - 2 + 0.5) / 2.5, (3 - 1 + 0.5) / 1.5, (3 + 0.5) / 0.5]).log1p()
    torch.testing.assert_close(weights[ids(["red", "pear", "blue"])], expected)
    found = embed(model, ["red red apple", ""], "query")
    assert found[0].nonzero().flatten().tolist() == sorted(ids(["red", "apple"]))
    assert (found[1] == 0).all()
    mixed = features(model, ["red apple", "red apple"], "query")
    mixed["is_query"][1] = 0
    model.eval()
    both = model(**mixed)["embedding"]
    torch.testing.assert_close(both[1], embed(model, ["red apple"], "document")[0])
    gradients = torch.autograd.grad(both.sum(), [weights, model.tower.head.weight])
    assert gradients[0].nonzero().flatten().tolist() == sorted(ids(["red", "apple"]))
    assert (gradients[1] != 0).any()


def test_a_chunk_of_queries_alone_runs_the_transformer_in_training_only(folders):
    model = build(folders["bert"], query_weights="ones")
    calls = []
    model.tower.register_forward_hook(lambda *_: calls.append(1))
    embed(model, ["red"], "query")
    assert not calls
    model.train()
    found = model(**features(model, ["red"], "query"))["embedding"]
    assert len(calls) == 1
    assert torch.autograd.grad(found.sum(), model.tower.head.weight)[0].abs().sum() == 0


def test_the_largest_weights_are_kept_by_role_and_others_get_no_gradient(folders):
    model = build(folders["bert"], query_terms=3, document_terms=5)
    full = embed(build(folders["bert"]))
    for role, number in (("query", 3), ("document", 5)):
        found = embed(model, role=role)
        assert torch.equal(found, keep_largest(full, number))
        assert ((found > 0).sum(1) == number).all()
    weights = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    keep_largest(weights, 2).sum().backward()
    assert weights.grad.tolist() == [[1.0, 0.0, 1.0]]


@pytest.mark.parametrize("start", ["bert", "no head", "causal"])
def test_lora_trains_adapters_alone_and_is_exported_merged_or_alone(start, folders, tmp_path):
    options = SparseEncoderConfig(str(folders[start]), max_length=48, lora=LoRAConfig(r=2, alpha=4))
    model = options.build(0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert [part.name for part in model.parts() if part.trained] == ["adapters"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    values = embed(model.eval())
    for name, adapter_only in (("merged", False), ("adapter", True)):
        model.export(tmp_path / name, adapter_only=adapter_only)
        torch.testing.assert_close(embed(SparseEncoder.load(tmp_path / name)), values, atol=1e-5, rtol=1e-5)
        assert_equal_to_oracle(SparseEncoder.load(tmp_path / name), tmp_path / name)


def test_checkpointing_gives_the_same_gradients(folders):
    found = []
    for checkpointing in (False, True):
        model = SparseEncoderConfig(
            str(folders["bert"]), max_length=48, gradient_checkpointing=checkpointing, dropout=0.2
        ).build(0)
        torch.manual_seed(3)
        model(**features(model, TEXTS, None))["embedding"].square().sum().backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad})
    assert all(gradient is not None for gradient in found[0].values())
    torch.testing.assert_close(found[0], found[1])


def test_parts_hold_every_parameter_once(folders):
    for start in ("bert", "no head", "causal"):
        model = build(folders[start], query_weights="ones", temperature=1.0, learn_temperature=True)
        held = [id(parameter) for part in model.parts() for parameter in part.parameters]
        assert sorted(held) == sorted(map(id, model.parameters()))


def test_bad_options_and_folders_are_refused_in_one_line(folders, tmp_path, tiny_reranker_dir):
    for options, words in (
        ({"activation": "gelu"}, "model.activation=gelu: choose null, relu, log1p_relu"),
        ({"query_weights": "bm25"}, "model.query_weights=bm25: choose null, ones, idf"),
        ({"query_terms": -1}, "model.query_terms=-1 must be null or a number of tokens"),
        ({"prompts": {"title": "x"}}, "model.prompts.title is not a role"),
    ):
        with pytest.raises(ValueError, match=words):
            SparseEncoderConfig(str(folders["bert"]), **options)
    model = build(folders["bert"])
    model.export(tmp_path / "out")
    pooling = tmp_path / "out" / "1_SpladePooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_strategy": "sum"}))
    with pytest.raises(ValueError, match=r"pooling_strategy=sum: only max is supported"):
        SparseEncoder.load(tmp_path / "out")
    settings = tmp_path / "out" / "config_sentence_transformers.json"
    settings.write_text(json.dumps({"model_type": "SparseEncoder", "similarity_fn_name": "cosine"}))
    pooling.write_text("{}")
    with pytest.raises(ValueError, match="compares by cosine"):
        SparseEncoder.load(tmp_path / "out")


@pytest.mark.parametrize("start", ["modernbert", "no head", "causal"])
def test_free_queries_leave_out_the_rows_that_no_token_has(start, tiny_models, tmp_path):
    """ModernBERT's vocabulary is padded, and other libraries need one weight for each token of a query."""
    from transformers import AutoModelForMaskedLM

    if start == "causal":
        folder = tiny_models.write_tiny_causal(tmp_path / "larger", vocab_size=640)
    else:
        folder = tiny_models.write_tiny(tmp_path / "larger", start.replace("no head", "bert"))
    if start == "modernbert":
        AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    whole, model = build(folder), build(folder, query_weights="ones")
    tokens = model.tokenizer.vocabulary_size
    assert model.dimension == tokens < whole.dimension
    torch.testing.assert_close(embed(model, role="document"), embed(whole)[:, :tokens])
    model.export(tmp_path / "out")
    assert_equal_to_oracle(SparseEncoder.load(tmp_path / "out"), tmp_path / "out")


def test_a_model_without_a_head_says_so(folders, caplog):
    build(folders["no head"])
    assert "its word embeddings, transposed" in caplog.text
    caplog.clear()
    build(folders["bert"])
    assert not caplog.text


@pytest.mark.parametrize("start", ["no head", "causal"])
def test_a_head_that_is_the_word_embeddings_is_so_again_unless_it_was_trained_apart(start, folders, tmp_path):
    def is_tied(model: SparseEncoder) -> bool:
        return model.tower.head.weight is model.tower.backbone.get_input_embeddings().weight

    model = build(folders[start])
    assert is_tied(model)
    model.export(tmp_path / "out")
    again = SparseEncoder.load(tmp_path / "out")
    assert is_tied(again)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in again.parameters()) == count
    with without_weights():
        assert is_tied(SparseEncoderConfig(str(tmp_path / "out")).build(0))
    again.export(tmp_path / "again")
    assert is_tied(SparseEncoder.load(tmp_path / "again"))
    file = tmp_path / "out" / "1_Dense" / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "linear.weight": weights["linear.weight"] + 1}, file)
    apart = SparseEncoder.load(tmp_path / "out")
    assert torch.equal(apart.tower.head.weight, weights["linear.weight"] + 1)
    apart.export(tmp_path / "apart")
    assert not is_tied(SparseEncoder.load(tmp_path / "apart"))


def test_later_stages_start_from_what_was_learned(folders, tmp_path):
    options = SparseEncoderConfig(str(folders["bert"]), query_weights="idf", learn_temperature=True, temperature=2.0)
    later = options.starting_from(tmp_path)
    assert (later.query_weights, later.temperature, later.name_or_path) == (None, None, str(tmp_path))
    assert replace(options, query_weights=None).parts_to_train() == {
        "all": "model.lora=null",
        "temperature": "model.learn_temperature=true",
    }
