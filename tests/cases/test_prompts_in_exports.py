"""Exports keep what stood before the texts in training, shown by the scores of a run's test queries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from data.formats.trec import read_trec_run
from inference.runner import ModuleRunner
from launch.cli.compose import load
from recipes.build import test_evaluator as make_evaluator
from recipes.preparation import prepare
from recipes.training_run import train

THINGS = "apple pear train rank list query document python value red green blue".split()  # noqa: SIM905
EMBEDDER = ["+exp=embedder_infonce", "model=bi_encoder{lora}", "eval=reranking", "model.max_length=48"]
RERANKER = ["+exp=reranker_contrastive", "model=cross_encoder{lora}", "model.max_length=48"]
LLM = ["+exp=llm_reranker_sft", "model=llm_reranker_qwen3{lora}", "model.max_length=192"]
KINDS = {"embedder": EMBEDDER, "reranker": RERANKER, "llm": LLM}
MODELS = {"embedder": "bi_encoder", "reranker": "cross_encoder", "llm": "llm_reranker"}
RUN = ["trainer.max_steps=2", "trainer.batch_size=3", "trainer.list_size=2", "trainer.workers=0"]
RUN += ["trainer.optimizer=sgd", "trainer.learning_rate=0.05", "logger=none"]
PROMPT, OTHER = "what is the rank of: ", "returns python: "
NAMES = {PROMPT: "what_is_the_rank_of", OTHER: "returns_python"}


def write_rows(file: Path, prompt_of: Callable[[int], str | None] = lambda _: None) -> Path:
    """Write twelve rows: a query, the document that answers it, two others, and perhaps a prompt."""
    rows: list[dict[str, Any]] = []
    for number, thing in enumerate(THINGS):
        others = [f"the {THINGS[number - step]} is a value in {file.stem}" for step in (1, 2)]
        rows.append({"query": f"what is {thing} {file.stem}", "pos": [f"a {thing} of {file.stem}"], "neg": others})
        if (prompt := prompt_of(number)) is not None:
            rows[-1]["prompt"] = prompt
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def data_of(folder: Path, case: str, document_prompt: str | None = None) -> list[str]:
    """The options of data with no prompts, those of the data set, of the rows (one or two) or of a mixture."""
    prompts = {"row": lambda _: PROMPT, "rows": lambda number: OTHER if number % 3 else PROMPT}
    file = write_rows(folder / "data" / "first.jsonl", prompts.get(case, lambda _: None))
    options, prefix = ["data=file"], "data"
    if case == "mixture":
        second = write_rows(folder / "data" / "second.jsonl")
        prefix = "data.sources.first"
        options = ["data=mixture", "+data@data.sources.first=file", "+data@data.sources.second=file"]
        options += [f"data.sources.second.path={second}", f"data.sources.second.query_prompt='{OTHER}'"]
        options += ["data.sources.second.test_fraction=0", "data.sources.second.dev_fraction=0"]
        options += ["data.evaluate_on=first"]
    options += [f"{prefix}.path={file}", f"{prefix}.dev_fraction=0", f"{prefix}.test_fraction=0.4"]
    options += [f"{prefix}.query_prompt='{PROMPT}'"] if case in ("data set", "mixture") else []
    return options + ([f"{prefix}.document_prompt='{document_prompt}'"] if document_prompt else [])


@pytest.fixture(scope="module")
def small_causal_dir(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> Path:
    """A causal language model whose logits are small, so that float32 rounds their difference by less than 1e-5."""
    return tiny_models.write_tiny_causal(tmp_path_factory.mktemp("small_causal"), initializer_range=0.08)


@pytest.fixture
def options_of(tmp_path: Path, tiny_bert_dir: Path, small_causal_dir: Path) -> Callable[..., list[str]]:
    """A function `options_of(kind, case, lora=...)`: the settings of a short run."""

    def options(kind: str, case: str, *, lora: str = "", document_prompt: str | None = None) -> list[str]:
        model = small_causal_dir if kind == "llm" else tiny_bert_dir
        chosen = [option.format(lora="_lora" if lora else "") for option in KINDS[kind]]
        chosen += [f"model.name_or_path={model}", *data_of(tmp_path, case, document_prompt), *RUN]
        return [*chosen, f"adapter_only={str(lora == 'adapter').lower()}", f"output_dir={tmp_path}", "run_name=run"]

    return options


def documents_of(options: list[str]) -> tuple[Any, Any]:
    """The evaluated data set of a run, and its test split."""
    collection = load(options).data.build().evaluated
    return collection, collection.split("test")


def scores_of_sentence_transformers(folder: Path, kind: str, options: list[str]) -> dict[str, dict[str, float]]:
    """The scores of the test queries with the export's own prompts; a row's prompt is chosen by its name."""
    st = pytest.importorskip("sentence_transformers")
    collection, split = documents_of(options)
    model = (st.SentenceTransformer if kind == "embedder" else st.CrossEncoder)(str(folder), device="cpu")
    found = {}
    for query, text in split.queries.items():
        prompt = split.prompts.get(query)
        name = NAMES[prompt] if prompt is not None and NAMES[prompt] in model.prompts else None
        ids = [document for document, _ in split.candidates[query]]
        texts = [collection.documents[document] for document in ids]
        if kind == "embedder":
            embedding = model.encode_query([text], prompt_name=name, convert_to_tensor=True)
            scores = model.similarity(embedding, model.encode_document(texts, convert_to_tensor=True))[0]
        else:
            pairs = [(text, document) for document in texts]
            scores = model.predict(pairs, prompt_name=name, activation_fn=torch.nn.Identity())
        found[query] = dict(zip(ids, map(float, scores), strict=True))
    return found


def our_scores(folder: Path, kind: str, options: list[str]) -> dict[str, dict[str, float]]:
    """The scores of the test queries by the export in our evaluation, which is told the rows' prompts alone."""
    own = [each for each in options if "_prompt=" not in each and "adapter_only" not in each]
    settings = load([*own, f"model={MODELS[kind]}", f"model.name_or_path={folder}"])
    model = settings.model.build(0).eval()
    return make_evaluator(settings, settings.data.build(), model).evaluate(ModuleRunner(model, torch.device("cpu"))).run


