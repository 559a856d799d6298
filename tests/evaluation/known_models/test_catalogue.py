"""Users' files beside the published facts, and how a model is found."""

from __future__ import annotations

import json

import pytest

from evaluation.known_models.catalogue import known_models, published
from models.loading.resolve import DEFAULT_MODEL, PACKAGES

FILE = """
sources: {%(name)s: {url: https://example.org/%(name)s, date: 2026-05-31}}
models:
  %(model)s: {%(kind)sfacts: {context: {value: %(value)d, source: %(name)s}}}
"""


def write(folder, name: str, model: str, value: int, kind: str = "") -> str:
    file = folder / f"{name}.yaml"
    file.write_text(FILE % {"name": name, "model": model, "value": value, "kind": kind and f"kind: {kind}, "})
    return str(file)


def test_the_last_file_comes_first_and_nothing_is_lost(tmp_path):
    files = [write(tmp_path, "one", "baai/BGE-M3", 1000), write(tmp_path, "two", "BAAI/bge-m3", 2000)]
    model = known_models(files).models["BAAI/bge-m3"]
    assert [fact.value for fact in model.facts["context"]] == [2000, 1000, 8192]
    assert model.fact("context").source == "https://example.org/two"
    assert model.facts["dimension"] == published()["BAAI/bge-m3"].facts["dimension"]
    assert "baai/BGE-M3" not in known_models(files).models
    assert [fact.value for fact in published()["BAAI/bge-m3"].facts["context"]] == [8192]  # not changed


def test_a_second_file_adds_to_a_model_of_the_first(tmp_path):
    files = [write(tmp_path, "one", "org/own", 1000, "reranker"), write(tmp_path, "two", "ORG/own", 2000)]
    model = known_models(files).models["org/own"]
    assert (model.kind, [fact.value for fact in model.facts["context"]]) == ("reranker", [2000, 1000])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("BAAI/bge-m3", "BAAI/bge-m3"),
        (" baai/BGE-M3", "BAAI/bge-m3"),
        ("all-MiniLM-L6-v2", DEFAULT_MODEL),
        ("bge-m", None),
        ("", None),
        ("org/bge-m3", None),
        ("bm25", None),
    ],
)
def test_by_name(name, found):
    match = known_models().find(name)
    assert (match and match.model.name) == found
    assert match is None or (match.known_by, match.caveat) == ("name", "")


def test_a_last_part_that_two_models_have_finds_none(tmp_path):
    models = known_models([write(tmp_path, "one", "org/bge-m3", 1, "embedder")])
    assert models.find("bge-m3") is None
    assert models.find("org/bge-m3").model.name == "org/bge-m3"


def folder_with(folder, files: dict[str, str]):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    "files",
    [
        {"README.md": "---\nlicense: mit\nbase_model: BAAI/bge-m3\n---\n\n# A model\n"},
        {"README.md": "---\nbase_model:\n- org/unknown\n- baai/bge-m3\n---"},
        {"config.json": json.dumps({"_name_or_path": "BAAI/bge-m3"})},
        {"adapter_config.json": json.dumps({"base_model_name_or_path": "BAAI/bge-m3"})},
        {"README.md": "---\n: [broken\n---\n", "config.json": json.dumps({"_name_or_path": "BAAI/bge-m3"})},
    ],
)
@pytest.mark.parametrize("name", ["run-1", "bge-m3"])
def test_a_folder_by_the_model_that_it_was_trained_from(tmp_path, files, name):
    match = known_models().find(folder_with(tmp_path / name, files))
    assert (match.model.name, match.known_by) == ("BAAI/bge-m3", "base_model")
    assert match.caveat == "facts of its base model BAAI/bge-m3"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"README.md": "# No front matter\nbase_model: BAAI/bge-m3\n"},
        {"README.md": "---\nbase_model: 3\n---\n", "config.json": "[]"},
        {"config.json": "{", "adapter_config.json": json.dumps({"base_model_name_or_path": None})},
        {"config.json": json.dumps({"_name_or_path": "bge-m3"})},  # no hub id: some folder, once
    ],
)
def test_a_folder_that_names_no_known_base(tmp_path, files):
    assert known_models().find(folder_with(tmp_path / "run-1", files)) is None


def test_a_clone_is_known_by_its_folders_name_even_if_its_base_is_known_too(tmp_path):
    card = {"README.md": "---\nbase_model: Alibaba-NLP/gte-multilingual-base\n---\n"}
    match = known_models().find(folder_with(tmp_path / "snowflake-arctic-embed-m-v2.0", card))
    assert (match.model.name, match.known_by) == ("Snowflake/snowflake-arctic-embed-m-v2.0", "folder_name")
    assert match.caveat == "taken for Snowflake/snowflake-arctic-embed-m-v2.0 by the folder's name"


def test_a_chain_of_folders_leads_to_the_base_and_a_circle_to_none(tmp_path):
    first = folder_with(tmp_path / "first", {"config.json": json.dumps({"_name_or_path": "BAAI/bge-m3"})})
    second = folder_with(tmp_path / "second", {"README.md": f"---\nbase_model: {first}\n---\n"})
    match = known_models().find(second)
    assert (match.model.name, match.known_by) == ("BAAI/bge-m3", "base_model")
    circle = folder_with(tmp_path / "circle", {"README.md": f"---\nbase_model: {tmp_path / 'circle'}\n---\n"})
    assert known_models().find(circle) is None


def test_folders_that_are_the_model_itself(tmp_path, monkeypatch):
    cached = tmp_path / "hub" / "models--BAAI--bge-m3" / "snapshots" / "5617a9f"
    folder_with(cached, {"config.json": json.dumps({"_name_or_path": "FacebookAI/xlm-roberta-large"})})
    match = known_models().find(str(cached))
    assert (match.model.name, match.known_by, match.caveat) == ("BAAI/bge-m3", "name", "")
    folder_with(tmp_path / "exports" / "own", {"config.json": json.dumps({"_name_or_path": "BAAI/bge-m3"})})
    monkeypatch.chdir(tmp_path)
    models = known_models([write(tmp_path, "mine", "exports/own", 7, "embedder")])
    match = models.find(str(tmp_path / "exports" / "own"))
    assert (match.model.name, match.known_by) == ("exports/own", "name")


def test_the_offline_package_of_the_default_model():
    package = PACKAGES[DEFAULT_MODEL]
    if package.find() is None:
        pytest.skip(f"{package.install} is not installed")
    match = known_models().find(str((package.find() / package.weights).parent))
    assert (match.model.name, match.known_by) == (DEFAULT_MODEL, "name")
