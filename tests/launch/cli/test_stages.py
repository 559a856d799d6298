"""Settings of a run with stages: checked stage by stage, shared where they are meant for all."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from launch.cli.compose import compose

THREE = "+exp=reranker_three_stage"


def composed(overrides):
    return OmegaConf.create(compose(overrides))


def steps(*overrides: str) -> dict[str, int]:
    config = composed([THREE, *overrides])
    return {name: node.trainer.max_steps for name, node in config.stage.items()}


def test_an_option_of_the_trainer_is_set_in_every_stage_unless_a_stage_has_its_own():
    default = steps()
    assert steps("trainer.max_steps=7") == dict.fromkeys(default, 7)
    assert steps("trainer.max_steps=7", "stage.grpo.trainer.max_steps=9") == dict.fromkeys(default, 7) | {"grpo": 9}
    assert steps("stage.grpo.trainer.max_steps=9") == default | {"grpo": 9}
    updates = composed([THREE, "trainer.num_iterations=2"]).stage
    assert updates.grpo.trainer.num_iterations == 2
    assert "num_iterations" not in updates.contrastive.trainer


def test_a_stage_takes_another_loss_other_lists_and_further_stages_join():
    options = ["loss@stage.preference.loss=lipo_lambda", "stage.preference.loss.beta=0.3"]
    lists = ["data/lists@stage.grpo.lists=hard", "stage.grpo.lists.hard_depth=9"]
    more = ["+stage@stage.again=contrastive", "stages=[grpo,again,preference]", "stage.again.trainer.batch_size=5"]
    config = composed([THREE, *options, *lists, *more])
    assert config.stage.preference.loss._target_.endswith("LiPOLambda")
    assert config.stage.preference.loss.beta == 0.3
    assert config.stage.grpo.lists.hard_depth == 9
    assert config.stage.again.trainer.batch_size == 5
    assert config.stages == ["grpo", "again", "preference"]
    assert config.loss is config.trainer is None


VALID = "valid: grpo, contrastive, preference"
MISTAKES = {
    "stages=[gpro]": f"stages: gpro is not a stage of this run: did you mean grpo\\? {VALID}",
    "stage.gpro.trainer.max_steps=2": f"stage.gpro is not a stage of this run: did you mean grpo\\? {VALID}",
    "stage.grpo.trainer.max_stps=2": r"stage.grpo.trainer.max_stps is not an option: did you mean max_steps\? valid: ",
    "stage.grpo.trainer.max_steps=x": r"stage.grpo.trainer.max_steps='x' is not an integer",
    "stage.preference.loss.bta=1": r"stage.preference.loss.bta is not an option: did you mean beta\? valid: beta",
    "stage.grpo.los.beta=1": r"stage.grpo.los is not an option: did you mean loss\? valid: trainer, loss, data, lists",
    "trainer.max_stps=2": r"trainer.max_stps is not an option of a stage's trainer: did you mean max_steps\? valid: ",
    "loss=bce": r"loss is chosen, but each stage of this run has its own: loss@stage.grpo.loss=...",
    "trainer=grpo": r"trainer is chosen, but each stage of this run has its own: trainer@stage.grpo.trainer=",
    "loss.beta=2": r"loss.beta: each stage has its own loss: set stage.grpo.loss.beta=...",
    "stages=[]": r"stages is empty: name the stages to train in their order, such as stages=\[grpo,contrastive,",
    "stages=grpo": r"stages='grpo' is not a list of names: write stages=\[grpo\]",
    "stages=[grpo,grpo]": r"stages names grpo twice: give the second one its own node, \+stage@stage.grpo_again=grpo",
    "+stage@stage.more=nope": r"stage=nope is not a choice: valid: contrastive, grpo, info_nce, preference",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_named_with_its_stage(override: str):
    with pytest.raises(ValueError, match=f"^{MISTAKES[override]}"):
        compose([THREE, override])


@pytest.mark.parametrize("override", ["stages=[grpo]", "stage.grpo.trainer.max_steps=2"])
def test_a_run_without_stages_says_so(override: str):
    with pytest.raises(ValueError, match=r"grpo is not a stage of this run: it has none \(\+stage@stage.NAME=FILE\)$"):
        compose(["+exp=reranker_grpo", override])
