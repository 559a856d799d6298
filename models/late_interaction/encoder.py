"""The model of late interaction: a transformer that gives a vector per token of a text (ColBERT).

Source: Khattab and Zaharia 2020, "ColBERT", arXiv 2004.12832; Santhanam et al. 2022, "ColBERTv2", arXiv 2112.01488.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from models.capabilities import Part
from models.embedding.text_model import TextModel
from models.late_interaction.export import export_late_interaction
from models.late_interaction.pooling import pool_tokens
from models.late_interaction.tokens import HIDDEN, SCORED, TokenVectorTokenizer
from models.lora import parts_of
from models.padding_masks import padding_is_known
from models.scale import Scale
from models.tokenization import IS_QUERY
from models.towers import Dense
from tensors.ragged import Ragged

UNREAD = (SCORED, HIDDEN, IS_QUERY)


class LateInteraction(TextModel):
    """Gives the vectors of a text's tokens, of unit length. Two texts are compared by MaxSim: the sum over the query's
    vectors of the largest dot product with a vector of the document."""

    outputs = frozenset({"embedding"})
    tokenizer: TokenVectorTokenizer

    def __init__(
        self,
        backbone: Any,
        dense: Sequence[Dense],
        tokenizer: TokenVectorTokenizer,
        scale: Scale | None,
        similarity: str,
        *,
        source: str,
        pooling: dict[str, Any] | None = None,
    ) -> None:
        """`pooling`: how vectors of documents are merged where they are stored (`pool_tokens`); None: not."""
        super().__init__()
        self.backbone = backbone
        self.dense = nn.Sequential(*dense)
        self.tokenizer = tokenizer
        self.scale = scale
        self.similarity = similarity  # "maxsim" or "meanmaxsim"
        self.source = source
        self.pooling = pooling
        self.dimension = dense[-1].linear.out_features if dense else backbone.config.hidden_size
        self.is_traced = False

    def forward(self, **features: Tensor) -> dict[str, Any]:
        """Compute the representations of input_ids, attention_mask, scored, ... [rows, tokens] in float32:

        - "embedding": ragged rows of token vectors [elements, dim], of unit length, of the tokens that are scored;
        - "scale" and "bias" [rows], if the model has them, the same value in every row.
        """
        own = {name: value for name, value in features.items() if name not in UNREAD}
        known: Any = nullcontext()
        if HIDDEN in features:
            hidden = features[HIDDEN].bool()
            own["attention_mask"] = features["attention_mask"].masked_fill(hidden, 0)
            # Without padding there is a mask all the same, of which the host does not know.
            known = padding_is_known(True) if not self.is_traced and bool(hidden.any()) else known
        with known:
            states = self.backbone(**own).last_hidden_state.float()
        rows = len(states)
        embedding: Any
        if self.is_traced:
            embedding = normalize(self.dense(states), dim=-1)  # of all tokens: a tensor without data has no lengths
        else:
            scored = features[SCORED].bool()
            embedding = Ragged(normalize(self.dense(states[scored]), dim=-1), scored.sum(dim=1).cpu())
            if self.pooling is not None and not self.training:
                embedding = pool_tokens(embedding, features[IS_QUERY].any(dim=1).cpu(), **self.pooling)
        return self.scaled({"embedding": embedding}, rows, states.device)

    def text_parts(self) -> Sequence[Part]:
        return [*parts_of(self.backbone), Part("projection", tuple(self.dense.parameters()))]

    def simplify_for_tracing(self) -> None:
        super().simplify_for_tracing()
        self.is_traced = True

    def export(self, folder: Path, *, card: str | None = None, adapter_only: bool = False) -> None:
        export_late_interaction(self, folder, card=card, adapter_only=adapter_only)
