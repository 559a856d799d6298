"""sentence-transformers' StaticEmbedding gives equal vectors for folders of either side, and for those of model2vec."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bi_encoders import embed, oracle
from safetensors.torch import save_file
from tokenizers import Tokenizer

from models.bi_encoder import BiEncoder
from models.static.embedder import StaticEmbedderConfig

pytestmark = pytest.mark.parity

TEXTS = ["what is python?", "python returns a list " * 40, "", "Green [SEP] [PAD]", "日本 x", "[UNK]"]
PROMPTS = {"query": "what is ", "document": "value: "}


def build(folder: Path, **options) -> BiEncoder:
    return StaticEmbedderConfig(str(folder), **options).build(seed=0).eval()


def assert_equal(model: BiEncoder, folder: Path) -> None:
    """Both give equal vectors of queries and documents, and equal scores."""
    theirs = oracle(folder)
    assert theirs.similarity_fn_name == model.similarity
    ours, vectors = [], []
    for role, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
        vectors.append(encode(TEXTS, convert_to_tensor=True))
        ours.append(embed(model, TEXTS, role))
        normal = torch.nn.functional.normalize(vectors[-1], dim=-1) if model.unit_length else vectors[-1]
        torch.testing.assert_close(ours[-1], normal, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[0] @ ours[1].T, theirs.similarity(*vectors), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompts": PROMPTS, "max_length": 9},
        {"similarity": "dot", "normalize": False, "projection": 6},
        {"separate_towers": True, "prompts": PROMPTS},
        {"temperature": 0.05, "learn_temperature": True},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_an_export_is_the_same_elsewhere(options: dict, tiny_bert_dir: Path, tmp_path: Path) -> None:
    model = build(tiny_bert_dir, start="random", dimension=12, **options)
    for index, parameter in enumerate(model.tower.parameters()):
        parameter.data += 0.1 * (index + 1)
    model.export(tmp_path / "export")
    assert_equal(model, tmp_path / "export")
    again = build(tmp_path / "export")
    for role in ("query", "document"):
        torch.testing.assert_close(embed(again, TEXTS, role), embed(model, TEXTS, role), atol=1e-6, rtol=0)
    assert again.tokenizer.max_length == model.tokenizer.max_length
    assert (again.scale is None) == (model.scale is None)
    theirs = oracle(tmp_path / "export")
    theirs.save(str(tmp_path / "theirs"))
    assert_equal(build(tmp_path / "theirs"), tmp_path / "theirs")
    torch.testing.assert_close(embed(build(tmp_path / "theirs"), TEXTS), embed(model, TEXTS), atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalized", [False, True])
def test_a_folder_of_sentence_transformers(normalized: bool, tiny_bert_dir: Path, tmp_path: Path) -> None:
    st = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.models")
    tokenizer = Tokenizer.from_file(str(tiny_bert_dir / "tokenizer.json"))
    tokenizer.enable_truncation(7)
    parts = [modules.StaticEmbedding(tokenizer, embedding_dim=8), *([modules.Normalize()] if normalized else [])]
    st.SentenceTransformer(modules=parts, prompts=PROMPTS).save(str(tmp_path / "theirs"))
    model = build(tmp_path / "theirs")
    assert model.tokenizer.max_length == 7
    assert_equal(model, tmp_path / "theirs")


@pytest.mark.parametrize("shared", [False, True], ids=["plain", "rows that tokens share"])
@pytest.mark.parametrize("listed", [True, False], ids=["with modules.json", "without"])
def test_a_folder_of_model2vec(shared: bool, listed: bool, tiny_bert_dir: Path, tmp_path: Path) -> None:
    """In the layout of its `save_pretrained`: a table "embeddings", with vocabulary quantisation also "mapping" and
    "weights"."""
    modules = pytest.importorskip("sentence_transformers.models")
    tokenizer = Tokenizer.from_file(str(tiny_bert_dir / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    state = {"embeddings": torch.randn(30 if shared else size, 8, dtype=torch.float16)}
    if shared:
        state |= {"mapping": torch.randint(30, (size,), dtype=torch.int32), "weights": torch.rand(size).double()}
    save_file(state, tmp_path / "model.safetensors")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "model2vec", "architectures": ["StaticModel"]}))
    if listed:
        names = ((".", "StaticEmbedding"), ("1_Normalize", "Normalize"))
        entries = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(names)
        ]
        (tmp_path / "modules.json").write_text(json.dumps(entries))
        (tmp_path / "1_Normalize").mkdir()
    theirs = modules.StaticEmbedding.load(str(tmp_path))
    expected = theirs(theirs.preprocess(TEXTS))["sentence_embedding"].float()
    expected = torch.nn.functional.normalize(expected, dim=-1).detach()
    torch.testing.assert_close(embed(build(tmp_path), TEXTS), expected, atol=2e-3 if shared else 1e-3, rtol=0)


def test_the_card_names_what_reads_the_folder(tiny_bert_dir: Path, tmp_path: Path) -> None:
    build(tiny_bert_dir, start="random", dimension=12).export(tmp_path / "export", card="# Card\n")
    card = (tmp_path / "export" / "README.md").read_text()
    for text in ("# Card", "SentenceTransformer(", "plackett.load(", "12 dimensions, compared by cosine"):
        assert text in card
    for text in ("AutoModel", "text-embeddings-router"):
        assert text not in card
