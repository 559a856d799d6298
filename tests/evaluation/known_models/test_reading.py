"""A user's file of facts: what is read, and the one line that says what is wrong."""

from __future__ import annotations

import json

import pytest

from evaluation.known_models.catalogue import known_models
from evaluation.known_models.facts import Fact

FACT = "{value: 512, source: team, date: 2026-05}"
MODEL = "models: {org/own: {kind: embedder, facts: %s}}"


def write(folder, text: str):
    file = folder / "facts.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_facts_of_named_sources_urls_and_texts(tmp_path):
    file = write(
        tmp_path,
        """
sources: {team: {url: "https://wiki.example.org/中文", date: 2026-05-31}}
models:
  org/own:
    kind: reranker
    hosted: true
    facts:
      context: {value: 512, source: team}
      parameters: {value: 1000, source: team, date: 2026-06}
      prompts: {value: {query: "问题 "}, source: "https://example.org", date: 2026-01-02, note: n}
      trained_on: [{value: [nq], source: measured by us, date: 2026-01}, {value: [], source: team}]
""".replace("value: []", "value: [fever]"),
    )
    model = known_models([file]).models["org/own"]
    assert (model.kind, model.hosted) == ("reranker", True)
    assert model.fact("context") == Fact(512, "https://wiki.example.org/中文", "2026-05-31")
    assert model.fact("parameters").date == "2026-06"
    assert model.fact("prompts") == Fact({"query": "问题 "}, "https://example.org", "2026-01-02", "n")
    assert [fact.value for fact in model.facts["trained_on"]] == [("nq",), ("fever",)]
    assert model.facts["trained_on"][0].source == "measured by us"


def test_json_is_read_too(tmp_path):
    fact = {"value": 71.2, "source": "https://example.org", "date": "2026-05-31"}
    file = write(tmp_path, json.dumps({"models": {"org/own": {"kind": "embedder", "facts": {"beir": fact}}}}))
    assert known_models([file]).models["org/own"].fact("beir").value == 71.2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "facts.yaml is empty: `key: value` lines are needed"),
        ("- a", r"facts.yaml is \"\['a'\]\""),
        ("models: {}", "models is missing or empty"),
        ("modles: {}", r"modles is not a key \(did you mean models\?\); valid: sources, models"),
        ("models: [a]", "models is"),
        ("models: {1: {}}", "the key 1 is not a text: put it in quotes"),
        ("models: {a: {kind: embedder, facts: {}}}", "models.a has no facts"),
        (
            "models: {a: {kind: embedder, facts: {context: 512}}}",
            r"models.a.facts.context has no source: write \{value",
        ),
        (
            "models: {a: {facts: {context: FACT}}}".replace("FACT", FACT),
            "models.a.kind is missing: one of embedder, reranker",
        ),
        ("models: {a: {kind: rerankers, facts: {}}}", r"'rerankers' \(did you mean reranker\?\)"),
        ("models: {a: {kind: embedder, hosted: maybe, facts: {}}}", "hosted is 'maybe': write true"),
        (
            "models: {baai/bge-M3: {kind: reranker, facts: {context: FACT}}}".replace("FACT", FACT),
            "BAAI/bge-m3 is known as embedder",
        ),
        ("models: {a: {kind: embedder}, A: {kind: embedder}}", "models.a has no facts"),
        ("models: {a: {}, a: {}}", "facts.yaml:1: not valid YAML: the key a is there twice"),
        ("models: {a: {kind: embedder,\n facts: [}", "facts.yaml:2: not valid YAML"),
        ("models: \x07", "not valid YAML: unacceptable character"),
        (MODEL % "{contxt: %s}" % FACT, r"facts: contxt is not a key \(did you mean context\?\)"),
        (MODEL % "{context: {value: 512, source: 'https://e.org'}}", "context: date is missing"),
        (MODEL % "{context: {value: 512, date: 2026-05}}", "context: source is missing: who says so?"),
        (MODEL % "{context: {source: team, date: 2026-05}}", "context: value is missing"),
        (MODEL % "{context: {value: 1, source: team, date: 2026-05}}", "'team' is not in sources: add it there"),
        ("sources: {team: {url: u}}\n" + MODEL % "{}", "sources.team: date is missing"),
        ("sources: {team: {url: u, date: 2026}}\n" + MODEL % "{}", "sources.team.date is 2026: write 2026-05-31"),
        (
            "sources: {team/x: {url: u, date: 2026-05}}\n" + MODEL % "{context: {value: 1, source: team/xy}}",
            r"'team/xy' is not in sources \(did you mean team/x\?\)",
        ),
        *(
            (MODEL % "{%s: {value: %s, source: a b, date: 2026-05}}" % (name, value), message)
            for name, value, message in [
                ("context", "8k", "context.value is '8k': a whole number"),
                ("context", "true", "context.value is True: a whole number"),
                ("context", "0", "context.value is 0: a whole number of at least 1"),
                ("context", "512.5", "a whole number"),
                ("price", "'0.1'", "price.value is '0.1': a number is needed, without quotes or unit"),
                ("price", "-1", "at least 0"),
                ("price", ".nan", "a number is needed"),
                ("beir", "0.575", "beir.value is 0.575: figures are on a scale of 100; write 57.5"),
                ("beir", "157", "from 0 to 100"),
                ("beir_by_set", "71", "beir_by_set.value is '71': `key: value` lines"),
                ("beir_by_set", "{scifact: 0.71}", "beir_by_set.value.scifact is 0.71: figures are on a scale of 100"),
                ("dimensions", "256", r"dimensions.value is 256: a list is needed"),
                ("dimensions", "[256, a]", r"dimensions.value\[1\] is 'a'"),
                ("prompts", "{queries: a}", r"queries is not a key \(did you mean query\?\)"),
                ("licence", "1", "licence.value is 1: a text is needed"),
                ("released", "2026-13-01", "released.value is '2026-13-01': write 2026-05-31 or 2026-05"),
                ("released", "May 2026", "'May 2026': write"),
            ]
        ),
    ],
)
def test_one_line_says_where_and_what(tmp_path, text, message):
    file = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as raised:
        known_models([file])
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_two_spellings_of_one_model_are_refused(tmp_path):
    own = "{kind: embedder, facts: {context: {value: 512, source: a b, date: 2026-05}}}"
    with pytest.raises(ValueError, match=r"models.A/X and models.a/x are the same model: give it once"):
        known_models([write(tmp_path, f"models: {{a/x: {own}, A/X: {own}}}")])


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.yaml: no such file of facts"):
        known_models([tmp_path / "none.yaml"])
    with pytest.raises(FileNotFoundError, match="no such file of facts"):
        known_models([tmp_path])
    (tmp_path / "latin.yaml").write_bytes("models: é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.yaml is not UTF-8 \(byte 8\): save it as UTF-8"):
        known_models([tmp_path / "latin.yaml"])
