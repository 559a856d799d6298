"""The LLM reranker: a causal language model that reads a prompt and answers one token, yes or no."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from models.answer_head import LogitTransform, answer_with, check_transform
from models.attention import PackLayout, layout_options, pack_mask, reason_against_packs
from models.capabilities import Layout, Part, RankingModel
from models.dropout import request_dropout
from models.export.llm_reranker import export_llm_reranker
from models.generation.generator import GeneratorConfig
from models.loading.activation import ACTIVATIONS, activation_of, check_activation
from models.loading.adapter import SavedAdapter
from models.loading.backbone import load_backbone, load_config, recompute_activations
from models.loading.checks import is_classifier, is_encoder
from models.loading.folder import ModelFolder, read_json
from models.loading.layers import keep_layers
from models.loading.quantization import check_quantization, quantization_config
from models.lora import parts_of
from models.packing.rows import request_packing
from models.pretrained import PretrainedOptions
from models.prompts.run_prompts import RunPrompts, in_words, merge_prompts
from models.prompts.template import PUBLISHED, TEMPLATES, PromptTemplate
from models.prompts.template_folder import FILE, read_template
from models.prompts.tokenizer import PromptTokenizer
from models.tokenization import load_plain_tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

DEFAULT_LLM = "Qwen/Qwen3-Reranker-0.6B"
DEFAULT_LENGTH = 512  # the most tokens per row if the folder only says how many a language model can read


@dataclass(frozen=True, kw_only=True)
class LLMRerankerConfig(PretrainedOptions):
    """The options of an LLM reranker: its weights, its prompt, and how it runs. `build` makes the model.

    `template` None: the one in the model's folder. The folder of a plain language model has none. `max_length` counts
    the tokens of a row, the prompt included; None: a reranker's own, else DEFAULT_LENGTH.
    """

    outputs: ClassVar[frozenset[str]] = frozenset({"score", "logsumexp"})
    layout: ClassVar[Layout] = "pairs"

    name_or_path: str = field(default=DEFAULT_LLM, kw_only=False)  # folder or hub id
    template: str | PromptTemplate | None = None  # mxbai, mxbai_joined, qwen3, smollm2 or your own
    max_query_length: int | None = None  # tokens; None: three quarters of max_length
    activation: str | None = None  # of the export's scores: sigmoid, identity; None: the folder's, or as the loss says
    quantization: str | None = None  # 4bit: of the frozen weights under LoRA (bitsandbytes, CUDA)
    shared_prefix: bool = True  # read the common beginning of a list's prompts once, if the model can

    def check_values(self) -> None:
        super().check_values()
        check_activation(self.activation)
        check_quantization(self.quantization, has_adapters=self.lora is not None)
        if isinstance(self.template, str) and self.template not in TEMPLATES:
            raise ValueError(
                f"model.template={self.template}: choose null (as the folder says), {', '.join(TEMPLATES)}, or give "
                "one with _target_: models.prompts.template.PromptTemplate"
            )
        if self.max_query_length is not None and self.max_query_length < 1:
            raise ValueError(f"model.max_query_length={self.max_query_length} must be null or at least 1")

    def build(self, seed: int) -> LLMReranker:
        """The model in float32 on the CPU, in training mode; adapters are drawn from `seed`, so that they are equal on
        every rank.

        Raises FileNotFoundError or ValueError, in one line, if the model is not found, is not a causal language model,
        has no template, or has a tokenizer that does not fit the template.
        """
        quantization = quantization_config(self.quantization)
        folder = self.read_folder()
        adapter = SavedAdapter.read(folder, tasks=("CAUSAL_LM",), kind="CrossEncoder")
        base = adapter.base if adapter else folder
        config = load_config(base)
        _check_is_language_model(folder, config)
        request_dropout(config, self.dropout)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            backbone = _load(base, config, self.attention, quantization)
            if adapter:
                backbone, _ = adapter.merge_into(backbone)
            keep_layers(backbone, base, self.num_layers, self.kept_layers)
            tokenizer = self._tokenizer(folder, backbone)
            yes, no = tokenizer.answer_ids()
            head, transform = _output_head(backbone, folder), LogitTransform.of(config)
            check_transform(backbone, transform)
            wrapped = self.lora.wrap(backbone, "CAUSAL_LM", unused=[head]) if self.lora else backbone
        answer_with(backbone.get_submodule(head), yes, no, transform)
        if self.gradient_checkpointing:
            recompute_activations(wrapped)
        activation = activation_of(folder, config) if folder.kind == "CrossEncoder" else nn.Identity()
        activation = ACTIVATIONS[self.activation]() if self.activation else activation
        model = LLMReranker(wrapped, tokenizer, activation, source=self.name_or_path)
        model.activation_is_chosen = self.activation is not None
        if self.shared_prefix:
            query_first = tokenizer.prompt_template.query_first
            unlike = "its template has the query or the instruction after the document"
            reason = reason_against_packs(backbone.config) if query_first else unlike
            model.reads_packs, model.why_no_packs = reason is None, reason or ""
        model.requested_dropout = self.requested_dropout
        model.packings = request_packing(self.packing, [backbone], self.name_or_path)
        return model.train()

    def check_machine(self) -> None:
        quantization_config(self.quantization)

    @property
    def generator(self) -> GeneratorConfig:
        return GeneratorConfig(self.name_or_path, attention=self.attention, trust_remote_code=self.trust_remote_code)

    def starting_from(self, folder: Path) -> LLMRerankerConfig:
        return replace(super().starting_from(folder), template=None)  # the folder's has the prompts of training

    def lost_prompts(self, prompts: RunPrompts) -> list[str]:
        """The document prompts beside that of the template, and an empty instruction beside a default one.

        Raises ValueError if there is an instruction and no slot for it.
        """
        if prompts == RunPrompts():
            return []
        folder = self.read_folder()
        template = self._template(folder, load_plain_tokenizer(folder))
        queries = prompts.of("query", template.instruction)
        documents = prompts.of("document", template.document_prompt)
        for prompt in queries:
            template.instructed(prompt.text or "")
        uninstructed = [prompt for prompt in queries if queries[0].text and not prompt.text]
        others = [prompt for prompt in documents if prompt.text != documents[0].text]
        return [*in_words(uninstructed), *in_words(others), *prompts.without_name()]

    def _template(self, folder: ModelFolder, tokenizer: PreTrainedTokenizerBase) -> PromptTemplate:
        template = TEMPLATES[self.template] if isinstance(self.template, str) else self.template
        template = template or read_template(folder, tokenizer) or PUBLISHED.get(self.name_or_path)
        if template is None:
            raise ValueError(
                f"model {folder.path} has no prompt template: set model.template to {', '.join(TEMPLATES)} or your own "
                "(launch/rerank.py: --template NAME)"
            )
        return template

    def _tokenizer(self, folder: ModelFolder, backbone: PreTrainedModel) -> PromptTokenizer:
        has_length = (folder.path / FILE).is_file() or folder.max_length is not None
        default = None if has_length else DEFAULT_LENGTH
        tokenizer, max_length = load_tokenizer(folder, backbone, self.max_length, default_length=default)
        template, saved = self._template(folder, tokenizer), read_json(folder.path / FILE)
        if saved is not None and asdict(template) != saved:
            logger.warning("model.template replaces the prompt that %s was trained with: null reads that", folder.path)
        prompts = PromptTokenizer(
            tokenizer,
            max_length,
            folder.prompts if folder.kind == "CrossEncoder" else {},
            split_special_tokens=self.splits_special_tokens(folder),
            template=template,
            max_query_length=self.max_query_length,
        )
        prompts.check()
        return prompts


class LLMReranker(RankingModel):
    """Scores (query, document) prompts by the logit of the true answer minus that of the false one.

    `backbone` is the transformers causal language model (a PeftModel around it under LoRA), whose head only computes
    the two answers. `activation` is applied to the raw score by libraries that load the reranker (Sigmoid once the loss
    gives probabilities). Training and ranking use the raw score.
    """

    activation_is_chosen: bool = False  # whether `model.activation` is set: the loss does not change it

    outputs = LLMRerankerConfig.outputs
    tokenizer: PromptTokenizer

    def __init__(
        self, backbone: PreTrainedModel | PeftModel, tokenizer: PromptTokenizer, activation: nn.Module, *, source: str
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.activation = activation
        self.source = source  # the name or path that the weights came from

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        max_length: int | None = None,
        template: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> LLMReranker:
        """A reranker (an exported folder, a sentence-transformers folder of a LogitScore model, a hub id) to score
        with, in evaluation mode. `template`: the name of the prompt of a folder that has none."""
        options = LLMRerankerConfig(
            str(name_or_path), max_length, template=template, trust_remote_code=trust_remote_code
        )
        return options.build(seed=0).eval()

    @property
    def language_model(self) -> PreTrainedModel:
        """The causal language model itself."""
        model = self.backbone.get_base_model() if isinstance(self.backbone, PeftModel) else self.backbone
        assert isinstance(model, PreTrainedModel)
        return model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        ends: Tensor | None = None,
        own_tokens: Tensor | None = None,
        seen_tokens: Tensor | None = None,
        places: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the representations of input_ids, attention_mask [rows, tokens] in float32; padding may be left or
        right:

        - "score" [rows]: z_yes - z_no at each row's last token;
        - "logsumexp" [rows], if it is wanted: log sum_v exp(z_v) - z_no over the vocabulary.

        A pack of prompts (`reads_packs`) is their common prefix and then the rest of each. Packs need position_ids and
        segment_ids [packs, tokens] (0 in the prefix), ends [packs, prompts], and own_tokens, seen_tokens and places,
        the fields of a `models.attention.PackLayout`; the values are [packs, prompts].
        """
        if segment_ids is None or ends is None or own_tokens is None or seen_tokens is None or places is None:
            mask, position_ids = attention_mask, (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
            numbers = torch.arange(attention_mask.shape[1], device=attention_mask.device)
            ends = (attention_mask * numbers).argmax(dim=-1, keepdim=True)
            values = self._answer(input_ids, mask, position_ids, ends)
            return {name: value[:, 0] for name, value in values.items()}
        attention, decoder = self.language_model.config._attn_implementation, self.language_model.get_decoder()
        layout = layout_options(decoder, attention, PackLayout(own_tokens, seen_tokens, places))
        return self._answer(input_ids, pack_mask(segment_ids, attention_mask, attention), position_ids, ends, **layout)

    def _answer(
        self, input_ids: Tensor, mask: Tensor, positions: Tensor | None, ends: Tensor, **layout: PackLayout
    ) -> dict[str, Tensor]:
        """Compute the values [rows, prompts] at the tokens `ends` [rows, prompts]."""
        decoder = self.language_model.get_decoder()
        output = decoder(input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=False, **layout)
        rows = torch.arange(len(ends), device=ends.device).unsqueeze(-1)
        at_ends = output.last_hidden_state[rows, ends.clamp(min=0)]
        head = self.language_model.get_output_embeddings()
        score, logsumexp = head(at_ends.flatten(0, 1), "logsumexp" in self.wanted_outputs)
        values = {"score": score} if logsumexp is None else {"score": score, "logsumexp": logsumexp}
        return {name: value.view(ends.shape) for name, value in values.items()}

    def give_probabilities(self) -> None:
        if not self.activation_is_chosen:
            self.activation = nn.Sigmoid()

    def parts(self) -> Sequence[Part]:
        return parts_of(self.backbone, head=[_name_of_head(self.language_model)])  # no part if tied to the embeddings

    def expect_prompts(self, prompts: Iterable[str | None]) -> None:
        self.tokenizer = self.tokenizer.expecting(prompts)

    def adopt_prompts(self, prompts: RunPrompts) -> None:
        tokenizer = self.tokenizer
        named = prompts.texts("query", tokenizer.prompt_template.instruction)
        merged = merge_prompts(tokenizer.prompts, named, {})
        self.tokenizer = replace(tokenizer.with_prompts(prompts.query, prompts.document), prompts=merged)

    def export(self, folder: Path, *, card: str | None = None, adapter_only: bool = False) -> None:
        export_llm_reranker(self, folder, card=card, adapter_only=adapter_only)


def _load(
    folder: ModelFolder, config: PretrainedConfig, attention: str | None, quantization: BitsAndBytesConfig | None
) -> PreTrainedModel:
    backbone, missing = load_backbone(AutoModelForCausalLM, folder, config, attention, quantization)
    if missing:
        raise ValueError(f"model {folder.path}: the weights lack the language model's head, {missing[0]}")
    return backbone


def _check_is_language_model(folder: ModelFolder, config: PretrainedConfig) -> None:
    """Raise ValueError if the model does not generate tokens: an encoder, a classifier, an embedding model."""
    if is_encoder(config):
        raise ValueError(f"model {folder.path}: {config.model_type} is an encoder, not a causal language model")
    if is_classifier(config):
        raise ValueError(
            f"model {folder.path} is a sequence classifier, read without a prompt template: choose model=cross_encoder"
        )
    if folder.kind not in ("CrossEncoder", ""):
        raise ValueError(f"model {folder.path} is a {folder.kind}, no language model that answers")


def _output_head(backbone: PreTrainedModel, folder: ModelFolder) -> str:
    """The name of the head that gives the logits."""
    if "position_ids" not in inspect.signature(backbone.get_decoder().forward).parameters:
        raise ValueError(f"model {folder.path}: {backbone.config.model_type} takes no position ids: choose another")
    head: Any = backbone.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ValueError(f"model {folder.path}: its head is a {type(head).__name__}, only linear heads are supported")
    return _name_of_head(backbone)


def _name_of_head(model: PreTrainedModel) -> str:
    head = model.get_output_embeddings()
    return next(name for name, module in model.named_modules() if module is head)
