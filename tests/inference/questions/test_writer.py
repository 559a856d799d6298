"""Texts of requests: the same whatever is written beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inference.questions.writer import Request, Writer
from models.generation.generator import GeneratorConfig
from models.generation.sampling import SamplingOptions

REQUESTS = [Request(f"d{i}", {"document": "red green apple " * (1 + i % 4)}) for i in range(7)]


@pytest.fixture(scope="module")
def writer(tiny_causal_dir) -> Writer:
    return Writer(
        generator=GeneratorConfig(str(tiny_causal_dir), max_length=128).build(0),
        prompts={"question": "Ask: {document}", "other": "{document}"},
        num_texts=2,
        max_new_tokens=6,
        options=SamplingOptions(temperature=1.0, batch_size=4),
        seed=1,
        bf16=False,
    )


def test_every_request_has_its_texts_and_they_differ(writer):
    found = writer.write(REQUESTS)
    assert len(found) == 7
    assert all(
        {kind: len(texts) for kind, texts in each.by_kind.items()} == {"question": 2, "other": 2} for each in found
    )
    assert len({text.text for each in found for texts in each.by_kind.values() for text in texts}) > 20


def test_texts_depend_on_the_request_and_the_seed_alone(writer):
    found = writer.write(REQUESTS)
    assert writer.write(REQUESTS[::-1])[::-1] == found
    assert writer.write(REQUESTS[2:3]) == found[2:3]
    assert replace(writer, num_texts=1).write(REQUESTS)[0].by_kind["other"] == found[0].by_kind["other"][:1]
    assert replace(writer, seed=2).write(REQUESTS) != found


def test_nothing_is_written_about_nothing(writer):
    assert writer.write([]) == []


def test_a_text_that_is_too_long_for_the_prompt_is_noted(writer):
    long = Request("long", {"document": "red " * 300})
    assert [each.was_cut for each in writer.write([REQUESTS[0], long])] == [False, True]
