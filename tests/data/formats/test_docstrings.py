from dataclasses import replace
from pathlib import Path

import pytest

from data.collection import Collection
from data.formats import docstrings
from data.formats.docstring_pairs import words_of
from data.formats.docstrings import DocstringsConfig

FUNCTION = '''
def {name}(values):
    """{verb} the {topic} of every {module} record.

    The {topic} is taken over all {extra} values, in order, and {module} keeps the result for later calls of {name}.
    """
    raise SystemExit("sources are never imported")
'''
TOPICS = ("mean", "median", "norm", "range", "length", "product", "rank", "order")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DocstringsConfig:
    """Two packages of 15 modules; `shared` is in several modules, `mean_...` in one each."""
    for package in ("fakelib", "otherlib"):
        root = tmp_path / "site" / package
        (root / "tests").mkdir(parents=True)
        (root / "__init__.py").write_text("raise SystemExit('sources are never imported')")
        (root / "tests" / "extra.py").write_text(
            FUNCTION.format(name="x", verb="Test", topic="a", module="b", extra="c")
        )
        for number in range(15):
            module = f"{package}module{number}"
            names = [(f"{topic}_{module}", topic) for topic in TOPICS]
            names += [("shared", "spread")] * (number < 4) + [("common", "crowd")]
            source = [
                FUNCTION.format(name=name, verb="Compute" if i % 2 else "Some", topic=topic, module=module, extra=i)
                for i, (name, topic) in enumerate(names)
            ]
            (root / f"part{number}.py").write_text("\n".join(source))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return DocstringsConfig(
        packages=("fakelib", "otherlib"), cache_dir=str(tmp_path / "cache"), test_fraction=0.3, dev_fraction=0.2
    )


@pytest.fixture
def collection(config: DocstringsConfig) -> Collection:
    return config.build()


def test_documents_answer_without_repeating_the_sentence(collection: Collection):
    assert len(collection.documents) == 2 * (15 * 9 + 4)
    assert collection.documents["fakelib.part3.shared"] == (
        "shared The spread is taken over all 8 values, in order, and fakelibmodule3 keeps the result for later calls "
        "of shared."
    )
    for split in collection.splits.values():
        for query, text in split.queries.items():
            assert split.qrels[query][query] == 2
            assert words_of(text) not in words_of(collection.documents[query])


def test_splits_do_not_share_modules(collection: Collection):
    modules = [{query.rpartition(".")[0] for query in split.queries} for split in collection.splits.values()]
    assert all(modules)
    assert sum(map(len, modules)) == len(set.union(*modules)) == 30
    assert any(text.endswith("?") for split in collection.splits.values() for text in split.queries.values())


def test_functions_of_the_same_name_in_a_library_are_relevant(collection: Collection):
    graded = [(query, judged) for split in collection.splits.values() for query, judged in split.qrels.items()]
    related = {(query, other) for query, judged in graded for other, grade in judged.items() if grade == 1}
    assert related
    for query, other in related:
        assert query.rpartition(".")[2] == other.rpartition(".")[2]
        assert query.partition(".")[0] == other.partition(".")[0]
        assert other != query
    assert max(len(judged) for _, judged in graded) == 1 + docstrings.MAX_RELATED
    train = collection.split("train").queries
    crowded = [query for query in train if query.startswith("fakelib") and query.endswith(".common")]
    if len(crowded) > docstrings.MAX_SAME_NAME:
        assert all(len(collection.split("train").qrels[query]) == 1 for query in crowded)
    for split in collection.splits.values():
        assert all(other in split.queries for judged in split.qrels.values() for other in judged)


def test_built_once_and_again_after_a_change(
    config: DocstringsConfig, collection: Collection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with monkeypatch.context() as patch:
        patch.setattr(docstrings, "read_pairs", None)  # a second build would fail
        assert config.build().fingerprint == collection.fingerprint
    elsewhere = replace(config, cache_dir=str(tmp_path / "elsewhere"))
    assert elsewhere.build().fingerprint == collection.fingerprint
    source = tmp_path / "site" / "fakelib" / "part0.py"
    source.write_text(source.read_text().replace("in order", "in disorder"))
    assert config.build().fingerprint != collection.fingerprint


def test_limits(config: DocstringsConfig):
    limited = replace(config, max_train_queries=5, max_dev_queries=3, max_test_queries=4, max_words=13).build()
    assert [len(split.queries) for split in limited.splits.values()] == [5, 3, 4]
    assert {len(text.split()) for text in limited.documents.values()} == {14}


def test_what_cannot_be_built_is_refused(config: DocstringsConfig, tmp_path: Path):
    with pytest.raises(ValueError, match=r"data.packages: no package 'nolib' is installed"):
        replace(config, packages=("nolib",)).build()
    with pytest.raises(ValueError, match=r"data.packages is empty; name installed packages"):
        replace(config, packages=())
    with pytest.raises(ValueError, match=r"data.test_fraction=0.9 must be above 0 and below 1 - data.dev_fraction"):
        replace(config, test_fraction=0.9)
    for path in (tmp_path / "site" / "fakelib").glob("part*.py"):
        path.unlink()
    with pytest.raises(
        ValueError, match=r"data.packages=\['fakelib'\]: too few docstrings for three splits; name more"
    ):
        replace(config, packages=("fakelib",)).build()
