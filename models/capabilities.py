"""What a kind of model is to everybody else: the two classes that a new kind of model derives from.

The options (a frozen dataclass, named by `_target_` in conf/model) say what the model will give before a weight is
loaded, and `build` it. The model gives representations of tokenised rows, and does by itself what depends on its kind:
it prepares for a loss, takes over prompts, and exports itself. Nobody outside models/ asks which kind a model is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from torch import nn

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

Layout = Literal["pairs", "texts"]


class ListTokenizer(Protocol):
    """From texts to rows of token ids, unpadded: {"input_ids": a list of ids per row, ...}. It must be picklable: the
    data workers run it.

    It is called with `(queries, documents, query_prompt=..., document_prompt=...)` if its layout is "pairs", with
    `(texts, role="query" or "document", prompt=...)` if it is "texts". A prompt that is left out is the model's own.
    """

    @property
    def layout(self) -> Layout:
        """The rows of a list: "pairs", a row per (query, document); "texts", the query's row, then one per document."""

    @property
    def max_length(self) -> int:
        """The most tokens of a row."""

    @property
    def padding(self) -> Mapping[str, int]:
        """The value that pads each feature; 0 for a feature that is not named."""

    def __call__(self, *texts: Any, **options: Any) -> Mapping[str, list[list[int]]]: ...

    def encode_list(
        self, query: str, documents: list[str], query_prompt: str | None = None, document_prompt: str | None = None
    ) -> Mapping[str, list[list[int]]]:
        """The rows of one list; prompts of None: the model's own."""


class RankingModel(nn.Module, ABC):
    """A model that is trained, evaluated and exported.

    `forward(**features)` gives some of its `outputs`, by name, with a leading row axis: "score" [rows] for layout
    "pairs", "embedding" [rows, dim] for layout "texts"; with them, if the model has its own, "scale" and "bias" [rows]
    (the same value in every row), "layers" [rows, layers, dim], "logsumexp" [rows].
    """

    outputs: ClassVar[frozenset[str]]  # as its options declare them
    similarity: str = "dot"  # how its embeddings compare: "cosine" (they have unit length) or "dot"
    dimension: int | None = None  # of an embedding
    fresh_head: bool = False  # its score head is untrained
    reads_packs: bool = False  # rows that begin alike may be packed into one sequence (inference/shared_prefix.py)
    requested_dropout: float = 0.0  # the highest probability that the user asked for, beside the pretrained one

    wanted_outputs: frozenset[str] = frozenset()  # what `prepare` was asked for

    tokenizer: ListTokenizer
    source: str  # the name or path that the weights came from

    def prepare(self, *, wanted_outputs: Collection[str] = (), shift_invariant: bool = False) -> None:
        """Get ready for a loss. `wanted_outputs`: what it reads beside score or embedding. `shift_invariant`: adding a
        constant to all scores does not change the loss, so that a bias that does so has no gradient but noise.

        Raises ValueError if an output is wanted that this model does not give.
        """
        if missing := set(wanted_outputs) - self.outputs:
            raise ValueError(f"a {type(self).__name__} gives no {', '.join(sorted(missing))}")
        self.wanted_outputs = frozenset(wanted_outputs)

    def adopt_prompts(self, query: str | None, document: str | None) -> None:
        """Make the data's prompts the model's own, for the export; None: the model keeps its own. A model that has no
        prompts of its own may ignore them."""

    def simplify_for_tracing(self) -> None:
        """Become a model without data-dependent control flow whose rows cost the same memory: the memory plan runs it
        on tensors without data. Most models are one already."""

    @abstractmethod
    def export(self, folder: Path, *, card: str | None = None, adapter_only: bool = False) -> None:
        """Write the model to `folder`, replacing it in one rename, so that `options.name_or_path=folder` loads it.

        `card` is Markdown for its README.md. With `adapter_only` the adapters alone are written. Called on one rank,
        inside `engine.full_weights()`; the model itself must not change. Raises ValueError if it has no adapters to
        write.
        """


class ModelOptions(ABC):
    """The options of a kind of model: a frozen dataclass with `name_or_path` and whatever the kind needs."""

    outputs: ClassVar[frozenset[str]]  # names of losses.contracts.OUTPUTS
    layout: ClassVar[Layout]  # of its tokenizer
    default_evaluation: ClassVar[str] = "reranking"  # group file of conf/eval that fits; "retrieval" for what embeds
    trainable: ClassVar[bool] = True
    retrieves_by_itself: ClassVar[bool] = False  # it has no outputs but `retrieve`, and a `name` (data/bm25.py)

    name_or_path: str  # where the weights come from: an exported folder, or a name that the kind understands

    @abstractmethod
    def build(self, seed: int) -> Any:
        """The model in float32 on the CPU, in training mode. Random weights are drawn from `seed` alone, so that they
        are equal on every rank.

        Raises FileNotFoundError or ValueError, in one line, if the model cannot be loaded.
        """

    def folder(self) -> Path | None:
        """The folder that holds the model's files, downloaded if it must be; None: there is none.

        Raises FileNotFoundError or ValueError, in one line, if it is not found.
        """
        path = Path(self.name_or_path).expanduser()
        return path if self.name_or_path and path.is_dir() else None

    def starting_from(self, folder: Path) -> Self:
        """The options of the model that was exported to `folder`, everything that training learned included."""
        changed: Any = replace(self, name_or_path=str(folder))  # type: ignore[type-var]
        return changed

    def saved_scale(self) -> Mapping[str, float]:
        """ "scale" and "bias" that an earlier training has learned and saved with the model, if there are any."""
        return {}

    def check_machine(self) -> None:  # noqa: B027 (most kinds run anywhere)
        """Raise ValueError if this machine cannot run the model."""

    def check_adapter_only(self) -> None:
        """Raise ValueError if an export of the adapters alone would load nowhere."""
        raise ValueError("adapter_only=true: there is no adapter without LoRA: choose a model with lora")
