"""Static embedders: what they compute, read and refuse; and that other code finds them by their folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bi_encoders import embed
from safetensors.torch import load_file, save_file

import plackett
from models.bi_encoder import BiEncoder, BiEncoderConfig
from models.loading.embedder import load_embedder
from models.loading.kind import kind_of, options_for
from models.static.embedder import StaticEmbedderConfig
from models.tokenization import UNLIMITED


def build(folder: Path, **options) -> BiEncoder:
    return StaticEmbedderConfig(str(folder), **options).build(seed=0).eval()


@pytest.fixture(scope="module")
def start_dir(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a static embedder of 12 dimensions, from scratch."""
    folder = tmp_path_factory.mktemp("static") / "model"
    build(tiny_bert_dir, start="random", dimension=12).export(folder)
    return folder


def test_an_embedding_is_the_mean_of_the_vectors_of_its_tokens(start_dir: Path) -> None:
    model = build(start_dir, similarity="dot", normalize=False)
    ids = model.tokenizer(["red apple red"])["input_ids"][0]
    assert len(ids) == 3  # no tokens of the tokenizer's own
    expected = model.tower.embedding.weight[ids].mean(0)
    torch.testing.assert_close(embed(model, ["red apple red"])[0], expected.detach())
    assert build(start_dir).similarity == "cosine"
    torch.testing.assert_close(embed(build(start_dir), ["red apple"]).norm(dim=1), torch.ones(1))


def test_padding_and_texts_without_tokens(start_dir: Path) -> None:
    model = build(start_dir)
    texts = ["", "apple", "[PAD] apple", "日本"]
    vectors = embed(model, texts)
    assert not vectors[0].any()
    torch.testing.assert_close(embed(model, texts[1:2]), vectors[1:2])
    torch.testing.assert_close(embed(model, texts, side="left"), vectors)
    assert not torch.allclose(vectors[1], vectors[2]), "a text may spell the padding token"
    assert vectors[3].isfinite().all()


def test_texts_are_read_whole_unless_a_length_is_set(start_dir: Path, tmp_path: Path) -> None:
    long = "apple " * 3000 + "pear"
    model = build(start_dir)
    assert model.tokenizer.max_length == UNLIMITED
    assert len(model.tokenizer([long])["input_ids"][0]) == 3001
    cut = build(start_dir, max_length=5)
    assert cut.tokenizer([long])["truncated"] == [[0, 2996]]
    cut.export(tmp_path / "cut")
    assert build(tmp_path / "cut").tokenizer.max_length == 5
    for folder, text in ((tmp_path / "cut", "cut at 5 tokens"), (start_dir, "Texts are read whole")):
        assert text in (folder / "README.md").read_text()


def test_prompts_and_two_towers(start_dir: Path, tmp_path: Path) -> None:
    model = build(start_dir, prompts={"query": "what is "}, separate_towers=True)
    with torch.no_grad():
        model.tower.query.embedding.weight.mul_(-1)
    rows = model.tokenizer.encode_list("apple", ["what is apple"])
    assert rows["input_ids"][0] == rows["input_ids"][1]
    features = {name: torch.tensor(values) for name, values in rows.items() if name != "truncated"}
    query, document = model(**features, attention_mask=torch.ones_like(features["input_ids"]))["embedding"]
    torch.testing.assert_close(query, -document)
    assert [part.label for part in model.parts()] == ["query token vectors", "document token vectors"]
    model.export(tmp_path / "export")
    again = build(tmp_path / "export")
    assert again.tokenizer.prompts["query"] == "what is "
    assert torch.equal(again.tower.query.embedding.weight, -again.tower.document.embedding.weight)


def test_linear_layer_and_teacher_projection(start_dir: Path, tmp_path: Path) -> None:
    model = build(start_dir, projection=4, teacher_projection=7)
    assert model.dimension == 4
    ids = torch.tensor([[7, 8]])
    assert model.train()(input_ids=ids, attention_mask=torch.ones_like(ids))["projected"].shape == (1, 7)
    assert [(part.name, part.size) for part in model.parts()][1:] == [("projection", 48), ("teacher projection", 28)]
    model.eval().export(tmp_path / "export")
    torch.testing.assert_close(embed(build(tmp_path / "export"), ["apple"]), embed(model, ["apple"]))
    with pytest.raises(ValueError, match=r"model.projection=5: .* projects to 4: give that, or null"):
        build(tmp_path / "export", projection=5)


