"""launch/encode.py on a tiny collection: what the folder holds, one process and two, a kill, mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import scipy.sparse
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.util.quantization import quantize_embeddings

from inference.vector_files import workspace_of
from launch.cli.compose import load
from models.bi_encoder import BiEncoderConfig
from recipes.negatives.encode_run import encode
from runs.source_tree import ROOT


@pytest.fixture
def arguments(tiny_beir_dir: Path, tiny_bert_dir: Path, tmp_path: Path) -> list[str]:
    data = ["data=beir", f"data.path={tiny_beir_dir}", f"data.cache_dir={tmp_path / 'cache'}"]
    return [*data, f"model.name_or_path={tiny_bert_dir}", "model.max_length=16", f"output={tmp_path / 'out'}"]


def run(arguments: list[str], *more: str):
    return encode(load([*arguments, *more], "encode"))


def texts_of(folder: Path, name: str) -> dict[str, str]:
    rows = map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())
    return {row["_id"]: row["text"] for row in rows}


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def embeddings(folder: Path, texts: list[str], dim: int | None = None) -> np.ndarray:
    """Those of sentence-transformers."""
    model = SentenceTransformer(str(folder), device="cpu", truncate_dim=dim)
    model.max_seq_length = 16
    return model.encode(texts, normalize_embeddings=True)


def test_the_documents_are_those_of_sentence_transformers(arguments, tiny_beir_dir, tiny_bert_dir, tmp_path, capsys):
    documents = texts_of(tiny_beir_dir, "corpus")
    stored = run(arguments)
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith(f"60 documents, 32 dimensions, fp32, compared by cosine, 0.0 MiB in {tmp_path / 'out'}")
    assert "of 60 documents" in out[1]
    assert "were cut at the model's length: model.max_length raises it" in out[1]
    assert list(stored.ids) == list(documents)
    expected = embeddings(tiny_bert_dir, list(documents.values()))
    vectors = np.load(tmp_path / "out" / "vectors.npy")
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, expected, atol=1e-6)
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert (meta["rows"], meta["dim"], meta["precision"], meta["similarity"], meta["ranges"]) == (
        *(60, 32, "fp32", "cosine"),
        None,
    )
    assert not (tmp_path / "cache").exists(), "no candidates are found"


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_quantised_vectors_are_those_of_sentence_transformers(
    arguments, tiny_beir_dir, tiny_bert_dir, tmp_path, precision
):
    documents = list(texts_of(tiny_beir_dir, "corpus").values())
    floats = np.array(run(arguments, f"output={tmp_path / 'floats'}", "encode.dim=12").stored)
    assert np.allclose(floats, embeddings(tiny_bert_dir, documents, 12), atol=1e-6)
    run(arguments, f"encode.precision={precision}", "encode.dim=12")
    name = {"int8": "int8", "binary": "ubinary"}[precision]
    assert np.array_equal(np.load(tmp_path / "out" / "vectors.npy"), quantize_embeddings(floats, name))


def test_int8_in_the_ranges_of_the_model(arguments, tiny_beir_dir, tiny_bert_dir, tmp_path, capsys):
    """sentence-transformers makes the same codes, by the file of the export."""
    model = BiEncoderConfig(str(tiny_bert_dir)).build(seed=0)
    model.track_int8_ranges([32])
    model.int8_ranges.keep({32: torch.tensor([[-0.3] * 32, [0.4] * 32])})
    model.export(tmp_path / "model")
    capsys.readouterr()
    own = [*arguments, f"model.name_or_path={tmp_path / 'model'}", "encode.precision=int8"]
    stored = run(own)
    assert "60 documents, 32 dimensions, int8 in the ranges of the model, compared by" in capsys.readouterr().out
    ranges = np.load(tmp_path / "model" / "int8_ranges.npy")
    floats = np.array(run([*own, "encode.precision=fp32", f"output={tmp_path / 'floats'}"]).stored)
    assert np.array_equal(stored.stored, quantize_embeddings(floats, "int8", ranges=ranges))
    assert stored.key["int8_ranges"]
    np.save(tmp_path / "model" / "int8_ranges.npy", 2 * ranges)
    with pytest.raises(ValueError, match="has vectors of a model with other int8 ranges"):
        run(own)


def test_the_queries_of_a_split_with_their_prompts(arguments, tiny_beir_dir, tiny_bert_dir, tmp_path):
    queries = {name: text for name, text in texts_of(tiny_beir_dir, "queries").items() if name.startswith("test")}
    options = ["encode.role=queries", "data.query_prompt='what is '"]
    stored = run(arguments, *options)
    assert list(stored.ids) == list(queries)
    expected = embeddings(tiny_bert_dir, [f"what is {text}" for text in queries.values()])
    assert np.allclose(stored.stored, expected, atol=1e-6)
    dev = run(arguments, *options, "split=dev", f"output={tmp_path / 'dev'}")
    assert len(dev) == 6
    with pytest.raises(ValueError, match="has no valid split: did you mean dev"):
        run(arguments, *options, "split=valid", f"output={tmp_path / 'none'}")


def test_the_same_command_again_shows_the_folder_and_another_model_is_refused(arguments, tmp_path, capsys):
    before = content(run(arguments).folder)
    shown = capsys.readouterr().out
    run(arguments)
    assert capsys.readouterr().out == shown
    for option, words in (
        ("model.max_length=17", "another maximum length"),
        ("data.document_prompt=x", "another prompt before the texts"),
        ("encode.precision=fp16", "another precision"),
        ("model.pooling=cls", "another model (another architecture or configuration)"),
        ("precision=bf16", "a model that ran in another precision"),
    ):
        with pytest.raises(ValueError) as error:
            run(arguments, option)
        assert str(error.value) == f"{tmp_path / 'out'} has vectors of {words}: choose another folder, or remove it"
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["model=cross_encoder"], "model=CrossEncoder scores pairs and gives no vector of a text: choose model=bi_enc"),
        (["model=bm25"], "model=bm25 has no vectors: choose model=bi_encoder"),
        (["encode.precision=int4"], "encode.precision='int4' is not one of fp32, fp16, int8, binary"),
        (["encode.dim=33"], "encode.dim=33: the model's embeddings have 32 dimensions, choose 1 to 32"),
        (["encode.dim=0"], "encode.dim=0 must be at least 1"),
        (["encode.calibration=20"], "encode.calibration: encode.precision=fp32 has no ranges, leave it out"),
        (["encode.precision=int8", "encode.calibration=1"], "encode.calibration=1 must be null or at least 2"),
        (["encode.rolle=queries"], "encode.rolle is not an option: did you mean role?"),
    ],
)
def test_mistakes_are_one_line(arguments, options, line, tmp_path):
    arguments = [a for a in arguments if not (a.startswith("model.") and options[0].startswith("model="))]
    with pytest.raises(ValueError) as error:
        run(arguments, *options)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_the_users_is_left_alone(arguments, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds no stored vectors .*: it is left alone, choose another folder"):
        run(arguments)
    assert content(tmp_path / "out") == {"thesis.txt": b"x"}


def command(arguments: list[str], ranks: int = 1) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    return [sys.executable, *torchrun, str(ROOT / "launch" / "encode.py"), *arguments]


def test_two_ranks_killed_and_started_again_write_the_bytes_of_one(arguments, tiny_beir_dir, tmp_path):
    """2,500 documents: two full blocks and a part of one."""
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    words = [text.split() for text in texts_of(tiny_beir_dir, "corpus").values()]
    rows = [{"_id": f"d{i}", "title": "", "text": " ".join(words[i % 60][: 3 + i % 11])} for i in range(2500)]
    (data / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "queries.jsonl").write_text('{"_id": "q", "text": "red"}\n')
    (data / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td0\t1\n")
    arguments = [*arguments, f"data.path={data}", "encode.precision=int8", "encode.token_budget=256"]
    whole = run(arguments, f"output={tmp_path / 'whole'}").folder
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    markers = workspace_of(tmp_path / "out") / "blocks"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = psutil.Popen(command(arguments, 2), env=environment, **pipes)
    deadline = time.monotonic() + 120
    while not list(markers.glob("*.npy")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    for each in [*process.children(recursive=True), process]:  # ranks have a session of their own
        each.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    assert 0 < len(list(markers.glob("*.npy"))) < 3
    done = subprocess.run(command(arguments), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of 3 blocks are there already" in done.stderr
    assert content(tmp_path / "out") == content(whole)


def test_sparse_vectors_are_a_matrix_of_scipy_without_zeros(arguments, tiny_beir_dir, tmp_path, capsys):
    own = ["model=sparse_encoder", "model.query_terms=9", "model.document_terms=9"]
    stored = run(arguments, *own)
    assert ": 60 documents, 9.0 of 161 values are not 0, compared by dot" in capsys.readouterr().out
    theirs = load([*arguments, *own], "encode").model.build(0)
    theirs.export(tmp_path / "export")
    documents = list(texts_of(tiny_beir_dir, "corpus").values())
    expected = SparseEncoder(str(tmp_path / "export"), device="cpu").encode_document(documents)
    matrix = scipy.sparse.load_npz(tmp_path / "out" / "vectors.npz")
    assert matrix.nnz == 9 * 60 == stored.meta["nonzeros"]
    assert np.allclose(matrix.toarray(), expected.to_dense().numpy(), atol=1e-5)
    with pytest.raises(ValueError, match=r"encode.precision=int8: of sparse vectors the values that are not 0"):
        run(arguments, *own, "encode.precision=int8")


def test_late_interaction_gives_the_vectors_of_sentence_transformers(arguments, tiny_beir_dir, tmp_path, capsys):
    own = ["model=late_interaction", "model.max_length=null", "model.document_length=9", "model.dimension=16"]
    stored = run(arguments, *own)
    lines = capsys.readouterr().out.splitlines()
    assert "vectors each, 16 dimensions, fp32, compared by maxsim, 0.0 MiB in" in lines[-2]
    assert lines[-1].endswith("were cut at the model's length: model.document_length raises it")
    theirs = load([*arguments, *own], "encode").model.build(42)
    theirs.export(tmp_path / "export")
    documents = list(texts_of(tiny_beir_dir, "corpus").values())
    expected = list(MultiVectorEncoder(str(tmp_path / "export"), device="cpu").encode_document(documents))
    values, offsets = (np.load(tmp_path / "out" / f"{name}.npy") for name in ("values", "offsets"))
    assert np.diff(offsets).tolist() == [len(vectors) for vectors in expected]
    assert np.allclose(values, np.concatenate([np.asarray(vectors) for vectors in expected]), atol=1e-5)
    half = run(arguments, *own, "encode.precision=fp16", "encode.dim=8", f"output={tmp_path / 'half'}")
    assert (half.stored.dtype, half.dim, len(half)) == (np.float16, 8, len(stored))
    with pytest.raises(ValueError, match=r"encode.precision=int8: several vectors per text are stored as fp32 or fp16"):
        run(arguments, *own, "encode.precision=int8")
    with pytest.raises(ValueError, match=r"encode.dim=17: the model's embeddings have 16 dimensions"):
        run(arguments, *own, "encode.dim=17", f"output={tmp_path / 'more'}")


def test_queries_of_idf_weights_know_the_corpus(arguments, tmp_path):
    """In the start of a model, before it is trained: with weights of 1 alike nothing would tell tokens apart."""
    own = ["model=sparse_encoder", "model.query_weights=idf", "encode.role=queries"]
    stored = run(arguments, *own)
    assert len(set(stored.matrix.data.tolist())) > 5
    assert stored.matrix.data.max() > 1.5
