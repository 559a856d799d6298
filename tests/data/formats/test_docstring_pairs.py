import pytest

from data.formats.docstring_pairs import (
    as_query,
    package_root,
    public_docstrings,
    read_pairs,
    source_files,
    split_docstring,
)

DOCSTRING = """Return the :func:`~numpy.fft.fft` of ``a`` along
    the last axis, e.g. of a signal. The rest of the paragraph.

    Parameters
    ----------
    a : array_like
        Input, which may be complex.

    .. versionadded:: 1.0
    >>> fft([1, 2])
    See https://example.org/%s for more of the same.
    """ % ("x" * 50)


def test_sentence_and_rest():
    sentence, rest = split_docstring(DOCSTRING, 60)
    assert sentence == "Return the numpy.fft.fft of a along the last axis, e.g. of a signal"
    assert rest == (
        "The rest of the paragraph. Parameters a : array_like Input, which may be complex. See for more of the same."
    )
    assert split_docstring(DOCSTRING, 12)[1].split()[-1] == "may"


@pytest.mark.parametrize(
    ("summary", "rest"),
    [
        ("Too short", "word " * 20),
        ("Long " + "word " * 25, "word " * 20),
        ("sort(a, axis=-1, kind=None, order=None)", "word " * 20),
        ("Compute the norm of a vector.", "too little is said here."),
        ("Compute the norm of a vector.", "Compute the NORM, of a vector. " + "word " * 20),
    ],
)
def test_poor_docstrings_are_left_out(summary: str, rest: str):
    assert split_docstring(f"{summary}\n\n{rest}", 40) is None


def test_questions_are_made_of_sentences_with_a_verb():
    sentences = [f"Computes the norm of {i} vectors" for i in range(200)]
    queries = [as_query(sentence) for sentence in sentences]
    questions = [query for query in queries if query.endswith("?")]
    assert queries == [as_query(sentence) for sentence in sentences]
    assert 70 < len(questions) < 130
    assert {question.split(" compute ")[0] for question in questions} == {
        "How do I",
        "How can I",
        "Which function can",
        "What should I call to",
    }
    nouns = [f"A set of {i} vectors" for i in range(20)]
    assert [as_query(noun) for noun in nouns] == nouns
    verbs = {
        as_query(f"{verb} it {i}").removesuffix("?").split()[-3] for i in range(20) for verb in ("Fetches", "Applies")
    }
    assert {"fetch", "apply"} <= verbs


def test_only_public_definitions_are_read():
    source = '''
def one():
    """First."""
def _two():
    """Second."""
class Three:
    """Third."""
    def four(self):
        """Fourth."""
        def five():
            """Fifth."""
if True:
    async def six():
        """Sixth."""
raise SystemExit("never run")
'''
    found = list(public_docstrings(source.encode()))
    assert found == [("one", "First."), ("Three", "Third."), ("Three.four", "Fourth."), ("six", "Sixth.")]
    assert list(public_docstrings(b"def {{ name }}():")) == []


def test_an_installed_package():
    files = [path.relative_to(package_root("numpy")).as_posix() for path in source_files("numpy")]
    assert "_core/fromnumeric.py" in files
    assert not any(file.startswith(("tests/", "testing/", "_pyinstaller/")) for file in files)
    pairs = {pair.identifier: pair for pair in read_pairs("numpy", 40)}
    norm = pairs["numpy.linalg._linalg.norm"]
    assert (norm.package, norm.name, norm.sentence) == ("numpy", "norm", "Matrix or vector norm")
    assert len(norm.rest.split()) == 40
    assert len(pairs) > 300


def test_a_package_that_is_not_there():
    for name in ("no_such_package", "numpy.linalg", "json.decoder"):
        with pytest.raises(
            ValueError, match=f"data.packages: no package '{name}' is installed; install it or leave it"
        ):
            package_root(name)
