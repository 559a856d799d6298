"""Secrets are taken out of whatever a run writes down: settings, commands, tracebacks, what trackers get."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

HIDDEN = "***"
SHORTEST = 8  # characters of an environment variable's value that is looked for elsewhere: shorter ones hit by chance

# Names of settings, flags and variables that hold secrets, by their last word: token_budget is none. Some words are
# that in whatever they end (PGPASSWORD), others only as a word of their own (accessToken, auth_token).
_OWN_WORD = r"(?:(?<![a-z])|(?-i:(?<=[a-z])(?=[A-Z])))(?:token|(?:api|access|secret|private)[_-]?key)"
_NAME = rf"(?:secrets?|password|passwd|passphrase|credentials?|{_OWN_WORD})"
_SECRET_NAME = re.compile(rf"{_NAME}$", re.IGNORECASE)
# No pattern begins by a repetition without bound: a traceback may hold a line of any length.
_BEFORE_VALUE = rf"(?P<kept>{_NAME}['\"]?\s{{0,3}}[=:]\s{{0,3}}['\"]?)"
_PATTERNS = (
    # user:password@ in an address, then what grants access in its query
    (re.compile(r"(?P<kept>\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@'\"]+@", re.I), rf"\g<kept>{HIDDEN}@"),
    (
        re.compile(rf"(?P<kept>[?&](?:[\w-]{{0,40}}[_-])?(?:{_NAME}|key|sig|signature)=)[^&\s'\"]+", re.I),
        rf"\g<kept>{HIDDEN}",
    ),
    (re.compile(r"(?P<kept>\b(?:Bearer|Basic)\s+)[\w.~+/=-]{8,}", re.I), rf"\g<kept>{HIDDEN}"),
    # What issuers mark as theirs: Hugging Face, W&B, GitHub, GitLab, OpenAI and others, Slack, AWS.
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}|\bapi_org_[A-Za-z0-9]{16,}|\bwandb_v1_\w{16,}"), HIDDEN),
    (re.compile(r"\bgh[oprsu]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"), HIDDEN),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{16,}|\bxox[abprs]-[\w-]{10,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), HIDDEN),
    # key=value, --key value, "key": "value"
    (re.compile(_BEFORE_VALUE + r"(?!\s|null\b|None\b)[^\s'\",}\]]+", re.I), rf"\g<kept>{HIDDEN}"),
    (re.compile(rf"(?P<kept>(?<!\S)--?(?:[\w-]{{0,40}}[_-])?{_NAME}\s{{1,3}})(?!-)\S+", re.I), rf"\g<kept>{HIDDEN}"),
)


def is_secret(name: str) -> bool:
    """Whether a setting or variable of that name (its last part, if dotted) holds a secret."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """`text` without secrets: values of variables and settings named so, credentials in addresses, known tokens."""
    for value in _secrets_of_environment():
        text = text.replace(value, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_command(arguments: Sequence[str]) -> str:
    """A command line, quoted for a shell, without secrets."""
    shown: list[str] = []
    for argument in arguments:
        name, separator, _ = argument.partition("=")
        flag = shown[-1] if shown else ""
        if separator and is_secret(name.lstrip("+~-")):
            argument = f"{name}={HIDDEN}"
        elif flag.startswith("--") and "=" not in flag and is_secret(flag.lstrip("-")):
            argument = HIDDEN
        shown.append(redact(argument))
    return shlex.join(shown).replace(f"'{HIDDEN}'", HIDDEN)


def redact_tree(node: Any, name: str = "") -> Any:
    """A tree of mappings and lists, its strings redacted, and whatever a secret's name holds."""
    if isinstance(node, Mapping):
        return {key: redact_tree(value, str(key)) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [redact_tree(value, name) for value in node]
    if node is not None and is_secret(name):
        return HIDDEN
    return redact(node) if isinstance(node, str) else node


def _secrets_of_environment() -> list[str]:
    """Values of this process' secret variables, longest first, so that none is cut by a part of it."""
    values = {value for name, value in os.environ.items() if is_secret(name) and len(value) >= SHORTEST}
    return sorted(values, key=len, reverse=True)
