"""Write an LLM reranker as a folder that sentence-transformers and transformers can load."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from models.answer_head import LogitTransform
from models.export.control_tokens import note, own_settings, write_unspellable_names
from models.export.folder import (
    list_prompts,
    new_folder,
    versions,
    write_backbone,
    write_card,
    write_json,
    write_tokenizer,
)
from models.export.serving import serve_llm_reranker
from models.loading.folder import read_json
from models.prompts.chat_template import chat_template
from models.prompts.template_folder import FILE
from models.prompts.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from models.llm_reranker import LLMReranker

PACKAGE = "sentence_transformers"
MODULES = [
    ("", f"{PACKAGE}.base.modules.transformer.Transformer"),
    ("1_LogitScore", f"{PACKAGE}.cross_encoder.modules.logit_score.LogitScore"),
]
FORWARD = {"method": "forward", "method_output_name": "logits"}
TRANSFORMER = {
    "transformer_task": "text-generation",
    "modality_config": {"text": FORWARD, "message": FORWARD | {"format": "flat"}},
    "module_output_name": "causal_logits",
}
USAGE = """## Use

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("{folder}")
scores = model.predict([("a query", "a document"), ("a query", "another document")])
ranking = model.rank("a query", ["a document", "another document"]{instructed})
```

The score is the logit of {true!r} minus that of {false!r} after the prompt, {scale}. Prompts are cut at {max_length}
tokens by shortening the document. Queries above {query} tokens are cut first, in training and by plackett alone.
{joined}{prompts}
As a plain language model of transformers:

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("{folder}"), AutoTokenizer.from_pretrained("{folder}")
messages = [{{"role": "query", "content": "a query"}}, {{"role": "document", "content": "a document"}}]
ids = tokenizer.apply_chat_template(messages, return_dict=False){cut}
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0, -1]
score = logits[{yes}] - logits[{no}]
```
"""
SERVERS = """
vLLM makes a classifier of the two answers' weights (`POST /rerank`, scores through a sigmoid; not run
for this card):

```sh
vllm serve "{folder}" --runner pooling --chat-template "{folder}/chat_template.jinja" \\
    --hf-overrides '{overrides}'
```

