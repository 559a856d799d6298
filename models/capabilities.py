"""The interface of all models: the two base classes of a new kind of model.

The options (a frozen dataclass, named by `_target_` in conf/model) declare the model's outputs before weights are
loaded, and `build` the model. The model computes representations of tokenised rows. It implements what depends on its
kind: preparation for a loss, prompts, and export. No code outside models/ tests for a kind of model.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from torch import nn

from models.int8_ranges import Int8Ranges
from models.loading.folder import content_files
from models.prompts.run_prompts import RunPrompts, in_words

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

    from models.packing.rows import Packing
    from models.towers import TextTower

logger = logging.getLogger(__name__)

Layout = Literal["pairs", "texts"]
ALL_PARTS = "all"  # a key of `ModelOptions.parts_to_train`


class ListTokenizer(Protocol):
    """Converts texts to unpadded rows of token ids: {"input_ids": a list of ids per row, ...}. It must be picklable,
    because data workers run it.

    It is called with `(queries, documents, query_prompt=..., document_prompt=...)` if its layout is "pairs", with
    `(texts, role="query" or "document", prompt=...)` if it is "texts". A prompt that is left out is the model's own.
    """

    @property
    def layout(self) -> Layout:
        """The rows of a list. "pairs": a row per (query, document). "texts": the query's row, then a row per
        document."""

    @property
    def max_length(self) -> int:
        """The most tokens of a row."""

    @property
    def padding(self) -> Mapping[str, int]:
        """The padding value of each feature; 0 for a feature that is not named."""

    def __call__(self, *texts: Any, **options: Any) -> Mapping[str, list[list[int]]]: ...

    def encode_list(
        self, query: str, documents: list[str], query_prompt: str | None = None, document_prompt: str | None = None
    ) -> Mapping[str, list[list[int]]]:
        """Make the rows of one list. A prompt of None is the model's own."""


