"""Added tokens in a prompt ("[Q] ") that are not special are text in queries and documents that spell them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from data.formats.file import FileConfig
from models.bi_encoder import BiEncoderConfig
from models.control_tokens import TextReader
from models.cross_encoder import CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from models.prompts.run_prompts import NamedPrompt, RunPrompts
from recipes.prompts import expect_prompts

MARKERS = ["[Q]", "[D]", "[X]"]
SPELLED = "red [Q] green [D]apple"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("markers")
    folders = {
        "embedder": tiny_models.write_tiny_bert(root / "embedder"),
        "reranker": tiny_models.write_tiny_bert(root / "reranker", reranker=True),
    }
    for name, kind in (("embedder", AutoModel), ("reranker", AutoModelForSequenceClassification)):
        tokenizer, model = AutoTokenizer.from_pretrained(folders[name]), kind.from_pretrained(folders[name])
        tokenizer.add_tokens(MARKERS)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        tokenizer.save_pretrained(folders[name])
        model.save_pretrained(folders[name])
    folders["causal"] = tiny_models.write_tiny_causal(root / "causal")  # "<think>" is such a token of its own
    return folders


def markers_in(rows: Any, tokenizer: Any) -> list[int]:
    """How many markers each row has."""
    ids = {tokenizer.tokenizer.convert_tokens_to_ids(token) for token in MARKERS}
    return [sum(token in ids for token in row) for row in dict(rows)["input_ids"]]


def test_markers_of_an_embedders_own_prompts(folders: dict[str, Path], tmp_path: Path) -> None:
    model = BiEncoderConfig(str(folders["embedder"]), 64, prompts={"query": "[Q] ", "document": "[D] "}).build(0)
    texts = model.tokenizer
    for role in ("query", "document"):
        assert markers_in(texts([SPELLED, "[D]", "red"], role), texts) == [1, 1, 1]
    assert markers_in(texts(["[X] red"], "query"), texts) == [2], "[X] is in no prompt: a word"
    # The export says that its texts are text here, and not in other libraries.
    model.export(tmp_path / "export")
    card = (tmp_path / "export" / "README.md").read_text()
    assert "`[Q]`" in card
    assert "except `[Q]`, `[D]`" in card
    again = BiEncoderConfig(str(tmp_path / "export"), 64).build(0).tokenizer
    assert again([SPELLED], "document") == texts([SPELLED], "document")
    assert markers_in(pickle.loads(pickle.dumps(again))([SPELLED], "document"), again) == [1]


def write_rows(folder: Path, **columns: str) -> Path:
    rows = [{"query": f"red {n}", "positive": SPELLED, "negative": f"apple {n}", **columns} for n in range(6)]
    folder.mkdir(exist_ok=True)
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("where", ["data set", "rows"])
def test_markers_of_a_runs_prompts(where: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """A prompt of the queries alone: a document that spells it is no query. The export reads as training did."""
    options: dict[str, Any] = {"query_prompt": "[Q] "} if where == "data set" else {}
    file = write_rows(tmp_path / "data", **({"prompt": "[Q] "} if where == "rows" else {}))
    collection = FileConfig(path=str(file), dev_fraction=0, test_fraction=0, **options).build()
    for kind, name in ((BiEncoderConfig, "embedder"), (CrossEncoderConfig, "reranker")):
        model = kind(str(folders[name]), 64).build(0)
        before = model.tokenizer.encode_list("red", [SPELLED], query_prompt="[Q] ")
        expect_prompts(model, collection)
        rows = model.tokenizer.encode_list("red", [SPELLED], query_prompt="[Q] ")
        assert sum(markers_in(before, model.tokenizer)) == 3, "with no known prompt they are words"
        assert sum(markers_in(rows, model.tokenizer)) == 2, "[Q] in the prompt, [D] in the text"
        reader = model.tokenizer.reader
        assert model.tokenizer.reader is reader
        model.adopt_prompts(RunPrompts("[Q] "))
        assert model.tokenizer.reader is reader, "the same tokens: no other tokenizer is made"
        model.export(tmp_path / name)
        again = kind(str(tmp_path / name), 64).build(0)
        assert again.tokenizer.encode_list("red", [SPELLED]) == rows


def test_markers_of_named_prompts_and_instructions(folders: dict[str, Path]) -> None:
    model = CrossEncoderConfig(str(folders["reranker"]), 64).build(0)
    model.adopt_prompts(RunPrompts(None, None, (NamedPrompt("asked", "[Q] ", "some rows"),)))
    assert sum(markers_in(model.tokenizer([SPELLED], ["x"]), model.tokenizer)) == 1
    ranker = LLMRerankerConfig(str(folders["causal"]), 256, template="mxbai").build(0)
    think = ranker.tokenizer.tokenizer.convert_tokens_to_ids("<think>")
    assert think in ranker.tokenizer(["red"], ["apple <think>"])["input_ids"][0], "in no prompt of this template"
    ranker.expect_prompts([None, "say it <think>"])
    assert think not in ranker.tokenizer(["red"], ["apple <think>"])["input_ids"][0]


def test_the_option_still_reads_them_as_tokens(folders: dict[str, Path]) -> None:
    prompts = {"query": "[Q] "}
    model = BiEncoderConfig(str(folders["embedder"]), 64, prompts=prompts, split_special_tokens=False).build(0)
    assert markers_in(model.tokenizer(["[Q] red"], "query"), model.tokenizer) == [2]


def test_a_tokenizer_that_ignores_case_does_so_in_prompts(folders: dict[str, Path]) -> None:
    """Its prompts are read as in transformers, and its texts hold the marker in no case."""
    model = BiEncoderConfig(str(folders["embedder"]), 64, prompts={"query": "[q] ", "document": "[D] "}).build(0)
    texts = model.tokenizer
    assert texts(["red"], "query")["input_ids"] == texts.tokenizer(["[q] red"]).input_ids
    assert markers_in(texts(["[q] red [Q] [d]"], "query"), texts) == [1]
    assert markers_in(texts(["[q] red [Q] [d]"], "document"), texts) == [1]


def test_letters_that_have_another_lower_case_are_no_marker() -> None:
    r"""(?i:...) finds the dotless i and the long s too, of which `lower` makes neither "i" nor "s"."""
    reader = TextReader(None, {"[title]": "1"}, {"[title]": "1"})  # type: ignore[arg-type]
    spelled = "[t\u0131tle] [T\u0130TLE]"
    assert reader.prompt(f"[Title] {spelled}") == f"1 {spelled}"
