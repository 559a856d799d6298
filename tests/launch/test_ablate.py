"""launch/ablate.py: what its command line means, what is refused before anything starts, and a whole small ablation."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import yaml

from launch import ablate as command
from launch.cli.ablation import read_ablation
from recipes.ablate.run import Ablation, ablate
from runs.lock import holder_of
from runs.source_tree import CONF, ROOT

ABLATIONS = sorted((CONF / "ablation").glob("*.yaml"))


def read(*overrides: str, check=lambda settings: None, config_dir=None) -> Ablation:
    return read_ablation(overrides, config_dir, check)


def names(ablation: Ablation) -> list[str]:
    return [each.name for each in ablation.configurations]


@pytest.mark.parametrize("file", ABLATIONS, ids=lambda file: file.stem)
def test_the_shipped_ablations_are_right(file: Path, tmp_path: Path):
    text = file.read_text().replace(" \\\n#", "")  # a command of several lines
    line = next(line for line in text.splitlines() if line.startswith("# python"))
    given = re.sub(r"\b[A-Z]{4,}\b", str(tmp_path), line.partition("launch/ablate.py")[2])
    found = read(*shlex.split(given))
    assert found.folder == Path("outputs") / file.stem
    if not found.space:
        assert len(found.configurations) >= 2
        assert list(found.options.all_seeds) == ([11] if "rates" in file.stem else [1, 2, 3])


def test_the_examples_of_the_help_are_right():
    lines = [line.strip() for line in command.__doc__.splitlines() if "launch/ablate.py" in line]
    assert len(lines) >= 5
    for line in lines:
        given = shlex.split(line.split("   ")[0])[2:]
        found = read(*given)
        assert found.options.search or len(found.configurations) >= 2


def test_groups_are_varied_like_options_in_stages_and_roles_too():
    stages = read("+exp=reranker_three_stage", "grid.loss@stage.grpo.loss=[plackett_luce_grpo,selection_grpo]")
    assert names(stages) == ["loss@stage.grpo.loss=plackett_luce_grpo", "loss@stage.grpo.loss=selection_grpo"]
    trees = [stages.tree(each) for each in stages.configurations]
    targets = [tree["stage"]["grpo"]["loss"]["_target_"].rpartition(".")[2] for tree in trees]
    assert len(set(targets)) == 2
    teachers = read("+exp=reranker_distill", "teacher.name_or_path=X", "grid.model@teacher=[cross_encoder,bi_encoder]")
    targets = [teachers.tree(each)["teacher"]["_target_"] for each in teachers.configurations]
    assert len(set(targets)) == 2
    lists = read("+exp=reranker_bce", "grid.data/lists=[mixed,hard]")
    assert [lists.tree(each)["data"]["lists"]["random_fraction"] for each in lists.configurations] == [0.4, 0.0]
    experiments = read("grid.exp=[reranker_bce,reranker_listwise]", "seeds=[5]")
    assert experiments.configurations[0].overrides == ("+exp=reranker_bce",)
    assert experiments.folder == Path("outputs/ablation_train")


def test_experiments_are_lists_of_settings():
    found = read(
        "experiments.first=[loss=bce,trainer=ranking]",
        "experiments.second=[loss=plackett_luce_grpo]",
        "baseline=second",
    )
    assert names(found) == ["first", "second"]
    assert found.configurations[0].overrides == ("loss=bce", "trainer=ranking")
    assert found.options.baseline == "second"


def test_a_file_is_changed_on_the_command_line(tmp_path: Path):
    (tmp_path / "ablation").mkdir()
    content = {
        "settings": ["+exp=reranker_bce", "trainer.max_steps=7"],
        "grid": {"loss": ["bce", "hinge"], "trainer": {"batch_size": [2, 4]}},
    }
    (tmp_path / "ablation" / "own.yaml").write_text("# @package _global_\n" + yaml.safe_dump(content))
    found = read("+ablation=own", "trainer.max_steps=9", "grid.loss=[rank_net]", config_dir=str(tmp_path))
    assert names(found) == ["loss=rank_net, trainer.batch_size=2", "loss=rank_net, trainer.batch_size=4"]
    assert found.common == ("+exp=reranker_bce", "trainer.max_steps=9")
    assert len(read("+ablation=own", "grid.trainer.batch_size=null", config_dir=str(tmp_path)).configurations) == 2
    assert found.folder == Path("outputs/own")
    content["settings"].append("output_dir=elsewhere")
    (tmp_path / "ablation" / "own.yaml").write_text("# @package _global_\n" + yaml.safe_dump(content))
    with pytest.raises(ValueError, match="output_dir is not a setting of an ablation's runs"):
        read("+ablation=own", config_dir=str(tmp_path))


def test_the_settings_of_a_job():
    found = read("+exp=reranker_bce", "grid.loss=[bce,hinge]", "seeds=[3]", "run_name=mine", "output_dir=some dir")
    from recipes.ablate.configurations import Job

    given = found.overrides(Job(found.configurations[1], 3))
    assert given == [
        "+exp=reranker_bce",
        "loss=hinge",
        "seed=3",
        "run_name=loss_hinge-seed3",
        "output_dir='some dir/mine/runs'",
        "resume=auto",
        "logger.group=mine",
        "logger.job_type=ablation",
    ]
    quiet = read("+exp=reranker_bce", "grid.loss=[bce,hinge]", "logger=none")
    assert quiet.overrides(Job(quiet.configurations[0], 1))[-1] == "resume=auto"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["seed=3"], r"seed is not a setting of an ablation's runs: seeds="),
        (["resume=none"], r"resume is not a setting of an ablation"),
        (["grid.seed=[1,2]"], r"seed is not a setting of an ablation's runs: seeds="),
        (["search.seed=integer(1,2)"], r"seed is not a setting of an ablation's runs: seeds="),
        (["grid.run_name=[x,y]"], r"run_name is not a setting of an ablation's runs: it names the folder"),
        (["experiments.a=[loss=bce,resume=none]"], r"resume is not a setting of an ablation's runs"),
        (["experiments.a=[output_dir=x]"], r"output_dir is not a setting of an ablation's runs"),
        (["grid.hub.token=['a b',c]"], r"hub\.token is a secret"),
        (["grid.loss=bce"], r"grid\.loss=bce is not a list of values: grid\.loss=\[A,B\]"),
        (["grid.loss=bce,hinge"], r"grid\.loss=bce,hinge is not a list of values: grid\.loss=\[A,B\]"),
        (["grid.loss=[]"], r"grid\.loss=\[\] is not a list"),
        (["grid.loss=[bce,bce]"], r"loss=bce is in the ablation twice"),
        (["loss=bce", "grid.loss=[bce,hinge]"], r"loss is set for all runs and varied"),
        (
            ["+ablation=losses", "grid.trainer.batch_size=[4,8]"],
            r"size is set for all runs by `settings` of the file",
        ),
        (["+ablation=losses", "+ablation=stages"], r"\+ablation=losses and \+ablation=stages are two ablations: start"),
        (["seeds=[1,1]"], r"seeds=\[1, 1\]"),
        (["seeds=[1,-1]"], r"seeds=\[1, -1\]: a seed is at least 0"),
        (["experiment.a=[loss=bce]"], r"experiment is not an option: did you mean experiments\?"),
        (["jobs=0"], r"jobs must be at least 1"),
        (["sedes=[1,2]"], r"sedes is not an option: did you mean seeds\?"),
        (
            ["grid.loss=[bce,hinge]", "baseline=bec"],
            r"baseline=bec is not a configuration: valid: loss=bce, loss=hinge",
        ),
        (["grid.loss=[bce,hinge]", "search.seed=integer(1,2)"], r"search and grid or experiments"),
        (["trials=3"], r"trials=3 is of a search"),
        (["nodes=2"], r"nodes is of a cluster"),
        (["submitit.timeout_min=3"], r"submitit is of a cluster"),
        (
            ["+ablation=nowhere"],
            r"ablation=nowhere is not a choice: valid: .* ablation/nowhere\.yaml .*--config-dir",
        ),
        (["experiments.a=[loss]"], r"experiments\.a=\['loss'\] is not a list of settings"),
        (["run_name=a/b"], r"run_name='a/b' is not a valid folder name"),
    ],
)
def test_mistakes_are_one_line(given: list[str], message: str):
    with pytest.raises(ValueError, match=message) as error:
        read("+exp=reranker_contrastive", *given)
    assert "\n" not in str(error.value)


def test_all_wrong_configurations_are_named_before_anything_starts(capsys):
    def check(settings) -> None:
        if settings.trainer.learning_rate > 1:
            raise ValueError("too fast")

    with pytest.raises(ValueError, match="4 of 5 configurations cannot be trained: nothing was started"):
        read(
            "+exp=reranker_bce",
            "experiments.a=[trainer.learning_rat=1]",
            "experiments.b=[loss=nothing]",
            "experiments.c=[trainer.learning_rate=2]",
            "experiments.d=[]",
            "experiments.e=[loss=bce]",
            check=check,
        )
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["a", "b", "c", "e"]
    assert "did you mean learning_rate?" in lines[0]
    assert "loss=nothing is not a choice" in lines[1]
    assert lines[2] == "error: c: too fast"
    assert lines[3] == "error: e: its settings are those of d: leave one out"


def test_a_warning_of_several_configurations_is_said_once():
    warning = logging.LogRecord("data", logging.WARNING, "", 0, "%s is small", ("batch_size",), None)
    shown = []

    def check(settings) -> None:
        shown.append(bool(logging.lastResort.filter(warning)))

    read("+exp=reranker_bce", "experiments.a=[loss=bce]", "experiments.b=[loss=hinge]", check=check)
    assert shown == [True, False]
    assert logging.lastResort.filter(warning)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path):
    (tmp_path / "afile").write_text("")
    with pytest.raises(ValueError, match=r"output_dir=.*: .*afile cannot be created \(a file is there\)"):
        read("+exp=reranker_bce", "experiments.a=[loss=bce]", f"output_dir={tmp_path / 'afile'}")


def test_a_mistake_of_all_configurations_is_said_once(capsys):
    with pytest.raises(ValueError, match="2 of 2 configurations"):
        read("+exp=reranker_bce", "grid.loss=[bce,hinge]", "trainer.max_stepps=3")
    assert capsys.readouterr().err.count("did you mean max_steps") == 1


@pytest.fixture(scope="module")
def finished(tiny_overrides: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two experiments with two seeds, of which one fails while it trains, and what was printed."""
    folder = tmp_path_factory.mktemp("ablation")
    settings = [each for each in tiny_overrides(folder) if not each.startswith(("output_dir", "trainer.learning_rate"))]
    settings += [
        "+exp=reranker_contrastive",
        "trainer.max_steps=4",
        "trainer.eval_every=4",
        "trainer.learning_rate=0.05",
    ]
    own = [f"output_dir={folder}", "run_name=a", "seeds=[1,2]", "jobs=2", "experiments.good=[loss=bce]"]
    (folder / "given").write_text("\n".join([*settings, *own]))
    with pytest.raises(ValueError, match=r"2 of 4 jobs failed: broken, seed 1: .*not finite.* the same command tries"):
        run(folder, "experiments.broken=[trainer.learning_rate=1e30]")
    return folder


