"""Search documents block by block, with an index for any similarity. The queries are sharded over the ranks."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from engines.distributed.collectives import gather_objects, gather_rows
from engines.distributed.process_group import rank, world_size
from losses.math.similarity import DotProduct, MaxSim, Similarity
from tensors.ragged import elements, like, take

logger = logging.getLogger(__name__)

LOW = 0xFFFFFFFF
MUCH = 4  # times the depth: of so many documents the best are chosen before they are packed, which takes more memory


class Index(ABC):
    """An index of n documents for search by a similarity."""

    counts: ClassVar[bool] = False  # whether it has `facts` and `work`

    @staticmethod
    @abstractmethod
    def fits(similarity: Similarity) -> bool:
        """Whether the index can search by `similarity`."""

    @abstractmethod
    def __init__(self, similarity: Any, documents: Any): ...

    @classmethod
    def random(cls, similarity: Any, documents: Any, size: int) -> Any:
        """Documents [size, ...] to measure a search with: as many elements each as these `documents`, again and again,
        with random values."""
        rows = take(documents, torch.arange(size) % len(documents))
        values = torch.randn(elements(rows).shape, generator=torch.Generator().manual_seed(0))
        return similarity.comparable(like(rows, values.to(elements(rows).device)))

    @abstractmethod
    def nearest(self, queries: Any, depth: int) -> tuple[Tensor, Tensor]:
        """Scores and indices [queries, at least min(depth, n)] of documents that include the best ones."""

    def facts(self) -> dict[str, int]:
        """What it holds, in numbers that add up over the blocks of a corpus."""
        return {}

    def work(self, queries: Any) -> int:
        """The products of weights that comparing these queries with its documents takes."""
        return 0


class ExactIndex(Index):
    """Computes all similarities, and leaves out those that are not among the best. `BlockSearch` orders the others."""

    @staticmethod
    def fits(similarity: Similarity) -> bool:
        return True

    def __init__(self, similarity: Similarity, documents: Any):
        self.similarity = similarity
        self.documents = documents

    def nearest(self, queries: Any, depth: int) -> tuple[Tensor, Tensor]:
        scores = self.similarity.matrix(queries, self.documents)
        if MUCH * depth < len(self.documents):
            values, indices = scores.topk(depth, dim=1)
            if not (
                (scores >= values[:, -1:]).sum(dim=1) > depth
            ).any():  # else which of equal scores is left to chance
                return values, indices
        return scores, torch.arange(len(self.documents), device=scores.device).expand_as(scores)


class FaissIndex(Index):
    """Finds the best documents by faiss' flat index, on the CPU. Of equal scores at the cutoff faiss chooses which to
    keep."""

    @staticmethod
    def fits(similarity: Similarity) -> bool:
        return isinstance(similarity, DotProduct)

    def __init__(self, similarity: DotProduct, documents: Tensor):
        import faiss

        self.size = len(documents)
        self.index = faiss.IndexFlatIP(documents.shape[1])
        self.index.add(documents.cpu().contiguous().numpy())

    def nearest(self, queries: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        scores, indices = self.index.search(queries.cpu().contiguous().numpy(), min(depth, self.size))
        return torch.from_numpy(scores).to(queries.device), torch.from_numpy(indices).to(queries.device)


class InvertedIndex(Index):
    """The documents of each dimension whose value is not 0, for sparse embeddings: exact dot products on the CPU, by
    scipy. A query reads the lists of its own nonzero dimensions alone."""

    counts: ClassVar[bool] = True

    @staticmethod
    def fits(similarity: Similarity) -> bool:
        return similarity.name == DotProduct.name

    def __init__(self, similarity: DotProduct, documents: Tensor | scipy.sparse.csr_array):
        self.lists = _sparse(documents).T.tocsr()  # [dimensions, documents]

    @classmethod
    def random(cls, similarity: DotProduct, documents: Tensor, size: int) -> scipy.sparse.csr_array:
        """These documents again and again: which values are not 0 decides how long a search takes."""
        return _sparse(documents)[np.arange(size) % len(documents)]

    def nearest(self, queries: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        scores = torch.from_numpy((_sparse(queries) @ self.lists).toarray()).to(queries.device)
        return scores, torch.arange(scores.shape[1], device=scores.device).expand_as(scores)

    def facts(self) -> dict[str, int]:
        """Its bytes in memory, and the values of documents that are not 0."""
        arrays = self.lists.data, self.lists.indices, self.lists.indptr
        return {"bytes": sum(array.nbytes for array in arrays), "nonzeros": self.lists.nnz}

    def work(self, queries: Tensor) -> int:
        lengths = np.diff(self.lists.indptr)
        return int(lengths[_sparse(queries).indices].sum(dtype=np.int64))


class PlaidIndex(Index):
    """Finds documents by the centroids near which their token vectors lie, and scores those alone, with vectors of 4
    bits a dimension (PLAID; Santhanam et al. 2022, arXiv 2205.09707), by the package fast-plaid.

    The scores are near MaxSim. A document that is not found has the least score that MaxSim can have: minus the number
    of the query's vectors.
    """

    counts: ClassVar[bool] = True
    package: ClassVar[str] = "fast_plaid"
    chosen: ClassVar[dict[str, Any]] = {"kmeans_niters": 4, "nbits": 4, "seed": 42}  # the defaults of the package

    @staticmethod
    def fits(similarity: Similarity) -> bool:
        return similarity.name == MaxSim.name

    def __init__(self, similarity: MaxSim, documents: Any):
        from fast_plaid import search

        self.size = len(documents)
        self.rows = torch.nonzero(documents.sizes).flatten()  # texts without a vector are in no list
        self.folder = Path(tempfile.mkdtemp(prefix="plaid-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.index: Any = None
        if len(self.rows):
            self.index = search.FastPlaid(index=str(self.folder), device=str(documents.device))
            kept = documents[self.rows]
            # Without a copy of the vectors, which is kept for updates of small indexes.
            self.index.create([row.values for row in kept], **self.chosen, start_from_scratch=0)

    def nearest(self, queries: Any, depth: int) -> tuple[Tensor, Tensor]:
        least = -queries.sizes.unsqueeze(1).float()
        scores = least.expand(-1, self.size).clone()
        asked = torch.nonzero(queries.sizes).flatten()
        if self.index is not None and len(asked):
            options = {"top_k": depth, "n_full_scores": max(4096, 4 * depth), "show_progress": False}
            found = self.index.search([queries[int(row)].values for row in asked], **options)
            for row, pairs in zip(asked.tolist(), found, strict=True):
                if pairs:
                    places, values = zip(*pairs, strict=True)
                    scores[row, self.rows[list(places)]] = torch.tensor(values)
        indices = torch.arange(self.size).expand_as(scores)
        return scores.to(queries.device), indices.to(queries.device)

    def facts(self) -> dict[str, int]:
        """The bytes of its files."""
        return {"bytes": sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())}


def _sparse(rows: Tensor | scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Rows [n, dim] as scipy's sparse matrix on the CPU."""
    return scipy.sparse.csr_array(rows.float().cpu().numpy()) if isinstance(rows, Tensor) else rows