@dataclass(frozen=True)
class Part:
    """The weights of one part of a model: its backbone, head, adapters, temperature, ... `tower`: that it belongs to,
    if the model has several."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    tower: str = ""

    @property
    def label(self) -> str:
        return f"{self.tower} {self.name}".lstrip()

    @property
    def size(self) -> int:
        """The number of its parameters."""
        return sum(map(_size, self.parameters))

    @property
    def trained(self) -> int:
        """The number of its parameters that are trained; the others are frozen."""
        return sum(_size(parameter) for parameter in self.parameters if parameter.requires_grad)


def _size(parameter: nn.Parameter) -> int:
    """The number of values of a weight. One that is quantised holds several in a byte, and knows its original shape."""
    constants = getattr(parameter, "quant_state", None)
    return parameter.numel() if constants is None else constants.shape.numel()


class RankingModel(nn.Module, ABC):
    """A model that is trained, evaluated and exported.

    `forward(**features)` returns some of its `outputs` by name, with a leading row axis: "score" [rows] for layout
    "pairs", "embedding" [rows, dim], or ragged rows (tensors/ragged.py), for layout "texts". Depending on the model
    there are also "scale" and "bias" [rows] (the same value in every row), "layers" [rows, layers, dim] and
    "logsumexp" [rows].
    """

    outputs: frozenset[str]  # the same as in its options
    similarity: str = "dot"  # the name of that of embeddings (losses.math.similarity): "cosine", "dot", "maxsim"
    dimension: int | None = None  # of an embedding, or of a token's vector
    search: Literal["exact", "inverted"] = "exact"  # how documents are searched; inverted: most values are 0
    fresh_head: bool = False  # whether its score head is untrained
    scales_scores: bool = False  # whether it has `scale_scores`
    reads_packs: bool = False  # rows with a common prefix may be packed into one sequence (inference/shared_prefix.py)
    packings: Sequence[Packing] = ()  # of its transformers, if rows run packed (models/packing/rows.py)
    why_no_packs: str = ""  # why they may not, if the options ask for it
    reads_corpus: bool = False  # it starts from the texts that it will search: `read_corpus`
    requested_dropout: float = 0.0  # the highest dropout probability that the user has set

    wanted_outputs: frozenset[str] = frozenset()  # those passed to `prepare`

    tokenizer: ListTokenizer
    source: str  # the name or path that the weights came from
    int8_ranges: Int8Ranges | None  # the ranges in which its embeddings are stored as int8, if it was trained for them

    def __init__(self) -> None:
        super().__init__()
        self.int8_ranges = None  # a module once it is set, so no attribute of the class may hide it

    def prepare(self, *, wanted_outputs: Collection[str] = (), shift_invariant: bool = False) -> None:
        """Prepare the model for a loss. `wanted_outputs`: the outputs that the loss reads beside score or embedding.
        `shift_invariant`: adding a constant to all scores does not change the loss, so the gradient of a bias that
        does so is only noise.

        Raises ValueError if an output is wanted that this model does not give.
        """
        if missing := set(wanted_outputs) - self.outputs:
            raise ValueError(f"a {type(self).__name__} gives no {', '.join(sorted(missing))}")
        self.wanted_outputs = frozenset(wanted_outputs)

    def track_int8_ranges(self, dims: Sequence[int]) -> None:
        """Keep the ranges of embeddings of these numbers of dimensions, which a loss quantises in training. With no
        dims they are forgotten: training by another loss changes the embeddings that they belong to."""
        if self.int8_ranges is not None and not dims:
            logger.warning(
                "model %s: its int8 ranges are dropped, as this training does not keep them "
                "(loss=quantization_aware does)",
                self.source,
            )
        self.int8_ranges = Int8Ranges.start(dims, self.int8_ranges) if dims else None

    def give_probabilities(self) -> None:
        """Note that the loss makes the sigmoid of a score a probability: libraries that load the export may apply it.
        A model without such a setting ignores it."""

    def scale_scores(self, mean: float, deviation: float) -> None:
        """Give scores from now on as deviation * score + mean, also in the export: a fresh head then starts at the
        scale of a teacher. Only a model with a fresh head and `scales_scores` is asked to."""
        raise NotImplementedError

    def read_corpus(self, texts: Iterable[str]) -> None:
        """Set weights that start from the documents `texts`, before training: those of all ranks are equal. Only a
        model that `reads_corpus` is asked to."""
        raise NotImplementedError

    def parts(self) -> Sequence[Part]:
        """The parts of the model, which together have all its weights, each once. The names are those of
        `ModelOptions.parts_to_train`."""
        return [Part("model", tuple(self.parameters()))]

    def expect_prompts(self, prompts: Iterable[str | None]) -> None:
        """Note all prompts that a run puts before texts, before it tokenises any: what they hold of the model's control
        tokens is text in queries and documents. A model whose tokenizer reads all of a text as text ignores them."""

    def adopt_prompts(self, prompts: RunPrompts) -> None:
        """Make the data's prompts the model's own, for the export; where one is None, the model keeps its prompt. A
        model without prompts of its own may ignore them: its options list them as lost."""

    @property
    def pooled_by(self) -> str:
        """How the vectors of a text's tokens become its embedding: "mean", "cls", ...; empty: they stay several."""
        return ""

    @property
    def text_towers(self) -> Sequence[TextTower]:
        """The towers that pool a text's tokens and put linear layers after; empty: it embeds in another way."""
        return ()

    @property
    def unread_by_others(self) -> Mapping[str, Mapping[str, Any]]:
        """What an export holds for plackett alone: in words, why other libraries differ -> the attributes of this model
        by which it gives what they give."""
        return {}

    @property
    def packs_rows(self) -> bool:
        """Whether the rows of a chunk run as one row without padding, so that a chunk may hold rows of any length."""
        return any(packing.enabled for packing in self.packings)

    def pad_rows(self) -> None:
        """Pad rows from now on, instead of packing them."""
        for packing in self.packings:
            packing.enabled = False

    def simplify_for_tracing(self) -> None:
        """Remove data-dependent control flow, without changing the memory of a row: the memory plan runs the model on
        tensors without data."""
        self.pad_rows()

    @abstractmethod
    def export(self, folder: Path, *, card: str | None = None, adapter_only: bool = False) -> None:
        """Write the model to `folder`, replacing it in one rename, so that `options.name_or_path=folder` loads it.

        `card` is Markdown for its README.md. With `adapter_only` only the adapters are written; ValueError is raised if
        there are none. It is called on one rank, inside `engine.full_weights()`, and must not change the model.
        """


