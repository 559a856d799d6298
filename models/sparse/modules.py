"""The modules of a sparse encoder in a folder of sentence-transformers: SpladePooling, SparseStaticEmbedding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from models.loading.activation import activation_named
from models.loading.folder import PICKLED, ModelFolder, read_json

LARGEST = "max_active_dims"  # of both roles, as sentence-transformers reads it
TIED = "tied_head"  # the head's weights are those of the word embeddings; other libraries do not read it
LARGEST_OF = {"query": "query_terms", "document": "document_terms"}  # if they differ; other libraries do not read it
ACTIVATIONS = ("relu", "log1p_relu")
SUPPORTED = (
    "supported: Transformer (> Dense of token_embeddings) > SpladePooling, for both roles or for documents, with "
    "SparseStaticEmbedding for queries"
)


@dataclass(frozen=True)
class SparseModules:
    """What the folder of a sparse encoder holds beside its transformer."""

    transformer: ModelFolder  # of the documents; of the queries too, if there are no `token_weights`
    activation: str = "relu"
    linear: Path | None = None  # a Dense layer that gives the logits; None: the transformer does, or has no head
    tied: bool = False  # whether the layer's weights are the word embeddings, if no one trained them apart since
    token_weights: Path | None = None  # of inference-free queries
    largest: int | None = None
    query_terms: int | None = None
    document_terms: int | None = None

    @classmethod
    def read(cls, folder: ModelFolder) -> SparseModules:
        """Read the modules of a folder of sentence-transformers or transformers. An embedding model gives its
        transformer alone. Raises ValueError if it is of another kind, or has modules that are not supported."""
        if folder.kind not in ("SparseEncoder", "SentenceTransformer", ""):
            raise ValueError(f"model {folder.path} is a {folder.kind}, not a sparse encoder or an embedding model")
        routes = folder.routes()
        document = routes.get("document", routes.get("", folder))
        if folder.kind != "SparseEncoder":
            if "query" in routes:
                raise ValueError(f"model {folder.path} has two towers: {SUPPORTED}")
            return cls(document)
        query = routes.get("query")
        if query is not None and [name for name, _ in query.modules] != ["SparseStaticEmbedding"]:
            raise _unsupported(query)
        names = [name for name, _ in document.modules]
        if names not in (
            [first, *dense, "SpladePooling"] for first in ("Transformer", "MLMTransformer") for dense in ([], ["Dense"])
        ):
            raise _unsupported(document)
        return cls(
            document,
            _activation(document),
            document.modules[1][1] if "Dense" in names else None,
            bool(folder.settings.get(TIED)),
            None if query is None else query.modules[0][1],
            folder.settings.get(LARGEST),
            *(folder.settings.get(name) for name in LARGEST_OF.values()),
        )

    def head(self) -> nn.Linear | None:
        """The layer that gives the logits; None if the folder has none."""
        if self.linear is None:
            return None
        config = read_json(self.linear / "config.json") or {}
        reads = config.get("module_input_name"), config.get("module_output_name", "token_embeddings")
        activation = activation_named(config.get("activation_function", ""), self.linear, default=nn.Tanh)
        if reads != ("token_embeddings",) * 2 or config.get("use_residual") or not isinstance(activation, nn.Identity):
            raise ValueError(f"{self.linear} is no plain Dense layer of token_embeddings: {SUPPORTED}")
        linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
        weights = _weights(self.linear)
        linear.load_state_dict({name.removeprefix("linear."): values for name, values in weights.items()})
        return linear.float()

    def query_weights(self) -> Tensor | None:
        """The weights of the tokens of queries [vocabulary]; None if the folder has none."""
        if self.token_weights is None:
            return None
        if (path := (read_json(self.token_weights / "config.json") or {}).get("path")) is not None:
            raise ValueError(
                f"{self.token_weights}: its weights are in {path}: load it by SparseEncoder and save it again"
            )
        return _weights(self.token_weights)["weight"].float()


def _activation(folder: ModelFolder) -> str:
    file = folder.modules[-1][1] / "config.json"
    config = read_json(file) or {}
    if (strategy := config.get("pooling_strategy", "max")) != "max":
        raise ValueError(f"{file}: pooling_strategy={strategy}: only max is supported, which SPLADE++ and later use")
    activation: str = config.get("activation_function", "relu")
    if activation not in ACTIVATIONS:
        raise ValueError(f"{file}: activation_function={activation}: supported are {', '.join(ACTIVATIONS)}")
    return activation


def _weights(folder: Path) -> dict[str, Tensor]:
    file = folder / "model.safetensors"
    if not file.is_file():
        raise ValueError(f"model {folder.parent}: {folder.name} lacks {file.name}{PICKLED}")
    found: dict[str, Tensor] = load_file(file)
    return found


def _unsupported(folder: ModelFolder) -> ValueError:
    return ValueError(f"model {folder.path} is {' > '.join(name for name, _ in folder.modules)}; {SUPPORTED}")