def run(folder: Path, *more: str) -> None:
    """Run the ablation in this process, its jobs in processes of their own; without the prediction of their cost."""
    with mock.patch("recipes.ablate.plan.cost_lines", return_value=["memory: not asked"]):
        ablate(read(*(folder / "given").read_text().splitlines(), *more))


def content(folder: Path) -> dict:
    return json.loads((folder / "a" / "ablation.json").read_text())


def test_a_job_that_breaks_fails_alone(finished: Path):
    jobs = content(finished)["jobs"]
    found = {(job["configuration"], job["seed"]): job["status"] for job in jobs}
    assert found == {("good", 1): "finished", ("good", 2): "finished", ("broken", 1): "failed", ("broken", 2): "failed"}
    assert all("not finite" in job["error"] for job in jobs if job["status"] == "failed")
    assert all((finished / "a" / job["run"] / "config.yaml").is_file() for job in jobs)
    assert all((finished / "a" / "logs" / f"{Path(job['run']).name}.log").is_file() for job in jobs)
    assert content(finished)["metric"] == "nDCG@10"
    assert content(finished)["results"]
    assert (finished / "a" / "ablation.html").is_file()


def test_the_same_command_runs_only_what_is_not_finished(finished: Path, capfd):
    summaries = {file: file.stat().st_mtime_ns for file in (finished / "a" / "runs").glob("*/summary.json")}
    assert len(summaries) == 2
    with pytest.raises(ValueError, match=r"trainer\.max_steps 4 -> 5 \(in good, seed 1 and \d more runs\)"):
        run(finished, "experiments.broken=[loss=hinge]", "trainer.max_steps=5")
    with pytest.raises(ValueError, match=r"1e\+30 -> 0\.05, .* \(in broken, seed 1 .* or remove .*/broken-seed\*"):
        run(finished, "experiments.broken=[loss=hinge]")
    capfd.readouterr()
    run(finished)  # without the broken one
    printed = capfd.readouterr()
    assert "2 jobs, 2 at a time; 2 finished already" in printed.out
    assert ": started" not in printed.err
    assert [(job["configuration"], job["status"]) for job in content(finished)["jobs"]] == [("good", "finished")] * 2
    assert {file: file.stat().st_mtime_ns for file in summaries} == summaries