text-embeddings-inference reads sequence classifiers alone. This, or plackett's
`launch/export.py --sequence-classification`, makes one of the same raw score, for whichever of its backends has the
architecture (not run with it; [Qwen3: issue 643](https://github.com/huggingface/text-embeddings-inference/issues/643)):

```python
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

head = AutoModelForCausalLM.from_pretrained("{folder}").get_output_embeddings().weight.detach()
classifier = AutoModelForSequenceClassification.from_pretrained("{folder}", num_labels=1)
classifier.score.weight.data = (head[{yes}] - head[{no}]).unsqueeze(0).clone()
classifier.save_pretrained("classifier")
AutoTokenizer.from_pretrained("{folder}").save_pretrained("classifier")
```

Its input is the whole prompt, `tokenizer.apply_chat_template(messages, tokenize=False)`: `inputs` of `POST /predict`.
Both servers cut a prompt that is too long at its end: shorten long documents before.
"""
CUT = """
if len(ids) > {max_length}:  # the document is cut, the {count} tokens behind it are not
    ids = ids[:{kept}] + ids[len(ids) - {count} :]"""
JOINED = """
It was trained on prompts whose parts are tokenised one by one (`prompt_template.json`). Other libraries tokenise the
prompt as one text, so their scores differ a little if a query or document ends in punctuation.
"""


def export_llm_reranker(
    model: LLMReranker, folder: Path, *, card: str | None = None, adapter_only: bool = False
) -> None:
    """Write weights (safetensors), modules, prompt template, tokenizer and model card to `folder`, replacing it in one
    rename.

    Call it on one rank, inside `engine.full_weights()`: only `model.state_dict()` is read, and `model` does not
    change. LoRA is merged into the weights. With `adapter_only` the folder holds only the adapter, and can be loaded
    wherever the base model can. `card` is Markdown that comes after the card's header, before the usage.
    """
    with new_folder(folder) as work:
        write_backbone(model.backbone, work, source=model.source, adapter_only=adapter_only)
        if config := read_json(work / "config.json"):
            write_json(work / "config.json", config | {"use_cache": True})  # it is off only in training
        _write_tokenizer(model, work)
        _write_settings(model, work)
        _write_card(model, work, str(folder), card)


def _write_tokenizer(model: LLMReranker, work: Path) -> None:
    """Write the tokenizer with the chat template. It pads on the left: the last position is a row's last token."""
    own, tokenizer = model.tokenizer, copy.deepcopy(model.tokenizer.tokenizer)
    tokenizer.padding_side = "left"
    tokenizer.chat_template = chat_template(own.prompt_template, own.reader, own.prompts.values())
    write_tokenizer(tokenizer, own.max_length, work)
    if own.reader.names:
        write_unspellable_names(own.tokenizer, own.reader.names, work)


def _write_settings(model: LLMReranker, work: Path) -> None:
    yes, no = model.tokenizer.answer_ids()
    write_json(work / FILE, asdict(model.tokenizer.prompt_template))
    modules = [{"idx": index, "name": str(index), "path": p, "type": kind} for index, (p, kind) in enumerate(MODULES)]
    write_json(work / "modules.json", modules)
    write_json(work / "sentence_bert_config.json", TRANSFORMER)
    answers = {"true_token_id": yes, "false_token_id": no, "module_input_name": "causal_logits"}
    write_json(work / MODULES[1][0] / "config.json", answers)
    activation = f"{type(model.activation).__module__}.{type(model.activation).__qualname__}"
    settings = {
        "__version__": versions(),
        "model_type": "CrossEncoder",
        "activation_fn": activation,
        "prompts": _prompts(model.tokenizer),
        "default_prompt_name": None,
        **own_settings(model.tokenizer),
    }
    write_json(work / "config_sentence_transformers.json", settings)


def _prompts(tokenizer: PromptTokenizer) -> dict[str, str]:
    """All instructions by name. The default one, "query", is in the chat template too, which therefore needs no
    name."""
    template = tokenizer.prompt_template
    instruction = template.own_line(template.instruction)
    named = {name: template.own_line(text) for name, text in tokenizer.prompts.items() if name != "query"}
    return named | ({"query": instruction} if instruction else {})


def _write_card(model: LLMReranker, work: Path, name: str, card: str | None) -> None:
    template, (yes, no) = model.tokenizer.prompt_template, model.tokenizer.answer_ids()
    cut = cut_code(model.tokenizer)
    usage = USAGE.format(
        folder=name,
        yes=yes,
        no=no,
        instructed=', prompt="another instruction"' if template.takes_instruction else "",
        true=template.true_answer,
        false=template.false_answer,
        scale=f"through {type(model.activation).__name__}",
        max_length=model.tokenizer.max_length,
        query=model.tokenizer.query_limit,
        joined=(JOINED if len(template.pieces) > 1 else "") + note(model.tokenizer, has_template=True),
        cut=cut,
        prompts=list_prompts(_prompts(model.tokenizer), "Its instructions, of which `query` is the default:"),
    )
    usage += serve_llm_reranker(name, cut=cut)
    if is_linear(model):
        usage += SERVERS.format(folder=name, yes=yes, no=no, overrides=vllm_overrides(model))
    write_card(
        work,
        name=name,
        source=model.source,
        pipeline="text-ranking",
        tags=["cross-encoder", "reranker", "text-ranking"],
        body=card,
        usage=usage,
    )


def cut_code(tokenizer: PromptTokenizer) -> str:
    """Python code that cuts the document in the `ids` of a prompt that is too long; empty if no plain code does."""
    if (end := tokenizer.end) is None:
        return ""
    return CUT.format(max_length=tokenizer.max_length, kept=tokenizer.max_length - len(end), count=len(end))


def is_linear(model: LLMReranker) -> bool:
    """Whether the score is just (w_yes - w_no) h, as in a classifier without a bias."""
    head = model.language_model.get_output_embeddings()
    return getattr(head, "bias", None) is None and LogitTransform.of(model.language_model.config) == LogitTransform()


def vllm_overrides(model: LLMReranker) -> str:
    """vLLM's `--hf-overrides` that make a classifier from the two answer tokens."""
    no_and_yes = reversed(model.tokenizer.answer_ids())
    name = type(model.language_model).__name__.replace("ForCausalLM", "ForSequenceClassification")
    tokens = [model.tokenizer.tokenizer.convert_ids_to_tokens(token) for token in no_and_yes]
    return json.dumps({"architectures": [name], "classifier_from_token": tokens, "method": "from_2_way_softmax"})
