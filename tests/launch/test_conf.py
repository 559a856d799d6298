"""Every file under conf/: complete, composable, and experiments that stay swappable."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from launch.cli.compose import compose, load
from launch.cli.overrides import EXPERIMENTS
from launch.cli.schema import locate, type_hints
from runs.source_tree import CONF
from trainers.options import TrainerConfig

# An experiment chooses these groups and sets no key inside: another choice on the command line would get that key.
# (The budget of a run, under trainer, is the experiment's own.)
SWAPPABLE = {"model", "data", "loss", "engine", "logger", "eval"}

EXPERIMENT_FILES = sorted((CONF / EXPERIMENTS).rglob("*.yaml"))
ROOT_FILES = sorted(CONF.glob("*.yaml"))
NO_GROUPS = (EXPERIMENTS, "ablation", "shared")  # tests/launch/test_ablate.py reads the ablations
GROUP_FILES = sorted(
    file for file in CONF.rglob("*.yaml") if file.parent.name not in NO_GROUPS and file not in ROOT_FILES
)


TRAINER_FILES = [file for file in (CONF / "trainer").glob("*.yaml") if "shared/options@_here_" in file.read_text()]
TRAINER_OPTIONS = CONF / "trainer" / "shared" / "options.yaml"


def name(file: Path) -> str:
    return str(file.relative_to(CONF))


def node_of(file: Path) -> dict:
    return yaml.safe_load(file.read_text()) or {}


def test_there_are_configurations():
    assert EXPERIMENT_FILES
    assert GROUP_FILES
    assert CONF / "train.yaml" in ROOT_FILES


def stated_keys(file: Path) -> set[str]:
    """The keys that a file sets: its own, those of the files that it builds on, and the groups that it chooses."""
    node = node_of(file)
    keys = set(node) - {"_target_", "defaults", "hydra"}
    for entry in node.get("defaults", []):
        if isinstance(entry, dict):
            [group] = entry
            package = group.removeprefix("override ").strip("/").rpartition("@")[2]
            keys |= {package.partition(".")[0]} if not package.startswith("hydra/") else set()
        elif entry != "_self_":
            keys |= stated_keys(file.parent / f"{entry.removesuffix('@_here_')}.yaml")
    return keys


@pytest.mark.parametrize("file", [*ROOT_FILES, *GROUP_FILES], ids=name)
def test_a_file_states_every_field_of_its_target_and_nothing_else(file):
    target = locate(node_of(file)["_target_"], name(file))
    parameters = inspect.signature(target).parameters
    assert set(type_hints(target)) >= set(parameters), "its types can be resolved, so that they are checked"
    assert stated_keys(file) == set(parameters)


def test_an_option_of_every_trainer_stands_in_one_file():
    assert stated_keys(TRAINER_OPTIONS) == set(inspect.signature(TrainerConfig).parameters)
    assert {file.stem for file in TRAINER_FILES} >= {"contrastive", "grpo", "preference", "ranking"}


@pytest.mark.parametrize("file", TRAINER_FILES, ids=name)
def test_a_trainer_states_its_differences_alone(file):
    shared = node_of(TRAINER_OPTIONS)
    repeated = {key for key, value in node_of(file).items() if key in shared and shared[key] == value}
    assert not repeated


def test_what_trainers_share_is_no_choice():
    with pytest.raises(ValueError, match=r"^trainer._target_ is '\?\?\?', expected the path of a class"):
        compose(["trainer=shared/options"])


@pytest.mark.parametrize("file", EXPERIMENT_FILES, ids=name)
def test_an_experiment_composes_under_its_own_command(file):
    lines = file.read_text().splitlines()
    experiment = str(file.relative_to(CONF / EXPERIMENTS).with_suffix(""))
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# ")
    assert f"+exp={experiment}" in lines[1]
    command = lines[1].removeprefix("# ").split("launch/", 1)[1].split()
    entry, overrides = Path(command[0]).stem, command[1:]
    run = load(overrides, entry)
    assert getattr(run, "run_name", None) == experiment.replace("/", "-")


@pytest.mark.parametrize("file", EXPERIMENT_FILES, ids=name)
def test_an_experiment_sets_no_key_inside_a_swappable_group(file):
    assert not SWAPPABLE & set(node_of(file))
    assert all(set(stage) == {"trainer"} for stage in node_of(file).get("stage", {}).values()), "a stage's budget alone"


@pytest.mark.parametrize("file", GROUP_FILES, ids=name)
def test_every_choice_of_a_group_can_be_chosen(file):
    group = file.relative_to(CONF).parts[0]
    if len(file.relative_to(CONF).parts) != 2:
        pytest.skip("a part of a group, chosen by its members")
    if group == "stage":
        tree = compose(["+exp=reranker_three_stage", f"+stage@stage.x={file.stem}", "stages=[x]"])
        assert tree["stage"]["x"]["_target_"] == node_of(file)["_target_"]
        return
    missing = [f"{group}.{key}=x" for key, value in node_of(file).items() if value == "???"]
    assert compose([f"{group}={file.stem}", *missing])[group]["_target_"] == node_of(file)["_target_"]


def test_a_group_inside_a_group_is_chosen_and_checked_too():
    with pytest.raises(ValueError, match=r"^data/candidates=nope is not a choice: did you mean none\? valid: bm25"):
        compose(["data/candidates=nope"])
    with pytest.raises(ValueError, match=r"^data.candidates.path is not set: set data.candidates.path=... \("):
        compose(["data/candidates=run"])


@pytest.mark.parametrize("experiment", [file.stem for file in EXPERIMENT_FILES if file.stem.startswith("embedder")])
def test_embedders_take_a_mixture(experiment):
    sources = ["data=mixture", "+data@data.sources.a=file", "data.sources.a.path=x"]
    assert compose([f"+exp={experiment}", *sources])["data"]["sources"]["a"]["path"] == "x"
