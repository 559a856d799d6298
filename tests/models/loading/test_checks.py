"""Models whose score of a row depends on the rows beside it are refused, known ones by name and others by a probe."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig
from models.loading import checks
from models.lora import LoRAConfig

SIZES = {
    "xlnet": {"max_position_embeddings": None, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
    "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "summary_type": "last"},
    "nystromformer": {"num_landmarks": 8, "segment_means_seq_len": 8},
    "convbert": {"embedding_size": 32},
    "big_bird": {"block_size": 2, "num_random_blocks": 1},
}


@pytest.fixture
def write(tmp_path: Path, tiny_models: ModuleType) -> Any:
    """Write a tiny model of an architecture, a classifier or not, with large random weights."""

    def written(architecture: str, *, classifier: bool, **options: Any) -> Path:
        folder = tmp_path / architecture
        tiny_models.write_tokenizer(folder)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        sizes |= {"max_position_embeddings": 128, "pad_token_id": 0} | SIZES.get(architecture, {}) | options
        sizes = {name: value for name, value in sizes.items() if value is not None}
        vocabulary = len(AutoTokenizer.from_pretrained(folder))
        config = AutoConfig.for_model(architecture, vocab_size=vocabulary, num_labels=1, **sizes)
        if architecture == "flaubert":
            config.n_words, config.pad_index = vocabulary, 0
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(0)
            model = (AutoModelForSequenceClassification if classifier else AutoModel).from_config(config)
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.2)
        model.save_pretrained(folder)
        return folder

    return written


def options_of(folder: Path, *, classifier: bool, **options: Any) -> Any:
    kind: Any = CrossEncoderConfig if classifier else BiEncoderConfig
    return kind(str(folder), max_length=options.pop("max_length", 48), **options)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("architecture", "classifier"),
    [
        ("xlnet", True),
        ("flaubert", True),
        ("fnet", True),
        ("fnet", False),
        ("convbert", True),
        ("convbert", False),
        ("nystromformer", True),
        ("nystromformer", False),
    ],
)
def test_a_score_that_padding_changes_is_refused(
    architecture: str, classifier: bool, known: bool, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(write(architecture, classifier=classifier), classifier=classifier)
    message = rf"a row's score changes with the padding beside it \({architecture}.*\): choose another model"
    if known:  # without reading weights
        with pytest.raises(ValueError, match=message):
            options.check()
    else:
        monkeypatch.setattr(checks, "READS_PADDING", {})
        for module in ("cross_encoder", "bi_encoder"):
            monkeypatch.setattr(f"models.{module}.check_ignores_padding", lambda *_, **__: None)
        options.check()
    with pytest.raises(ValueError, match=message) as caught:
        options.build(seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lora", [None, LoRAConfig(r=2)])
@pytest.mark.parametrize(
    ("architecture", "classifier"), [("bert", True), ("bert", False), ("xlnet", False), ("roberta", True)]
)
def test_the_probe_leaves_no_trace(
    architecture: str, classifier: bool, lora: LoRAConfig | None, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights, modes and random numbers are those without it."""
    folder = write(architecture, classifier=classifier)
    options = options_of(folder, classifier=classifier, lora=lora, gradient_checkpointing=architecture == "bert")
    before = torch.get_rng_state()
    model = options.build(seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    monkeypatch.setattr(checks, "MOST_PROBED", 0)
    unprobed = options.build(seed=3)
    for name, value in model.state_dict().items():
        assert torch.equal(value, unprobed.state_dict()[name]), name


def test_a_row_of_the_most_tokens_is_not_probed_with_more(write: Any) -> None:
    folder = write("bert", classifier=True, max_position_embeddings=8)
    options_of(folder, classifier=True, max_length=8).build(seed=0)


def test_a_model_that_cannot_run_here_is_not_refused(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertModel

    def needs_a_gpu(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel")

    folder = write("bert", classifier=False)
    monkeypatch.setattr(BertModel, "forward", needs_a_gpu)
    assert options_of(folder, classifier=False).build(seed=0).training


def test_sparse_attention_needs_rows_that_are_too_short_for_it(write: Any) -> None:
    folder = write("big_bird", classifier=True)  # sparse from 15 tokens
    with pytest.raises(ValueError, match=r'"attention_type": "original_full" .*model.max_length=14') as caught:
        options_of(folder, classifier=True).check()
    assert "\n" not in str(caught.value)
    options_of(folder, classifier=True, max_length=14).build(seed=0)
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"block_sparse"', '"original_full"'))
    options_of(folder, classifier=True).build(seed=0)


def test_the_probe_costs_milliseconds(tiny_reranker_dir: Path) -> None:
    options = CrossEncoderConfig(str(tiny_reranker_dir), max_length=48)
    model = options.build(seed=0)
    from models.cross_encoder import _probe

    started = time.perf_counter()
    _probe(model, options.read_folder())
    assert time.perf_counter() - started < 1.0
