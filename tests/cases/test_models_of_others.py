"""Models as people have them: padding, added tokens, heads, templates. Right scores, or one line before data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from data.batch import TokenSequences
from data.collate import Collator
from launch.cli.compose import instantiate, load
from launch.rerank import main as rerank
from losses.bce import BinaryCrossEntropy
from losses.contracts import gives_probabilities
from losses.list_net import ListNet
from losses.weighted_sum import Term, WeightedSum
from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoder, CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from models.loading.reranker import load_reranker
from recipes.cost_plan.estimate import Machine, make_plans
from recipes.evaluate.run import evaluate
from recipes.training_run import train

QUERY, SHORT, LONG = (
    "what is the train",
    "a pear",
    "the value of a list in python returns the train of a red apple " * 3,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> dict[str, Path]:
    """The folder of a model by its kind. Do not write to them."""
    root = tmp_path_factory.mktemp("models")
    encoder, reranker = root / "encoder", root / "reranker"
    tiny_models.write_tiny_bert(encoder)
    tiny_models.write_tiny_bert(reranker, reranker=True, seed=1)
    causal = tiny_models.write_tiny_causal(root / "causal")
    classifier = AutoModelForSequenceClassification.from_pretrained(causal, num_labels=1)
    with torch.no_grad():
        classifier.score.weight.normal_()
    classifier.save_pretrained(root / "decoder_reranker")
    AutoTokenizer.from_pretrained(causal).save_pretrained(root / "decoder_reranker")
    AutoModel.from_pretrained(causal).save_pretrained(root / "decoder")
    AutoTokenizer.from_pretrained(causal).save_pretrained(root / "decoder")
    return {folder.name: folder for folder in root.iterdir()}


Options = CrossEncoderConfig | BiEncoderConfig | LLMRerankerConfig
KINDS: dict[str, tuple[str, Callable[[Path], Options]]] = {  # kind -> its folder, its options
    "cross-encoder on an encoder": ("reranker", lambda folder: CrossEncoderConfig(str(folder), max_length=96)),
    "cross-encoder on a decoder": ("decoder_reranker", lambda folder: CrossEncoderConfig(str(folder), max_length=96)),
    "bi-encoder on an encoder": ("encoder", lambda folder: BiEncoderConfig(str(folder), max_length=96)),
    "bi-encoder on a decoder": ("decoder", lambda folder: BiEncoderConfig(str(folder), 96, pooling="lasttoken")),
    "LLM reranker": ("causal", lambda folder: LLMRerankerConfig(str(folder), 256, template="qwen3")),
}


def edit(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in {**content, **values}.items() if value is not ...}))


def outputs(model: Any, documents: list[str]) -> torch.Tensor:
    """The score or embedding of each document, all in one batch."""
    encoding = model.tokenizer.encode_list(QUERY, documents)
    sequences = TokenSequences.from_encoding({name: rows[-len(documents) :] for name, rows in encoding.items()})
    features = Collator(model.tokenizer.padding, 10_000).collate(sequences, range(len(documents)))
    with torch.no_grad():
        representations = model.eval()(**features)
    return representations["score" if "score" in representations else "embedding"]


def set_pads(folder: Path, pads: str) -> None:
    """Make the folder pad as someone's does. `end` is the last special token of a row, in a BERT [SEP]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.sep_token or tokenizer.eos_token
    other = "[MASK]" if tokenizer.sep_token else "<|im_end|>"
    named = tokenizer.convert_tokens_to_ids(other)
    if pads == "another in the configuration":
        edit(folder / "config.json", pad_token_id=named)
    elif pads == "an unknown one in the configuration":
        edit(folder / "config.json", pad_token_id=tokenizer.vocab_size + 10_000 if tokenizer.sep_token else -1)
    elif pads == "none":
        edit(folder / "config.json", pad_token_id=None)
        edit(folder / "tokenizer_config.json", pad_token=..., padding_side="left")
        if "sep_token" in json.loads((folder / "tokenizer_config.json").read_text()):
            edit(folder / "tokenizer_config.json", eos_token=end)
    elif pads == "none in the tokenizer":
        edit(folder / "tokenizer_config.json", pad_token=...)
    elif pads == "the end token, on the left":
        edit(folder / "config.json", pad_token_id=tokenizer.convert_tokens_to_ids(end))
        edit(folder / "tokenizer_config.json", pad_token=end, padding_side="left")


