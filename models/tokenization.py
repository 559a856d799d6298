"""Tokenise texts as sentence-transformers does, by picklable callables that the data workers run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import tokenizers
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence
from transformers import AutoTokenizer, BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from models.capabilities import Layout
from models.control_tokens import TextReader, control_tokens, text_reader, with_plain_names
from models.loading.adapter import base_folder
from models.loading.backbone import check_max_length, loading_error, position_limit, quiet
from models.loading.checks import check_embeddings, settle_padding
from models.loading.folder import ModelFolder, has_tokenizer
from models.prompts.run_prompts import RunPrompts, merge_prompts
from models.token_rows import Counted, TokenMemory, count_tokens, encode_whole, row_frame

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

# Token-level features that the transformer does not read.
POOLED = "pooled"  # 1 at the tokens that are pooled (without it: all but padding)
IS_QUERY = "is_query"  # 1 at the tokens of queries, for separate towers

UNLIMITED = 1 << 30  # the length of a model that reads all of a text

TokenIds = Mapping[str, list[list[int]]]


def length_in_words(max_length: int) -> str:
    """The most tokens of a text, as a person reads it.

    >>> length_in_words(512), length_in_words(UNLIMITED)
    ('512', 'all')
    """
    return "all" if max_length >= UNLIMITED else f"{max_length:,}"


@dataclass(frozen=True)
class ModelTokenizer:
    """A tokenizer with the model's maximum length and prompts.

    With `split_special_tokens` the control tokens that a query or document spells are read as text; those of prompts
    never are.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    split_special_tokens: bool = True
    prompt_tokens: tuple[str, ...] = ()  # control tokens of prompts that are not the model's own (`expecting`)
    memory: TokenMemory | None = None  # of the tokens of texts; None: they are tokenised in every call

    layout: ClassVar[Layout]  # of the rows of a list (data.batch.ListExample)

    @property
    def padding(self) -> dict[str, int]:
        """The padding value per feature."""
        own = self.tokenizer
        return {"input_ids": own.pad_token_id, "token_type_ids": own.pad_token_type_id, "attention_mask": 0}

    @property
    def fingerprint(self) -> str:
        """A text that is equal for two tokenizers if they give the same rows."""
        options = f"{self.max_length} {self.tokenizer.padding_side} {self.split_special_tokens}"
        tokens = control_tokens(self.tokenizer, self.template_text)
        return f"{options} {tokens} {self.tokenizer.backend_tokenizer.to_str()}"

    @property
    def token_key(self) -> str:
        """A text that is equal for two tokenizers if they have the same use for a `memory`."""
        content = json.loads(self.reader.tokenizer.backend_tokenizer.to_str())
        content |= {"truncation": None, "padding": None}  # those of its last call
        return f"{tokenizers.__version__} {self.max_length} {json.dumps(content)}"

    def with_memory(self, memory: TokenMemory) -> Self:
        """The same tokenizer, which asks `memory` for the tokens of texts."""
        return replace(self, memory=memory)

    @property
    def reader(self) -> TextReader:
        """The tokenizer with which prompts and texts are read."""
        if not self.split_special_tokens:
            return TextReader(self.tokenizer)
        return text_reader(self.tokenizer, self.template_text)

    @cached_property
    def template_text(self) -> str:
        """All text of prompts: their control tokens are read as text in queries and documents."""
        return "\0".join((*self.all_prompts(), *self.prompt_tokens))

    def all_prompts(self) -> list[str]:
        """All prompts of the model that may be put before a text."""
        return list(self.prompts.values())

    def expecting(self, prompts: Iterable[str | None]) -> Self:
        """The same tokenizer for a run that puts these `prompts` before texts too: whatever text is read, a control
        token of any of them is text in it. (A text's own prompt does not tell: that of the queries may be spelled by a
        document.)"""
        text = "\0".join(prompt for prompt in prompts if prompt)
        steering = set(control_tokens(self.tokenizer, text)) - set(control_tokens(self.tokenizer, ""))
        return replace(self, prompt_tokens=tuple(sorted({*self.prompt_tokens, *steering})))

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text, without prompts, special tokens and a limit."""
        ids: list[list[int]] = self.reader.tokenizer(
            self._prepend("", texts), add_special_tokens=False, verbose=False
        ).input_ids
        return ids

    def count_tokens(self, texts: list[str]) -> list[tuple[int, int]]:
        """The number of tokens of each text, and how many of them are unknown ones; without prompts, special tokens
        and a limit."""
        unknown = self.tokenizer.unk_token_id
        return [(len(row), 0 if unknown is None else row.count(unknown)) for row in self.token_ids(texts)]

    @property
    def vocabulary_size(self) -> int:
        """The number of its tokens, those that were added among them."""
        return len(self.tokenizer)

    def limit_of(self, role: str | None) -> tuple[str, int]:
        """The most tokens of a row with a text of that role, after the option that sets them."""
        return "model.max_length", self.max_length

    @property
    def limits(self) -> dict[str, int]:
        """The most tokens of a row with a query, and of one with a document, by the option that sets them: one entry if
        it is one option."""
        return dict(self.limit_of(role) for role in ("query", "document"))

    def check_prompt(self, prompt: str | None, role: str | None = None) -> None:
        """Raise ValueError if a prompt leaves no room for a text of that role."""
        option, length = self.limit_of(role)
        if prompt is None or len(prompt.encode()) < length // 2:  # no more tokens than bytes
            return
        if (tokens := len(self.reader.tokenizer(self.reader.prompt(prompt)).input_ids)) >= length:
            raise ValueError(
                f"prompt {prompt[:40]!r}... has {tokens} tokens of {option}={length}: shorten it, or raise {option}"
            )

    def _prepend(self, prompt: str, texts: list[str]) -> list[str]:
        """The texts with the prompt before them, as `_encode` reads them."""
        before, reader = self.reader.prompt(prompt), self.reader
        return [before + reader.text(text) for text in texts]

    def _encode(self, first: list[str], second: list[str] | None = None) -> TokenIds:
        """Tokenise texts or pairs of `_prepend`, with "truncated": [tokens cut from the first, from the second] per
        row.

        No row is empty: an empty text becomes one padding token that is read, if the tokenizer adds no token of its
        own."""
        texts = [first] if second is None else [first, second]
        frame = row_frame(self.reader.tokenizer, len(texts))
        if frame is not None and self.max_length > frame.num_special:
            rows = frame.rows(*map(self._counted, texts), max_length=self.max_length)
        else:
            encoded = encode_whole(self.reader.tokenizer, texts, self.max_length)
            rows = {**encoded.data, "truncated": self._lost(encoded, texts)}
        lost = rows.pop("truncated")
        rows = {name: [row or [self.padding[name]] for row in rows] for name, rows in rows.items()}
        return {**rows, "truncated": lost}

    def _counted(self, texts: list[str]) -> list[Counted]:
        """The tokens of texts of `_prepend`: the first `max_length` at least, and how many there are. Each different
        text is tokenised once, or known."""
        distinct = list(dict.fromkeys(texts))
        tokenize = partial(count_tokens, self.reader.tokenizer)
        counted = tokenize(distinct) if self.memory is None else self.memory(tokenize, distinct)
        known = dict(zip(distinct, counted, strict=True))
        return [known[text] for text in texts]

    def _lost(self, encoded: BatchEncoding, texts: Sequence[list[str]]) -> list[list[int]]:
        """The tokens cut from the texts of each row, [first, second]."""
        lost = [[0, 0] for _ in encoded["input_ids"]]
        for side, own in enumerate(texts):
            for index, (_, total) in enumerate(self._counted(own)):
                lost[index][side] = max(0, total - encoded.sequence_ids(index).count(side))
        return lost


@dataclass(frozen=True)
class PairTokenizer(ModelTokenizer):
    """Tokenises (query, document) pairs to unpadded rows. If a pair exceeds `max_length`, the longer text is cut first.

    `default_prompt` is put before the query, `document_prompt` before the document.
    """

    document_prompt: str = ""  # no prompt of sentence-transformers, which puts none before the second text of a pair

    layout: ClassVar[Layout] = "pairs"

    def __call__(
        self,
        queries: list[str],
        documents: list[str],
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> TokenIds:
        """Tokenise to {"input_ids", "token_type_ids" if the model has them}, a list of ids per pair, and "truncated". A
        prompt of None is the model's own."""
        self.check_prompt(query_prompt)
        prompt = self.query_prompt if query_prompt is None else query_prompt
        before = self.document_prompt if document_prompt is None else document_prompt
        return self._encode(self._prepend(prompt, queries), self._prepend(before, documents))

    def encode_list(
        self, query: str, documents: list[str], query_prompt: str | None = None, document_prompt: str | None = None
    ) -> TokenIds:
        """Make a row per pair (query, document). A prompt of None is the model's own."""
        return self([query] * len(documents), documents, query_prompt, document_prompt)

    def all_prompts(self) -> list[str]:
        return [*super().all_prompts(), self.document_prompt]

    @property
    def query_prompt(self) -> str:
        """The model's own prompt before a query."""
        return self.prompts.get(self.default_prompt or "", "")