INDEXES: dict[str, type[Index]] = {
    "exact": ExactIndex,
    "faiss": FaissIndex,
    "inverted": InvertedIndex,
    "plaid": PlaidIndex,
}


def check_search(name: str) -> None:
    """Raise ValueError if there is no index of that name, or its package is missing (but that of PLAID:
    `check_fit`)."""
    if name not in INDEXES:
        raise ValueError(f"eval.search={name}: choose {' or '.join(INDEXES)}")
    if name == "faiss" and importlib.util.find_spec("faiss") is None:
        raise ValueError(
            "eval.search=faiss needs the package faiss: pip install faiss-cpu, or choose eval.search=exact"
        )


def check_fit(name: str, similarities: Sequence[Similarity]) -> None:
    """Raise ValueError if the index of that name searches by none of `similarities`, those that a model may have.
    Without the package of PLAID the search is exact, and a line says so."""
    _check_similarities(name, similarities)
    if name == "plaid" and (why := _why_no_plaid()):
        logger.warning("eval.search=plaid: %s: the search is exact, every document is scored", why)


def _check_similarities(name: str, similarities: Sequence[Similarity]) -> None:
    if not any(map(INDEXES[name].fits, similarities)):
        fitting = " or ".join(other for other, kind in INDEXES.items() if any(map(kind.fits, similarities)))
        compared = " or ".join(each.name for each in similarities)
        raise ValueError(f"eval.search={name} does not search by {compared}: choose eval.search={fitting}")


