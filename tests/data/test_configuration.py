"""The files of conf/data say exactly what the code's defaults are."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"


def build(node: Any) -> Any:
    if not isinstance(node, dict) or "_target_" not in node:
        return tuple(node) if isinstance(node, list) else node
    module, _, name = node["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)(
        **{key: build(value) for key, value in node.items() if key != "_target_"}
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "data").glob("*.yaml")))
def test_a_data_group_states_every_field_with_its_default(name: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+data={name}"])
    needed = {key: "x" for key in config.data if OmegaConf.is_missing(config.data, key)}  # a path, a task
    config.data.update(needed)
    config = OmegaConf.to_container(config.data)
    for node in (config, *(config[part] for part in ("candidates", "lists") if part in config)):
        target = type(build(node))
        assert set(node) - {"_target_"} == {field.name for field in dataclasses.fields(target)}
    built = build(config)
    assert built == type(built)(**needed)


def test_candidates_of_a_run_file():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["+data=beir", "data/candidates=run", "data.candidates.path=x.run", "data.path=y"]
        config = compose(overrides=overrides)
    assert build(OmegaConf.to_container(config.data)).candidates.path == "x.run"
