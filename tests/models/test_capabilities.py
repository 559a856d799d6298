"""What the kinds of model declare before a weight is loaded is what they give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from data.batch import TokenSequences
from data.collate import pad
from losses.contracts import OUTPUTS
from models.bi_encoder import BiEncoderConfig
from models.capabilities import ModelOptions
from models.cross_encoder import CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from models.loading.kind import EMBEDDERS
from models.prompts.run_prompts import RunPrompts
from runs.source_tree import CONF


@pytest.fixture(params=["bi_encoder", "two_towers", "cross_encoder", "llm_reranker"])
def options(request: pytest.FixtureRequest, tiny_bert_dir: Path, tiny_causal_dir: Path) -> ModelOptions:
    return {
        "bi_encoder": BiEncoderConfig(str(tiny_bert_dir), temperature=0.1),
        "two_towers": BiEncoderConfig(str(tiny_bert_dir), separate_towers=True),
        "cross_encoder": CrossEncoderConfig(str(tiny_bert_dir), max_length=64),
        "llm_reranker": LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", max_length=256),
    }[request.param]


def test_the_experiment_that_a_kind_names_trains_it() -> None:
    for kind, options in EMBEDDERS.items():
        text = (CONF / "exp" / f"{options.contrastive_experiment}.yaml").read_text()
        assert (
            f"override /model: {kind if kind != 'static_embedder' else 'bi_encoder'}\n" in text
        )  # it mines for others


def test_a_model_gives_what_its_options_declare(options: ModelOptions) -> None:
    model = options.build(0)
    rows = TokenSequences.from_encoding(model.tokenizer.encode_list("a query", ["a document", "another one"]))
    features = pad(rows, range(len(rows)), model.tokenizer.padding)
    assert len(rows) == {"pairs": 2, "texts": 3}[options.layout]
    assert options.layout == model.tokenizer.layout
    assert options.outputs == model.outputs
    assert options.outputs <= set(OUTPUTS)
    plain = set(model(**features)) - {"scale", "bias"}
    assert plain == {"score" if options.layout == "pairs" else "embedding"}
    model.prepare(wanted_outputs=options.outputs)
    assert set(model(**features)) - {"scale", "bias"} == options.outputs
    assert (model.dimension is None) == ("embedding" not in options.outputs)
    with pytest.raises(ValueError, match=f"a {type(model).__name__} gives no foresight"):
        model.prepare(wanted_outputs={"foresight"})


def test_a_simplified_model_gives_the_same_without_marks_of_its_kind(options: ModelOptions) -> None:
    model = options.build(0).eval()
    simple = options.build(0).eval()
    simple.simplify_for_tracing()

    def outputs(one) -> dict[str, torch.Tensor]:
        rows = TokenSequences.from_encoding(one.tokenizer.encode_list("a query", ["a document"]))
        assert "is_query" not in rows.features or one is model
        return one(**pad(rows, range(len(rows)), one.tokenizer.padding))

    for name, value in outputs(model).items():
        torch.testing.assert_close(outputs(simple)[name], value, atol=1e-6, rtol=0)


def test_the_data_s_prompts_become_the_model_s(tiny_bert_dir: Path, tiny_causal_dir: Path) -> None:
    embedder = BiEncoderConfig(str(tiny_bert_dir), prompts={"query": "q: ", "document": "d: "}).build(0)
    embedder.adopt_prompts(RunPrompts("rank: "))
    assert embedder.tokenizer.prompts == {"query": "rank: ", "document": "d: "}
    reranker = LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", max_length=256).build(0)
    before = reranker.tokenizer.template
    reranker.adopt_prompts(RunPrompts())
    assert reranker.tokenizer.template == before
    reranker.adopt_prompts(RunPrompts("Find it.", "title: "))
    template = reranker.tokenizer.template
    assert (template.instruction, template.document_prompt) == ("Find it.", "title: ")


def test_a_learned_temperature_goes_on_from_the_folder() -> None:
    options = BiEncoderConfig(temperature=0.1, learn_temperature=True, bias=1.0)
    later = options.starting_from(Path("/runs/1/model"))
    assert (later.name_or_path, later.temperature, later.bias) == ("/runs/1/model", None, 1.0)


def test_the_defaults_of_a_new_kind(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Options(ModelOptions):
        name_or_path: str = ""

        def build(self, seed: int) -> None:
            return None

    assert Options().folder() is None
    later = Options().starting_from(tmp_path)
    assert later.folder() == tmp_path
    assert later.saved_scale() == {}
    later.check_machine()
    with pytest.raises(ValueError, match="adapter_only=true: there is no adapter"):
        later.check_adapter_only()
