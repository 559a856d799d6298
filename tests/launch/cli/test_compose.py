"""The configuration's mistakes, each in one line that names the key, the value and the remedy."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from launch.cli.compose import compose, load
from losses.rewards import MAP, MRR, NDCG, Recall

# `stand_in` (tests/launch/conftest.py) is a package of its own with a configuration: a job and its tool.


def composed(stand_in: Path, *overrides: str):
    return OmegaConf.create(compose(overrides, "job", stand_in / "conf"))


def built(stand_in: Path, *overrides: str):
    return load(overrides, "job", stand_in / "conf")


def test_values_become_their_fields_types(stand_in):
    job = built(
        stand_in, "tool.path=3", "seed=2.0", "tool.weight=2", "tool.shape=[3]", "tool.names=[a,1]", "tool.limit=7"
    )
    assert (job.tool.path, job.seed, job.tool.shape, job.tool.names, job.tool.limit) == ("3", 2, (3,), ["a", "1"], 7)
    assert isinstance(job.tool.weight, float)
    assert job.tool.inner.depth == 3


def test_the_composed_configuration_is_plain_and_resolved(stand_in):
    config = composed(stand_in, "tool.path=${output_dir}/x", "tool.weight=2")
    assert config.tool.path == "outputs/x"
    assert "hydra" not in config


def test_run_name_defaults_to_the_experiments_name(stand_in):
    assert composed(stand_in, "tool.path=x").run_name == "job"
    assert composed(stand_in, "+exp=good").run_name == "good"
    assert composed(stand_in, "+exp=good", "run_name=mine").run_name == "mine"


def test_open_mappings_take_new_keys(stand_in):
    assert built(stand_in, "tool.path=x", "tool.extra.a.b=1").tool.extra == {"a": {"b": 1}}


def test_functions_are_bound_to_their_options(stand_in):
    rewards = "tool.rewards=[{_target_:stand_in.reward,k:5},{_target_:stand_in.Saw}]"
    reward, saw = built(stand_in, "tool.path=x", rewards).tool.rewards
    assert isinstance(reward, partial)
    assert (reward(None, None, None), saw.teeth) == (5, 3)


@pytest.mark.parametrize("text", [".inf", "inf", "+.Inf"])
def test_numbers_are_infinite_as_yaml_writes_it(stand_in, text):
    assert built(stand_in, "tool.path=x", f"tool.weight={text}").tool.weight == float("inf")
    assert composed(stand_in, "tool.path=x", f"tool.extra.x={text}").tool.extra.x in (text, float("inf"))
    with pytest.raises(ValueError, match=r"weight must be positive, got -inf"):
        built(stand_in, "tool.path=x", f"tool.weight=-{text.lstrip('+')}")


REWARD = "losses.rewards"
NOT_TO_GO = "loss.reward_to_go=false"
REPLACED = [
    ([f"loss.reward._target_={REWARD}.MRR"], MRR()),
    ([f"loss.reward._target_={REWARD}.MAP"], MAP()),
    ([f"loss.reward._target_={REWARD}.Recall"], Recall()),
    ([f"loss.reward._target_={REWARD}.MRR", "loss.reward.k=5"], MRR(k=5)),
    (["loss.reward.k=5", f"loss.reward._target_={REWARD}.MRR"], MRR(k=5)),
    (["loss.reward.k=5"], NDCG(k=5)),
    (["loss.reward={k:5}"], NDCG(k=5)),
    ([f"loss.reward={{_target_: {REWARD}.MAP, k: 3}}"], MAP(k=3)),
    ([f"loss.reward=[{{_target_: {REWARD}.MRR}}, {{_target_: {REWARD}.NDCG, k: 2}}]"], [MRR(), NDCG(k=2)]),
]


@pytest.mark.parametrize(("overrides", "expected"), REPLACED, ids=[" ".join(overrides) for overrides, _ in REPLACED])
@pytest.mark.parametrize("first", [[], ["+exp=reranker_grpo"]], ids=["", "exp"])
def test_another_target_replaces_the_whole_node(overrides, expected, first):
    assert load([*first, *overrides]).loss.reward == expected


def test_a_users_function_replaces_the_reward(stand_in):
    reward = load(["loss.reward._target_=stand_in.grade", NOT_TO_GO]).loss.reward
    assert reward.__name__ == "grade"
    reward = load(["loss.reward={_target_: stand_in.reward, k: 7}", NOT_TO_GO]).loss.reward
    assert reward(None, None, None) == 7
    with pytest.raises(ValueError, match=r"^loss.reward.gain is not an option: valid: k$"):
        compose(["loss.reward._target_=stand_in.reward", "loss.reward.gain=linear"])
    with pytest.raises(ValueError, match=r"^loss.reward.1.g is not an option: .*valid: k, gain$"):
        compose(["loss.reward=[{_target_: losses.rewards.MRR}, {_target_: losses.rewards.NDCG, g: 2}]"])


def test_another_target_replaces_any_nested_node(stand_in):
    assert built(stand_in, "+exp=good", "tool.spare._target_=stand_in.Saw", "tool.spare.teeth=5").tool.spare.teeth == 5
    assert built(stand_in, "+exp=good", "tool.inner={_target_: stand_in.Inner, depth: 9}").tool.inner.depth == 9
    given = ["tool.extra={a: 1}", "tool.extra.b=2"]
    assert built(stand_in, "+exp=good", *given).tool.extra == {"a": 1, "b": 2}


MISTAKES = [
    (["tool.path=x", "tool.wieght=2"], "tool.wieght is not an option: did you mean weight? valid: path, weight, kind,"),
    (["+tool.wieght=2"], "tool.wieght is not an option: did you mean weight?"),
    (["tool.path=x", "tool.inner.dpth=1"], "tool.inner.dpth is not an option: did you mean depth? valid: depth"),
    (["tool.path=x", "tool.seed=1"], "tool.seed is not an option: did you mean seed? valid: path,"),
    (["sede=1"], "sede is not an option: did you mean seed? valid: run_name, output_dir, seed, tool"),
    (["+expp=good"], "expp is not an option: did you mean +exp?"),
    (["exp=good"], "exp=good lacks a plus sign: write +exp=good; experiments: choice, "),
    (["+exp=nope"], "+exp=nope is not a choice: valid: choice, "),
    (["tool=hamer"], "tool=hamer is not a choice: did you mean hammer? valid: hammer, saw"),
    (["tool=null"], "tool=null is not a choice: valid: hammer, saw"),
    (["~tool"], "tool is not set: set tool=... (one of hammer, saw)"),
    ([], "tool.path is not set: set tool.path=... (where it lies, e.g. ../shelf)"),
    (["tool.path=x", "tool.size=a"], "tool.size='a' is not an integer"),
    (["tool.path=x", "tool.size=2.5"], "tool.size=2.5 is not an integer"),
    (["tool.path=x", "tool.size=null"], "tool.size=None is not an integer"),
    (["tool.path=x", "tool.size=true"], "tool.size=True is not an integer"),
    (["tool.path=x", "tool.loud=1"], "tool.loud=1 is not true or false"),
    (["tool.path=x", "tool.limit=a"], "tool.limit='a' is not an integer or null"),
    (["tool.path=[a]"], "tool.path=['a'] is not a string"),
    (["tool.path=x", "tool.names=a"], "tool.names='a' is not a list of strings"),
    (["tool.path=x", "tool.shape=[a]"], "tool.shape.0='a' is not an integer"),
    (["tool.path=x", "tool.kind=c"], "tool.kind='c' is not one of a, b"),
    (["tool.path=x", "tool.inner=3"], "tool.inner=3 is not a node with _target_ (Inner)"),
    (["tool.path=x", "tool.inner._target_=stand_in.Saw"], "tool.inner._target_=stand_in.Saw is not a Inner"),
    (["tool.path=x", "+tool.spare={_target_:stand_in.Inner,x:1}"], "tool.spare.x is not an option: valid: depth"),
    (["tool.path=x", "+tool.spare={_target_:stand_in.Job}"], "tool.spare._target_=stand_in.Job is not a Inner or Saw"),
    (["tool.path=x", "tool.spare=3"], "tool.spare=3 is not a node with _target_ (Inner) or a node with _target_ (Saw)"),
    (["tool.path=x", "tool.inner._target_=stand_in.No"], "tool.inner._target_=stand_in.No does not exist"),
    (
        ["tool.path=x", "tool.inner._target_=no.No"],
        "tool.inner._target_=no.No cannot be imported: No module named 'no'",
    ),
    (
        ["tool.path=x", "tool.rewards=[{_target_:stand_in.reward,kk:5}]"],
        "tool.rewards.0.kk is not an option: did you mean k?",
    ),
    (["tool.path=x", "tool.rewards=[{_target_:stand_in.reward,kk:5}]"], "did you mean k? valid: k"),
    (["tool.path=x", "tool.rewards=[{_target_:stand_in.reward,labels:5}]"], "labels is not an option: valid: k"),
    (["tool.path=x", "tool.rewards=[{_target_:stand_in.grade,k:5}]"], "k is not an option: there are no options here"),
    (["tool.path=x", "tool.weight=infinite"], "tool.weight='infinite' is not a number"),
    (["tool.path=[1"], "tool.path=[1 is not a setting: write KEY=VALUE"),
    (["bare"], "bare is not a setting: write KEY=VALUE or GROUP=CHOICE"),
    (["tool.path=x", "tool.size=1,2"], "Ambiguous value for argument 'tool.size=1,2'"),
    (["tool.path=${nope}"], "Interpolation key 'nope' not found"),
    (["+exp=typo"], "tool.wieght (set in {exp}/typo.yaml) is not an option: did you mean weight?"),
    (["+exp=kind"], "tool.size='large' (set in {exp}/kind.yaml) is not an integer"),
    (["+exp=choice"], "tool=hamer (chosen in {exp}/choice.yaml) is not a choice: did you mean hammer?"),
    (["+exp=syntax"], "{exp}/syntax.yaml:4 is not valid YAML"),
    (["+exp=good", "tool=saw"], "tool.path (set in {exp}/good.yaml) is not an option: valid: teeth"),
]


@pytest.mark.parametrize(("overrides", "expected"), MISTAKES, ids=[" ".join(overrides) for overrides, _ in MISTAKES])
def test_a_mistake_is_one_line(stand_in, overrides, expected):
    with pytest.raises(ValueError) as caught:
        composed(stand_in, *overrides)
    line = str(caught.value)
    assert "\n" not in line
    assert expected.format(exp=os.path.relpath(stand_in / "conf" / "exp")) in line


def test_what_a_dataclass_refuses_names_its_node(stand_in):
    with pytest.raises(ValueError, match=r"^tool: weight must be positive, got -1.0$"):
        built(stand_in, "tool.path=x", "tool.weight=-1")


def test_a_missing_configuration_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"configuration directory .*nowhere does not exist"):
        compose([], "job", tmp_path / "nowhere")
