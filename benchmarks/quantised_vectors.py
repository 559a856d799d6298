"""Recall of quantised vectors against float32 ones: ours, faiss' and sentence-transformers' search of the same files.

    python benchmarks/quantised_vectors.py --data ../shared/data/scifact --folder /tmp/vectors

Documents and test queries are encoded by `launch/encode.py` as float32. The documents' vectors are then written in the
other precisions by the code that it runs (`encode.precision` would run the model again). recall@k of a search is the
share of the k nearest documents by float32 (exact) that it finds; nDCG@10 is by the judgements of the data.

faiss searches float32 and float16 vectors and dequantised int8 ones by IndexFlatIP, and binary ones by Hamming distance
(IndexBinaryFlat); its rescored lists are its 4 k nearest by Hamming distance, ordered by the float32 queries.
sentence-transformers searches by `semantic_search_faiss`, which compares int8 codes with a quantised query and then
rescores, as for binary.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import torch
from sentence_transformers.util.quantization import semantic_search_faiss

from evaluation.metrics import measure
from inference.quantize import dequantize, ranges_of
from inference.vector_files import Layout, VectorFiles
from inference.vector_search import search_stored
from inference.vectors import BLOCK_ROWS, StoredVectors

ROOT = Path(__file__).resolve().parent.parent
PRECISIONS = ("fp32", "fp16", "int8", "binary")
DEPTHS = (10, 100)
MULTIPLE = 4  # of the depth, which is rescored


def encode(arguments: argparse.Namespace, name: str, *options: str) -> StoredVectors:
    """Run launch/encode.py, and open what it made."""
    folder = arguments.folder / name
    command = [sys.executable, str(ROOT / "launch" / "encode.py"), "data=beir", f"data.path={arguments.data}"]
    command += [f"model.name_or_path={arguments.model}"] if arguments.model else []
    subprocess.run([*command, f"output={folder}", *options], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return StoredVectors(folder)


def convert(stored: StoredVectors, precision: str) -> StoredVectors:
    """Write float32 vectors in another precision, as `encode.precision` does."""
    folder = stored.folder.with_name(precision)
    if not folder.exists():
        layout = Layout(len(stored), stored.dim, precision, BLOCK_ROWS, calibrated=True, key=stored.key)
        ranges = ranges_of(stored.stored) if precision == "int8" else None
        files = VectorFiles(folder, layout)
        files.prepare()
        for number in files.missing():
            files.write(number, np.array(stored.stored[layout.block(number)]), 0, ranges)
        known = {"precision": precision, "ranges": None if ranges is None else ranges.tolist()}
        files.publish(stored.ids, {**stored.meta, **known})
    return StoredVectors(folder)


def ours(queries: np.ndarray, stored: StoredVectors, depth: int, mode: str) -> np.ndarray:
    """The rows [queries, depth] that our search finds."""
    options = {"": {}, "Hamming": {"hamming": True}, "rescored": {"rescore": MULTIPLE}}[mode]
    return search_stored(torch.from_numpy(queries), stored, depth, **options)[1].numpy()


def by_faiss(queries: np.ndarray, stored: StoredVectors, depth: int, mode: str) -> np.ndarray:
    """The rows that faiss finds in the same file, read by numpy alone."""
    vectors = np.load(stored.folder / "vectors.npy")
    floats = dequantize(vectors, stored.precision, stored.dim, stored.ranges)
    if not mode:
        index = faiss.IndexFlatIP(stored.dim)
        index.add(floats)
        return index.search(queries, depth)[1]
    index = faiss.IndexBinaryFlat(8 * vectors.shape[1])
    index.add(vectors)
    found = index.search(np.packbits(queries > 0, axis=1), depth * (MULTIPLE if mode == "rescored" else 1))[1]
    if mode == "Hamming":
        return found
    scores = np.einsum("qd,qnd->qn", queries, floats[found])
    return np.take_along_axis(found, np.argsort(-scores, axis=1, kind="stable")[:, :depth], axis=1)


def by_sentence_transformers(queries: np.ndarray, stored: StoredVectors, depth: int, mode: str) -> np.ndarray | None:
    """The rows that `semantic_search_faiss` finds; None if it has no such search."""
    vectors = np.load(stored.folder / "vectors.npy")
    if stored.precision == "binary" and mode:
        options = {"corpus_precision": "ubinary", "rescore": mode == "rescored", "rescore_multiplier": MULTIPLE}
    elif stored.precision == "int8":
        options = {"corpus_precision": "uint8", "ranges": stored.ranges, "rescore_multiplier": MULTIPLE}
        vectors = vectors.view(np.uint8) ^ 0x80  # from -128..127 to 0..255
    else:
        return None
    found, *_ = semantic_search_faiss(queries, vectors, top_k=depth, **options)
    return np.array([[hit["corpus_id"] for hit in hits] for hits in found])


def recall(found: np.ndarray, nearest: np.ndarray) -> float:
    """The share of the nearest rows that are found."""
    return float(
        np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), nearest.tolist(), strict=True)])
    )


def ndcg(found: np.ndarray, stored: StoredVectors, queries: StoredVectors, qrels: dict[str, dict[str, int]]) -> float:
    """nDCG@10 by the judgements."""
    run = {
        query: {stored.ids[row]: -float(place) for place, row in enumerate(rows[:10])}
        for query, rows in zip(queries.ids, found.tolist(), strict=True)
    }
    return measure(qrels, run, ["nDCG@10"]).mean["nDCG@10"]


def read_qrels(folder: Path) -> dict[str, dict[str, int]]:
    """The test judgements of a BEIR folder."""
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        qrels.setdefault(query, {})[document] = int(grade)
    return qrels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a BEIR folder")
    parser.add_argument("--folder", type=Path, required=True, help="where the vectors are kept")
    parser.add_argument("--model", help="default: all-MiniLM-L6-v2")
    arguments = parser.parse_args()
    asked = encode(arguments, "queries", "encode.role=queries")
    queries, qrels = np.array(asked.stored), read_qrels(arguments.data)
    whole = encode(arguments, "fp32")
    stored = {"fp32": whole} | {name: convert(whole, name) for name in PRECISIONS[1:]}
    nearest = {depth: ours(queries, stored["fp32"], depth, "") for depth in DEPTHS}
    print("| vectors | search | MiB | by | recall@10 | recall@100 | nDCG@10 |\n|---|---|---|---|---|---|---|")
    modes = [(name, "") for name in PRECISIONS] + [("binary", "Hamming"), ("binary", "rescored")]
    for name, mode in modes:
        size = (stored[name].folder / "vectors.npy").stat().st_size / 2**20
        for label, search in (("ours", ours), ("faiss", by_faiss), ("sentence-transformers", by_sentence_transformers)):
            found = {depth: search(queries, stored[name], depth, mode) for depth in DEPTHS}
            if found[10] is None:
                continue
            values = [recall(found[depth], nearest[depth]) for depth in DEPTHS]
            values.append(ndcg(found[10], stored[name], asked, qrels))
            cells = " | ".join(f"{value:.4f}" for value in values)
            print(f"| {name} | {mode or 'dot product'} | {size:.2f} | {label} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
