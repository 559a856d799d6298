"""Parts that do not fit each other are told in one line, before a weight is loaded."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launch.cli.compose import load
from losses.pointwise_mse import PointwiseMSE
from models.cross_encoder import CrossEncoderConfig
from recipes.build import prepare
from recipes.checks.compatibility import check_model, check_parts, check_score_scale
from recipes.checks.data_fit import check_data

EMBEDDER = ["+exp=embedder_infonce"]
RERANKER = ["+exp=reranker_contrastive"]
EMBEDDING = "an embedding of each text, and the model gives score: choose"
LATE = ["+exp=colbert_infonce"]
VOCABULARY = "needs a vocabulary, over which an answer has a probability, and the model gives score: choose"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [*RERANKER, "loss=info_nce"],
            f"loss InfoNCE needs {EMBEDDING} model=bi_encoder",
        ),
        ([*RERANKER, "loss=matryoshka"], "loss Matryoshka needs an embedding of each text"),
        (
            [*RERANKER, "eval=retrieval"],
            f"this evaluation needs {EMBEDDING} eval=reranking",
        ),
        ([*RERANKER, "model=bm25"], "this model is for launch/evaluate.py"),
        ([*RERANKER, "trainer=grpo"], "trainer=grpo needs a policy loss"),
        (
            [*RERANKER, "trainer=grpo", "loss=token_policy_vocabulary"],
            f"{VOCABULARY} model=llm_reranker",
        ),
        ([*EMBEDDER, "loss=gist"], "loss InfoNCE needs a guide: add model@guide=bi_encoder"),
        (
            [*EMBEDDER, "loss=gist", "model@guide=cross_encoder"],
            f"a guide needs {EMBEDDING} model@guide=bi_encoder",
        ),
        ([*EMBEDDER, "model@guide=bi_encoder"], "loss InfoNCE does not use a guide"),
        ([*EMBEDDER, "model@teacher=cross_encoder"], "loss InfoNCE does not use a teacher"),
        ([*EMBEDDER, "teacher.name_or_path=x"], "teacher is not a model: choose one of conf/model, model@teacher=NAME"),
        ([*EMBEDDER, "model.temperature=0.1"], "model.temperature=0.1 is not read by loss InfoNCE"),
        ([*EMBEDDER, "trainer.batch_size=1", "trainer.list_size=1"], "compares documents, and a step has one"),
        ([*EMBEDDER, "model.learn_temperature=true"], "model.learn_temperature=True is not read by loss InfoNCE"),
        ([*EMBEDDER, "model.prompts={query: 'a\\nb'}"], "model.prompts.query holds a backslash and an n"),
        ([*EMBEDDER, "data.query_prompt='a\\nb'"], "data.query_prompt holds a backslash and an n"),
        ([*EMBEDDER, "push_to_hub='a b/c'"], "push_to_hub=a b/c: "),
        ([*EMBEDDER, "model.packing=true", "engine.compile=true"], "engine.compile=true runs padded rows: leave out"),
        *[
            ([*composed, "trainer.refresh_every=10", *options], message)
            for composed, options, message in [
                (EMBEDDER, ["trainer.max_steps=10"], "trainer.refresh_every=10: nothing is refreshed in"),
                (
                    EMBEDDER,
                    ["trainer.list_size=1"],
                    "trainer.refresh_every=10: lists of one document hold no negatives",
                ),
                (RERANKER, ["trainer.refresh_documents=5"], "trainer.refresh_documents=5 is for embedding models"),
                (["+exp=reranker_grpo"], ["loss.beta=0.1"], "known yet: set trainer.reference=frozen"),
                (["+exp=reranker_preference"], [], "loss DPO compares with a reference"),
                (["+exp=embedder_distill"], ["teacher=null"], "the data have none for documents that the model"),
                (
                    ["+exp=reranker_grpo"],
                    ["loss=token_policy_expected"],
                    "samples no actions, so no list has equal rewards: set trainer.refresh_attempts=0",
                ),
            ]
        ],
        (
            [*EMBEDDER, "model=bi_encoder_lora", "model.quantization=4bit"],
            "model.quantization=4bit needs a CUDA device",
        ),
        (
            ["+exp=embedder_distill_embeddings", "teacher=null"],
            "needs a teacher: add model@teacher=bi_encoder teacher.name",
        ),
        (
            ["+exp=embedder_distill_embeddings", "model@teacher=cross_encoder"],
            f"a teacher of embeddings needs {EMBEDDING} model@teacher=bi_encoder",
        ),
        (
            ["+exp=embedder_distill_embeddings", "model@teacher=late_interaction"],
            "a teacher of embeddings gives one vector per text, and LateInteractionConfig several: choose",
        ),
        (
            [*EMBEDDER, "loss=gist", "model@guide=late_interaction"],
            "a guide gives one vector per text, and LateInteractionConfig several: choose model@guide=bi_encoder",
        ),
        (
            [*EMBEDDER, "model=sparse_encoder", "loss=matryoshka"],
            "loss Matryoshka trains the first dimensions of embeddings alone, and those of SparseEncoderConfig are in "
            "no order of use: choose the loss inside it, such as loss=info_nce_sparse, or model=bi_encoder",
        ),
        (
            [*EMBEDDER, "model=sparse_encoder", "loss=quantization_aware"],
            "loss QuantizationAware trains embeddings for int8 or bits, and an index stores those of "
            "SparseEncoderConfig as the few weights that are not 0: choose the loss inside it, such as "
            "loss=info_nce_sparse, or model=bi_encoder",
        ),
        (
            ["+exp=splade_infonce", "loss@loss.terms.main.loss=quantization_aware"],
            "trains embeddings for int8 or bits",
        ),
        (
            [*EMBEDDER, "model=late_interaction", "loss=quantization_aware"],
            "loss QuantizationAware reads one vector per text, and LateInteractionConfig gives several: choose one "
            "that compares by any similarity, such as loss=info_nce_max_sim, or model=bi_encoder",
        ),
        (
            ["+exp=splade_infonce", "loss@loss.terms.main.loss=matryoshka"],
            "trains the first dimensions of embeddings alone",
        ),
        (
            [*EMBEDDER, "model=sparse_encoder", "eval.dims=[64]"],
            "eval.dims: the dimensions of SparseEncoderConfig's embeddings are in no order of use, so the first alone "
            "tell nothing: leave it out (eval.dims=[])",
        ),
        (
            [*EMBEDDER, "model.teacher_projection=16"],
            "model.teacher_projection=16 is not read by loss InfoNCE: leave it out, or choose loss=embedding",
        ),
        (
            ["+exp=embedder_distill_embeddings", "loss=similarity_distillation", "model.teacher_projection=16"],
            "model.teacher_projection=16 is not read by loss EmbeddingDistillation: leave it out",
        ),
        (
            [*RERANKER, "trainer.negatives=node"],
            "trainer.negatives=node: loss SoftmaxCrossEntropy does not compare lists with each other: leave it out",
        ),
        (
            [*LATE, "loss=similarity_distillation", "loss.target=embeddings", "model@teacher=bi_encoder"],
            "gives several: choose one that compares by any similarity, such as loss=info_nce_max_sim, or model=bi_enc",
        ),
        (
            [*LATE, "loss.directions=[query_to_doc,doc_to_query,doc_to_doc]"],
            "gives several: set loss.directions=[query_to_doc,doc_to_query], or model=bi_encoder",
        ),
        ([*LATE, "loss=gte"], "set loss.directions=[query_to_doc,doc_to_query], or"),
        ([*LATE, "loss=arcface"], "gives several: set loss.positive_margin_form=cosface, or model=bi_encoder"),
        *[
            ([*EMBEDDER, model, "loss=xtr"], f"loss XTR needs a vector per token, and {kind} gives one vector per text")
            for model, kind in [
                ("model=bi_encoder", "BiEncoderConfig"),
                ("model=static_embedder", "StaticEmbedderConfig"),
                ("model=sparse_encoder", "SparseEncoderConfig"),
            ]
        ],
        (
            [*EMBEDDER, "loss=matryoshka", "loss@loss.loss=xtr"],
            "choose model=late_interaction, or another loss, such as loss=info_nce",
        ),
        ([*RERANKER, "loss=xtr"], f"loss XTR needs {EMBEDDING} model=late_interaction"),
        ([*EMBEDDER, "adapter_only=true"], "adapter_only=true: there is no adapter without LoRA"),
        (
            [*EMBEDDER, "model=bi_encoder_lora", "model.separate_towers=true", "adapter_only=true"],
            "adapter_only=true: sentence-transformers loads no adapters of two towers",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_parts(load(options))


FITTING = [
    "embedder_infonce",
    "embedder_matryoshka",
    "embedder_quantization_aware",
    "reranker_listwise",
    "reranker_grpo",
]


@pytest.mark.parametrize("name", FITTING)
def test_experiments_fit(name: str) -> None:
    check_parts(load([f"+exp={name}"]))


def test_a_temperature_that_nobody_has_is_refused_and_a_learned_one_goes_on(
    tiny_bert_dir: Path, tmp_path: Path
) -> None:
    for file in tiny_bert_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = load([*EMBEDDER, "loss.temperature=null", f"model.name_or_path={tmp_path}"])
    with pytest.raises(ValueError, match="loss InfoNCE: its temperature is null and the model has none"):
        check_parts(settings)
    save_file({"scale": torch.tensor(20.0)}, tmp_path / "loss_parameters.safetensors")
    check_parts(settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["eval.dims=[64]"], "eval.dims: 64 is not below the model's 32 dimensions"),
        (["loss=matryoshka", "loss.dims=[64,16]"], "loss.dims: 64 is above the model's 32 dimensions"),
    ],
)
def test_more_dimensions_than_there_are(options: list[str], message: str, tiny_bert_dir: Path) -> None:
    settings = load([*EMBEDDER, f"model.name_or_path={tiny_bert_dir}", *options])
    with pytest.raises(ValueError, match=re.escape(message)):
        check_model(settings, settings.model.build(seed=0))


def test_a_learned_temperature_that_is_not_read_is_told(
    tiny_bert_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "model")
    save_file({"scale": torch.tensor(20.0)}, folder / "loss_parameters.safetensors")
    check_parts(load([*EMBEDDER, f"model.name_or_path={folder}"]))
    assert "is not read by loss InfoNCE: set loss.temperature=null to continue with it" in caplog.text


def test_similarities_as_logits_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    check_parts(load([*EMBEDDER, "loss=rank_net", "model=bi_encoder_scored"]))
    assert not caplog.text
    check_parts(load([*EMBEDDER, "loss=rank_net"]))
    assert "loss RankNet gets unscaled similarities" in caplog.text
    caplog.clear()
    check_parts(load([*EMBEDDER, "loss=matryoshka", "loss@loss.loss=list_net"]))
    assert "loss ListNet gets unscaled similarities" in caplog.text


def test_units_that_do_not_fit_are_warned_of(caplog: pytest.LogCaptureFixture, tiny_bert_dir: Path) -> None:
    check_parts(load(["+exp=embedder_distill", "model@teacher=bi_encoder_scored"]))
    matryoshka = load([*EMBEDDER, f"model.name_or_path={tiny_bert_dir}", "loss=matryoshka", "loss.dims=[16]"])
    check_parts(matryoshka)
    check_model(matryoshka, matryoshka.model.build(seed=0))
    assert not caplog.text
    check_parts(load(["+exp=embedder_distill", "model@teacher=bi_encoder"]))
    assert "the teacher's scores are unscaled similarities" in caplog.text
    check_model(matryoshka, replace(matryoshka.model, similarity="dot").build(seed=0))
    assert "normalises embeddings" in caplog.text


def test_int8_ranges_of_vectors_that_are_not_stored_are_refused(tiny_bert_dir: Path) -> None:
    aware = [*EMBEDDER, f"model.name_or_path={tiny_bert_dir}", "loss=matryoshka_quantization_aware", "loss.dims=[16]"]
    for options, refused in (([], True), (["loss.normalize=false"], False), (["loss.loss.precisions=[binary]"], False)):
        settings = load([*aware, *options])
        model = replace(settings.model, similarity="dot").build(seed=0)
        if refused:
            with pytest.raises(ValueError, match=r"int8 ranges would not fit; set loss\.normalize=false"):
                check_model(settings, model)
        else:
            check_model(settings, model)


def test_the_dimension_of_a_model_that_keeps_int8_ranges(tiny_bert_dir: Path) -> None:
    settings = load([*EMBEDDER, f"model.name_or_path={tiny_bert_dir}", "loss=quantization_aware"])
    model = settings.model.build(seed=0)
    model.dimension = None
    with pytest.raises(ValueError, match=r"loss QuantizationAware quantises to int8 .* give BiEncoder its attribute"):
        prepare(model, settings.loss)


def test_a_prompt_with_a_backslash_in_a_source_of_a_mixture_is_refused() -> None:
    data = ["data=mixture", "+data@data.sources.a=file", "data.sources.a.path=x.jsonl"]
    with pytest.raises(ValueError, match=r"^data\.sources\.a\.query_prompt holds a backslash and an n"):
        check_parts(load([*EMBEDDER, *data, "data.sources.a.query_prompt=Question:\\\\n"]))


def test_data_that_is_no_data_set_is_refused() -> None:
    settings = replace(load(EMBEDDER), data=object())
    with pytest.raises(ValueError, match=r"^data is not a data set: choose one of conf/data"):
        check_parts(settings)


def test_weights_that_a_policy_does_not_read_are_refused(tmp_path: Path) -> None:
    rows = [{"query": f"q {i}", "pos": [f"p {i}"], "neg": [f"n {i}"], "weight": 1 + i % 2} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["data=file", f"data.path={tmp_path / 'rows.jsonl'}", f"data.cache_dir={tmp_path}"]
    collection = load(["+exp=reranker_grpo", *data]).data.build()
    with pytest.raises(ValueError, match="has weights, which trainer=grpo does not use"):
        check_data(load(["+exp=reranker_grpo", *data]), collection)
    check_data(load([*RERANKER, *data]), collection)


def test_lists_of_one_teach_nothing_to_losses_that_compare(tiny_run: list[str]) -> None:
    settings = load([*RERANKER, *tiny_run, "loss=bce", "trainer.list_size=1"])
    with pytest.raises(ValueError, match="list_size=1: loss BinaryCrossEntropy needs several documents"):
        check_data(settings, settings.data.build())


REFRESHED = ["trainer.refresh_every=2", "trainer.max_steps=4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*RERANKER, *REFRESHED], "first 12 candidates of a query, and negatives are drawn from the first 30"),
        ([*RERANKER, *REFRESHED], "set data.lists.hard_depth below 12, raise data.candidates.depth, or set it to 0"),
        ([*RERANKER, *REFRESHED, "trainer.refresh_depth=8", "data.lists.hard_depth=8"], "raise trainer.refresh_depth"),
        (
            [*RERANKER, *REFRESHED, "data/candidates=none", "data.lists.random_fraction=0.5"],
            "have none or one: choose data/candidates=bm25",
        ),
        ([*EMBEDDER, *REFRESHED, "data.lists.random_fraction=1"], "all negatives are random: lower data.lists.random"),
    ],
)
def test_a_refresh_that_changes_no_list_is_refused(options: list[str], message: str, tiny_run: list[str]) -> None:
    known = [option for option in tiny_run if not option.startswith("data.candidates") or "none" not in str(options)]
    settings = load([*known, "eval.depth=100", *options])
    with pytest.raises(ValueError, match=re.escape(message)):
        check_data(settings, settings.data.build())


@pytest.mark.parametrize(
    "options",
    [
        [*RERANKER, "data.lists.hard_depth=4"],
        [*EMBEDDER, "trainer.list_size=3"],
        [*EMBEDDER, "trainer.list_size=3", "data/candidates=none"],
    ],
)
def test_a_refresh_that_changes_lists_is_not(options: list[str], tiny_run: list[str]) -> None:
    known = [option for option in tiny_run if not option.startswith("data.candidates") or "none" not in str(options)]
    settings = load([*known, "eval.depth=100", *options, *REFRESHED, "data.lists.random_fraction=0.4"])
    check_parts(settings)
    check_data(settings, settings.data.build())


def scored_file(folder: Path, factor: float) -> list[str]:
    rows = [
        {"query": f"q {i}", "docs": ["a", "b", "c"], "labels": [2, 1, 0], "scores": [factor, 0.5 * factor, 0.0]}
        for i in range(12)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["data=file", f"data.path={folder / 'rows.jsonl'}", f"data.cache_dir={folder}"]


@pytest.mark.parametrize(("factor", "warned"), [(0.98, True), (7.0, False)])
def test_scores_that_passed_a_sigmoid_are_warned_of(
    factor: float, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load(["+exp=reranker_distill_pointwise", "teacher=null", *scored_file(tmp_path, factor)])
    check_data(settings, settings.data.build())
    assert ("PointwiseMSE: the teacher's scores of data rows.jsonl are all from 0 to 1, as if" in caplog.text) == warned


def test_soft_labels_above_the_largest_are_refused(tmp_path: Path) -> None:
    options = [*RERANKER, "trainer=ranking", "loss=bce_soft", *scored_file(tmp_path, 1.0)]
    settings = load(options)
    with pytest.raises(
        ValueError, match=r"lack unit_labels .* divide larger ones by their maximum N \(loss.largest_label=N"
    ):
        check_data(settings, settings.data.build())
    settings = load([*options, "loss.largest_label=1.5"])
    with pytest.raises(
        ValueError, match=r"loss.largest_label=1.5: data rows.jsonl has a label of 2, .*: set loss.largest_label=2"
    ):
        check_data(settings, settings.data.build())
    settings = load([*options, "loss.largest_label=2"])
    check_data(settings, settings.data.build())


def test_a_fresh_head_without_a_bias_cannot_be_standardised(tmp_path: Path, tiny_models) -> None:
    folder = tiny_models.write_tiny_decoder(tmp_path / "decoder", embedder=False)
    model = CrossEncoderConfig(str(folder)).build(seed=0)
    losses = [PointwiseMSE(standardize=True)]
    with pytest.raises(ValueError, match=r"the fresh score head of .* has no bias, .*: set loss.standardize=false"):
        check_score_scale(model, losses)
    check_score_scale(model, [PointwiseMSE()])
    check_score_scale(CrossEncoderConfig(str(tiny_models.write_tiny_bert(tmp_path / "bert"))).build(seed=0), losses)


def test_a_penalty_of_token_weights_needs_a_model_that_gives_them() -> None:
    with pytest.raises(ValueError, match=r"BiEncoderConfig gives none: choose model=sparse_encoder, or "):
        check_parts(load(["+exp=embedder_infonce", "loss=splade"]))
    check_parts(load(["+exp=splade_infonce"]))
