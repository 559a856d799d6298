"""Prompt templates of yes/no rerankers: texts with slots for instruction, query and document, and the two answers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

SLOTS = ("instruction", "query", "document")
SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class PromptTemplate:
    """The prompt of a (query, document) pair, and the two answers.

    The `pieces`, special tokens in their text included, are tokenised separately and their ids joined. They contain the
    slots {query} and {document} once each. The slot {instruction}, at most once, is replaced by `instruction_format`
    with the instruction in it, or by nothing if there is none; `instruction` is the default. If a row is too long, the
    end of the document is cut, and nothing else of the prompt.

    With one piece, the ids are those of the rendered text, as with a chat template. With several pieces they differ if
    the tokenizer would merge the end of a piece with the start of the next.
    """

    pieces: list[str]
    true_answer: str  # one token each
    false_answer: str
    instruction: str = ""
    instruction_format: str = "{instruction}"
    document_prompt: str = ""  # the default text before a document

    def __post_init__(self) -> None:
        if isinstance(self.pieces, str):
            raise ValueError(f"pieces={self.pieces[:40]!r} is one text: write it as a list of texts")
        found = [slot for piece in self.pieces for slot in SLOT.findall(piece)]
        for slot in ("query", "document"):
            if found.count(slot) != 1:
                raise ValueError(f"the pieces hold {{{slot}}} {found.count(slot)} times, expected once")
        if unknown := [slot for slot in found if slot not in SLOTS]:
            raise ValueError(f"{{{unknown[0]}}} is no slot: choose {{instruction}}, {{query}}, {{document}}")
        if found.count("instruction") > 1:
            raise ValueError("the pieces hold {instruction} more than once")
        if self.instruction and "instruction" not in found:
            raise ValueError("there is an instruction and no {instruction} in the pieces")
        if SLOT.findall(self.instruction_format) != ["instruction"]:
            raise ValueError(f"instruction_format={self.instruction_format!r} must hold {{instruction}} once")
        if not self.true_answer or self.true_answer == self.false_answer:
            raise ValueError(
                f"true_answer={self.true_answer!r} and false_answer={self.false_answer!r} must be two texts"
            )

    @property
    def takes_instruction(self) -> bool:
        return any("{instruction}" in piece for piece in self.pieces)

    @property
    def query_first(self) -> bool:
        """Whether instruction and query come before the document, so that the rows of a list have a common prefix."""
        before = "".join(self.pieces).partition("{document}")[0]
        return "{query}" in before and ("{instruction}" in before or not self.takes_instruction)

    def own_line(self, instruction: str) -> str:
        """The instruction, without the line break at its end (of a system message) if the template breaks the line
        there."""
        text = "".join(self.pieces).replace("{instruction}", self.instruction_format)
        return instruction.removesuffix("\n") if "{instruction}\n" in text else instruction

    def instructed(self, instruction: str) -> list[list[str]]:
        """Insert the instruction. Returns each piece as [text, slot, text, ...] with the slots "query" and "document".

        Raises ValueError if there is an instruction and no slot for it.
        """
        if instruction and not self.takes_instruction:
            raise ValueError(f"instruction {instruction[:40]!r}: the model's prompt template has no {{instruction}}")
        line = self.instruction_format.replace("{instruction}", self.own_line(instruction)) if instruction else ""
        return [_fill(SLOT.split(piece), line) for piece in self.pieces]


def _fill(parts: list[str], line: str) -> list[str]:
    """Replace the slot "instruction" in [text, slot, text, ...] by `line`."""
    for index in range(1, len(parts), 2):
        if parts[index] == "instruction":
            return [*parts[: index - 1], parts[index - 1] + line + parts[index + 1], *parts[index + 2 :]]
    return parts


# Verbatim from mixedbread's mxbai_rerank_v2.py (Apache 2.0), which tokenises instruction and query, and document, by
# themselves: a full stop at their end does not become one token with the line break after it.
MXBAI_JOINED = PromptTemplate(
    pieces=[
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n{instruction}query: {query}",
        "\ndocument: {document}",
        "\nYou are a search relevance expert who evaluates how well documents match search queries. For each "
        "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
        "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:<|im_end|>\n<|im_start|>assistant\n",
    ],
    true_answer="1",
    false_answer="0",
    instruction_format="instruction: {instruction}\n",
)

# The same text as one piece, as sentence-transformers and servers tokenise it.
MXBAI = replace(MXBAI_JOINED, pieces=["".join(MXBAI_JOINED.pieces)])

# Verbatim from the model card of Qwen/Qwen3-Reranker-0.6B (Apache 2.0).
QWEN3 = PromptTemplate(
    pieces=[
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ],
    true_answer="yes",
    false_answer="no",
    instruction="Given a web search query, retrieve relevant passages that answer the query",
)

# In the chat format of SmolLM2-Instruct, and short: its layers are few, and rows are mostly prompt otherwise.
SMOLLM2 = PromptTemplate(
    pieces=[
        "<|im_start|>system\nJudge whether the document answers the query. Answer yes or no.<|im_end|>\n"
        "<|im_start|>user\n{instruction}Query: {query}\nDocument: {document}\nDoes the document answer the query?"
        "<|im_end|>\n<|im_start|>assistant\n",
    ],
    true_answer="Yes",
    false_answer="No",
    instruction_format="{instruction}\n",
)

TEMPLATES = {"mxbai": MXBAI, "mxbai_joined": MXBAI_JOINED, "qwen3": QWEN3, "smollm2": SMOLLM2}

# Published rerankers whose folders may not contain their prompt.
PUBLISHED = {
    **{f"mixedbread-ai/mxbai-rerank-{size}-v2": MXBAI for size in ("base", "large")},
    **{f"Qwen/Qwen3-Reranker-{size}": QWEN3 for size in ("0.6B", "4B", "8B")},
}
