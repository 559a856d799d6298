"""Models of late interaction give the vectors and scores of sentence-transformers, in folders of all three kinds."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from data.batch import TokenSequences
from data.collate import Collator
from inference.runner import similarity_of
from models.late_interaction.encoder import LateInteraction
from models.late_interaction.options import LateInteractionConfig
from models.late_interaction.saved import MARKERS
from models.loading.kind import declared_kind
from tensors.ragged import Ragged

QUERIES = ["what is python?", "x", "the value of a red apple train, " * 6, ""]
DOCUMENTS = ["python returns the value of a list. " * 9, "Green, (blue) apple!", "...", "rank"]


def embed(model: LateInteraction, texts: list[str], role: str) -> Ragged:
    """The vectors, computed in one padded chunk, in the order of the texts."""
    sequences = TokenSequences.from_encoding(model.tokenizer(texts, role=role))
    features = Collator(model.tokenizer.padding, 10**6).collate(sequences, range(len(texts)))
    with torch.no_grad():
        found: Ragged = model(**features)["embedding"]
    return found


def assert_equal_to_sentence_transformers(model: LateInteraction, folder: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    theirs = library.MultiVectorEncoder(str(folder), device="cpu")
    model.eval()
    own = {"query": embed(model, QUERIES, "query"), "document": embed(model, DOCUMENTS, "document")}
    expected = {"query": theirs.encode_query(QUERIES), "document": theirs.encode_document(DOCUMENTS)}
    for role, rows in own.items():
        assert rows.sizes.tolist() == [len(vectors) for vectors in expected[role]], role
        torch.testing.assert_close(rows.values, torch.cat(list(expected[role])), atol=1e-5, rtol=0)
    scores = similarity_of(model).matrix(own["query"], own["document"])
    torch.testing.assert_close(scores, theirs.similarity(expected["query"], expected["document"]), atol=1e-5, rtol=0)


OPTIONS: dict[str, dict[str, Any]] = {
    "of ColBERT": {},
    "markers": {"prompts": {"query": "rank: ", "document": "document "}, "dimension": 16},
    "attends": {"expansion_attends": True},
    "min": {"query_expansion": "min", "query_length": 12},
    "no expansion": {"query_expansion": "none", "query_length": 9, "document_length": 40, "similarity": "meanmaxsim"},
    "punctuation": {"skip_punctuation": False, "max_length": 24},
    "pooled": {"pool_factor": 2.0, "query_expansion": "none"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_exports_are_those_of_sentence_transformers(name: str, tiny_bert_dir: Path, tmp_path: Path) -> None:
    model = LateInteractionConfig(str(tiny_bert_dir), **({"document_length": 60} | OPTIONS[name])).build(seed=1)
    model.export(tmp_path / "model")
    assert_equal_to_sentence_transformers(model, tmp_path / "model")
    assert declared_kind(str(tmp_path / "model")) == "late_interaction"
    again = LateInteractionConfig(str(tmp_path / "model")).build(seed=2)
    for name in ("max_length", "query_length", "document_length", "expansion", "skipped", "skipped_roles"):
        assert getattr(again.tokenizer, name) == getattr(model.tokenizer, name), name
    for role in ("query", "document"):
        assert embed(again.eval(), QUERIES, role).values.equal(embed(model.eval(), QUERIES, role).values)
    again.export(tmp_path / "again")
    for file in ("modules.json", "sentence_bert_config.json", "2_MultiVectorMask/config.json"):
        assert (tmp_path / "again" / file).read_text() == (tmp_path / "model" / file).read_text()


def write_pylate(folder: Path, bert: Path, **settings: Any) -> None:
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(bert).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokenizer.add_tokens(["[Q] ", "[D] "])
    model = AutoModel.from_pretrained(bert)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "1_Dense").mkdir()
    torch.manual_seed(3)
    save_file({"linear.weight": torch.randn(16, 32) / 5}, folder / "1_Dense" / "model.safetensors")
    dense = {"in_features": 32, "out_features": 16, "bias": False}
    dense |= {"activation_function": "torch.nn.modules.linear.Identity"}
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    config = {"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 16, "document_length": 50, **settings}
    files = {"modules.json": modules, "1_Dense/config.json": dense, "config_sentence_transformers.json": config}
    files["sentence_bert_config.json"] = {"max_seq_length": 49, "do_lower_case": False}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "ColBERT", "do_query_expansion": True, "similarity_fn_name": "MaxSim"},
        {"model_type": "ColBERT", "attend_to_expansion_tokens": False, "similarity_fn_name": "cosine"},
        {"model_type": "ColBERT", "attend_to_expansion_tokens": True, "skiplist_words": list(string.punctuation[:5])},
        {"model_type": "ColBERT", "do_query_expansion": False, "prompts": {"query": "what ", "document": ""}},
    ],
)
def test_folders_of_pylate_are_read(settings: dict[str, Any], tiny_bert_dir: Path, tmp_path: Path) -> None:
    write_pylate(tmp_path, tiny_bert_dir, **settings)
    assert declared_kind(str(tmp_path)) == "late_interaction"
    model = LateInteractionConfig(str(tmp_path)).build(seed=0)
    assert model.similarity == "maxsim"
    assert_equal_to_sentence_transformers(model, tmp_path)


@pytest.mark.parametrize("about", [None, {"query_maxlen": 20, "doc_maxlen": 30, "attend_to_mask_tokens": True}])
def test_checkpoints_of_colbert_are_read(about: Any, tiny_bert_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(tiny_bert_dir)
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert_dir)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(4)
    weights = {f"bert.{name}": value for name, value in load_file(tmp_path / "model.safetensors").items()}
    save_file({**weights, "linear.weight": torch.randn(16, 32) / 5}, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if about is not None:
        (tmp_path / "artifact.metadata").write_text(json.dumps(about))
    assert declared_kind(str(tmp_path)) == "late_interaction"
    ours = LateInteractionConfig(str(tmp_path)).build(seed=0)
    assert ours.tokenizer.length_of("query") == (32 if about is None else 20)
    assert_equal_to_sentence_transformers(ours, tmp_path)


def test_a_row_does_not_depend_on_those_beside_it(tiny_bert_dir: Path) -> None:
    model = LateInteractionConfig(str(tiny_bert_dir), document_length=60).build(seed=0).eval()
    for role, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        together = embed(model, texts, role)
        for text, row in zip(texts, together, strict=True):
            torch.testing.assert_close(embed(model, [text], role).values, row.values, atol=1e-5, rtol=0)
    assert embed(model, QUERIES, "query").sizes.tolist() == [32] * 4
    assert embed(model, ["...!?"], "document").sizes.tolist() == [2], "[CLS] and [SEP]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_expansion": "all"}, "model.query_expansion=all: choose null, none, fixed, min"),
        ({"similarity": "cosine"}, "model.similarity=cosine: choose null, maxsim, meanmaxsim"),
        ({"query_length": 0}, "model.query_length=0 must be null or at least 1"),
        ({"pool_factor": 0.5}, "model.pool_factor=0.5 must be null or at least 1"),
        ({"prompts": {"answer": "x"}}, "model.prompts.answer is not a role of a text"),
        ({"bias": float("inf")}, "model.bias=inf must be null or a finite number"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        LateInteractionConfig("any", **options)


def test_folders_that_do_not_fit(tiny_bert_dir: Path, tmp_path: Path) -> None:
    for option in ({"packing": True}, {"attention": "flash_attention_2"}):
        with pytest.raises(ValueError, match="no token attends to those of the query's expansion"):
            LateInteractionConfig(str(tiny_bert_dir), **option).build(seed=0)
    model = LateInteractionConfig(str(tiny_bert_dir)).build(seed=0)
    model.export(tmp_path / "model")
    with pytest.raises(ValueError, match="gives 128 per token: give that, or null"):
        LateInteractionConfig(str(tmp_path / "model"), dimension=64).build(seed=0)
    change_json(tmp_path / "model" / "config_sentence_transformers.json", similarity_fn_name="dot")
    with pytest.raises(ValueError, match=r"compares by dot: set model\.similarity=maxsim or meanmaxsim"):
        LateInteractionConfig(str(tmp_path / "model")).build(seed=0)
    assert LateInteractionConfig(str(tmp_path / "model"), similarity="maxsim").build(seed=0).similarity == "maxsim"
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules[:2]))
    with pytest.raises(ValueError, match="is Transformer > Dense; supported: Transformer"):
        LateInteractionConfig(str(tmp_path / "model")).build(seed=0)


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


LONG_PROMPT = "python returns the value of a list " * 5  # above the 32 tokens of a query, below the 60 of a document


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": {"query": LONG_PROMPT}}, "model.query_length=32: shorten it, or raise model.query_length"),
        ({"max_length": 20, "prompts": {"document": LONG_PROMPT}}, "model.max_length=20: shorten it, or raise"),
        ({"query_length": 2, "prompts": {}}, "model.query_length=2: 2 tokens are the tokenizer's own: raise it"),
        (
            {"query_length": 3, "prompts": {"query": "rank "}},
            "has 3 tokens of model.query_length=3: shorten",
        ),
        (
            {"document_length": 600},
            "model.document_length=600: .* reads rows of 128 tokens at most: give such a length",
        ),
    ],
)
def test_lengths_leave_room_for_a_text(options: dict[str, Any], message: str, tiny_bert_dir: Path) -> None:
    with pytest.raises(ValueError, match=message):
        LateInteractionConfig(str(tiny_bert_dir), **{"document_length": 60, **options}).build(seed=0)


def test_a_prompt_of_the_data_leaves_room_in_its_role(tiny_bert_dir: Path) -> None:
    tokenizer = LateInteractionConfig(str(tiny_bert_dir), document_length=60).build(seed=0).tokenizer
    assert len(tokenizer(["x"], "document", LONG_PROMPT)["input_ids"][0]) < 60
    with pytest.raises(ValueError, match=r"tokens of model\.query_length=32: shorten it"):
        tokenizer(["x"], "query", LONG_PROMPT)
    with pytest.raises(ValueError, match=r"tokens of model\.query_length=32: shorten it"):
        tokenizer.encode_list("x", ["y"], query_prompt=LONG_PROMPT)


def test_max_length_cuts_the_lengths_of_a_folder(tiny_bert_dir: Path, tmp_path: Path) -> None:
    LateInteractionConfig(str(tiny_bert_dir), query_length=60, query_expansion="none").build(0).export(tmp_path / "m")
    options = {"query_expansion": "min", "max_length": 16}
    tokenizer = LateInteractionConfig(str(tmp_path / "m"), **options).build(0).tokenizer
    assert [len(row) for row in tokenizer(["x", "value " * 90], "query")["input_ids"]] == [16, 16]
    assert tokenizer.limits == {"model.max_length": 16}


def test_prompts_of_other_names_leave_the_markers(tiny_bert_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = (kind.from_pretrained(tiny_bert_dir) for kind in (AutoModel, AutoTokenizer))
    tokenizer.add_tokens([marker.strip() for marker in MARKERS.values()])
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}])
    )
    settings = tmp_path / "config_sentence_transformers.json"
    settings.write_text("{}")
    found = {}
    for name in ("web", "query", "passage"):
        change_json(settings, prompts={"document": "", name: "rank "})
        tokenizer = LateInteractionConfig(str(tmp_path), document_length=60).build(0).tokenizer
        found[name] = [tokenizer.prompt(role) for role in ("query", "document")]
    assert found == {"web": [*MARKERS.values()], "query": ["rank ", ""], "passage": ["", ""]}


def test_the_bias_of_siglip_is_trained_and_saved(tiny_bert_dir: Path, tmp_path: Path) -> None:
    options = {"temperature": 2.0, "bias": -3.0, "learn_bias": True, "document_length": 60}
    config = LateInteractionConfig(str(tiny_bert_dir), **options)
    model = config.build(seed=0)
    assert [part.name for part in model.parts()][-1] == "bias"
    assert config.parts_to_train()["bias"] == "model.learn_bias=true"
    model.export(tmp_path / "model")
    again = config.starting_from(tmp_path / "model")
    assert (again.bias, again.saved_scale()) == (None, {"scale": 0.5, "bias": -3.0})


def test_the_memory_plan_runs_it_without_data(tiny_bert_dir: Path) -> None:
    model = LateInteractionConfig(str(tiny_bert_dir), dimension=16).build(seed=0)
    model.simplify_for_tracing()
    names = [name for name in model.tokenizer(["a"], role="query") if name != "truncated"]
    with FakeTensorMode(allow_non_fake_inputs=True):
        features = {name: torch.ones(3, 7, dtype=torch.int64) for name in [*names, "attention_mask"]}
        assert model(**features)["embedding"].shape == (3, 7, 16)