@dataclass(frozen=True)
class TextTokenizer(ModelTokenizer):
    """Tokenises single texts to unpadded rows, cut at `max_length`.

    `role` chooses the model's prompt as sentence-transformers does: "query"; "document" (or "passage", "corpus");
    else the default prompt.
    """

    include_prompt: bool = True  # False: "pooled" marks the tokens after the prompt
    marks_queries: bool = False  # True: "is_query" marks queries, for separate towers

    layout: ClassVar[Layout] = "texts"

    def __call__(self, texts: list[str], role: str | None = None, prompt: str | None = None) -> TokenIds:
        """Tokenise to {"input_ids", "token_type_ids" if the model has them}, a list of ids per text, and "truncated".
        `prompt` None: that of the role. Raises ValueError if a given one leaves no room for the texts."""
        self.check_prompt(prompt, role)
        prompt = self.prompt(role) if prompt is None else prompt
        encoding = dict(self._encode(self._prepend(prompt, texts)))
        if role != "query":
            encoding["truncated"] = [[second, first] for first, second in encoding["truncated"]]
        lengths = [len(row) for row in encoding["input_ids"]]
        if not self.include_prompt:
            skipped = [min(self._prompt_length(prompt), length - 1) for length in lengths]
            encoding[POOLED] = [[0] * s + [1] * (n - s) for s, n in zip(skipped, lengths, strict=True)]
        if self.marks_queries:
            encoding[IS_QUERY] = [[int(role == "query")] * length for length in lengths]
        return encoding

    def encode_list(
        self, query: str, documents: list[str], query_prompt: str | None = None, document_prompt: str | None = None
    ) -> TokenIds:
        """Make the query's row, then one per document. A prompt of None is the model's own."""
        first, others = self([query], "query", query_prompt), self(documents, "document", document_prompt)
        return {name: [*first[name], *others[name]] for name in first}

    def check_prompts(self) -> None:
        """Check the prompts that are put before a text of no name by `check_prompt`."""
        for role in ("query", "document", None):
            self.check_prompt(self.prompt(role), role)

    def prompt(self, role: str | None) -> str:
        names = {None: (), "query": ("query",), "document": ("document", "passage", "corpus")}
        if role not in names:
            raise ValueError(f"role {role!r} of a text: choose query, document or None")
        chosen = next((name for name in names[role] if name in self.prompts), self.default_prompt)
        return self.prompts.get(chosen or "", "")

    def adopting(self, prompts: RunPrompts) -> Self:
        """This tokenizer with the prompts of a run as its own, by role and by name."""
        given = {"query": prompts.query, "document": prompts.document}
        roles = {role: text for role, text in given.items() if text is not None}
        named = {name: text for role in given for name, text in prompts.texts(role, self.prompt(role)).items()}
        return replace(self, prompts=merge_prompts(self.prompts, named, roles))

    def _prompt_length(self, prompt: str) -> int:
        """The number of tokens before the text: those of the prompt without the special token at its end."""
        if not prompt:
            return 0
        read = self.reader
        ids = read.tokenizer(read.prompt(prompt), truncation=True, max_length=self.max_length).input_ids
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)


