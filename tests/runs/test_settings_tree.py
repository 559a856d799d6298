"""Settings become the tree that they were built from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launch.cli.compose import compose, instantiate
from launch.cli.schema import Schema
from runs.settings_tree import as_tree
from runs.source_tree import CONF


@dataclass(frozen=True)
class Options:
    path: Path
    shape: tuple[int, ...] = (1, 2)
    inner: Any = None
    names: list[str] = field(default_factory=list)


class Plain:
    """A user's class that keeps its options under other names."""

    def __init__(self, k: int, **more: float):
        self._k, self._more = k, more


class Unknown:
    __slots__ = ("_k",)

    def __init__(self, k: int):
        self._k = k


def reward(rankings: Any, labels: Any, mask: Any, k: int = 3) -> int:
    return k


def here(name: str) -> str:
    return f"{__name__}.{name}"


def test_dataclasses_functions_and_plain_values():
    settings = Options(Path("a/b"), inner={"reward": partial(reward, k=5), "plain": reward})
    assert as_tree(settings) == {
        "_target_": here("Options"),
        "path": "a/b",
        "shape": [1, 2],
        "inner": {"reward": {"_target_": here("reward"), "k": 5}, "plain": {"_target_": here("reward")}},
        "names": [],
    }


def test_a_plain_class_keeps_the_options_that_it_was_built_from():
    built = Schema({}, construct=True).convert_node({"k": 7, "extra": 0.5}, Plain, "loss.reward")
    assert built._k == 7
    assert as_tree(built) == {"_target_": here("Plain"), "k": 7, "extra": 0.5}


def test_options_that_are_not_known_are_an_error():
    with pytest.raises(ValueError, match=r"Unknown are not known: make it a dataclass$"):
        as_tree(Schema({}, construct=True).convert_node({"k": 7}, Unknown, "loss.reward"))


@pytest.mark.parametrize("file", sorted((CONF / "exp").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_tree_of_an_experiment_builds_the_same_settings(file: Path):
    needed = ["data.path=FOLDER"] if file.stem == "from_documents" else []
    settings = instantiate(compose([f"+exp={file.stem}", *needed]))
    assert instantiate(as_tree(settings)) == settings
