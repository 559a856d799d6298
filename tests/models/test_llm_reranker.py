"""The LLM reranker scores as plain transformers does, whatever the padding, and never without its prompt."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from llm_rerankers import DOCUMENTS, QUERIES, build, logits_at_end, padded, score
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.answer_head import LogitTransform
from models.llm_reranker import LLMRerankerConfig
from models.lora import LoRAConfig
from models.prompts.template import PromptTemplate

MAMBA = {"mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
ARCHITECTURES = {
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": False},
    "llama": {},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 3.0, "initializer_range": 2.0},  # logits far beyond the cap
    "cohere": {"logit_scale": 3.0},
    "granite": {"logits_scaling": 2.0},
    "hyperclovax": {"logits_scaling": 2.0, "head_dim": 8},  # multiplied, not divided
    "falcon_h1": {"lm_head_multiplier": 3.0, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, **MAMBA},
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "block_types": ["recurrent", "recurrent", "attention"],
        "lru_width": 32,
        "attention_window_size": 2048,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "logits_soft_cap": 1.0,
        "initializer_range": 1.0,
    },
    "gpt_neox": {"tie_word_embeddings": False, "initializer_range": 1.0},
    "phi": {"tie_word_embeddings": False},  # its head has a bias
}


def tokens(model, queries=QUERIES, documents=DOCUMENTS) -> list[list[int]]:
    return model.tokenizer(queries, documents)["input_ids"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_score_is_the_difference_of_plain_logits(architecture, tiny_models, tmp_path):
    folder = tiny_models.write_tiny_causal(tmp_path, architecture=architecture, **ARCHITECTURES[architecture])
    if architecture == "phi":
        plain = AutoModelForCausalLM.from_pretrained(folder)
        plain.lm_head.bias.data.normal_(generator=torch.Generator().manual_seed(0))
        plain.save_pretrained(folder)
    model = build(folder, "qwen3").eval()
    rows, (yes, no) = tokens(model), model.tokenizer.answer_ids()
    logits = logits_at_end(folder, rows)
    expected = logits[:, yes] - logits[:, no]
    assert expected.std() > 0.03
    assert model(**padded(rows))["score"].dtype == torch.float32
    for side in ("right", "left"):
        torch.testing.assert_close(score(model, side=side, extra=3), expected, atol=1e-4, rtol=0)
    model.train().prepare(wanted_outputs={"logsumexp"})
    with torch.no_grad():
        found = model(**padded(rows))
    torch.testing.assert_close(found["score"], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found["logsumexp"], logits.logsumexp(-1) - logits[:, no], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (2.0, 3.0), (1.0, 30.0)])
def test_logits_that_are_not_read_are_refused(scale, cap, tiny_models, tmp_path, monkeypatch):
    settings = {"head_dim": 8, "final_logit_softcapping": 3.0}
    folder = tiny_models.write_tiny_causal(tmp_path, architecture="gemma2", **settings)
    build(folder, "qwen3")
    monkeypatch.setattr(LogitTransform, "of", lambda config: LogitTransform(scale, cap))
    with pytest.raises(ValueError, match="gemma2 computes its logits in an unsupported way"):
        build(folder, "qwen3")


@pytest.mark.parametrize("template", ["mxbai", "qwen3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_order_batch_and_padding_change_nothing(template, attention, tiny_causal_dir):
    model = build(tiny_causal_dir, template, attention=attention).eval()
    together = score(model)
    alone = torch.cat([score(model, [q], [d]) for q, d in zip(QUERIES, DOCUMENTS, strict=True)])
    others = {
        "alone": alone,
        "reversed": score(model, QUERIES[::-1], DOCUMENTS[::-1]).flip(0),
        "left": score(model, side="left"),
        "wide": score(model, extra=40),
        "wide left": score(model, side="left", extra=40, pad=7),
    }
    for name, other in others.items():
        torch.testing.assert_close(other, together, atol=1e-5, rtol=0, msg=name)


def test_scores_are_computed_in_float32_under_autocast(tiny_causal_dir):
    model = build(tiny_causal_dir, "qwen3").eval()
    full = score(model)
    with torch.autocast("cpu", torch.bfloat16):
        half = score(model)
    assert half.dtype == torch.float32
    assert not torch.equal(half, half.bfloat16().float())
    assert 0 < (half - full).abs().max() < 0.5, "the decoder runs in bf16"


class LargestTensor(TorchDispatchMode):
    """The most elements of a tensor that is made inside."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() // 4 for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return result


@pytest.mark.parametrize("logsumexp", [False, True])
def test_no_logits_of_the_vocabulary_are_made(logsumexp, tiny_causal_dir, tiny_models, tmp_path):
    """A vocabulary of 30,000, 40 rows: their logits would be 1,200,000 numbers."""
    folder = tiny_models.write_tiny_causal(tmp_path, vocab_size=30_000, hidden_size=8, num_attention_heads=2)
    model = build(folder, "qwen3", max_length=160)
    model.prepare(wanted_outputs={"logsumexp"} if logsumexp else ())
    batch = padded(tokens(model, ["a"] * 40, ["b"] * 40))
    with LargestTensor() as seen:
        output = model(**batch)
        sum(value.sum() for value in output.values()).backward()
    assert set(output) == {"score", "logsumexp"} if logsumexp else {"score"}
    assert seen.largest < 40 * 30_000 / 2  # a block of the vocabulary, activations of the decoder


def test_logsumexp_is_for_who_asks_for_it(tiny_causal_dir):
    model = build(tiny_causal_dir, "qwen3")
    batch = padded(tokens(model))
    assert set(model(**batch)) == {"score"}
    model.prepare(wanted_outputs={"logsumexp"})
    assert set(model(**batch)) == {"score", "logsumexp"}
    assert set(model.eval()(**batch)) == {"score", "logsumexp"}, "the reference, which is looked at, needs it too"


