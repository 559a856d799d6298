"""Configurations of a grid and of experiments, and their names."""

from __future__ import annotations

import pytest

from recipes.ablate.configurations import Configuration, Job, configurations_of, folder_name, merged


def test_a_grid_has_all_combinations_in_the_order_of_its_values():
    found = configurations_of({}, {"loss": ["bce", "hinge"], "trainer.learning_rate": [1e-5, 0.5]})
    assert [each.name for each in found] == [
        "loss=bce, trainer.learning_rate=1e-05",
        "loss=bce, trainer.learning_rate=0.5",
        "loss=hinge, trainer.learning_rate=1e-05",
        "loss=hinge, trainer.learning_rate=0.5",
    ]
    assert found[0].overrides == ("loss=bce", "trainer.learning_rate=1e-05")
    assert Job(found[0], 3).name == "loss_bce-trainer.learning_rate_1e-05-seed3"


def test_experiments_are_combined_with_the_grid_whose_values_replace_theirs():
    experiments = {"first": ["loss=bce", "trainer.batch_size=2"], "second": ["+exp=reranker_grpo"]}
    found = configurations_of(experiments, {"trainer.batch_size": [4, 8]})
    assert [each.name for each in found][:2] == ["first, trainer.batch_size=4", "first, trainer.batch_size=8"]
    assert found[0].overrides == ("loss=bce", "trainer.batch_size=4")
    assert found[3].overrides == ("+exp=reranker_grpo", "trainer.batch_size=8")


def test_without_a_grid_there_is_one_configuration():
    assert [(each.name, each.overrides) for each in configurations_of({}, {})] == [("settings as given", ())]


def test_the_name_of_a_configuration_does_not_depend_on_the_others():
    few, many = configurations_of({}, {"loss": ["bce"]}), configurations_of({}, {"loss": ["hinge", "bce"]})
    assert few[0] == many[1]


def test_values_that_hydra_would_misread_are_quoted():
    found = configurations_of({}, {"data.path": ["a b", "null"], "eval.metrics": [["MAP", "MRR@10"]]})
    assert found[0].overrides == ("data.path='a b'", "eval.metrics=['MAP', 'MRR@10']")
    assert found[1].overrides[0] == "data.path='null'"


def test_a_value_that_is_listed_twice_is_refused():
    with pytest.raises(ValueError, match="loss=bce is in the ablation twice"):
        configurations_of({}, {"loss": ["bce", "bce"]})


def test_folders_are_valid_names_and_differ():
    names = ["model.name_or_path=/a/b", "model.name_or_path=/a_b", "x" * 300, "x" * 301, "モデル"]
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all(len(folder) < 150 and not set(folder) & set("/\\= ,") for folder in folders)


def test_own_settings_replace_those_of_all_runs():
    assert merged(["+exp=a", "loss=bce", "x=1"], ["loss=hinge", "exp=b"]) == ["x=1", "loss=hinge", "exp=b"]


def test_a_configuration_of_a_search_has_a_folder_of_its_own():
    assert Job(Configuration.of("trial 3 (x=1)", [], "trial-003"), 1).name == "trial-003-seed1"
