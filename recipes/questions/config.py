"""The settings of launch/make_queries.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from engines.precision import check_precision
from inference.questions.cleaning import CleaningOptions
from models.generation.prompt import SLOTS, slots_of
from models.generation.sampling import SamplingOptions
from recipes.checks.compatibility import check_is_data, check_is_model
from recipes.negatives.mine_run import check_retriever
from recipes.negatives.output import check_output_path
from recipes.negatives.scoring import check_scores
from recipes.run_config import check_timeout

MAKES = ("questions", "paraphrases", "negatives")
MAX_NEW_TOKENS = {"questions": 64, "paraphrases": 64, "negatives": 200}
KINDS = {"questions": ("question",), "paraphrases": ("paraphrase",), "negatives": ("near_negative", "far_negative")}
NEEDED = {"question": "document", "paraphrase": "query", "near_negative": "query", "far_negative": "query"}
LABELS = ("graded", "zero")


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts by kind of text: templates with {document} and {query}, or the names of files with such templates."""

    question: str
    paraphrase: str
    near_negative: str
    far_negative: str

    def text(self, kind: str) -> str:
        """The template of a kind. Raises ValueError if it lacks what the text is written about, or is in no file."""
        text = self._read(kind, getattr(self, kind))
        allowed = ("document",) if kind == "question" else ("query",) if kind == "paraphrase" else SLOTS
        if NEEDED[kind] not in slots_of(text):
            raise ValueError(
                f"prompts.{kind} has no {{{NEEDED[kind]}}}, where the text stands that the model writes about: add it"
            )
        if surplus := [name for name in slots_of(text) if name not in allowed]:
            raise ValueError(f"prompts.{kind} has {{{surplus[0]}}}, of which there is none: remove it")
        return text

    def _read(self, kind: str, value: str) -> str:
        if slots_of(value) or "\n" in value:
            return value
        file = Path(value).expanduser()
        if not value.strip() or not file.is_file():
            raise ValueError(
                f"prompts.{kind}={value!r} is neither a prompt with {{{NEEDED[kind]}}} nor a file that exists: write "
                "the slot in braces, or check the path"
            )
        try:
            return file.read_text(encoding="utf-8").rstrip("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"prompts.{kind}: {file} is not UTF-8 ({error.reason} at byte {error.start})") from None


@dataclass(frozen=True, kw_only=True)
class MakeQueriesConfig:
    """The root of conf/make_queries.yaml."""

    model: Any  # options of models with a generator (models.capabilities.ModelOptions.generator)
    data: Any
    prompts: Prompts
    output: str | None = None
    make: str = "questions"
    retriever: Any = None
    teacher: Any = None
    num_documents: int | None = None  # a sample of the documents; None: all
    num_queries: int | None = None  # a sample of the queries
    num_texts: int = 1  # questions of a document, paraphrases of a query, negatives of each kind
    round_trip: int | None = 10  # None: nothing is searched for
    labels: str | None = None  # of negatives: graded (by the teacher) or zero; None: graded if there is a teacher
    max_closeness: float = 0.9
    split: str = "train"
    allow_held_out: bool = False
    generate: SamplingOptions = field(default_factory=SamplingOptions)
    clean: CleaningOptions = field(default_factory=CleaningOptions)
    precision: str = "auto"
    token_budget: int = 16384
    overwrite: bool = False
    seed: int = 42
    timeout_s: float = 1800.0

    counts: ClassVar[tuple[str, ...]] = ("num_documents", "num_queries", "num_texts", "round_trip", "token_budget")

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_timeout(self.timeout_s)
        check_is_model("model", self.model)
        check_is_data(self.data)
        if self.make not in MAKES:
            raise ValueError(f"make={self.make}: choose one of {', '.join(MAKES)}")
        if getattr(self.model, "generator", None) is None:
            raise ValueError(
                "model: it writes no texts: choose model=generator, generator_smollm2, generator_doc2query or an "
                "llm_reranker, with model.name_or_path"
            )
        if getattr(self.data, "sources", None) is not None:
            raise ValueError("data is a mixture: give one of its data sets at a time (data=file data.path=FILE)")
        check_output_path(self.output, (".jsonl",))
        for name in self.counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        self._check_texts()
        self._check_used()

    def _check_texts(self) -> None:
        if self.num_texts > 1 and self.generate.temperature == 0:
            raise ValueError(
                f"num_texts={self.num_texts}: with generate.temperature=0 they would be equal: raise the temperature"
            )
        for kind in KINDS[self.make]:
            self.prompts.text(kind)
        if self.split != "train" and not self.allow_held_out:
            raise ValueError(
                f"split={self.split} is held out: training on what is written of it would spoil its figures. Leave "
                "split out (train), or set allow_held_out=true if nothing is trained on it"
            )

    def _check_used(self) -> None:
        """Raise ValueError if an option is set that has no effect on what is made."""
        negatives, questions = self.make == "negatives", self.make == "questions"
        unused = {
            "num_documents": self.num_documents is not None and not questions,
            "num_queries": self.num_queries is not None and questions,
            "split": self.split != "train" and questions,
            "model@teacher": self.teacher is not None and not negatives,
            "labels": self.labels is not None and not negatives,
        }
        if names := [name for name, is_unused in unused.items() if is_unused]:
            raise ValueError(f"{names[0]} has no effect on make={self.make}: leave it out")
        if self.labels not in (None, *LABELS):
            raise ValueError(f"labels={self.labels}: choose one of {', '.join(LABELS)}, or null")
        if self.labels == "graded" and self.teacher is None:
            raise ValueError("labels=graded: a teacher gives the grades: add model@teacher=cross_encoder and its path")
        if not 0 < self.max_closeness <= 1:
            raise ValueError(f"max_closeness={self.max_closeness} must lie above 0 and be at most 1")
        if self.searches:
            check_retriever("retriever", self.retriever)
        if negatives and self.teacher is not None:
            check_is_model("teacher", self.teacher)
            check_scores(self.teacher)

    @property
    def path(self) -> Path:
        assert self.output is not None
        return Path(self.output)

    @property
    def searches(self) -> bool:
        """Whether a text is kept only if a retriever finds what it was written for."""
        return self.make != "negatives" and self.round_trip is not None and self.retriever is not None

    @property
    def is_graded(self) -> bool:
        """Whether a teacher's scores become labels."""
        return self.teacher is not None and self.labels != "zero"

    @property
    def max_new_tokens(self) -> int:
        return self.generate.max_new_tokens or MAX_NEW_TOKENS[self.make]

    def templates(self) -> dict[str, str]:
        """The prompts of what is made, by kind. A model that was trained with one of its own has that for questions."""
        own = self.model.generator.prompt
        found = {kind: self.prompts.text(kind) for kind in KINDS[self.make]}
        if own is not None and self.make == "questions":
            return {
                "question": Prompts(question=own, paraphrase="", near_negative="", far_negative="").text("question")
            }
        return found
