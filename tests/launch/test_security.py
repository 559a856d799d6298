"""Nothing from outside is run, nothing secret is written down, nothing is written outside the run directory."""

from __future__ import annotations

import ast
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data.formats.trec import write_trec_run
from launch.cli.compose import load
from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig
from models.loading.resolve import resolve
from recipes.training_run import train
from runs.report.html import write_report

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("data", "engines", "evaluation", "launch", "losses", "models", "plackett", "trainers", "benchmarks", "docs"),
)
SOURCES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "zipfile", "tarfile"}
# Between the ranks of a test, over a pipe of its own; and the name of an error that safetensors' files do not raise.
ALLOWED = {("engines/distributed/testing.py", "pickle")}


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe(call: ast.Call) -> bool:
    """Whether a call may run what it reads, or says that a loader may."""
    options = {keyword.arg: keyword.value for keyword in call.keywords}

    def given(option: str) -> object:
        return options[option].value if isinstance(options.get(option), ast.Constant) else options.get(option)

    name = name_of(call.func)
    return (
        (name == "torch.load" and given("weights_only") is not True)
        or (name in ("np.load", "numpy.load") and "allow_pickle" in options)
        or name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system", "os.popen")
        or given("trust_remote_code") is True
        or (name.startswith("subprocess.") and "shell" in options)
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_source_unpickles_or_runs_what_it_reads(source: Path) -> None:
    tree = ast.parse(source.read_text())
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    here = str(source.relative_to(ROOT))
    assert {module for module in imported & MODULES if (here, module) not in ALLOWED} == set()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [ast.unparse(call) for call in calls if unsafe(call)] == []


@pytest.mark.parametrize(
    "code", ["torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "yaml.load(f)"]
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert unsafe(ast.parse(code).body[0].value)


CUSTOM = """
import os, pathlib
pathlib.Path(os.environ["MARKER"]).write_text("was run")
from transformers import BertConfig, BertForSequenceClassification, BertModel

class MineConfig(BertConfig):
    model_type = "mine"

class MineModel(BertModel):
    config_class = MineConfig

class MineClassifier(BertForSequenceClassification):
    config_class = MineConfig
"""


@pytest.fixture
def with_code(tiny_bert_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder of an architecture of its own, whose Python file leaves a mark where it is run."""
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "with_code")
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "MineConfig", "AutoModel": "MineModel"}
    classes["AutoModelForSequenceClassification"] = "MineClassifier"
    config |= {"model_type": "mine", "auto_map": {auto: f"custom.{name}" for auto, name in classes.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "custom.py").write_text(CUSTOM)
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return folder


@pytest.mark.parametrize("kind", [BiEncoderConfig, CrossEncoderConfig])
def test_code_of_a_model_is_run_only_where_it_is_asked_for(kind, with_code: Path, tmp_path: Path, caplog) -> None:
    with pytest.raises(
        ValueError, match=r"contains Python files that would be run.*set trust_remote_code=true"
    ) as refused:
        kind(str(with_code), max_length=32).build(seed=0)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "marker").exists()
    with caplog.at_level(logging.WARNING):
        model = kind(str(with_code), max_length=32, trust_remote_code=True).build(seed=0)
    assert "Python files of its folder are run" in caplog.text
    assert (tmp_path / "marker").read_text() == "was run"
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


def test_trust_is_of_one_model_alone() -> None:
    settings = ["+exp=reranker_distill", "teacher.name_or_path=x", "model.trust_remote_code=true"]
    run = load(settings)
    assert run.model.trust_remote_code is True
    assert run.teacher.trust_remote_code is False


def test_a_pickle_in_place_of_weights_is_refused_unread(tiny_bert_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.ones(1)}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled weights are not read"):
        resolve(str(folder))
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")  # under the right name as well
    with pytest.raises(ValueError, match=r"model .*pickled"):
        CrossEncoderConfig(str(folder), max_length=32).build(seed=0)


SECRETS = {
    "variable": "plain-words-of-a-variable",
    "flag": "plain-words-of-a-flag",
    "address": "plain-words-in-an-address",
    "hub": "hf_" + "AbCdEfGh" * 4,
}
ASKING = f"https://me:{SECRETS['address']}@host/"


def files_with(secret: str, folder: Path) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]


@pytest.fixture
def with_secrets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Settings that hold secrets, of a process whose command line and environment do too."""
    monkeypatch.setenv("SOME_API_KEY", SECRETS["variable"])
    monkeypatch.setattr(sys, "argv", ["launch/train.py", f"hub.token={SECRETS['flag']}", "--api-key", SECRETS["flag"]])
    return [f"logger.group='{ASKING}{SECRETS['hub']}'", f"logger.tags=['{SECRETS['variable']}']"]


def test_a_run_writes_no_secret_down(tiny_run: list[str], with_secrets: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = [setting for setting in tiny_run if not setting.startswith("logger=")]
    common = ["+exp=reranker_contrastive", *settings, "logger=wandb", "logger.tags=[]", "logger.group=null"]
    common += ["trainer.optimizer=sgd", "trainer.max_steps=1"]
    train(load([*common, *with_secrets]))
    run = tmp_path / "outputs" / "reranker_contrastive"
    assert list(run.glob("wandb/offline-run-*/*.wandb"))
    written = {name: files_with(secret, tmp_path / "outputs") for name, secret in SECRETS.items()}
    assert written == {name: [] for name in SECRETS}
    assert "hub.token=***" in json.loads((run / "environment.json").read_text())["command"]
    assert "https://***@host/***" in (run / "config.yaml").read_text()
    train(load([*common, *with_secrets]))  # and its settings are still known as the same


FAILING = """
import os, sys
from pathlib import Path
from launch.cli.errors import report_errors, set_run_folder
set_run_folder(Path(sys.argv[1]))
with report_errors():
    raise {kind}("no access to " + os.environ["ADDRESS"] + " with " + os.environ["SOME_API_KEY"])
"""


@pytest.mark.parametrize("kind", ["ValueError", "KeyError"])
def test_an_error_tells_no_secret(kind: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ADDRESS": ASKING, "SOME_API_KEY": SECRETS["variable"]}
    environment["TORCHELASTIC_ERROR_FILE"] = str(tmp_path / "attempt" / "0" / "error.json")
    (tmp_path / "attempt" / "0").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", FAILING.format(kind=kind), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no access to https://***@host/ with ***" in done.stderr
    for name in ("variable", "address"):
        assert SECRETS[name] not in done.stdout + done.stderr
        assert files_with(SECRETS[name], tmp_path) == []
    assert (tmp_path / "attempt" / "0" / "error.json").is_file()


EVIL = ["../../outside", "/etc/outside", "a/../../b", "..", "<script>alert(1)</script>"]


@pytest.mark.parametrize("name", EVIL[:-1])
def test_a_run_name_leads_nowhere_else(name: str, tiny_run: list[str], tmp_path: Path) -> None:
    before = sorted(tmp_path.parent.iterdir())
    with pytest.raises(ValueError, match="is not a valid folder name"):
        train(load(["+exp=reranker_contrastive", *tiny_run, f"run_name='{name}'"]))
    assert sorted(tmp_path.parent.iterdir()) == before
    assert not (tmp_path / "outputs").exists() or list((tmp_path / "outputs").iterdir()) == []


def evil_collection(folder: Path) -> Path:
    """A collection whose ids are paths and whose texts are HTML."""
    (folder / "qrels").mkdir(parents=True)
    ids = [f"{name.replace(' ', '')}{number}" for name in EVIL for number in range(4)]
    words = ["red", "green", "blue", "apple", "pear", "train", "rank", "list", "query", "document", "python", "value"]
    documents = [
        {"_id": f"d{key}", "text": f"<script>alert({n})</script> {words[n % 12]}"} for n, key in enumerate(ids)
    ]
    queries = [
        {"_id": f"q{key}", "text": f"<img src=x onerror=alert({n})> {words[n % 12]}"} for n, key in enumerate(ids)
    ]
    for file, records in (("corpus", documents), ("queries", queries)):
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for split, chosen in (("train", ids[:10]), ("dev", ids[10:15]), ("test", ids[15:])):
        lines = ["query-id\tcorpus-id\tscore", *(f"q{key}\td{key}\t1" for key in chosen)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_ids_and_texts_of_the_data_neither_leave_the_run_directory_nor_run_in_its_report(
    tiny_run: list[str], tmp_path: Path
) -> None:
    data = evil_collection(tmp_path / "data")
    settings = [setting for setting in tiny_run if not setting.startswith("data.path=")]
    train(load(["+exp=reranker_contrastive", *settings, f"data.path={data}", "trainer.max_steps=1"]))
    assert {path.name for path in tmp_path.iterdir()} == {"data", "cache", "outputs"}
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {
        *("reranker_contrastive", ".before", ".reranker_contrastive.lock")
    }
    assert {path.name for path in (tmp_path / "outputs" / "reranker_contrastive" / "runs").iterdir()} <= {
        *("before.run", "before.json", "after.run", "fused.run", "queries.jsonl")
    }
    page = (tmp_path / "outputs" / "reranker_contrastive" / "report.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page


def test_a_report_shows_every_text_as_text(tmp_path: Path) -> None:
    tag = "<script>alert(1)</script>"
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "split": "train", "loss": 1.0, f"loss/{tag}": 1.0}) + "\n" for s in (1, 2))
    )
    (tmp_path / "config.yaml").write_text(json.dumps({"run_name": tag, tag: {tag: tag}}))
    (tmp_path / "environment.json").write_text(json.dumps({tag: tag}))
    document = {"id": tag, "grade": 1, "rank": 1, "first_stage_rank": None, "text": tag}
    query = {"id": tag, "text": tag, "first_stage": 0.1, "after": 0.2, "documents": [document]}
    (tmp_path / "queries.json").write_text(json.dumps({"metric": tag, "best": [query], "worst": [query]}))
    summary = {
        "metric": "MAP",
        "after": 0.5,
        "engine": tag,
        "data": tag,
        "warnings": [tag],
        "steps": 2,
        "world_size": 1,
    }
    assert "<script" not in write_report(tmp_path, summary).read_text()


@pytest.mark.parametrize("query", ["a b", "a\nb Q0 d 1 1 x", "", "a\tb"])
def test_an_id_cannot_add_lines_or_columns_to_a_run_file(query: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="query id"):
        write_trec_run(tmp_path / "x.run", {query: {"d": 1.0}}, tag="x")
    assert list(tmp_path.iterdir()) == []
