"""Read the prompt template in a model's folder: our own file, or the chat template of a LogitScore model of
sentence-transformers."""

from __future__ import annotations

from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from models.loading.folder import ModelFolder, first_line, read_json
from models.prompts.template import PromptTemplate

FILE = "prompt_template.json"
LOGIT_SCORE = "LogitScore"
QUERY, DOCUMENT, INSTRUCTION = "\ufdd1", "\ufdd2", "\ufdd3"  # noncharacters of Unicode, which no text contains


def has_template(folder: ModelFolder) -> bool:
    """Whether the folder holds an LLM reranker."""
    return (folder.path / FILE).is_file() or any(name == LOGIT_SCORE for name, _ in folder.modules)


def read_template(folder: ModelFolder, tokenizer: PreTrainedTokenizerBase) -> PromptTemplate | None:
    """Read the template; None if the folder has none. Raises ValueError if it is not valid."""
    found = read_json(folder.path / FILE)
    if found is not None:
        try:
            return PromptTemplate(**found)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder.path / FILE}: {first_line(error)}") from error
    scores = [path for name, path in folder.modules if name == LOGIT_SCORE]
    return _of_chat_template(folder, scores[0], tokenizer) if scores else None


def _of_chat_template(folder: ModelFolder, score: Path, tokenizer: PreTrainedTokenizerBase) -> PromptTemplate:
    """Derive the template from what a LogitScore model's chat template renders with and without an instruction."""
    config = read_json(score / "config.json") or {}
    if config.get("true_token_id") is None or config.get("false_token_id") is None:
        raise ValueError(f"{score / 'config.json'} must name true_token_id and false_token_id")
    pair = [{"role": "query", "content": QUERY}, {"role": "document", "content": DOCUMENT}]
    instruction = [{"role": "system", "content": INSTRUCTION}]
    try:
        without, instructed = (_render(tokenizer, messages) for messages in (pair, instruction + pair))
    except (TemplateError, ValueError) as error:
        raise ValueError(f"{folder.path}: its chat template does not accept query and document: {error}") from error
    text, line, default = _instruction_of(without, instructed)
    default = folder.prompts.get(folder.settings.get("default_prompt_name") or "", default)
    true, false = (str(tokenizer.convert_ids_to_tokens(config[f"{name}_token_id"])) for name in ("true", "false"))
    try:
        return PromptTemplate(
            pieces=[text.replace(QUERY, "{query}").replace(DOCUMENT, "{document}")],
            true_answer=tokenizer.convert_tokens_to_string([true]),
            false_answer=tokenizer.convert_tokens_to_string([false]),
            instruction=default,
            instruction_format=line,
        )
    except ValueError as error:
        raise ValueError(f"{folder.path}: {first_line(error)}") from error


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert isinstance(text, str)
    return text


def _instruction_of(without: str, instructed: str) -> tuple[str, str, str]:
    """The prompt with {instruction}, the format of an instruction, and the default instruction."""
    before, slot, after = instructed.partition(INSTRUCTION)
    if not slot:
        return without, "{instruction}", ""
    begin = _common(without, before)
    end = _common(without[begin:][::-1], after[::-1])
    line = before[begin:] + "{instruction}" + after[: len(after) - end]
    text = before[:begin] + "{instruction}" + after[len(after) - end :]
    default = without[begin : len(without) - end]
    prefix, suffix = line.split("{instruction}")
    if default and not (default.startswith(prefix) and default.endswith(suffix)):
        raise ValueError("the prompt without an instruction has another text")
    return text, line, default[len(prefix) : len(default) - len(suffix)] if default else ""


def _common(first: str, second: str) -> int:
    """The number of equal characters at the start."""
    length = 0
    while length < min(len(first), len(second)) and first[length] == second[length]:
        length += 1
    return length
