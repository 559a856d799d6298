"""launch/cluster/wandb_sweep.yaml: the command that W&B's agent makes of it is a run of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from launch.cli.compose import compose

ROOT = Path(__file__).parents[2]


def agent_command(config: dict[str, Any], arguments: dict[str, Any]) -> list[str]:
    """The command of `wandb agent`, by W&B's own replacements of ${...}."""
    filled = create_sweep_command_args({"args": {name: {"value": value} for name, value in arguments.items()}})
    filled |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [config["program"]]}
    command: list[str] = []
    for part in create_sweep_command(config["command"]):
        is_macro = part.startswith("${") and part.endswith("}")
        command += filled[part[2:-1]] if is_macro else [part]
    return command


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # W&B leaves it open
def test_each_run_of_a_sweep_is_a_run_of_its_own(monkeypatch):
    config = load_sweep_config(str(ROOT / "launch/cluster/wandb_sweep.yaml"))
    assert config["metric"] == {"name": "best_dev", "goal": "maximize"}
    arguments = {"trainer.learning_rate": 3.1e-06, "loss": "rank_net", "seed": 2}
    assert config["parameters"].keys() == arguments.keys()
    monkeypatch.setenv("WANDB_RUN_ID", "ab12cd34")  # by the agent
    env, interpreter, program, *overrides = agent_command(config, arguments)
    assert [env, interpreter, program] == ["/usr/bin/env", "python", "launch/train.py"]
    assert (ROOT / program).is_file()
    tree = compose(overrides)
    assert tree["run_name"] == "sweep-ab12cd34"
    assert (tree["trainer"]["learning_rate"], tree["seed"]) == (3.1e-06, 2)
    assert tree["loss"]["_target_"].endswith(".RankNet")
    assert {(ROOT / f"conf/loss/{loss}.yaml").is_file() for loss in config["parameters"]["loss"]["values"]} == {True}
