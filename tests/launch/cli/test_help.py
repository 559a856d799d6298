"""What --help of every command says, and that it says it at once."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli.compose import compose
from launch.cli.help import ablation_page, experiments_part, help_page
from launch.cli.overrides import config_folders, groups
from runs.source_tree import CONF, ROOT

SETTINGS = {
    "train": "train",
    "evaluate": "evaluate",
    "reason": "reason",
    "relabel": "relabel",
    "score": "score",
    "encode": "encode",
    "mine": "mine",
    "make_queries": "make_queries",
    "choose": "choose",
}  # command: its configuration
FLAGS = ["ablate", "rerank", "report", "serve", "verify", "export", "plan", "inspect_data", "cache"]
EXPERIMENTS = [file.stem for file in sorted((CONF / "exp").glob("*.yaml"))]


def about(command: str) -> str:
    return importlib.import_module(f"launch.{command}").__doc__


def examples(command: str) -> list[str]:
    """The command lines of a command's help, without what is said of them beside."""
    lines = [line.strip() for line in about(command).splitlines() if f"launch/{command}.py" in line]
    return [re.split(r" {2,}", line)[0] for line in lines]


def printed(command: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command's output, with the modules that it imports on stderr."""
    entry = [sys.executable, "-X", "importtime", str(ROOT / "launch" / f"{command}.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(entry, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_a_comment_that_goes_on_in_the_next_line_is_whole():
    page = " ".join(ablation_page(about("ablate"), config_folders(None)).split())
    assert "grid.loss=[bce,rank_net], 'grid.model@teacher=[A,B]', 'grid.loss@stage.NAME.loss=[A,B]'" in page


def test_every_command_is_tried_here():
    assert {file.stem for file in (ROOT / "launch").glob("*.py")} == {"__init__", *SETTINGS, *FLAGS}


@pytest.mark.parametrize("command", [*SETTINGS, *FLAGS])
def test_the_page_opens_with_what_the_command_does_and_comes_at_once(command, tmp_path):
    done = printed(command, "--help", cwd=tmp_path)
    assert about(command).strip() in done.stdout
    assert len(examples(command)) >= 4
    assert max(map(len, done.stdout.splitlines())) <= 120
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported
    assert not imported & {"torch", "transformers", "pandas", "numpy"}, "slow imports"
    assert "Hydra" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", SETTINGS)
def test_the_examples_are_right(command):
    for line in examples(command):
        words = shlex.split(line)
        given = words[words.index(f"launch/{command}.py") + 1 :]
        flags = {"-m", "--cfg", "job"}
        first = [word if "[" in word else word.partition(",")[0] for word in given if word not in flags]  # of a sweep
        compose(first, SETTINGS[command])


def test_the_examples_of_commands_with_flags_are_right(monkeypatch):
    from launch import inspect_data, plan, rerank, serve

    for line in examples("plan"):
        compose(plan.parse_arguments(shlex.split(line)[2:]).settings)
    for line in examples("rerank"):
        words = shlex.split(line)
        assert rerank.parse_arguments(words[words.index("launch/rerank.py") + 1 :]).query == "what is BM25?"
    for line in examples("serve"):
        assert serve.parse_arguments(shlex.split(line)[2:]).model in ("HUB_ID", "outputs/RUN/model")
    for line in examples("inspect_data"):
        given = inspect_data.parse_arguments(shlex.split(line)[2:])
        compose([*inspect_data.data_settings(given.path, given.settings), *given.settings])


def test_every_experiment_has_one_whole_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    rows = experiments_part(config_folders(None)).splitlines()[1:]
    assert [row.split()[0] for row in rows] == EXPERIMENTS
    assert all(len(row.split()) > 4 for row in rows)
    assert not [row for row in rows if row.endswith("...")], "its comment begins with a shorter sentence"


def test_groups_have_their_choices_and_settings_their_comments():
    page = help_page("About.", "train", config_folders(None))
    for group in set(groups([CONF])) - {"ablation"}:  # of launch/ablate.py
        assert re.search(rf"^  {group} |\+{group}=NAME", page, re.M), group
    assert re.search(r"^  data/lists +graded, hard, listed, mixed$", page, re.M)
    assert "trainer/shared" not in page, "nobody chooses it"
    assert re.search(r"^  engine +torch\*, zero0, ", page, re.M)
    assert re.search(r"^  model@teacher +another model, as the teacher$", page, re.M)
    assert re.search(r"^  seed=42$", page, re.M)
    assert re.search(r"^  output=null +FILE\.json: also write", help_page("", "evaluate", config_folders(None)), re.M)


@pytest.mark.parametrize("command", ["evaluate", "reason", "encode"])
def test_a_command_without_losses_lists_no_experiments(command):
    page = help_page("About.", command, config_folders(None))
    assert "+exp=" not in page
    assert not re.search("^  loss ", page, re.M)


def test_experiments_of_the_users_own_are_listed(tmp_path):
    own = tmp_path / "exp" / "team"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\n# My first one. And more.\ntrainer:\n  max_steps: 3\n")
    (tmp_path / "exp" / "broken.yaml").write_text("trainer: [\n")
    page = help_page("", "train", config_folders(tmp_path))
    assert re.search(r"^  team/mine +My first one$", page, re.M)
    assert re.search(r"^  broken$", page, re.M), "a run says what is wrong with it"
    assert re.search(r"^  reranker_grpo ", page, re.M)
    of_plan = printed("plan", "--config-dir", str(tmp_path), "--help", cwd=tmp_path).stdout
    assert re.search(r"^  team/mine +My first one$", of_plan, re.M)


def test_a_configuration_of_the_users_own_has_its_groups(stand_in_folder):
    page = help_page("", "job", config_folders(stand_in_folder / "conf"))
    assert re.search(r"^  tool +hammer\*, saw$", page, re.M)
    assert re.search(r"^  good$", page, re.M)
    assert "reranker_grpo" not in page, "an experiment of another command"


def test_a_config_dir_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        config_folders(Path("nowhere"))