def test_gradients_are_those_of_the_plain_model(tiny_causal_dir):
    """Of log p(yes) over the whole vocabulary, tied head included."""
    model = build(tiny_causal_dir, "qwen3")
    model.prepare(wanted_outputs={"logsumexp"})
    rows, (yes, _) = tokens(model), model.tokenizer.answer_ids()
    output = model(**padded(rows))
    (output["score"] - output["logsumexp"]).sum().backward()
    plain = AutoModelForCausalLM.from_pretrained(tiny_causal_dir)
    sum(plain(torch.tensor([row])).logits[0, -1].log_softmax(-1)[yes] for row in rows).backward()
    found = {name.removeprefix("backbone."): p.grad for name, p in model.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_checkpointing_gives_equal_gradients(tiny_causal_dir):
    gradients = []
    for checkpointing in (False, True):
        for lora in (None, LoRAConfig(r=4)):
            model = build(tiny_causal_dir, "qwen3", lora=lora, gradient_checkpointing=checkpointing)
            model(**padded(tokens(model)))["score"].sum().backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for plain, recomputed in zip(gradients[:2], gradients[2:], strict=True):
        assert plain.keys() == recomputed.keys()
        for name, gradient in plain.items():
            torch.testing.assert_close(gradient, recomputed[name], atol=1e-6, rtol=1e-5)


def test_a_copy_answers_by_its_own_head(tiny_causal_dir):
    model = build(tiny_causal_dir, "qwen3").eval()
    other = copy.deepcopy(model)
    before = score(other)
    with torch.no_grad():
        model.language_model.get_output_embeddings().weight.mul_(2)
    torch.testing.assert_close(score(other), before, atol=0, rtol=0)


def test_a_model_without_padding_token_pads_with_its_end(tiny_causal_dir, tmp_path):
    folder = shutil.copytree(tiny_causal_dir, tmp_path / "model")
    for name in ("tokenizer_config.json", "config.json"):
        content = json.loads((folder / name).read_text())
        content["pad_token_id" if name == "config.json" else "pad_token"] = None
        (folder / name).write_text(json.dumps(content))
    if AutoTokenizer.from_pretrained(folder).pad_token is not None:
        pytest.skip("this release gives the tokenizer a padding token of its own")
    model = build(folder, "qwen3").eval()
    torch.testing.assert_close(score(model), score(build(tiny_causal_dir, "qwen3").eval()), atol=1e-6, rtol=0)


OWN = PromptTemplate(pieces=["Query: {query}\nDocument: {document}\nRelevant:"], true_answer=" yes", false_answer=" no")


def test_what_is_no_llm_reranker_is_refused_in_one_line(tiny_causal_dir, tiny_bert_dir, tiny_models, tmp_path):
    tiny = str(tiny_causal_dir)
    embedder = tiny_models.write_tiny_decoder(tmp_path / "embedder")
    bloom = tiny_models.write_tiny_causal(tmp_path / "bloom", architecture="bloom")
    classifier = tmp_path / "classifier"
    shutil.copytree(tiny_causal_dir, classifier)
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen2ForSequenceClassification"]}))
    own = {"pieces": OWN.pieces, "true_answer": "relevant", "false_answer": "no"}
    cases = [
        (lambda: build(tiny), "set model.template to mxbai, mxbai_joined, qwen3, smollm2 or your own"),
        (
            lambda: build(tiny, "qwen"),
            "model.template=qwen: choose null .as the folder says., mxbai, mxbai_joined, qwen3, smollm2",
        ),
        (lambda: build(tiny_bert_dir, "qwen3"), "bert is an encoder"),
        (lambda: build(embedder, "qwen3"), "is a SentenceTransformer"),
        (lambda: build(bloom, "qwen3"), "bloom takes no position ids"),
        (lambda: build(classifier, "qwen3"), "is a sequence classifier, .* choose model=cross_encoder"),
        (lambda: build(tiny, PromptTemplate(**own)), "true_answer='relevant' is . tokens of this model"),
        (lambda: build(tiny, "qwen3", max_length=100), "max_length=100: the prompt takes 1.. tokens"),
        (lambda: build(tiny, "qwen3", max_length=513), "max_length=513: .* 8 to 512 tokens"),
        (lambda: build(tiny, "qwen3", max_query_length=0), "max_query_length=0"),
        (lambda: build(tiny, "qwen3", quantization="4bit"), "quantization=4bit freezes"),
        (lambda: build(tiny, "qwen3", dropout=1.5), "dropout=1.5"),
    ]
    for call, match in cases:
        with pytest.raises(ValueError, match=match) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_lost_weights_are_not_replaced_by_random_ones(tiny_models, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny_models.write_tiny_causal(tmp_path, tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    for part, match in (("lm_head", "lack the language model's head"), ("layers.1", "lack .* of the backbone")):
        kept = {name: value for name, value in weights.items() if part not in name}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=match):
            build(folder, "qwen3")


def test_loading_prints_nothing(tiny_causal_dir, capfd):
    build(tiny_causal_dir, "mxbai").tokenizer(["q"], ["long " * 2000])
    assert capfd.readouterr() == ("", "")


def test_dropout_is_set_where_the_model_has_some(tiny_causal_dir):
    config = LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", dropout=0.5, max_length=256, attention="eager")
    model = config.build(0)
    assert model.requested_dropout == 0.5
    batch = padded(tokens(model))
    assert not torch.equal(model(**batch)["score"], model(**batch)["score"])
    torch.testing.assert_close(score(model.eval()), score(model), atol=0, rtol=0)
