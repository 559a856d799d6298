"""The prompt template of rerankers that reason before they answer, with a slot for the reasoning."""

from __future__ import annotations

from dataclasses import dataclass, replace

from models.prompts.template import PromptTemplate

SLOT = "{reasoning}"


@dataclass(frozen=True)
class ReasoningTemplate:
    """A prompt template whose last piece contains {reasoning}, after the document. The text before it is the prompt,
    the text after it closes the reasoning, and then comes the answer. In evaluations the closing text is given; in
    training the model writes the reasoning, the closing text and the answer.
    """

    pieces: list[str]
    true_answer: str  # one token each
    false_answer: str
    instruction: str = ""
    instruction_format: str = "{instruction}"
    document_prompt: str = ""  # the default text before a document

    def __post_init__(self) -> None:
        last = self.pieces[-1] if self.pieces else ""
        if "".join(self.pieces).count(SLOT) != 1 or SLOT not in last:
            raise ValueError(f"template: the last piece must hold {SLOT} once, got {last[-60:]!r}")
        if "{" in self.closing or not self.closing.strip():
            raise ValueError(f"template: after {SLOT} only the text that closes it may follow, got {self.closing!r}")
        for template in (self.prompt, self.direct):
            assert template.true_answer  # to make it runs its checks

    @property
    def closing(self) -> str:
        """The text between reasoning and answer."""
        return self.pieces[-1].partition(SLOT)[2]

    @property
    def prompt(self) -> PromptTemplate:
        """The template of the prompt, up to the reasoning."""
        return self._with([*self.pieces[:-1], self.pieces[-1].partition(SLOT)[0]])

    @property
    def direct(self) -> PromptTemplate:
        """The template without reasoning: the answer comes at once."""
        return self._with([*self.pieces[:-1], self.pieces[-1].replace(SLOT, "")])

    def _with(self, pieces: list[str]) -> PromptTemplate:
        return PromptTemplate(
            pieces=pieces,
            true_answer=self.true_answer,
            false_answer=self.false_answer,
            instruction=self.instruction,
            instruction_format=self.instruction_format,
            document_prompt=self.document_prompt,
        )

    def with_prompts(self, query_prompt: str | None, document_prompt: str | None) -> ReasoningTemplate:
        """The same template with this instruction and this text before a document; None keeps the template's own."""
        instruction = self.instruction if query_prompt is None else query_prompt
        before = self.document_prompt if document_prompt is None else document_prompt
        return replace(self, instruction=instruction, document_prompt=before)

    def read(self, completion: str) -> bool | None:
        """Read the answer of a completion; None unless it has the closing text followed by one of the answers only."""
        _, closed, answer = completion.rpartition(self.closing.strip())
        if not closed:
            return None
        return {self.true_answer.strip(): True, self.false_answer.strip(): False}.get(answer.strip())