def assert_close(found: dict[str, dict[str, float]], expected: dict[str, dict[str, float]]) -> None:
    assert len(expected) >= 3
    for query, scores in expected.items():
        assert found[query] == pytest.approx(scores, abs=1e-5)


CASES = [(kind, case, "") for kind in KINDS for case in ("none", "data set", "row", "rows", "mixture")]
CASES += [(kind, "mixture", lora) for kind in KINDS for lora in ("merged", "adapter")]


@pytest.mark.parametrize(("kind", "case", "lora"), CASES)
def test_the_export_scores_as_the_trained_model(
    kind: str, case: str, lora: str, options_of: Callable[..., list[str]], tmp_path: Path
) -> None:
    options = options_of(kind, case, lora=lora)
    train(load(options))
    trained, folder = read_trec_run(tmp_path / "run" / "runs" / "after.run"), tmp_path / "run" / "model"
    assert_close(our_scores(folder, kind, options), trained)
    assert_close(scores_of_sentence_transformers(folder, kind, options), trained)
    saved = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    named = {"data set": {}, "row": {}, "rows": {NAMES[PROMPT]: PROMPT}, "mixture": {"first": PROMPT, "second": OTHER}}
    query = {"data set": PROMPT, "row": PROMPT, "rows": OTHER, "mixture": PROMPT}
    if case != "none":
        assert {name: saved.get(name) for name in ("query", *named[case])} == {"query": query[case]} | named[case]
        card = (folder / "README.md").read_text()
        assert all(f"- {name}: `{text!r}`" in card for name, text in {"query": query[case], **named[case]}.items())


def test_the_document_prompts_of_a_template_and_of_an_embedder_are_exported(
    options_of: Callable[..., list[str]], tmp_path: Path
) -> None:
    for kind in ("embedder", "llm"):
        options = [*options_of(kind, "data set", document_prompt="document: "), f"run_name={kind}"]
        train(load(options))
        trained, folder = read_trec_run(tmp_path / kind / "runs" / "after.run"), tmp_path / kind / "model"
        assert_close(our_scores(folder, kind, options), trained)
        assert_close(scores_of_sentence_transformers(folder, kind, options), trained)


def test_a_reranker_s_document_prompt_is_refused_before_training_unless_it_may_be_lost(
    options_of: Callable[..., list[str]], tmp_path: Path
) -> None:
    options = options_of("reranker", "data set", document_prompt="document: ")
    for start in (train, prepare):  # the plan of a run's memory begins with `prepare`
        with pytest.raises(
            ValueError, match=r"^data.document_prompt='document: ': .* allow_lost_prompts=true: [^\n]*$"
        ):
            start(load(options))
    assert not (tmp_path / "run").exists()
    options.append("allow_lost_prompts=true")
    train(load(options))
    folder = tmp_path / "run" / "model"
    assert "- prompts: trained with data.document_prompt='document: '" in (folder / "README.md").read_text()
    assert_close(our_scores(folder, "reranker", options), read_trec_run(tmp_path / "run" / "runs" / "after.run"))


def test_a_stage_s_own_prompts_are_in_the_export_of_the_run(
    options_of: Callable[..., list[str]], tmp_path: Path
) -> None:
    own = write_rows(tmp_path / "own.jsonl")
    stages = ["+exp=reranker_three_stage", "stages=[grpo,contrastive]", "data@stage.grpo.data=file"]
    stages += [f"stage.grpo.data.path={own}", f"stage.grpo.data.query_prompt='{OTHER}'"]
    options = options_of("reranker", "data set")
    train(load([*stages, *options[1:]]))
    folder = tmp_path / "run" / "model"
    saved = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert saved["prompts"] == {"query": PROMPT, "grpo": OTHER}
    assert saved["default_prompt_name"] == "query"
    trained = read_trec_run(tmp_path / "run" / "runs" / "after.run")
    assert_close(our_scores(folder, "reranker", options), trained)
    assert_close(scores_of_sentence_transformers(folder, "reranker", options), trained)


def test_what_a_later_stage_would_lose_is_refused_before_the_first(
    options_of: Callable[..., list[str]], tmp_path: Path
) -> None:
    stages = ["+exp=reranker_three_stage", "data@stage.preference.data=file"]
    stages += [f"stage.preference.data.path={write_rows(tmp_path / 'own.jsonl')}"]
    stages += ["stage.preference.data.document_prompt='document: '"]
    with pytest.raises(ValueError, match=r"^document_prompt='document: ' of preference: .*allow_lost_prompts=true"):
        train(load([*stages, *options_of("reranker", "none")[1:]]))
    assert not (tmp_path / "run").exists()


def test_a_second_document_prompt_and_a_query_without_instruction_are_refused_for_a_template(
    options_of: Callable[..., list[str]], tmp_path: Path
) -> None:
    for option, text in (("document_prompt", "document: "), ("query_prompt", "")):
        options = [*options_of("llm", "mixture"), f"data.sources.second.{option}='{text}'"]
        with pytest.raises(ValueError, match=rf"^{option}='{text}' of second"):
            train(load(options))
    assert not (tmp_path / "run").exists()