def test_the_folder_says_what_it_is(start_dir: Path, tiny_bert_dir: Path) -> None:
    assert options_for(str(start_dir)) == StaticEmbedderConfig(str(start_dir))
    assert kind_of(str(start_dir)) == "embedder"
    assert load_embedder(str(tiny_bert_dir)).outputs == BiEncoderConfig.outputs
    assert load_embedder(str(start_dir), 7).tokenizer.max_length == 7
    assert load_embedder(str(start_dir)).outputs == StaticEmbedderConfig.outputs
    embedder = plackett.load(start_dir)
    assert embedder.pooling == "mean"
    vectors = embedder.encode(["red apple", ""], role="document", batch_size=1)
    torch.testing.assert_close(torch.from_numpy(vectors), embed(build(start_dir), ["red apple", ""]))
    with pytest.raises(ValueError, match="gives no layers"):
        build(start_dir).prepare(wanted_outputs=["layers"])


def test_starting_from_an_export_forgets_how_it_started(start_dir: Path) -> None:
    options = StaticEmbedderConfig("other", start="random", dimension=5, temperature=0.1, learn_temperature=True)
    expected = replace(options, name_or_path=str(start_dir), start=None, dimension=None, temperature=None)
    assert options.starting_from(start_dir) == expected
    assert "name_or_path" in StaticEmbedderConfig(str(start_dir)).places()
    assert options.parts_to_train()["token vectors"] == "model=static_embedder"


def test_random_vectors_for_the_tokenizer_of_a_static_embedder(start_dir: Path) -> None:
    model = build(start_dir, start="random", dimension=5)
    assert model.dimension == 5
    assert model.tokenizer(["red apple"])["input_ids"] == build(start_dir).tokenizer(["red apple"])["input_ids"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "glove"}, "model.start=glove: choose null, distilled, word_embeddings, random"),
        ({"sif_coefficient": 0.0}, "model.sif_coefficient=0.0 must be null or above 0"),
        ({"dimension": 0}, "model.dimension=0 must be null or at least 1"),
        ({"max_length": 0}, "model.max_length=0 must be null or at least 1"),
        ({"similarity": "euclidean"}, "model.similarity=euclidean: choose null, cosine, dot"),
        ({"prompts": {"title": ""}}, "model.prompts.title is not a role of a text"),
        ({"normalize": False}, "model.normalize=false: cosine needs embeddings of unit length"),
        ({"start": "distilled"}, "model.start=distilled: .* is a static embedder, which has its own vectors"),
        ({"dimension": 5}, "model.dimension=5: the vectors of .* have 12 values: leave the option out"),
    ],
)
def test_wrong_options_are_refused(options, message, start_dir: Path) -> None:
    with pytest.raises(ValueError, match=message):
        StaticEmbedderConfig(str(start_dir), **options).check()


def test_more_dimensions_than_the_source_has(tiny_bert_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"model.dimension=500: the vectors of .* have 32 values: give at most"):
        StaticEmbedderConfig(str(tiny_bert_dir), dimension=500).check()


def test_another_kind_is_refused_with_what_to_choose(start_dir: Path, tiny_reranker_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"StaticEmbedding > Normalize; supported: .*: choose model=static_embedder"):
        BiEncoderConfig(str(start_dir)).check()
    with pytest.raises(ValueError, match="adapter_only: a table of token vectors has no adapter"):
        build(start_dir).export(tmp_path / "export", adapter_only=True)
    with pytest.raises(ValueError, match="adapter_only=true: there is no adapter"):
        StaticEmbedderConfig(str(start_dir)).check_adapter_only()


def _copy(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.glob("*.*"):
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    (target / "1_Normalize").mkdir()
    return target


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("missing", "is not a model folder: it lacks model.safetensors"),
        ("no tokenizer", "is not a model folder: it lacks tokenizer.json"),
        ("cut", "model.safetensors: not a complete safetensors file .*: copy it again"),
        ("other", "holds no table of token vectors .* but other"),
        ("small", "does not fit its tokenizer: its table has 9 rows for .* tokens: copy both again"),
        ("tokenizer", "tokenizer.json: not a tokenizer .*: copy it again"),
    ],
)
def test_broken_folders_are_refused(broken: str, message: str, start_dir: Path, tmp_path: Path) -> None:
    folder = _copy(start_dir, tmp_path / "model")
    weights = folder / "model.safetensors"
    table = load_file(weights)["embedding.weight"]
    if broken in ("missing", "no tokenizer"):
        (weights if broken == "missing" else folder / "tokenizer.json").unlink()
    elif broken == "cut":
        weights.write_bytes(weights.read_bytes()[:200])
    elif broken == "tokenizer":
        (folder / "tokenizer.json").write_text(json.dumps({"model": {}}))
    else:
        save_file({"other": table} if broken == "other" else {"embedding.weight": table[:9].clone()}, weights)
    with pytest.raises((ValueError, OSError), match=message):
        StaticEmbedderConfig(str(folder)).check()
