"""Golden texts replayed through other libraries: equal for good exports, and the cause named for broken ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_exports import change_json, change_weights, copied, export

from inference.golden import read_golden, write_golden
from launch import verify as command
from models.llm_reranker import LLMRerankerConfig
from recipes.serving.contract import Export, Replay
from recipes.serving.verify import BACKENDS, DIFFERS, EQUAL, FAILED, UNAVAILABLE, is_right, verify

LIBRARIES = ["plackett", "sentence-transformers", "transformers"]
KINDS = ["bi_encoder", "lora", "towers", "decoder", "bos", "cross_encoder", "llm"]
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_export_is_equal_everywhere(kind, exports):
    findings = verify(exports[kind], LIBRARIES)
    assert [finding.status for finding in findings] == [EQUAL] * 3, findings
    assert max(finding.difference for finding in findings) < 1e-5
    assert {finding.order for finding in findings} == {1.0}
    assert {finding.rows for finding in findings} == {len(read_golden(exports[kind]).rows)}, "no text is left out"
    assert is_right(findings)


def no_pooling(folder: Path) -> None:
    file = folder / "1_Pooling" / "config.json"
    change_json(file, lambda c: c.update(pooling_mode_mean_tokens=False, pooling_mode_cls_token=True))


def no_special_tokens(folder: Path) -> None:
    change_json(folder / "tokenizer.json", lambda content: {**content, "post_processor": None})


def no_prompts(folder: Path) -> None:
    change_json(folder / "config_sentence_transformers.json", lambda content: {**content, "prompts": {}})


def no_length(folder: Path) -> None:
    change_json(folder / "sentence_bert_config.json", lambda content: {**content, "max_seq_length": 32})


def no_normalisation(folder: Path) -> None:
    change_json(folder / "modules.json", lambda modules: modules[:-1])
    change_json(folder / "config_sentence_transformers.json", lambda content: {**content, "similarity_fn_name": "dot"})


def shuffled_head(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({"classifier.weight": tensors["classifier.weight"].flip(1)}))


def random_head(folder: Path) -> None:
    new = torch.randn(1, 32, generator=torch.Generator().manual_seed(7))
    change_weights(folder, lambda tensors: tensors.update({"classifier.weight": new}))


def no_head(folder: Path) -> None:
    change_weights(folder, lambda tensors: [tensors.pop(f"classifier.{name}") for name in ("weight", "bias")])


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def swapped_answers(folder: Path) -> None:
    swap = {"true_token_id": "false_token_id", "false_token_id": "true_token_id"}
    change_json(folder / "1_LogitScore" / "config.json", lambda c: {swap.get(key, key): v for key, v in c.items()})


def other_template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("<Query>", "Q"))


BROKEN = [
    ("bi_encoder", no_pooling, "pooling: mean instead of cls"),
    ("bos", no_special_tokens, "BOS: the first token, '[CLS]', is missing"),
    ("decoder", no_special_tokens, "special tokens: the last token, '[SEP]', is missing"),
    ("bi_encoder", no_prompts, "prompt or template: a text is read without 'what is the'"),
    ("bi_encoder", no_length, "truncation: texts are cut at 32 tokens, not at 64"),
    ("lora", no_normalisation, "normalisation: vectors are of unit length"),
    ("cross_encoder", shuffled_head, "classifier.weight holds the same values in another order (shuffled)"),
    ("cross_encoder", random_head, "classifier.weight has other values"),
    ("cross_encoder", no_head, "classifier.weight is missing in model.safetensors: libraries draw it at random"),
    ("llm", no_template, "chat_template.jinja (chat template) is missing"),
    ("llm", swapped_answers, "score head: the two answers are swapped"),
    ("llm", other_template, "chat_template.jinja (chat template) has changed"),
]


@pytest.mark.parametrize(("kind", "broken", "cause"), BROKEN, ids=[f"{row[0]}-{row[1].__name__}" for row in BROKEN])
def test_a_broken_export_is_caught_and_its_cause_named(
    kind: str, broken: Callable[[Path], None], cause: str, exports, tmp_path
):
    folder = copied(exports[kind], tmp_path / "broken")
    broken(folder)
    (finding,) = verify(folder, ["sentence-transformers"])
    assert finding.status in (DIFFERS, FAILED), finding
    assert cause in "\n".join(finding.causes), finding
    assert not is_right([finding])


def replays(monkeypatch: pytest.MonkeyPatch, values: torch.Tensor, **options) -> None:
    """Let the "transformers" backend give `values`."""
    module = __import__("recipes.serving.backends.transformers_backend", fromlist=["replay"])
    monkeypatch.setattr(module, "replay", lambda export: {"": Replay(values, **options)})


def served(folder: Path, name: str) -> torch.Tensor:
    """What a server with one known deviation gives."""
    from recipes.serving.reference import Reference
    from recipes.serving.variants import rounded_weights, variants

    reference = Reference.load(Export(folder, read_golden(folder)))
    with torch.no_grad():
        if name in ("bfloat16", "float16"):
            return rounded_weights(reference, name)
        return next(variant.output() for variant in variants(reference) if variant.name.startswith(name))


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [
        ("bi_encoder", "prompt: all prompts are missing"),
        ("bi_encoder", "prompt: all prompts are put twice"),
        ("bi_encoder", "prompt: the query prompt is missing"),
        ("bi_encoder", "BOS: the first special token is missing"),
        ("bi_encoder", "pooling: lasttoken instead of mean"),
        ("bi_encoder", "pooling: the prompt is left out"),
        ("bi_encoder", "normalisation: vectors are not of unit length"),
        ("bi_encoder", "truncation: texts are cut at 32 tokens, not at 64"),
        ("cross_encoder", "token types: all are 0"),
        ("cross_encoder", "activation: a sigmoid is applied"),
        ("cross_encoder", "special tokens: those at the beginning and the end"),
        ("llm", "chat template: absent, query and document are read as a pair"),
        ("llm", "chat template: rows above the length lose the end"),
        ("bi_encoder", "bfloat16"),
        ("cross_encoder", "float16"),
    ],
)
def test_what_a_server_does_wrong_is_named(kind, deviation, exports, monkeypatch):
    replays(monkeypatch, served(exports[kind], deviation))
    (finding,) = verify(exports[kind], ["transformers"])
    assert finding.status == DIFFERS
    assert deviation in finding.causes[0]


def test_a_prompt_of_parts_is_named(tiny_causal_dir, tmp_path):
    folder = export(LLMRerankerConfig(str(tiny_causal_dir), template="mxbai_joined", max_length=256), tmp_path / "x")
    (finding,) = verify(folder, ["sentence-transformers"])
    assert finding.status == DIFFERS
    assert finding.causes == ["tokens: the prompt is tokenised as one text, in training its parts were one by one"]


def test_a_cut_that_joins_tokens_is_noted(tiny_causal_dir, tmp_path, monkeypatch):
    """sentence-transformers puts the end of another prompt behind a document that it cuts."""
    monkeypatch.setattr("inference.golden.LONG", "The history of France goes on for many centuries.")
    folder = export(LLMRerankerConfig(str(tiny_causal_dir), template="mxbai", max_length=300), tmp_path / "x")
    theirs, plain = verify(folder, ["sentence-transformers", "transformers"])
    count = len(read_golden(folder).rows)
    assert [(finding.status, finding.rows) for finding in (theirs, plain)] == [(EQUAL, count - 1), (EQUAL, count)]
    assert "puts the end of a short prompt" in theirs.notes[0]
    assert not plain.notes


def test_an_older_export_is_noted(tiny_causal_dir, tmp_path):
    """Its tokenizer calls control tokens by names that texts can spell."""
    folder = export(LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", max_length=300), tmp_path / "x")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        text = (folder / name).read_text().replace(' | replace("\ufdd0", "\ufffd")', "")
        (folder / name).write_text(text.replace("\ufdd0", ""))
    for finding in verify(folder, ["sentence-transformers", "transformers"]):
        assert finding.status == EQUAL
        assert "reads the control tokens that texts spell in another way" in finding.notes[0]


def test_an_unknown_difference_is_said_to_be_unknown(exports, monkeypatch):
    golden = read_golden(exports["cross_encoder"])
    replays(monkeypatch, golden.values * 3 + 1)
    (finding,) = verify(exports["cross_encoder"], ["transformers"])
    assert finding.causes == ["unknown: none of the known deviations gives this output"]
    replays(monkeypatch, golden.values * torch.nan)
    assert "not all are finite" in verify(exports["cross_encoder"], ["transformers"])[0].causes[0]


def test_rows_that_are_known_to_differ_are_told_apart(exports, monkeypatch):
    golden = read_golden(exports["cross_encoder"])
    values = golden.values
    values[[index for index, row in enumerate(golden.rows) if row.control_tokens]] += 1
    replays(monkeypatch, values, limits={"control_tokens": "reads them"})
    (finding,) = verify(exports["cross_encoder"], ["transformers"])
    assert (finding.status, finding.rows) == (EQUAL, len(golden.rows) - 1)
    assert finding.notes == ["1 golden text(s) differ by 1, left out: this backend reads them"]
    replays(monkeypatch, values)
    assert verify(exports["cross_encoder"], ["transformers"])[0].status == DIFFERS


def test_a_backend_that_is_not_installed_is_named(exports, monkeypatch):
    for package in ("onnxruntime", "openvino", "FlagEmbedding", "infinity_emb", "vllm", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    names = [name for name in BACKENDS if name not in ("plackett", "transformers")]
    findings = verify(exports["cross_encoder"], names)
    assert {finding.status for finding in findings} == {UNAVAILABLE}
    assert [finding.causes[0].partition(":")[0] for finding in findings] == ["not installed"] * 6 + ["no address"]
    assert not is_right(findings), "nothing was checked"


def test_golden_texts_are_small_and_cover_what_goes_wrong(exports):
    for kind in KINDS:
        golden = read_golden(exports[kind])
        assert (exports[kind] / "golden.json").stat().st_size < 40_000
        assert any(row.truncated for row in golden.rows) or golden.max_length > 512
        assert any(row.control_tokens for row in golden.rows)
        assert golden.splits_control_tokens
        write_golden(exports[kind], golden)
        assert read_golden(exports[kind]) == golden


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no golden texts"),
        ("{", "not valid JSON"),
        ("\udcff", "golden.json: not UTF-8"),
        ("[1]", "not golden texts"),
        ("{}", "not golden texts"),
        ('{"format": 9}', "not format 1"),
    ],
)
def test_golden_texts_that_cannot_be_read_say_so(content, message, exports, tmp_path):
    folder = copied(exports["lora"], tmp_path / "broken")
    (folder / "golden.json").unlink()
    if content is not None:
        (folder / "golden.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        verify(folder, ["plackett"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": None}, "not golden texts"),
        ({"prompts": {}}, "query and document"),
        ({"files": None}, "not golden texts"),
        ({"tensors": {"model.safetensors:x": [1]}}, "sums"),
        ({"max_length": "x"}, "length"),
        ({"layout": "texts"}, "rows"),
        ({"rows": []}, "rows"),
        ({"similarities": [[1.0]]}, "similarities"),
    ],
)
def test_golden_texts_with_a_wrong_field_are_refused(changes, message, exports, tmp_path):
    change_json(copied(exports["cross_encoder"], tmp_path / "x") / "golden.json", lambda content: content | changes)
    with pytest.raises(ValueError, match=message) as caught:
        verify(tmp_path / "x", ["plackett"])
    assert "\n" not in str(caught.value)


def test_weights_that_were_cut_are_named(exports, tmp_path):
    file = copied(exports["cross_encoder"], tmp_path / "cut") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    (finding,) = verify(tmp_path / "cut", ["transformers"])
    assert finding.status == FAILED
    assert any("not a whole safetensors file" in cause for cause in finding.causes)


def test_a_backend_without_rows_to_compare_was_not_checked(exports, monkeypatch):
    golden = read_golden(exports["cross_encoder"])
    rows = tuple(replace(row, truncated=True) for row in golden.rows)
    monkeypatch.setattr("recipes.serving.verify.read_golden", lambda folder: replace(golden, rows=rows))
    replays(monkeypatch, golden.values + 1, limits={"truncated": "shortens nothing"})
    findings = verify(exports["cross_encoder"], ["transformers"])
    assert [finding.status for finding in findings] == [UNAVAILABLE]
    assert not is_right(findings)


def test_values_that_are_not_finite_are_a_fault_of_any_backend(exports, monkeypatch):
    golden = read_golden(exports["cross_encoder"])
    replays(monkeypatch, golden.values * torch.nan, informs="8 bits")
    assert verify(exports["cross_encoder"], ["transformers"])[0].status == DIFFERS


def test_vectors_that_are_cut_to_the_values_of_the_golden_texts_differ(exports, monkeypatch):
    golden = read_golden(exports["lora"])
    monkeypatch.setattr("recipes.serving.verify.read_golden", lambda folder: replace(golden, dimension=64))
    replays(monkeypatch, golden.values)
    (finding,) = verify(exports["lora"], ["transformers"])
    assert finding.status == DIFFERS
    assert finding.causes[0].startswith("shape: 32 dimensions, not 64")


def test_values_beyond_those_of_the_golden_texts_are_compared_by_similarity(exports, monkeypatch):
    golden, kept = read_golden(exports["lora"]), 16
    rows = tuple(replace(row, values=row.values[:kept]) for row in golden.rows)
    monkeypatch.setattr("recipes.serving.verify.read_golden", lambda folder: replace(golden, rows=rows))
    monkeypatch.setattr("recipes.serving.verify.KEPT_VALUES", kept)
    replays(monkeypatch, golden.values)
    assert verify(exports["lora"], ["transformers"])[0].status == EQUAL
    other = golden.values.clone()
    other[:, kept:] = other[:, kept:].flip(1)
    other[0, kept:] *= -1
    replays(monkeypatch, other)
    (finding,) = verify(exports["lora"], ["transformers"])
    assert finding.status == DIFFERS
    assert finding.causes[0] == "values beyond the first 16 of an embedding: similarities differ"


def test_a_run_is_no_model(exports, tmp_path):
    copied(exports["cross_encoder"], tmp_path / "run" / "model")
    with pytest.raises(FileNotFoundError, match="is a run: give its model"):
        command.main([str(tmp_path / "run")])


def test_the_command_prints_a_table_or_json_and_its_status(exports, tmp_path, capsys):
    command.main([str(exports["cross_encoder"]), "--backends", "plackett", "transformers"])
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["result", "equal", "equal"]
    folder = copied(exports["cross_encoder"], tmp_path / "broken")
    shuffled_head(folder)
    with pytest.raises(SystemExit) as caught:
        command.main([str(folder), "--backends", "transformers", "--json"])
    assert caught.value.code == 1
    printed = json.loads(capsys.readouterr().out)
    assert not printed["right"]
    assert "shuffled" in printed["backends"][0]["causes"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL", "--backends", "torch"], "choose plackett"),
        (["MODEL", "--backends", "tei"], "--tei http://HOST:PORT"),
        (["MODEL", "--tei", "localhost"], "give an address"),
        (["MODEL", "--tolerance", "0"], "must be above 0"),
        (["nowhere"], "no such folder"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, exports):
    arguments = [str(exports["lora"]) if word == "MODEL" else word for word in arguments]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        command.main(arguments)