PADS = [
    "as made",
    "another in the configuration",
    "an unknown one in the configuration",
    "none",
    "none in the tokenizer",
    "the end token, on the left",
]


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_score_does_not_depend_on_the_neighbours(
    kind: str, pads: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    name, options = KINDS[kind]
    folder = shutil.copytree(folders[name], tmp_path / "model")
    set_pads(folder, pads)
    if pads == "an unknown one in the configuration" and "an encoder" in kind:
        with pytest.raises(ValueError, match=r"config.json: pad_token_id=\d+ has no row in the embeddings"):
            options(folder).check()
        return
    model = options(folder).build(0)
    alone = outputs(model, [SHORT])[0]
    beside = outputs(model, [SHORT, LONG])[0]
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=0)
    assert (outputs(model, [LONG])[0] - alone).abs().max() > 1e-3


@pytest.mark.parametrize("pads", ["another in the configuration", "the end token, on the left"])
def test_the_score_is_that_of_transformers_and_the_export_keeps_it(
    pads: str, folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    st = pytest.importorskip("sentence_transformers")
    folder = shutil.copytree(folders["decoder_reranker"], tmp_path / "model")
    set_pads(folder, pads)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(folder)(
            **tokenizer(QUERY, SHORT, return_tensors="pt")
        )
    model = CrossEncoderConfig(str(folder), max_length=96).build(0)
    warned = [record.getMessage() for record in caplog.records if "pads with" in record.getMessage()]
    assert len(warned) == (pads == "another in the configuration")
    assert all("'<|im_end|>' (2)" in line and "'<|endoftext|>' (0)" in line for line in warned)
    expected = outputs(model, [SHORT, LONG])
    torch.testing.assert_close(expected[0], theirs.logits[0, 0], atol=1e-5, rtol=0)
    model.export(tmp_path / "export")
    exported = st.CrossEncoder(str(tmp_path / "export"), device="cpu")
    predicted = torch.from_numpy(exported.predict([(QUERY, SHORT), (QUERY, LONG)], activation_fn=torch.nn.Identity()))
    torch.testing.assert_close(predicted, expected, atol=1e-5, rtol=0)


def test_a_decoder_that_ends_every_row_needs_another_padding_token(tiny_models: ModuleType, tmp_path: Path) -> None:
    """Its classifier would overlook the end token of a text. The remedy of the line works."""
    folder = tiny_models.write_tiny_decoder(tmp_path / "decoder", embedder=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = [("[SEP]", tokenizer.convert_tokens_to_ids("[SEP]"))]
    ends = TemplateProcessing(single="$A [SEP]", pair="$A $B [SEP]", special_tokens=special)
    tokenizer.backend_tokenizer.post_processor = ends
    tokenizer.save_pretrained(folder)
    edit(folder / "config.json", pad_token_id=None)
    edit(folder / "tokenizer_config.json", pad_token=...)
    options = CrossEncoderConfig(str(folder), max_length=48)
    with pytest.raises(ValueError, match=r'no padding token: write .* as "pad_token" into tokenizer_config.json'):
        options.check()
    edit(folder / "tokenizer_config.json", pad_token="[PAD]")
    model = options.build(0)
    torch.testing.assert_close(outputs(model, [SHORT, LONG])[0], outputs(model, [SHORT])[0], atol=1e-5, rtol=0)


CLASSES = {"reranker": AutoModelForSequenceClassification, "decoder_reranker": AutoModelForSequenceClassification}
CLASSES |= {"encoder": AutoModel, "decoder": AutoModel, "causal": AutoModelForCausalLM}


@pytest.mark.parametrize("added", ["words", "padding token"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_larger_than_the_embeddings_is_refused(
    kind: str, added: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    name, options = KINDS[kind]
    folder = shutil.copytree(folders[name], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer.add_tokens([f"free{number}" for number in range(rows - len(tokenizer))])  # rows without a token
    if added == "words":
        tokenizer.add_tokens(["stock", "brand", "colour"])
    else:
        tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    tokenizer.save_pretrained(folder)
    size = len(tokenizer)
    with pytest.raises(ValueError, match=f"tokenizer has {size} tokens, the embeddings {rows} rows") as caught:
        options(folder).check()
    assert "\n" not in str(caught.value)
    assert f"`model.resize_token_embeddings({size})`" in str(caught.value)
    resized = CLASSES[name].from_pretrained(folder)  # the remedy
    resized.resize_token_embeddings(size)
    resized.save_pretrained(folder)
    options(folder).check()
    assert outputs(options(folder).build(0), ["stock colour", LONG]).isfinite().all()


def test_a_special_token_that_no_row_holds_needs_no_embedding(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As Gemma's token of images, one more than the embeddings have rows."""
    folder = shutil.copytree(folders["causal"], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(folder)
    model = LLMRerankerConfig(str(folder), 256, template="qwen3").build(0)
    assert "no row for the special tokens <image>" in caplog.text
    assert outputs(model, [SHORT, LONG]).isfinite().all()


@pytest.mark.parametrize("name", ["encoder", "embedder", "causal"])
def test_what_has_no_head_is_said_and_what_it_is_for(
    name: str, folders: dict[str, Path], tmp_path: Path, tiny_run: list[str]
) -> None:
    """No command scores with a random head, and none reads data first: the folder of the data does not exist."""
    if name == "embedder":
        BiEncoderConfig(str(folders["encoder"])).build(0).export(tmp_path / name)
    folder = tmp_path / name if name == "embedder" else folders[name]
    evaluated = f"model=bi_encoder model.name_or_path={folder}"
    message = {
        "encoder": f"{folder} has no score head: .* {evaluated}",
        "embedder": f"{folder} is an embedding model, it has no score head: .* {evaluated}",
        "causal": f"{folder} is a language model without a prompt template, .* --template NAME",
    }[name]
    with pytest.raises(ValueError, match=message):
        rerank([str(folder), "--query", QUERY, SHORT])
    with pytest.raises(ValueError, match=message):
        CrossEncoder.load(folder)
    nowhere = ["data=beir", f"data.path={tmp_path / 'nowhere'}"]
    settings = instantiate_evaluation([*nowhere, f"model.name_or_path={folder}", "model.max_length=48"])
    with pytest.raises(ValueError, match=message):
        evaluate(settings)
    run = [option for option in tiny_run if not option.startswith(("data=", "data.path"))]
    teacher = [f"teacher.name_or_path={folder}", "teacher.max_length=48"]
    distill = load(["+exp=reranker_distill", *run, *nowhere, *teacher])
    for command in (train, plan):
        with pytest.raises(ValueError, match=f"teacher: model {message}.*; teacher=null takes the scores in the data"):
            command(distill)


def instantiate_evaluation(options: list[str]) -> Any:
    from launch.cli.compose import compose

    return instantiate(compose(options, "evaluate"))


def plan(settings: Any) -> Any:
    return make_plans(settings, Machine("cpu", 2**34, None), ranks=[1], reads_data=True)


def test_a_copy_of_a_published_reranker_ranks_with_its_template(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The scores are those of the language model after the template's prompt."""
    folder = str(folders["causal"])
    rerank([folder, "--template", "qwen3", "--query", QUERY, "--json", "--raw", SHORT, LONG])
    rows = json.loads(capsys.readouterr().out)["results"]
    model = LLMRerankerConfig(folder, template="qwen3").build(0).eval()
    expected = outputs(model, [SHORT, LONG]).tolist()
    assert {row["id"]: row["score"] for row in rows} == pytest.approx(dict(zip("12", expected, strict=True)), abs=1e-4)
    with pytest.raises(ValueError, match="invalid choice: 'qwen'"):
        rerank([folder, "--template", "qwen", "--query", QUERY, SHORT])
    with pytest.raises(ValueError, match="is a sequence classifier, read without a prompt template"):
        load_reranker(str(folders["decoder_reranker"]), template="qwen3")


BCE = ["+exp=reranker_bce", "trainer.max_steps=2", "trainer.eval_every=2", "trainer.save_every=2"]
LISTWISE = ["+exp=reranker_listwise", *BCE[1:]]


@pytest.mark.parametrize(
    ("options", "activation"),
    [
        (BCE, "Sigmoid"),
        ([*BCE, "model.activation=identity"], "Identity"),
        (LISTWISE, "Identity"),
        ([*LISTWISE, "model.activation=sigmoid"], "Sigmoid"),
    ],
)
def test_a_reranker_trained_by_bce_gives_probabilities(
    options: list[str], activation: str, tiny_run: list[str], tmp_path: Path
) -> None:
    st = pytest.importorskip("sentence_transformers")
    train(load([*options, *tiny_run, "run_name=r"]))
    folder = tmp_path / "outputs" / "r" / "model"
    theirs = st.CrossEncoder(str(folder), device="cpu")
    ours = CrossEncoder.load(folder)
    assert type(theirs.activation_fn).__name__ == type(ours.activation).__name__ == activation
    pairs = [(QUERY, SHORT), (QUERY, LONG)]
    expected = ours.activation(outputs(ours, [SHORT, LONG]))
    torch.testing.assert_close(torch.from_numpy(theirs.predict(pairs)), expected, atol=1e-5, rtol=0)


def test_which_losses_give_probabilities() -> None:
    """A sum does only if all its terms do."""
    bce, soft = BinaryCrossEntropy(), BinaryCrossEntropy(None, soft_labels=True)
    assert gives_probabilities(bce)
    assert gives_probabilities(WeightedSum({"a": Term(bce), "b": Term(soft)}))
    assert not gives_probabilities(ListNet())
    assert not gives_probabilities(WeightedSum({"a": Term(bce), "b": Term(ListNet())}))


@pytest.mark.parametrize("chosen", [None, "identity"])
def test_the_activation_of_an_llm_reranker(chosen: str | None, folders: dict[str, Path], tmp_path: Path) -> None:
    model = LLMRerankerConfig(str(folders["causal"]), 256, template="qwen3", activation=chosen).build(0)
    model.give_probabilities()
    model.export(tmp_path / "export")
    settings = json.loads((tmp_path / "export" / "config_sentence_transformers.json").read_text())
    assert settings["activation_fn"].endswith("Identity" if chosen else "Sigmoid")
    again = LLMRerankerConfig(str(tmp_path / "export")).build(0)
    assert type(again.activation) is type(model.activation)


def test_the_folders_activation_stays_unless_the_loss_or_the_option_says_otherwise(folders: dict[str, Path]) -> None:
    """A plain classifier of one label has a sigmoid in sentence-transformers."""
    folder = str(folders["reranker"])
    assert type(CrossEncoderConfig(folder, 96).build(0).activation) is torch.nn.Sigmoid
    assert type(CrossEncoderConfig(folder, 96, activation="identity").build(0).activation) is torch.nn.Identity
    with pytest.raises(ValueError, match=r"model.activation=tanh: choose null .* sigmoid, identity"):
        CrossEncoderConfig(folder, activation="tanh")
