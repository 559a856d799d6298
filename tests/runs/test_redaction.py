"""What is a secret, and that the rest stays readable."""

import time

import pytest

from launch.cli.compose import compose
from runs.redaction import HIDDEN, is_secret, redact, redact_command, redact_tree

OTHERS = ["client-secret", "logger.private_key", "GOOGLE_CREDENTIALS"]


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "HF_TOKEN",
        "hub.token",
        "api_key",
        "WANDB_API_KEY",
        "apiKey",
        "accessToken",
        "PGPASSWORD",
        "dbpassword",
        "AWS_SECRET_ACCESS_KEY",
        "db_password",
        *OTHERS,
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["trainer.token_budget", "max_tokens", "tokenizer", "pooling", "key", "keys", "lasttoken", "monkey", "secretary"],
)
def test_names_of_what_is_none(name: str) -> None:
    assert not is_secret(name)


MORE = ["wandb_v1_" + "q" * 30, "xoxb-123456789012-abc", "glpat-" + "k" * 20]


@pytest.mark.parametrize(
    "secret",
    ["hf_" + "a1B2" * 8, "ghp_" + "x" * 36, "github_pat_" + "y" * 30, "sk-" + "z" * 40, "AKIA" + "ABCD" * 4, *MORE],
)
@pytest.mark.parametrize("around", ["{}", "'{}'", "bad key {}.", "model={}", "x/{}/y"])
def test_tokens_are_known_by_their_form(secret: str, around: str) -> None:
    assert secret not in redact(around.format(secret))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data.path=https://me:pa55@host/x.jsonl", f"data.path=https://{HIDDEN}@host/x.jsonl"),
        ("git+ssh://tok3n@host/repo", f"git+ssh://{HIDDEN}@host/repo"),
        ("s3://b/x?X-Amz-Signature=abc123&y=1", f"s3://b/x?X-Amz-Signature={HIDDEN}&y=1"),
        ("Authorization: Bearer abcdefgh.ijkl", f"Authorization: Bearer {HIDDEN}"),
        ("{'api_key': 'abc', 'k': 1}", f"{{'api_key': '{HIDDEN}', 'k': 1}}"),
        ("hub.token=abc trainer.max_steps=3", f"hub.token={HIDDEN} trainer.max_steps=3"),
        ("--api-key abc --steps 3", f"--api-key {HIDDEN} --steps 3"),
        ("data.password='correct horse' x='a b'", f"data.password='{HIDDEN}' x='a b'"),
        ("{'password': \"it's, two\", 'k': 1}", f"{{'password': \"{HIDDEN}\", 'k': 1}}"),
        ("password: hunter2", f"password: {HIDDEN}"),
    ],
)
def test_what_is_hidden_and_what_stays(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "trainer.token_budget=1024: lower trainer.token_budget (tokens per chunk)",
        "pooling: lasttoken",
        "loss.temperature=0.05 model.name_or_path=Qwen/Qwen3-0.6B data.path=../shared/data/scifact",
        "mail someone@example.org, see https://example.org/a@b",
        "config.yaml:3: a key is missing",
        "api_key: null",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a.b-",
        "x_",
        "token",
        "token_",
        "a://",
        "&k_",
        "--k-",
        "token: ",
        "hf_",
        "secret =  ",
        "token='",
        "token='a=\"",
    ],
)
def test_a_long_line_takes_no_time(piece: str) -> None:
    started = time.perf_counter()
    redact(piece * (100_000 // len(piece)))
    assert time.perf_counter() - started < 10  # seconds; quadratic ones take minutes


def test_the_value_of_a_secret_variable_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "plain-looking-value")
    monkeypatch.setenv("SHORT_TOKEN", "at")
    monkeypatch.setenv("HOME_PAGE", "https-page-value")
    assert redact("got plain-looking-value at https-page-value") == f"got {HIDDEN} at https-page-value"


def test_a_command_line() -> None:
    shown = redact_command(["launch/train.py", "+exp=x", "+hub.token=a b", "--api-key", "c d", "data.path=e f"])
    assert shown == f"launch/train.py +exp=x '+hub.token={HIDDEN}' --api-key {HIDDEN} 'data.path=e f'"


def test_a_tree_keeps_its_shape_and_every_setting_of_ours() -> None:
    tree = {"a": [{"token": "x", "n": 1}], "secrets": {"any": "y"}, "password": 5, "api_key": None, "path": "u://a:b@c"}
    assert redact_tree(tree) == {
        "a": [{"token": HIDDEN, "n": 1}],
        "secrets": {"any": "y"},
        "password": HIDDEN,
        "api_key": None,
        "path": f"u://{HIDDEN}@c",
    }
    config = compose(["+exp=reranker_grpo"])
    assert redact_tree(config) == config