class ModelOptions(ABC):
    """The options of a kind of model: a frozen dataclass with `name_or_path` and whatever the kind needs."""

    outputs: ClassVar[frozenset[str]]  # names of losses.contracts.OUTPUTS
    layout: ClassVar[Layout]  # of its tokenizer
    default_evaluation: ClassVar[str] = "reranking"  # the file of conf/eval that fits; "retrieval" for embedders
    default_loss: ClassVar[str] = "info_nce"  # the file of conf/loss with the settings of InfoNCE that fit
    contrastive_experiment: ClassVar[str] = "embedder_infonce"  # the file of conf/exp that trains it on negatives
    trainable: ClassVar[bool] = True
    small_similarities: ClassVar[bool] = True  # those of its embeddings are about -1 to 1 if no option scales them
    retrieves_by_itself: ClassVar[bool] = False  # it has no outputs, only `retrieve` and `name` (data/bm25.py)
    one_vector: ClassVar[bool] = True  # an embedding is one vector; False: a ragged row, as a vector per token
    ordered_dimensions: ClassVar[bool] = True  # the first of an embedding may be used alone; False: all have a place

    name_or_path: str  # an exported folder, or another name from which weights are loaded

    @abstractmethod
    def build(self, seed: int) -> Any:
        """Build the model in float32 on the CPU, in training mode. Random weights depend only on `seed`, so that they
        are equal on every rank.

        Raises FileNotFoundError or ValueError, in one line, if the model cannot be loaded.
        """

    def folder(self) -> Path | None:
        """The folder with the model's files, downloaded if necessary; None: there is none.

        Raises FileNotFoundError or ValueError, in one line, if it is not found.
        """
        path = Path(self.name_or_path).expanduser()
        return path if self.name_or_path and path.is_dir() else None

    def check(self, *, needs_head: bool = False) -> None:
        """Check what the model's folder brings, before data is read. `needs_head`: it is used as it is, so a score head
        must be trained already.

        Raises FileNotFoundError or ValueError, in one line, if the folder is not found or does not fit these options.
        """
        self.folder()

    def places(self) -> Mapping[str, Mapping[str, Path]]:
        """The files that options name: option -> name of each file below that place -> file. A run is resumed if they
        have the same content, wherever they are. An option that is not listed must stay as it is."""
        folder = self.folder()
        return {} if folder is None else {"name_or_path": content_files(folder)}

    def starting_from(self, folder: Path) -> Self:
        """The same options for the model that was exported to `folder`, including what training has learned."""
        changed: Any = replace(self, name_or_path=str(folder))  # type: ignore[type-var]
        return changed

    def known_similarity(self) -> str:
        """The name of the similarity by which its embeddings are compared, as far as the options and the folder's
        description say it, without weights; empty: only the model knows."""
        return ""

    def saved_scale(self) -> Mapping[str, float]:
        """The values "scale" and "bias" that an earlier training has learned and saved with the model, if any."""
        return {}

    def scale_options(self) -> Mapping[str, Mapping[str, Any]]:
        """The options that are set of the factor and the bias of the model's similarities, with their values:
        {"scale": {"temperature": 0.05}}, by the field of `LossInputs` that they fill."""
        return {}

    @property
    def generator(self) -> Any:
        """The options of a model that writes texts by the same weights (`models.generation.generator`); None: these
        write none."""
        return None

    def parts_to_train(self) -> Mapping[str, str]:
        """The names of the parts that these options ask to train, each with the option that does. ALL_PARTS stands for
        every part that the model has. Training is refused if such a part is missing or frozen as a whole."""
        return {}

    def prompt_options(self) -> Mapping[str, str]:
        """The prompts that are set, by the name of the option."""
        return {}

    def lost_prompts(self, prompts: RunPrompts) -> list[str]:
        """The prompts, in words, that stand before texts in training and that an export would not put there. It runs
        before weights are loaded. A model without prompts of its own loses all of them."""
        return [
            *in_words([prompt for role in ("query", "document") for prompt in prompts.of(role, "") if prompt.text]),
            *prompts.without_name(),
        ]

    def check_machine(self) -> None:  # noqa: B027 (most kinds run anywhere)
        """Raise ValueError if this machine cannot run the model."""

    def check_adapter_only(self) -> None:
        """Raise ValueError if an export of only the adapters could not be loaded."""
        raise ValueError("adapter_only=true: there is no adapter without LoRA: choose a model with lora")
