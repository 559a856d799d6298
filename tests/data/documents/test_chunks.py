"""Chunks: limits, overlap, and that nothing of a document is lost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.documents.chunks import Chunk, ChunkOptions, chunks_of, last_words, size_of
from data.documents.document import Document, Section
from data.documents.sentences import first_sentence, sentences_of
from data.inspection.unspaced import count_words

TEXTS = st.text(st.sampled_from("ab \n.!\u5317\u3002\u4eac"), max_size=300)


def own_text(chunk: Chunk) -> str:
    """The text without what the chunk before has."""
    return chunk.text[chunk.head :]


@settings(deadline=None, max_examples=200)
@given(st.lists(TEXTS, max_size=6), st.integers(10, 30), st.integers(0, 5))
def test_nothing_is_lost_and_no_chunk_is_too_long(paragraphs, words, overlap):
    section = Section("", [part for part in paragraphs if part.strip()])
    chunks = chunks_of(Document("", [section]), ChunkOptions(words, overlap))
    assert "".join("".join(map(own_text, chunks)).split()) == "".join("".join(section.paragraphs).split())
    for before, chunk in pairwise(chunks):
        head = chunk.text[: chunk.head]
        assert before.text.endswith(head.removesuffix("\n"))
        assert before.tail == max(chunk.head - 1, 0)
        assert count_words(head) <= max(overlap, 1) * 3  # words of mixed scripts, and marks, count one by one


def test_sections_do_not_share_a_chunk_and_paragraphs_are_kept_whole():
    first, second = Section("One", ["a b c d e f", "g h i j"]), Section("Two", ["k l"])
    chunks = chunks_of(Document("", [first, second]), ChunkOptions(10, 2))
    assert [(chunk.section.heading, chunk.text, chunk.is_first_of_section) for chunk in chunks] == [
        ("One", "a b c d e f\n\ng h i j", True),
        ("Two", "k l", True),
    ]
    chunks = chunks_of(Document("", [Section("", ["a b c d e f", "g h i j k"])]), ChunkOptions(10, 2))
    assert [(chunk.text, chunk.head, chunk.tail) for chunk in chunks] == [
        ("a b c d e f", 0, 3),
        ("e f\ng h i j k", 4, 0),
    ]


def test_signs_count_and_a_word_is_cut_only_if_it_is_longer_than_a_chunk():
    text = "f(a.b) " * 4 + "x." * 30
    chunks = chunks_of(Document("", [Section("", [text])]), ChunkOptions(15, 0))
    assert [size_of(chunk.text) for chunk in chunks] == [12, 15, 15, 15, 15, 12]
    assert chunks[0].text == "f(a.b) f(a.b)"
    assert "".join("".join(chunk.text for chunk in chunks).split()) == text.replace(" ", "")


def test_sentences():
    text = "We saw e.g. Dr. Who (cf. Fig. 2). Is it? Yes!  \u4f60\u597d\u3002\u518d\u89c1\u3002 pi is 3.14 or so"
    assert "".join(sentences_of(text)) == text
    assert first_sentence(text) == "We saw e.g. Dr. Who (cf. Fig. 2)."
    assert [part.strip() for part in sentences_of(text)][1:3] == ["Is it?", "Yes!"]
    assert first_sentence("\u0939\u093e\u0901\u0964 \u0928\u0939\u0940\u0902\u0964") == "\u0939\u093e\u0901\u0964"
    assert sentences_of("") == []


def test_the_end_of_a_text():
    assert last_words("One two. Three four five.", 4) == "Three four five."
    assert last_words("One two three", 2) == "two three"
    assert last_words("\u5317\u4eac\u662f\u9996\u90fd", 2) == "\u9996\u90fd"
    assert last_words("One", 5) == "One"


@pytest.mark.parametrize(("words", "overlap"), [(9, 0), (20, 11), (20, -1)])
def test_wrong_options(words, overlap):
    with pytest.raises(ValueError, match=r"^data\.chunks\.(words|overlap)="):
        ChunkOptions(words, overlap)
