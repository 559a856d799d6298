"""An index that cannot search the embeddings of a model is refused before weights are read."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from inference.search import PlaidIndex
from launch.cli.compose import load
from models.capabilities import ModelOptions
from recipes.checks.compatibility import check_evaluation, check_parts

EMBEDDER = ["+exp=embedder_infonce"]
LATE = ["+exp=colbert_infonce"]
OF_DOT = "does not search by dot: choose eval.search=exact or faiss or inverted"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*EMBEDDER, "model.similarity=dot", "eval.search=plaid"], f"eval.search=plaid {OF_DOT}"),
        (
            [*EMBEDDER, "model.similarity=cosine", "eval.search=inverted"],
            "eval.search=inverted does not search by cosine: choose eval.search=exact or faiss",
        ),
        ([*LATE, "model.similarity=maxsim", "eval.search=inverted"], "choose eval.search=exact or plaid"),
        ([*LATE, "model.similarity=meanmaxsim", "eval.search=plaid"], "by meanmaxsim: choose eval.search=exact"),
        ([*EMBEDDER, "model=sparse_encoder", "eval.search=plaid"], f"eval.search=plaid {OF_DOT}"),
    ],
)
def test_an_index_that_does_not_fit_the_similarity_is_refused(options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_parts(load(options))


def test_the_folder_says_which_index_fits_before_weights_are_read(
    tiny_bert_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlaidIndex, "package", "no_such_package")
    name = f"model.name_or_path={tiny_bert_dir}"
    for search in ("plaid", "inverted"):
        with pytest.raises(ValueError, match=f"^eval.search={search} does not search by cosine: choose eval.search=ex"):
            check_parts(load([*EMBEDDER, name, f"eval.search={search}"]))
    with pytest.raises(ValueError, match=r"^eval.search=inverted does not search by maxsim: choose eval.search=exact"):
        check_parts(load([*LATE, name, "eval.search=inverted"]))
    assert "the search is exact" not in caplog.text
    check_parts(load([*LATE, name, "eval.search=plaid"]))
    assert caplog.text.count("eval.search=plaid: the package fast-plaid is not installed") == 1


def test_an_index_that_fits_no_similarity_of_such_vectors_is_refused_of_a_model_that_names_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load([*EMBEDDER, "eval.search=inverted"])
    monkeypatch.setattr(type(settings.model), "known_similarity", ModelOptions.known_similarity)
    check_evaluation(settings.eval, settings.model)
    with pytest.raises(ValueError, match=r"^eval.search=plaid does not search by dot or cosine: choose eval.search=ex"):
        check_evaluation(replace(settings.eval, search="plaid"), settings.model)
