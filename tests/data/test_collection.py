import re

import pytest

from data.collection import Collection, Split, content_hash, normalised

DOCUMENTS = {"d1": "one", "d2": "two"}


def split(**queries: str) -> Split:
    return Split(dict(queries), {query: {"d1": 1} for query in queries}, {query: [("d1", 1.0)] for query in queries})


def test_splits_by_name():
    collection = Collection("tiny", DOCUMENTS, {"test": split(q1="a wing")}, "hash")
    assert collection.split("test").queries == {"q1": "a wing"}
    with pytest.raises(ValueError, match=re.escape("data tiny has no train split (it has: test)")):
        collection.split("train")


@pytest.mark.parametrize("train", [{"q1": "another"}, {"q2": "The  WING"}])
def test_a_query_of_two_splits_is_refused(train: dict[str, str]):
    with pytest.raises(ValueError, match=r"tiny: query 'q1' of split test is query 'q[12]' of split train; remove it"):
        Collection("tiny", DOCUMENTS, {"train": split(**train), "test": split(q1="the wing")}, "hash")


def test_a_query_without_candidates_is_refused():
    with pytest.raises(ValueError, match="tiny: query 'q1' of split test has no candidates; give it some"):
        Collection("tiny", DOCUMENTS, {"test": Split({"q1": "a"}, {"q1": {"d1": 1}}, {})}, "hash")


@pytest.mark.parametrize(
    "same",
    [
        ("What  is\tC++\n", "what IS c++"),
        ("\uff23\uff35\uff24\uff21\u3000\uff11\uff12", "cuda 12"),  # full width, ideographic space
        ("caf\u00e9", "cafe\u0301"),
        ("\ufb01le", "FILE"),
        ("Straße", "STRASSE"),
        ("ΛΟΓΟΣ", "λογος"),
        ("\u01f0", "J\u030c"),
    ],
)
def test_texts_are_equal_up_to_case_form_and_white_space(same: tuple[str, str]):
    assert normalised(same[0]) == normalised(same[1]) == normalised(normalised(same[0]))


@pytest.mark.parametrize(
    "different",
    [
        ("a < b", "a > b"),
        ("C++", "C#"),
        ("🙂", "🙁"),
        ("दिन", "दान"),
        ("กิน", "กัน"),
        ("it's", "its"),
        ("the rapist", "therapist"),
        ("!", ""),
    ],
)
def test_every_sign_of_a_text_counts(different: tuple[str, str]):
    assert normalised(different[0]) != normalised(different[1])


def test_the_content_hash_sees_order_and_boundaries():
    hashes = [content_hash({"a": 1}, ["b"]), content_hash({"a": 1, "b": 2}), content_hash({"b": 2, "a": 1})]
    assert len(set(hashes)) == 3
    assert content_hash(["a"], ["b"]) != content_hash(["a", "b"])
    assert content_hash({"a": {"b": 1}}) == content_hash({"a": {"b": 1}})


def test_a_split_without_a_relevant_document_is_refused():
    unjudged = Split({"q1": "a", "q2": "b"}, {"q1": {"d1": 0}, "q2": {"d1": -1}}, {"q1": [], "q2": []})
    with pytest.raises(ValueError, match="data tiny: none of the 2 test queries has a relevant document"):
        Collection("tiny", DOCUMENTS, {"test": unjudged}, "hash").split("test")
