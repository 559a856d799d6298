"""The facts that come with the package: complete, sourced, and equal to figures measured here where there are some."""

from __future__ import annotations

from collections import Counter

import pytest

from evaluation.known_models.catalogue import PUBLISHED, known_models, published
from evaluation.known_models.reading import FACTS, load
from models.loading.resolve import DEFAULT_MODEL

REQUIRED = {"embedder": {"context", "dimension"}, "reranker": {"context"}, "multi_vector": {"beir_by_set"}}


@pytest.mark.parametrize("model", published().values(), ids=lambda model: model.name)
def test_a_model_has_the_facts_of_its_kind_and_every_fact_has_a_url(model):
    assert set(model.facts) >= REQUIRED[model.kind]
    assert all(fact.source.startswith("https://") for facts in model.facts.values() for fact in facts)
    assert "price" not in model.facts or model.hosted or model.name == "mixedbread-ai/mxbai-rerank-large-v2"


@pytest.mark.parametrize("name", [name for name, model in published().items() if model.kind == "reranker"])
def test_a_rerankers_figures_say_what_was_reranked_or_that_it_is_not_stated(name):
    facts = published()[name].facts
    figures = [fact for key in ("beir", "beir_by_set", "mteb_english_retrieval") for fact in facts.get(key, ())]
    unclear = [fact for fact in figures if "rerank" not in fact.note and "first stage" not in fact.note]
    assert [fact.note for fact in unclear if "subset" not in fact.note] == []


def test_no_fact_is_stated_twice_by_one_source():
    for model in published().values():
        for name, facts in model.facts.items():
            assert max(Counter((fact.source, str(fact.value)) for fact in facts).values()) == 1, (model.name, name)


def test_every_named_source_is_used_and_every_kind_of_fact_is_there():
    named = {source["url"] for source in load(PUBLISHED)["sources"].values()}
    facts = [(name, fact) for model in published().values() for name, each in model.facts.items() for fact in each]
    assert named <= {fact.source for _, fact in facts}
    assert {name for name, _ in facts} == set(FACTS)


def test_a_mean_is_that_of_its_sets():
    for model in published().values():
        for mean in model.facts.get("beir", ()):
            if mean.note == "mean of the 15 results of beir_by_set":
                [values] = [fact.value for fact in model.facts["beir_by_set"] if fact.source == mean.source]
                assert len(values) == 15
                assert mean.value == pytest.approx(sum(values.values()) / 15, abs=0.011)


def test_mxbai_rerank_v2_as_its_authors_state_it():
    """The table of their README, and their stages of training."""
    large, base = (published()[f"mixedbread-ai/mxbai-rerank-{size}-v2"] for size in ("large", "base"))
    assert (large.fact("beir").value, base.fact("beir").value) == (57.49, 55.57)
    assert (large.fact("latency").value, base.fact("latency").value) == (0.89, 0.67)
    assert large.fact("figures").value == {"multilingual (Mr.TyDi)": 29.79, "Chinese": 84.16, "code search": 32.05}
    assert base.fact("figures").value == {"multilingual (Mr.TyDi)": 28.56, "Chinese": 83.7, "code search": 31.73}
    assert large.fact("training").value == ("GRPO", "contrastive learning", "preference learning")
    assert [fact.value for fact in large.facts["beir"]] == [57.49, 61.44]  # another first stage, another figure


def test_the_default_models_published_figure_is_the_one_that_is_measured_here():
    """tests/evaluation/test_published_figures.py measures SciFact."""
    [fact] = known_models().find(DEFAULT_MODEL).model.on_set("SciFact")
    assert fact.value == 64.51