def _why_no_plaid() -> str:
    """Why the package of PLAID cannot run, in words; nothing if it can. Its extension crashes beside another version of
    torch than that for which it was built."""
    if importlib.util.find_spec(PlaidIndex.package) is None:
        return "the package fast-plaid is not installed (1.7.0.2110 is for torch 2.11.0, and so on)"
    try:
        needed = [each for each in metadata.requires(PlaidIndex.package) or () if each.startswith("torch==")]
    except metadata.PackageNotFoundError:
        return ""
    own = torch.__version__.partition("+")[0]
    return f"fast-plaid needs {needed[0]}, and torch is {own}" if needed not in ([], [f"torch=={own}"]) else ""


def index_for(name: str, similarity: Similarity) -> type[Index]:
    """The class of the index of that name. Raises ValueError if it cannot search by `similarity`."""
    index = INDEXES[name]
    _check_similarities(name, [similarity])
    return ExactIndex if index is PlaidIndex and _why_no_plaid() else index


class BlockSearch:
    """Finds the `depth` best documents for every query among those that were added.

    Blocks of `query_block` queries are searched, block i on rank i mod W, so memory holds one block of documents and of
    similarities, for a corpus of any size. No product depends on W, so the results are equal bit by bit on any number
    of ranks. Equal scores keep the order of the documents.
    """

    def __init__(self, queries: Any, depth: int, *, query_block: int, similarity: Similarity, index: type[Index]):
        self.num_queries = len(queries)
        self.depth = depth
        self.similarity = similarity
        self.index = index
        self.added = 0
        blocks = list(zip(queries.split(query_block), torch.arange(len(queries)).split(query_block), strict=True))
        own = blocks[rank() :: world_size()]
        self.queries = [part for part, _ in own]
        self.positions = torch.cat([places for _, places in own]) if own else torch.empty(0, dtype=torch.int64)
        self.keys = [torch.empty(len(part), 0, dtype=torch.int64, device=queries.device) for part in self.queries]
        self.device = queries.device
        self._facts: Counter[str] = Counter()  # of the documents
        self._work = 0  # of own queries

    def add(self, documents: Any) -> None:
        """Search the next documents, given by their representations [n, ...], the same on every rank."""
        if not self.queries:
            self.added += len(documents)
            return
        index = self.index(self.similarity, documents)
        self._facts.update(index.facts())
        for i, part in enumerate(self.queries):
            self._work += index.work(part)
            scores, indices = index.nearest(part, self.depth)
            keys = torch.cat([self.keys[i], pack(scores, indices + self.added)], dim=1)
            self.keys[i] = keys.topk(min(self.depth, keys.shape[1]), dim=1).values
        self.added += len(documents)

    def result(self) -> tuple[Tensor, Tensor]:
        """Scores and indices [queries, min(depth, documents)], best first, on every rank."""
        none = torch.empty(0, min(self.depth, self.added), dtype=torch.int64, device=self.device)
        keys = gather_rows({"keys": torch.cat([none, *self.keys])}, self.positions, self.num_queries)["keys"]
        return unpack(keys)

    def facts(self) -> dict[str, float]:
        """The bytes of the index of all documents; of sparse embeddings also the mean number of nonzero values of a
        document and of a query, and the mean number of products of such values for a query and a document. Empty if the
        index does not count. Call it on all ranks, which get the same."""
        if not self.index.counts or not self.num_queries or not self.added:
            return {}
        nonzeros = sum(int(elements(part).count_nonzero()) for part in self.queries)
        ranks = gather_objects((dict(self._facts), nonzeros, self._work))
        documents = ranks[0][0]  # rank 0 has the first queries, and so has read all documents
        if "nonzeros" not in documents:
            return dict(documents)
        return {
            "bytes": documents["bytes"],
            "document_nonzeros": documents["nonzeros"] / self.added,
            "query_nonzeros": sum(of_rank[1] for of_rank in ranks) / self.num_queries,
            "products": sum(of_rank[2] for of_rank in ranks) / self.num_queries / self.added,
        }


def pack(scores: Tensor, indices: Tensor) -> Tensor:
    """Pack float32 scores and indices below 2^32 into distinct int64 keys that sort by score, then by falling index.

    `topk` of the scores alone would order equal scores at random.
    """
    bits = (scores.float() + 0.0).view(torch.int32).long()  # + 0.0: -0.0 becomes 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered << 32) | (LOW - indices)


def unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `pack`."""
    ordered = keys >> 32
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    return bits.int().view(torch.float32), LOW - (keys & LOW)