def test_a_dry_run_prints_the_plan_and_leaves_nothing(tmp_path: Path, tiny_run: list[str], capsys):
    given = [each for each in tiny_run if not each.startswith("output_dir")]
    ablate(read("+exp=reranker_bce", *given, "grid.loss=[bce,hinge]", f"output_dir={tmp_path}/x", "dry_run=true"))
    printed = capsys.readouterr().out
    assert "2 configurations, seeds 1, 2, 3" in printed
    assert "  loss=bce\n  loss=hinge\n" in printed
    assert "6 jobs; 0 finished already" in printed
    assert "memory: about " in printed
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--multirun", "+exp=reranker_bce"], {}, "has no --multirun, --cfg and --info: dry_run=true"),
        (["+exp=reranker_bce"], {"TORCHELASTIC_RUN_ID": "x"}, "by python: ranks=N starts torchrun"),
    ],
)
def test_it_is_started_by_python_and_has_flags_of_its_own(monkeypatch, arguments, variables, message):
    monkeypatch.setattr("sys.argv", ["launch/ablate.py", *arguments])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        command.main()


def test_a_run_of_a_killed_command_is_seen_by_its_lock(tmp_path: Path):
    import subprocess
    import sys

    code = f"from pathlib import Path; from runs.lock import lock_run; lock_run(Path({str(tmp_path / 'run')!r})); "
    code += "print('locked', flush=True); input()"
    assert holder_of(tmp_path / "run") is None
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, **pipes) as process:
        process.stdout.readline()
        assert holder_of(tmp_path / "run").startswith(f"process {process.pid} on ")
        process.stdin.close()
    assert holder_of(tmp_path / "run") is None
