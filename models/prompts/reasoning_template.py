"""Prompts of rerankers that reason before they answer, as data: a prompt template with a slot for the reasoning."""

from __future__ import annotations

from dataclasses import dataclass

from models.prompts.template import PromptTemplate

SLOT = "{reasoning}"


@dataclass(frozen=True)
class ReasoningTemplate:
    """A prompt template whose last piece holds {reasoning}, after the document: what stands before is the prompt, what
    stands after closes the reasoning, and then comes the answer. All of it but the reasoning is given in evaluations;
    in training the model writes the closing and the answer too.
    """

    pieces: list[str]
    true_answer: str  # one token each
    false_answer: str
    instruction: str = ""
    instruction_format: str = "{instruction}"

    def __post_init__(self) -> None:
        last = self.pieces[-1] if self.pieces else ""
        if "".join(self.pieces).count(SLOT) != 1 or SLOT not in last:
            raise ValueError(f"template: the last piece must hold {SLOT} once, got {last[-60:]!r}")
        if "{" in self.closing or not self.closing.strip():
            raise ValueError(f"template: after {SLOT} stands the text that closes it alone, got {self.closing!r}")
        for template in (self.prompt, self.direct):
            assert template.true_answer  # made: its own checks have passed

    @property
    def closing(self) -> str:
        """The text between reasoning and answer."""
        return self.pieces[-1].partition(SLOT)[2]

    @property
    def prompt(self) -> PromptTemplate:
        """What the model is given."""
        return self._with([*self.pieces[:-1], self.pieces[-1].partition(SLOT)[0]])

    @property
    def direct(self) -> PromptTemplate:
        """The same without reasoning: the answer comes at once."""
        return self._with([*self.pieces[:-1], self.pieces[-1].replace(SLOT, "")])

    def _with(self, pieces: list[str]) -> PromptTemplate:
        return PromptTemplate(
            pieces=pieces,
            true_answer=self.true_answer,
            false_answer=self.false_answer,
            instruction=self.instruction,
            instruction_format=self.instruction_format,
        )

    def read(self, completion: str) -> bool | None:
        """The answer of a completion; None unless it has the closing and then an answer and nothing else."""
        _, closed, answer = completion.rpartition(self.closing.strip())
        if not closed:
            return None
        return {self.true_answer.strip(): True, self.false_answer.strip(): False}.get(answer.strip())
