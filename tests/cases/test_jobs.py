"""Jobs as clusters run them: files staged elsewhere, W&B's variables, launchers, Ctrl-C, names of other trainers."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from data.formats.file import FileConfig
from engines.distributed import preemption
from launch.cli import errors, foreign_names
from launch.cli.compose import compose, load
from launch.cli.launchers import check_launcher
from models.cross_encoder import CrossEncoderConfig
from recipes.training_run import train
from runs.loggers.wandb import WandbConfig, run_id
from runs.places import contents_of, digest
from runs.resume import changes_of_run
from runs.settings_tree import as_tree
from trainers.trainer import Trainer


@pytest.fixture
def job(tmp_path: Path, tiny_run: list[str], tiny_beir_dir: Path) -> Callable[..., list[str]]:
    """`job(name, *overrides)`: the settings of a run whose data have been copied to the folder of that job."""

    def settings(name: str, *overrides: str) -> list[str]:
        staged = tmp_path / name / "collection"
        if not staged.exists():
            shutil.copytree(tiny_beir_dir, staged)
        steps = ["trainer.max_steps=4", "trainer.eval_every=2", "trainer.save_every=2", "run_name=job"]
        return ["+exp=reranker_contrastive", *tiny_run, f"data.path={staged}", *steps, *overrides]

    return settings


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next training fail in the step after that one."""
    original = Trainer.next_batch

    def next_batch(trainer: Trainer) -> Any:
        if trainer.state.step > step:
            raise KeyError("stopped")
        return original(trainer)

    monkeypatch.setattr(Trainer, "next_batch", next_batch)


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["split"] == "train"]


@pytest.mark.parametrize("kind", ["plain", "mixture", "stages"])
def test_a_requeued_job_finds_its_files_elsewhere_and_goes_on_bit_for_bit(
    kind: str,
    job: Callable[..., list[str]],
    tmp_path: Path,
    tiny_bert_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def settings(name: str, *overrides: str) -> Any:
        model = tmp_path / name / "model"
        if not model.exists():
            shutil.copytree(tiny_bert_dir, model)
        own = job(name, f"model.name_or_path={model}", *overrides)
        if kind == "mixture":
            place = next(each for each in own if each.startswith("data.path="))
            own = [each for each in own if not each.startswith("data")]
            own += [
                "data=mixture",
                "+data@data.sources.a=beir",
                place.replace("data.path", "data.sources.a.path"),
                f"data.sources.a.cache_dir={tmp_path / name / 'cache'}",
            ]
        if kind == "stages":
            pairs = tmp_path / name / "pairs.jsonl"
            rows = [{"query": f"word {row}", "positive": f"text of {row}", "negative": f"a {row}"} for row in range(9)]
            pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
            own = [*STAGES, *own[1:], f"+stage.contrastive.data={{_target_: {FILE_DATA}, path: {pairs}}}"]
        return load(own)

    train(settings("one", "run_name=whole"))
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(KeyError):
            train(settings("one"))
    shutil.move(tmp_path / "one", tmp_path / "gone")
    train(settings("two"))
    outputs = tmp_path / "outputs"
    assert len(losses(outputs / "job")) == (8 if kind == "stages" else 4)
    assert losses(outputs / "job") == losses(outputs / "whole")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("collection/corpus.jsonl", "data.path=.*two/collection: corpus.jsonl has other content than at the start"),
        ("collection/qrels/train.tsv", "qrels/train.tsv has other content than at the start .*one/collection"),
        ("model/model.safetensors", "model.name_or_path=.*two/model: model.safetensors has other content"),
    ],
)
def test_other_content_is_refused_with_the_file_named(changed: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folders = {}
    for name in ("one", "two"):
        for file in ("collection/corpus.jsonl", "collection/queries.jsonl", "collection/qrels/train.tsv"):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text("{}\n")
        (tmp_path / name / "model").mkdir()
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            (tmp_path / name / "model" / file).write_text("{}")
        folders[name] = load(
            [
                "data=beir",
                f"data.path={tmp_path / name / 'collection'}",
                f"model.name_or_path={tmp_path / name / 'model'}",
                "run_name=run",
            ]
        )
    write_start(tmp_path / "run", folders["one"])
    assert changes(tmp_path / "run", folders["two"]) == []
    (tmp_path / "two" / changed).write_text('{"a": 1}\n')
    (found,) = changes(tmp_path / "run", folders["two"])
    assert re.search(named, found), found


def write_start(run: Path, settings: Any) -> None:
    """Write what a run keeps of its settings and of the files that they name."""
    (run / "config.yaml").write_text(yaml.safe_dump(as_tree(settings)))
    (run / "environment.json").write_text(json.dumps({"places": contents_of(settings)}))


def changes(run: Path, settings: Any) -> list[str]:
    return [change.text for change in changes_of_run(run, as_tree(settings), contents_of(settings))[0]]


def test_every_place_of_a_file_data_set_and_an_adapter_is_compared(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "dev.jsonl"):
        (tmp_path / name).write_text(f'{{"query": "{name}"}}\n')
    places = FileConfig(path=f"{tmp_path}/[ab].jsonl", dev_path=str(tmp_path / "dev.jsonl")).places()
    assert {option: sorted(files) for option, files in places.items()} == {
        "path": ["a.jsonl", "b.jsonl"],
        "dev_path": [""],
    }
    for name, where in (("base", {}), ("adapter", {"base_model_name_or_path": str(tmp_path / "base")})):
        (tmp_path / name).mkdir()
        for file in ("config.json", "model.safetensors", "tokenizer.json", "adapter_model.safetensors"):
            (tmp_path / name / file).write_text(json.dumps({"name": name}))
        if where:
            (tmp_path / name / "adapter_config.json").write_text(json.dumps({**where, "r": 8}))
    before = contents_of(CrossEncoderConfig(str(tmp_path / "adapter")))["name_or_path"]
    assert "base/model.safetensors" in before
    (tmp_path / "base").rename(tmp_path / "moved")
    moved = {"base_model_name_or_path": str(tmp_path / "moved"), "r": 8}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(moved))
    assert contents_of(CrossEncoderConfig(str(tmp_path / "adapter")))["name_or_path"] == before


