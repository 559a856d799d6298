"""A sequence classifier that gives the scores of an LLM reranker, for servers that read classifiers alone."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from inference.golden import Golden
from models.cross_encoder import READS_PROMPTS
from models.export.folder import new_folder
from models.export.llm_reranker import cut_code, is_linear
from models.llm_reranker import LLMReranker
from models.loading.backbone import quiet
from models.loading.folder import ModelFolder, first_line
from models.prompts.template_folder import has_template
from recipes.serving.prompt_ids import PromptIds

CARD = """---
library_name: transformers
pipeline_tag: text-ranking
tags:
- reranker
- plackett
---

# Sequence classifier of {source}

Its logit is the raw score of the LLM reranker: the logit of the true answer minus that of the false one. Its input is
the whole prompt as one text, which the chat template of its tokenizer makes:

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{folder}").eval()
tokenizer = AutoTokenizer.from_pretrained("{folder}")
messages = [{{"role": "query", "content": "a query"}}, {{"role": "document", "content": "a document"}}]
ids = tokenizer.apply_chat_template(messages, return_dict=False){cut}
with torch.no_grad():
    score = model(torch.tensor([ids])).logits[0, 0]
```

text-embeddings-inference (not run here) takes the prompt as a text, `tokenizer.apply_chat_template(messages,
tokenize=False)`, as `inputs` of `POST /predict` with `"raw_scores": true`, for whichever of its backends has the
architecture. It cuts a prompt that is too long at its end: shorten long documents before.

```sh
text-embeddings-router --model-id "{folder}"
```
"""


def check_is_llm_reranker(folder: Path) -> None:
    """Raise ValueError if the folder does not hold an LLM reranker."""
    if not has_template(ModelFolder.read(folder)):
        raise ValueError(
            f"--sequence-classification: {folder} is no LLM reranker with a prompt template; a cross-encoder is a "
            "sequence classifier already"
        )


def write_classifier(source: Path, folder: Path) -> None:
    """Write the classifier of the export in `source` to `folder`, replacing it in one rename: transformers' class for
    the architecture, with the difference of the two answers' weights as its score layer.

    Raises ValueError, in one line, if the score is not linear or the architecture has no such class.
    """
    reranker = LLMReranker.load(source)
    if not is_linear(reranker):
        raise ValueError(f"model {source}: its logits are scaled, capped or have a bias: no linear classifier has them")
    yes, no, cut = *reranker.tokenizer.answer_ids(), cut_code(reranker.tokenizer)
    head = reranker.language_model.get_output_embeddings()
    weight: torch.Tensor = head.weight.detach().float()
    score = (weight[yes] - weight[no]).unsqueeze(0).clone()
    with quiet(), new_folder(folder) as work:
        try:
            classifier = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=torch.float32)
        except ValueError as error:
            raise ValueError(f"model {source}: transformers has no classifier for it: {first_line(error)}") from None
        tokenizer = AutoTokenizer.from_pretrained(source)
        classifier.score.weight.data = score
        classifier.config.pad_token_id = tokenizer.pad_token_id
        setattr(classifier.config, READS_PROMPTS, True)  # read as a cross-encoder it would score pairs without a prompt
        classifier.save_pretrained(work)
        adds_nothing(tokenizer).save_pretrained(work)
        (work / "README.md").write_text(CARD.format(source=source.name, folder=folder, cut=cut), encoding="utf-8")


def adds_nothing(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer without special tokens of its own: the prompt has them all, and servers would put BOS twice."""
    if tokenizer("a").input_ids != tokenizer("a", add_special_tokens=False).input_ids:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return tokenizer


def classifier_difference(folder: Path, golden: Golden, source: Path) -> float:
    """The largest difference of the classifier from the golden scores of the export in `source`, by the code of its
    card. Rows of which the prompt is known to differ are left out."""
    with quiet(), torch.no_grad():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        prompt_ids = PromptIds.of(folder, golden.max_length, source)
        limits = set(prompt_ids.limits) - ({"control_tokens"} if not golden.splits_control_tokens else set())
        differences = []
        for row in golden.rows:
            if any(getattr(row, kind) for kind in limits):
                continue
            query, document = row.texts
            found = model(torch.tensor([prompt_ids(query, document)])).logits[0, 0]
            differences.append(abs(float(found) - row.values[0]))
    return max(differences, default=float("nan"))
