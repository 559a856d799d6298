"""Models that write texts: causal language models, by their chat format if they have one, and encoder-decoders."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from models.capabilities import Layout, ModelOptions
from models.generation.prompt import PromptReader
from models.generation.sampling import SampleByRow, SamplingOptions
from models.loading.adapter import SavedAdapter
from models.loading.backbone import load_backbone, load_config, position_limit, quiet, without_weights
from models.loading.checks import check_embeddings, is_encoder, settle_padding
from models.loading.folder import ModelFolder, content_files
from models.loading.resolve import resolve
from models.tokenization import load_plain_tokenizer

DEFAULT_LENGTH = 1024  # tokens of a prompt
ROOM = 256  # tokens that are left for the text of a model that reads few
DEFAULT_GENERATOR = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Written:
    """A text that a model wrote. `is_finished`: the model ended it, it was not cut at the maximum of tokens."""

    text: str
    is_finished: bool


@dataclass(frozen=True)
class GeneratorConfig(ModelOptions):
    """The options of a model that writes. `build` makes a `Generator`."""

    outputs: ClassVar[frozenset[str]] = frozenset()
    layout: ClassVar[Layout] = "texts"
    trainable: ClassVar[bool] = False

    name_or_path: str = DEFAULT_GENERATOR  # folder or hub id of a causal language model or an encoder-decoder
    max_length: int | None = (
        None  # tokens of a prompt, a longer document is cut; None: DEFAULT_LENGTH, or as many as fit
    )
    chat: bool | None = None  # whether prompts are put into the chat format; None: if the model has one
    prompt: str | None = None  # the prompt that the model was trained with, instead of prompts.question
    attention: str | None = None  # None: the best that the model has
    trust_remote_code: bool = False  # run the Python files of this model's folder

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 16:
            raise ValueError(f"model.max_length={self.max_length} must be null or at least 16")

    @property
    def generator(self) -> GeneratorConfig:
        return self

    def folder(self) -> Path:
        return resolve(self.name_or_path, code=self.trust_remote_code)

    def places(self) -> Mapping[str, Mapping[str, Path]]:
        return {"name_or_path": content_files(self.folder())}

    def check(self, *, needs_head: bool = False) -> None:
        with quiet(), without_weights():
            self.build(seed=0)

    def build(self, seed: int) -> Generator:
        """The model in float32 on the CPU, in evaluation mode. `seed` has no effect: no weight is drawn.

        Raises FileNotFoundError or ValueError, in one line, if the model is not found or does not write texts.
        """
        folder = ModelFolder.read(self.folder(), trusted=self.trust_remote_code)
        adapter = SavedAdapter.read(folder, tasks=("CAUSAL_LM", "SEQ_2_SEQ_LM"), kind="CrossEncoder")
        base = adapter.base if adapter else folder
        config = load_config(base, writes=True)
        is_seq2seq = bool(config.is_encoder_decoder)
        if not is_seq2seq and (is_encoder(config) or hasattr(config, "num_decoder_layers")):
            raise ValueError(f"model {folder.path}: {config.model_type} is an encoder, which writes no texts{CHOOSE}")
        config.use_cache = True
        kind = AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM
        model, missing = load_backbone(kind, base, config, self.attention)
        if missing:
            raise ValueError(f"model {folder.path}: the weights lack {missing[0]}, so it writes no texts{CHOOSE}")
        if adapter:
            model, _ = adapter.merge_into(model)
        tokenizer = load_plain_tokenizer(folder)
        check_embeddings(folder, tokenizer, model)
        settle_padding(folder, tokenizer, model, reads_padding=False)
        tokenizer.split_special_tokens = False
        chat = self._uses_chat(folder, tokenizer)
        reader = PromptReader(tokenizer, self._length(folder, tokenizer, position_limit(model)), chat, is_seq2seq)
        return Generator(model, reader, source=self.name_or_path).eval()

    def _length(self, folder: ModelFolder, tokenizer: Any, limit: int) -> int:
        """The most tokens of a prompt if the model reads `limit` tokens."""
        if self.max_length is None:
            return min(DEFAULT_LENGTH, tokenizer.model_max_length, max(limit - ROOM, limit // 2))
        if self.max_length > limit:
            raise ValueError(f"model.max_length={self.max_length}: {folder.path} reads at most {limit} tokens")
        return self.max_length

    def _uses_chat(self, folder: ModelFolder, tokenizer: Any) -> bool:
        has_chat = tokenizer.chat_template is not None
        if self.chat and not has_chat:
            raise ValueError(f"model.chat=true: the tokenizer of {folder.path} has no chat template: leave it null")
        return has_chat if self.chat is None else self.chat


CHOOSE = ": choose a causal language model or an encoder-decoder such as T5 (model.name_or_path)"


class Generator(nn.Module):
    """Writes texts after prompts. A text depends on its prompt and its random numbers; the texts that are written at
    the same time change its logits by rounding only."""

    def __init__(self, language_model: Any, reader: PromptReader, *, source: str) -> None:
        super().__init__()
        self.language_model = language_model
        self.tokenizer = reader  # what the texts depend on beside weights (`inference.fingerprint.model_key`)
        self.source = source

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def check_length(self, max_new_tokens: int) -> None:
        """Raise ValueError if a prompt and a text together are longer than the model reads."""
        limit = position_limit(self.language_model)
        if not self.tokenizer.is_seq2seq and self.tokenizer.max_length + max_new_tokens > limit:
            raise ValueError(
                f"generate.max_new_tokens={max_new_tokens} and model.max_length={self.tokenizer.max_length} together "
                f"are above the {limit} tokens that {self.source} reads: lower one of them"
            )

    @torch.inference_mode()
    def write(
        self, prompts: Sequence[Sequence[int]], numbers: Tensor, options: SamplingOptions, *, bf16: bool = False
    ) -> list[Written]:
        """Write one text after each prompt (token ids). `numbers` [prompts, tokens], uniform in [0, 1), draw the tokens
        (`SampleByRow`): as many as they have columns, at most."""
        inputs = self._padded(prompts)
        device = self.device
        autocast = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
        with quiet(), autocast:
            made = self.language_model.generate(
                **inputs,
                generation_config=self._config(numbers.shape[1]),
                logits_processor=[SampleByRow(numbers.to(device), options)],
            )
        start = 1 if self.tokenizer.is_seq2seq else inputs["input_ids"].shape[1]
        return [self._text(row) for row in made[:, start:].tolist()]

    def _config(self, max_new_tokens: int) -> GenerationConfig:
        """The model's own configuration (its end tokens, its first token), searched greedily."""
        config = copy.deepcopy(self.language_model.generation_config)
        config.update(
            max_new_tokens=max_new_tokens, max_length=None, do_sample=False, num_beams=1, num_return_sequences=1,
            temperature=None, top_p=None, top_k=None, min_p=None, typical_p=None, use_cache=True,
            pad_token_id=self.tokenizer.tokenizer.pad_token_id,
        )  # fmt: skip
        if config.eos_token_id is None:
            config.eos_token_id = self.tokenizer.tokenizer.eos_token_id
        if self.tokenizer.is_seq2seq and config.decoder_start_token_id is None and config.bos_token_id is None:
            config.decoder_start_token_id = config.pad_token_id  # as in T5, whose configuration may leave it out
        return config

    @property
    def _ends(self) -> frozenset[int]:
        own = self.language_model.generation_config.eos_token_id
        listed = own if isinstance(own, list) else [own]
        return frozenset(token for token in (*listed, *self.tokenizer.end_ids) if token is not None)

    def _text(self, row: Sequence[int]) -> Written:
        place = next((index for index, token in enumerate(row) if token in self._ends), None)
        text = self.tokenizer.tokenizer.decode(row[:place], skip_special_tokens=True)
        return Written(text, is_finished=place is not None)

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """The rows as tensors, padded on the left before a decoder and on the right before an encoder."""
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.tokenizer.tokenizer.pad_token_id)
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for index, row in enumerate(rows):
            place = slice(0, len(row)) if self.tokenizer.is_seq2seq else slice(longest - len(row), longest)
            ids[index, place] = torch.tensor(row)
            mask[index, place] = 1
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