def test_a_refusal_says_how_to_train_longer_and_the_way_works(
    job: Callable[..., list[str]], tmp_path: Path, tiny_run: list[str]
) -> None:
    train(load(job("one")))
    longer = ["trainer.max_steps=6", "loss=rank_net"]
    with pytest.raises(ValueError, match="started with other settings") as refused:
        train(load(job("one", *longer)))
    message = str(refused.value)
    assert "absent" not in message
    assert "losses." not in message
    assert "loss SoftmaxCrossEntropy -> RankNet" in message
    resume = message.partition("with resume=")[2].split()[0]
    train(load(job("one", "trainer.max_steps=6", f"resume={resume}", "run_name=longer")))
    assert len(losses(tmp_path / "outputs" / "longer")) == 6


STAGES = ["+exp=reranker_three_stage", "stages=[grpo,contrastive]"]
FILE_DATA = "data.formats.file.FileConfig"

WANDB = {
    "WANDB_PROJECT": "theirs",
    "WANDB_NAME": "a name",
    "WANDB_RUN_ID": "abc123",
    "WANDB_DIR": "elsewhere",
    "WANDB_MODE": "offline",
}


def started_wandb(config: WandbConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments with which a run starts W&B."""
    found: dict[str, Any] = {}
    stand_in = SimpleNamespace(init=lambda **options: found.update(options), Settings=lambda **options: options)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    run: Any = SimpleNamespace(path=folder, name="run", wandb_id_file=folder / "wandb" / "run_id")
    config.start(run, {}, "offline", 1.0)
    return found


def test_wandb_variables_are_obeyed_where_a_setting_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in WANDB:
        monkeypatch.delenv(name, raising=False)
    plain = started_wandb(WandbConfig(), tmp_path / "plain", monkeypatch)
    assert (plain["project"], plain["name"], plain["dir"]) == ("plackett", "run", tmp_path / "plain")
    for name, value in (WANDB | {"WANDB_DIR": str(tmp_path / "elsewhere")}).items():
        monkeypatch.setenv(name, value)
    theirs = started_wandb(WandbConfig(), tmp_path / "theirs", monkeypatch)
    assert (theirs["project"], theirs["name"], theirs["id"]) == ("theirs", "a name", "abc123")
    assert theirs["dir"] == tmp_path / "elsewhere"
    assert theirs["dir"].is_dir()
    # What is None is read by W&B itself: WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_TAGS.
    assert [theirs[name] for name in ("entity", "group", "tags")] == [None] * 3
    chosen = WandbConfig(project="plackett", entity="e", group="g", tags=[], name="n")
    ours = started_wandb(chosen, tmp_path / "ours", monkeypatch)
    assert [ours[name] for name in ("project", "entity", "group", "tags", "name")] == ["plackett", "e", "g", [], "n"]


def test_the_id_of_a_resumed_run_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    first = run_id(tmp_path / "run_id")
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    assert run_id(tmp_path / "run_id") == first


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, "Slurm has started 2 processes"),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4"}, "Slurm has started 4"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI has started 2"),
        ({"PMI_RANK": "1", "PMI_SIZE": "16"}, "MPI has started 16"),
    ],
)
def test_processes_without_torchrun_are_told_how_to_start(variables: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}.*torchrun --nproc_per_node=GPUS launch/train.py"):
        check_launcher("launch/train.py", variables)
    check_launcher("launch/train.py", variables | {"RANK": "0", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_NTASKS": "4"},  # a shell of salloc
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"},
        {"PMI_RANK": "0", "PMI_SIZE": "1"},
    ],
)
def test_a_single_process_is_not_refused(variables: dict[str, str]) -> None:
    check_launcher("launch/train.py", variables)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C has Python's own handler: a process in the background may have been started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_the_first_ctrl_c_is_recorded_and_the_second_acts_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preemption, "REPEATED_S", 0.0)
    with preemption.handle_signals():
        with pytest.raises(KeyboardInterrupt):  # before training
            signal.raise_signal(signal.SIGINT)
        preemption.defer_signals()
        signal.raise_signal(signal.SIGINT)
        assert preemption.requested()
        assert capfd.readouterr().err.count("Ctrl-C again ends at once") == 1
        error = preemption.Preempted("at step 3")
        assert (str(error), error.exit_status, error.by_user) == ("interrupted at step 3", 130, True)
        assert errors.explain(error).startswith("interrupted at step 3: ")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("override", "option"),
    [
        ("trainer.lr=1e-5", "trainer.learning_rate"),
        ("lr=1e-5", "trainer.learning_rate"),
        ("trainer.epochs=3", "trainer.max_epochs"),
        ("num_train_epochs=3", "trainer.max_epochs"),
        ("trainer.per_device_train_batch_size=8", "trainer.batch_size"),
        ("gradient_accumulation_steps=8", "trainer.token_budget"),
        ("warmup_ratio=0.1", "trainer.warmup_ratio"),
        ("trainer.save_steps=10", "trainer.save_every"),
        ("fp16=true", "engine.precision"),
        ("model_name_or_path=x", "model.name_or_path"),
    ],
)
def test_names_of_other_trainers_are_pointed_to_ours(override: str, option: str) -> None:
    with pytest.raises(ValueError, match=rf"is not an option: here it is {option}\b"):
        compose([override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.kept_chunks=true", "trainer.kept_chunks=True is not an integer or auto"),
        ("trainer.kept_chunks=all", "trainer.kept_chunks='all' is not an integer or auto"),
        ("trainer.kept_chunks=-1", "trainer.kept_chunks must be a number of at least 0, or auto, got -1"),
        ("model.packing=maybe", "model.packing='maybe' is not true or false, or null"),
        ("model.max_length=long", "model.max_length='long' is not an integer or null"),
    ],
)
def test_a_wrong_value_is_told_all_that_the_option_takes(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load([override])


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (["query_length=16"], "query_length is not an option: here it is model.query_length (of model=late_inter"),
        (["model=bi_encoder", "model.query_length=16"], "is not an option: it is one of model=late_interaction; "),
        (["+exp=colbert_infonce", "model.embedding_size=96"], "here it is model.dimension (of model=late_interaction)"),
        (["+exp=colbert_infonce", "do_query_expansion=false"], "here it is model.query_expansion (of model="),
        (["+exp=colbert_infonce", "model.attend_to_expansion_tokens=true"], "here it is model.expansion_attends ("),
        (["+exp=colbert_infonce", "model.skiplist_words=[a]"], "here it is model.skip_punctuation ("),
        (["+exp=colbert_infonce", "model.query_prefix=a"], 'here it is model.prompts ({query: "[Q] ", document: '),
        (["+exp=embedder_infonce", "query_prefix=a"], "here it is data.query_prompt; "),
        (["+exp=embedder_infonce", "document_prefix=a"], "here it is data.document_prompt; "),
        (
            ["+exp=splade_infonce", "max_active_dims=64"],
            "here it is model.document_terms (of model=sparse_encoder,",
        ),
        (["+exp=splade_infonce", "loss.query_regularizer_weight=1"], "here it is loss.terms.query.weight (of loss=spl"),
        (["+exp=static_infonce", "pca_dims=64"], "here it is model.dimension (of model=static_embedder)"),
    ],
)
def test_names_of_kinds_of_model_say_which_kind_has_them(overrides: list[str], hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        compose(overrides)


def test_every_option_that_a_hint_names_exists() -> None:
    trees = [
        compose(["data=file", "data.path=x", *more])
        for more in (
            [],
            ["model=bi_encoder"],
            ["model=cross_encoder_lora"],
            ["model=late_interaction"],
            ["+exp=splade_infonce"],
            ["model=static_embedder"],
        )
    ]
    for option, _ in (*foreign_names.OPTIONS.values(), *foreign_names.OF_MODELS.values()):
        assert any(_has(tree, option) for tree in trees), option


def _has(tree: dict[str, Any], option: str) -> bool:
    for name in option.split("."):
        if name not in (tree or {}):
            return False
        tree = tree[name]
    return True


JSON = '{"hidden": 4, "eps": 1e-12, "names": {"0": "a", "1": "b"}, "layers": [1, 2]}'
REWRITTEN = [
    ('{"layers":[1,2],\n "names":{"1":"b","0":"a"},\n "hidden":4,\n "eps":1e-12}\n', True),
    (JSON.replace("[1, 2]", "[2, 1]"), False),
    (JSON.replace("4", "4.0"), False),
    (JSON.replace("1e-12", "1.00000000000000000001e-12"), False),
    (JSON.replace("1e-12", '"1E-12"'), False),
    (JSON.replace("{", "[").replace("}", "]"), False),
    ("[" * 100_000, False),
]


@pytest.mark.parametrize(("content", "same"), REWRITTEN, ids=range(len(REWRITTEN)))
def test_white_space_and_order_of_keys_are_no_content_of_json(content: str, same: bool, tmp_path: Path):
    first, second = tmp_path / "one.json", tmp_path / "two.json"
    first.write_text(JSON)
    second.write_text(content)
    assert (digest(first) == digest(second)) is same
