"""Score with a causal language model that reasons first: generate, close the reasoning, compare the two answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.prompts.reasoning_template import ReasoningTemplate


class Reasoner(nn.Module):
    """Scores prompts (the rows of `template.prompt`) in evaluations.

    The reasoning is generated greedily until the model closes it, at most `max_reasoning_length` tokens. Then the
    closing text is appended, and the score is z_yes - z_no at its end.

    Prompts are padded on the left, and positions are counted from the first token of each. So a prompt's score does not
    depend on the prompts beside it.
    """

    reads_packs = False

    def __init__(
        self,
        language_model: nn.Module,
        tokenizer: Any,
        template: ReasoningTemplate,
        answers: tuple[int, int],
        max_reasoning_length: int,
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.tokenizer = tokenizer
        self.template = template
        self.answers = answers
        self.max_reasoning_length = max_reasoning_length

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Compute {"score": [rows] float32} of prompts input_ids, attention_mask [rows, tokens], padded on the
        right."""
        prompts = [row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
        reasoning = self.reason(prompts, input_ids.device)
        closing = self.tokenizer(self.template.closing, add_special_tokens=False)["input_ids"]
        rows = [prompt + thought + closing for prompt, thought in zip(prompts, reasoning, strict=True)]
        inputs = self._left_padded(rows, input_ids.device)
        # `generate` counts positions like this too; the model's forward counts padding.
        positions = (inputs["attention_mask"].cumsum(dim=-1) - 1).clamp(min=0)
        logits = self.language_model(**inputs, position_ids=positions, logits_to_keep=1).logits[:, -1].float()
        true, false = self.answers
        return {"score": logits[:, true] - logits[:, false]}

    def reason(self, prompts: list[list[int]], device: torch.device) -> list[list[int]]:
        """Generate the tokens of the reasoning after each prompt, without the closing text."""
        model: Any = self.language_model
        inputs = self._left_padded(prompts, device)
        generated = model.generate(
            **inputs,
            max_new_tokens=self.max_reasoning_length,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            use_cache=True,
            tokenizer=self.tokenizer,
            stop_strings=[self.template.closing.strip()],
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return [self._before_closing(row) for row in generated[:, inputs["input_ids"].shape[1] :].tolist()]

    def _before_closing(self, tokens: list[int]) -> list[int]:
        """The tokens before the closing text or the end-of-text token."""
        end = self.tokenizer.eos_token_id
        tokens = tokens[: tokens.index(end)] if end in tokens else tokens
        while tokens and tokens[-1] == self.tokenizer.pad_token_id:
            tokens = tokens[:-1]
        text = self.tokenizer.decode(tokens)
        thought, closed, _ = text.partition(self.template.closing.strip())
        return self.tokenizer(thought.rstrip(), add_special_tokens=False)["input_ids"] if closed else tokens

    def _left_padded(self, rows: list[list[int]], device: torch.device) -> dict[str, Tensor]:
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for index, row in enumerate(rows):
            ids[index, longest - len(row) :] = torch.tensor(row)
            mask[index, longest - len(row) :] = 1
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
