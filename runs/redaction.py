"""Redact secrets in all that a run writes or sends to trackers: settings, commands, tracebacks."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

HIDDEN = "***"
MIN_SECRET_LENGTH = 8  # shortest value of an environment variable that is redacted: shorter ones occur by chance

# A setting, flag or variable holds a secret if its name ends in one of these words (token_budget does not). Some words
# count at the end of any name (PGPASSWORD), others only as a separate word (accessToken, auth_token).
_SEPARATE_WORD = r"(?:(?<![a-z])|(?-i:(?<=[a-z])(?=[A-Z])))(?:token|(?:api|access|secret|private)[_-]?key)"
_NAME = rf"(?:secrets?|password|passwd|passphrase|credentials?|{_SEPARATE_WORD})"
_SECRET_NAME = re.compile(rf"{_NAME}$", re.IGNORECASE)
# No pattern starts with an unbounded repetition, which would be slow: a traceback may hold a line of any length.
_BEFORE_VALUE = rf"(?P<kept>{_NAME}['\"]?\s{{0,3}}[=:]\s{{0,3}}['\"]?)"
_BEFORE_QUOTE = rf"(?P<kept>{_NAME}['\"]?\s{{0,3}}[=:]\s{{0,3}}(?P<quote>['\"]))"
_PATTERNS = (
    # user:password@ in a URL, then tokens and signatures in its query
    (re.compile(r"(?P<kept>\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@'\"]+@", re.I), rf"\g<kept>{HIDDEN}@"),
    (
        re.compile(rf"(?P<kept>[?&](?:[\w-]{{0,40}}[_-])?(?:{_NAME}|key|sig|signature)=)[^&\s'\"]+", re.I),
        rf"\g<kept>{HIDDEN}",
    ),
    (re.compile(r"(?P<kept>\b(?:Bearer|Basic)\s+)[\w.~+/=-]{8,}", re.I), rf"\g<kept>{HIDDEN}"),
    # Tokens with the prefix of their issuer: Hugging Face, W&B, GitHub, GitLab, OpenAI and others, Slack, AWS.
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}|\bapi_org_[A-Za-z0-9]{16,}|\bwandb_v1_\w{16,}"), HIDDEN),
    (re.compile(r"\bgh[oprsu]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"), HIDDEN),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{16,}|\bxox[abprs]-[\w-]{10,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), HIDDEN),
    # key='several words', key=value, --key value, "key": "value"
    (
        re.compile(_BEFORE_QUOTE + r"(?:\\.|(?!(?P=quote))[^\\\n])+(?=(?P=quote))", re.I),
        rf"\g<kept>{HIDDEN}",
    ),
    (re.compile(_BEFORE_VALUE + r"(?!\s|null\b|None\b)[^\s'\",}\]]+", re.I), rf"\g<kept>{HIDDEN}"),
    (re.compile(rf"(?P<kept>(?<!\S)--?(?:[\w-]{{0,40}}[_-])?{_NAME}\s{{1,3}})(?!-)\S+", re.I), rf"\g<kept>{HIDDEN}"),
)


def is_secret(name: str) -> bool:
    """Whether a setting or variable of that name holds a secret; of a dotted name the last part counts."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """`text` without secrets: values of secret variables and settings, credentials in URLs, known formats of tokens."""
    for value in _secrets_of_environment():
        text = text.replace(value, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_setting(setting: str) -> str:
    """A setting KEY=VALUE without secrets: all of the value if the key is a secret's."""
    name, separator, _ = setting.partition("=")
    return f"{name}={HIDDEN}" if separator and is_secret(name.lstrip("+~-")) else redact(setting)


def redact_command(arguments: Sequence[str]) -> str:
    """The command line, quoted for a shell, without secrets."""
    redacted: list[str] = []
    for argument in arguments:
        flag = redacted[-1] if redacted else ""
        is_value = flag.startswith("--") and "=" not in flag and is_secret(flag.lstrip("-"))
        redacted.append(HIDDEN if is_value and "=" not in argument else redact_setting(argument))
    return shlex.join(redacted).replace(f"'{HIDDEN}'", HIDDEN)


def redact_tree(node: Any, name: str = "") -> Any:
    """A copy of a tree of mappings and lists without secrets: strings are redacted, and values with a secret name
    hidden."""
    if isinstance(node, Mapping):
        return {key: redact_tree(value, str(key)) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [redact_tree(value, name) for value in node]
    if node is not None and is_secret(name):
        return HIDDEN
    return redact(node) if isinstance(node, str) else node


def _secrets_of_environment() -> list[str]:
    """The values of this process's secret environment variables, longest first: a value may contain a shorter one."""
    values = {value for name, value in os.environ.items() if is_secret(name) and len(value) >= MIN_SECRET_LENGTH}
    return sorted(values, key=len, reverse=True)
