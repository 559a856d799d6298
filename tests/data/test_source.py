from pathlib import Path

import pytest

from data.collection import Collection
from data.source import SourceOptions, Texts, hold_out_dev

QUERIES = {f"q{i}": f"text {i}" for i in range(20)}
TRAIN = {f"q{i}": {"d": 1} for i in range(20)}


class Options(SourceOptions):
    def build(self) -> Collection:
        return self.assemble("tiny", Texts({"d": "wing"}, QUERIES, {"train": TRAIN}))


def test_dev_is_a_fixed_share_of_train():
    parts = hold_out_dev({"train": TRAIN, "test": {"x": {"d": 1}}}, 0.25)
    assert len(parts["dev"]) == 5
    assert not parts["dev"].keys() & parts["train"].keys()
    assert parts["dev"] | parts["train"] == TRAIN
    shuffled = dict(reversed(TRAIN.items()))
    assert hold_out_dev({"train": shuffled}, 0.25)["dev"].keys() == parts["dev"].keys()


def test_dev_of_a_small_or_no_share():
    assert len(hold_out_dev({"train": TRAIN}, 0.001)["dev"]) == 1
    assert hold_out_dev({"train": TRAIN}, 0.0) == {"train": TRAIN}
    one = {"train": {"q": {"d": 1}}}
    assert hold_out_dev(one, 0.5) == one


def test_the_fingerprint_follows_the_content(tmp_path: Path):
    documents = {"d": "wing", "e": "heat"}
    options = Options(cache_dir=str(tmp_path))

    def fingerprint(documents: dict[str, str], qrels: dict) -> str:
        return options.assemble("tiny", Texts(documents, QUERIES, {"train": qrels})).fingerprint

    first = fingerprint(documents, TRAIN)
    assert fingerprint(dict(documents), dict(TRAIN)) == first
    assert fingerprint({**documents, "e": "jet"}, TRAIN) != first
    assert fingerprint(documents, {**TRAIN, "q3": {"d": 2}}) != first


def test_bad_options():
    for fraction in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"data.dev_fraction={fraction} must be in \[0, 1\)"):
            Options(dev_fraction=fraction)
    with pytest.raises(ValueError, match="data tiny: the corpus has no document"):
        Options().assemble("tiny", Texts({}, {}, {}))
    with pytest.raises(ValueError, match="data tiny: all 2 documents of the corpus are empty"):
        Options().assemble("tiny", Texts({"a": "", "b": ""}, {}, {}))