def load_plain_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerBase:
    """Load the folder's tokenizer as transformers does, with plain names of its control tokens. An adapter's folder
    without one has that of the base."""
    base = None if has_tokenizer(folder.backbone) else base_folder(folder)
    source = (base or folder).backbone
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=folder.trusted, local_files_only=True)
    except (ValueError, ImportError, OSError, KeyError) as error:
        raise loading_error(folder, error) from error
    return with_plain_names(tokenizer)


def load_tokenizer(
    folder: ModelFolder,
    model: PreTrainedModel,
    max_length: int | None,
    *,
    default_length: int | None = None,
    reads_padding: bool = False,
) -> tuple[PreTrainedTokenizerBase, int]:
    """Load the folder's tokenizer, and check it and `max_length` against the model. None: the folder's own; with a
    `default_length` that, or what the model reads if it is less.

    `reads_padding`: see `settle_padding`.
    """
    tokenizer = load_plain_tokenizer(folder)
    check_embeddings(folder, tokenizer, model)
    settle_padding(folder, tokenizer, model, reads_padding=reads_padding)
    tokenizer.split_special_tokens = False  # control tokens of prompts are read: `ModelTokenizer.reader`
    if folder.transformer.get("do_lower_case"):
        old = tokenizer.backend_tokenizer.normalizer
        tokenizer.backend_tokenizer.normalizer = NormalizerSequence([Lowercase(), *([old] if old else [])])
    if "token_type_ids" not in inspect.signature(model.forward).parameters:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    if max_length is not None:
        return tokenizer, check_max_length(folder, model, max_length)
    limit = position_limit(model)
    if default_length is None:
        own = folder.max_length or tokenizer.model_max_length
    else:  # an embedding model's length is that of single texts, and no limit of what it reads
        own = min(default_length, limit if folder.max_length else tokenizer.model_max_length)
    return tokenizer, check_max_length(folder, model, min(own, limit))
