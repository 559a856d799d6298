"""Known single deviations of serving from training, each as the output that it would give."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from models.pooling import POOLINGS
from recipes.serving.reference import Reference, Rows

LENGTHS = (512, 256, 128, 64, 32)  # tokens at which servers cut
FLOATS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Variant:
    """A deviation: what is different, in words ("pooling: ..."), and the output that it gives."""

    name: str
    output: Callable[[], Tensor]


def variants(reference: Reference) -> Iterator[Variant]:
    """The deviations that may be tried for this kind of model."""
    for name, attributes in reference.model.unread_by_others.items():
        yield Variant(name, lambda own=attributes: _changed(reference, **own))  # type: ignore[misc]
    yield from _of_prompts(reference)
    yield from _of_tokens(reference)
    yield from _of_scores(reference) if reference.pairs else _of_embeddings(reference)
    if reference.export.is_prompted:
        yield from _of_template(reference)


def _of_prompts(reference: Reference) -> Iterator[Variant]:
    if reference.export.is_prompted:
        return
    own = dict(reference.export.golden.prompts)
    for role, prompt in own.items():
        if prompt:
            for what, changed in (
                (f"the {role} prompt is missing", ""),
                (f"the {role} prompt is put twice", prompt * 2),
            ):
                prompts = own | {role: changed}
                yield Variant(f"prompt: {what}", lambda p=prompts: reference.values(reference.rows(p)))  # type: ignore[misc]
    if any(own.values()):
        none, twice = dict.fromkeys(own, ""), {role: prompt * 2 for role, prompt in own.items()}
        yield Variant("prompt: all prompts are missing", lambda: reference.values(reference.rows(none)))
        yield Variant("prompt: all prompts are put twice", lambda: reference.values(reference.rows(twice)))
    if own["query"] != own["document"] and not reference.pairs:
        same = dict.fromkeys(own, own["query"])
        yield Variant("prompt: documents get the query prompt", lambda: reference.values(reference.rows(same)))


def _of_tokens(reference: Reference) -> Iterator[Variant]:
    special = set(reference.tokenizer.tokenizer.all_special_ids)
    cuts = {
        "BOS: the first special token is missing": (True, False),
        "special tokens: the last one (EOS) is missing": (False, True),
        "special tokens: those at the beginning and the end are missing": (True, True),
    }
    for name, (first, last) in cuts.items():
        yield Variant(name, lambda f=first, e=last: reference.values(_trimmed(reference.rows(), special, f, e)))  # type: ignore[misc]
    for length in LENGTHS:
        if length != reference.tokenizer.max_length:
            yield Variant(
                f"truncation: texts are cut at {length} tokens, not at {reference.tokenizer.max_length}",
                lambda n=length: _values_cut_at(reference, n),  # type: ignore[misc]
            )
    yield Variant("control tokens: those that texts spell are read as such", lambda: _reading_control_tokens(reference))
    if reference.pairs and not reference.export.is_prompted:
        name = "tokens: texts are tokenised, decoded and tokenised again (FlagEmbedding under transformers 5)"
        yield Variant(name, lambda: _tokenised_twice(reference))
    if "token_type_ids" in reference.tokenizer.tokenizer.model_input_names and reference.pairs:
        yield Variant("token types: all are 0", lambda: reference.values(_without_types(reference.rows())))


def _trimmed(rows: Rows, special: set[int], first: bool, last: bool) -> Rows:
    """Rows without their first or last token, if that is a special one."""
    result: dict[str, list[list[int]]] = {name: [] for name in rows}
    for index, ids in enumerate(rows["input_ids"]):
        start = int(first and ids[0] in special)
        end = len(ids) - int(last and ids[-1] in special)
        for name, values in rows.items():
            whole = name == "truncated" or end <= start
            result[name].append(list(values[index]) if whole else list(values[index][start:end]))
    return result


def _values_cut_at(reference: Reference, length: int) -> Tensor:
    if not reference.pairs and length > reference.tokenizer.tokenizer.model_max_length > 0:
        return torch.empty(0)
    try:
        cut = reference.with_tokenizer(max_length=length)
        return cut.values(cut.rows())
    except (ValueError, IndexError, RuntimeError):  # the model cannot read so many, or its prompt is longer
        return torch.empty(0)


def _reading_control_tokens(reference: Reference) -> Tensor:
    other = reference.with_tokenizer(split_special_tokens=False)
    return other.values(other.rows())


def _tokenised_twice(reference: Reference) -> Tensor:
    tokenizer, limit = AutoTokenizer.from_pretrained(reference.export.path), reference.tokenizer.max_length
    first, second = map(list, zip(*reference.export.prompted_pairs, strict=True))
    options: dict[str, Any] = {"truncation": True, "max_length": limit, "add_special_tokens": False}
    again = [
        [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in tokenizer(texts, **options).input_ids]
        for texts in (first, second)
    ]
    rows: Rows = tokenizer(*again, truncation="only_second", max_length=limit, return_attention_mask=False).data
    return reference.values(rows)


def _without_types(rows: Rows) -> Rows:
    return {**rows, "token_type_ids": [[0] * len(ids) for ids in rows["input_ids"]]}


def _of_scores(reference: Reference) -> Iterator[Variant]:
    scores = reference.values(reference.rows())
    yield Variant("score head: the two answers are swapped, or the sign is", lambda: -scores)
    yield Variant("activation: a sigmoid is applied", lambda: scores.sigmoid())
    yield Variant("activation: a sigmoid is applied twice", lambda: scores.sigmoid().sigmoid())
    yield Variant("activation: none is applied", lambda: scores)


def _of_embeddings(reference: Reference) -> Iterator[Variant]:
    model = reference.model
    towers = model.text_towers
    if not towers:
        return
    modes = towers[0].modes
    for mode in POOLINGS:
        if [mode] != list(modes) and len(modes) == 1:
            yield Variant(f"pooling: {mode} instead of {modes[0]}", lambda m=mode: _pooled_by(reference, m))  # type: ignore[misc]
    if any(reference.export.golden.prompts.values()):
        include = reference.tokenizer.include_prompt
        other = reference.with_tokenizer(include_prompt=not include)
        what = "the prompt is left out of" if include else "the prompt is part of"
        yield Variant(f"pooling: {what} the pooling", lambda: other.values(other.rows()))
    unit = model.unit_length
    what = "vectors are not of unit length" if unit else "vectors are of unit length"
    yield Variant(f"normalisation: {what}", lambda: _changed(reference, unit_length=not unit))
    if len(towers[0].dense):
        yield Variant("projection: the linear layer is missing", lambda: _without_dense(reference))


def _pooled_by(reference: Reference, mode: str) -> Tensor:
    towers = reference.model.text_towers
    before = [tower.modes for tower in towers]
    try:
        for tower in towers:
            tower.modes = [mode]
        return reference.values(reference.rows())
    finally:
        for tower, modes in zip(towers, before, strict=True):
            tower.modes = modes


def _changed(reference: Reference, **attributes: Any) -> Tensor:
    with reference.changed(attributes):
        return reference.values(reference.rows())


def _without_dense(reference: Reference) -> Tensor:
    model = copy.deepcopy(reference.model)
    for tower in model.text_towers:
        tower.dense = torch.nn.Sequential()
    return replace(reference, model=model).values(reference.rows())


def _of_template(reference: Reference) -> Iterator[Variant]:
    template = reference.tokenizer.prompt_template
    if len(template.pieces) > 1:
        whole = reference.with_tokenizer(template=replace(template, pieces=["".join(template.pieces)]))
        name = "tokens: the prompt is tokenised as one text, in training its parts were one by one"
        yield Variant(name, lambda: whole.values(whole.rows()))
    yield from _without_template(reference)


def _without_template(reference: Reference) -> Iterator[Variant]:
    tokenizer, limit = reference.tokenizer.reader.tokenizer, reference.tokenizer.max_length
    texts = [row.texts for row in reference.export.golden.rows]
    joined = {join: [query + join + document for query, document in texts] for join in ("", " ", "\n")}
    ways: Mapping[str, tuple[Any, ...]] = {
        "as a pair": tuple(map(list, zip(*texts, strict=True))),
        **{f"joined by {join!r}": (rows,) for join, rows in joined.items()},
    }
    for way, given in ways.items():
        yield Variant(
            f"chat template: absent, query and document are read {way}",
            lambda g=given: reference.values(  # type: ignore[misc]
                {"input_ids": tokenizer(*g, truncation=True, max_length=limit).input_ids}
            ),
        )
    yield Variant("chat template: rows above the length lose the end of the prompt", lambda: _cut_at_the_end(reference))


def _cut_at_the_end(reference: Reference) -> Tensor:
    whole = reference.with_tokenizer(max_length=1 << 20)
    rows = [ids[: reference.tokenizer.max_length] for ids in whole.rows()["input_ids"]]
    return reference.values({"input_ids": rows})


def rounded_weights(reference: Reference, name: str) -> Tensor:
    """The output with weights rounded to a shorter type of number ("bfloat16", "float16")."""
    model = copy.deepcopy(reference.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(FLOATS[name]))
    return replace(reference, model=model).values(reference.rows())
