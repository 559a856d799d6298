"""The serving section of a model card: commands and code for the libraries and servers that load an export."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from models.loading.backbone import ENCODERS
from models.towers import towers_of

if TYPE_CHECKING:
    from models.bi_encoder import BiEncoder
    from models.cross_encoder import CrossEncoder

OPENING = """
## Serve

`golden.json` holds a few texts with the {what} of training. What is installed, and a running server, is compared with
them by

```sh
python launch/verify.py "{folder}"
```
"""
RANK = """
plackett, from Python:

```python
import plackett

reranker = plackett.load("{folder}")
results = reranker.rank("a query", ["a document", "another document"])
```
"""
ENCODE = """
plackett, from Python:

```python
import plackett

embedder = plackett.load("{folder}")
queries = embedder.encode(["a query"], role="query")
similarities = embedder.similarity(queries, embedder.encode(["a document"], role="document"))
```
"""
CLASSIFY = """
transformers:

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{folder}").eval()
tokenizer = AutoTokenizer.from_pretrained("{folder}")
inputs = tokenizer(
    [{query} + "a query"], [{document} + "a document"], truncation=True, max_length={max_length}, return_tensors="pt"
)
with torch.no_grad():
    score = model(**inputs).logits[0, 0]  # before the activation
```
"""
POOL = """
transformers:

```python
import torch
from transformers import AutoModel, AutoTokenizer

model, tokenizer = AutoModel.from_pretrained("{folder}").eval(), AutoTokenizer.from_pretrained("{folder}")
inputs = tokenizer([{query} + "a query"], truncation=True, max_length={max_length}, return_tensors="pt")
with torch.no_grad():
    tokens = model(**inputs).last_hidden_state  # of one text: a batch has padding, which is not pooled
embedding = {pooled}
```
"""
POOLED = {"mean": "tokens.mean(1)", "cls": "tokens[:, 0]", "lasttoken": "tokens[:, -1]", "max": "tokens.amax(1)"}
NO_PLAIN_CODE = """
transformers alone gives token embeddings; pooling and what follows are in the modules that sentence-transformers reads.
"""
NO_SERVERS = """
Servers of transformers (text-embeddings-inference, vLLM) and ONNX Runtime do not read this model, which has none.
"""
RUNTIME = "import onnxruntime"
ONNX = """
ONNX Runtime, on CPUs (`--int8`: also a file of a quarter of the size, less exact):

```sh
python launch/export.py "{folder}" --onnx --int8 --output with_onnx
```

```python
{imports}
from transformers import AutoTokenizer

session = onnxruntime.InferenceSession("with_onnx/onnx/model.onnx")
tokenizer = AutoTokenizer.from_pretrained("with_onnx")
{inputs}
{output} = session.run(None, {{value.name: inputs[value.name] for value in session.get_inputs()}})[0]
{then}```

sentence-transformers reads the same file by `{kind}("with_onnx", backend="onnx")`, where its package optimum-onnx is
installed (not run here: that stops at an older transformers).
"""
SERVERS = """
text-embeddings-inference and vLLM. These commands were not run for this card; `launch/verify.py` compares the server
that you run, here by `--tei http://127.0.0.1:8080`:

```sh
text-embeddings-router --model-id "{folder}" --port 8080
curl http://127.0.0.1:8080{path} -H 'Content-Type: application/json' -d '{body}'

vllm serve "{folder}" --runner pooling
curl http://127.0.0.1:8000{vllm_path} -H 'Content-Type: application/json' -d '{vllm_body}'
```
"""


def serve_bi_encoder(model: BiEncoder, folder: str) -> str:
    """Markdown on serving an embedding model of this `folder`."""
    tokenizer, towers = model.tokenizer, towers_of(model.tower)
    query, length = tokenizer.prompt("query"), tokenizer.max_length
    text = OPENING.format(what="embeddings", folder=folder) + ENCODE.format(folder=folder)
    if len(towers) > 1:
        return text + NO_PLAIN_CODE + "\nServers read one transformer, and no queries and documents apart.\n"
    (tower,) = towers.values()
    if tower.transformer is None:
        return text + NO_SERVERS
    config: Any = tower.transformer.config
    plain = len(tower.modes) == 1 and tower.modes[0] in POOLED and not len(tower.dense) and tokenizer.include_prompt
    then = ""  # in numpy, what follows the file's tokens
    if plain and config.model_type not in ENCODERS:
        pooled = POOLED[tower.modes[0]]
        then = f"embedding = {pooled.replace('amax', 'max')}  # of one text: a batch has padding, which is not pooled\n"
        if model.unit_length:
            then += "embedding = embedding / (embedding**2).sum(-1, keepdims=True) ** 0.5\n"
        pooled = f"torch.nn.functional.normalize({pooled}, dim=-1)" if model.unit_length else pooled
        text += POOL.format(folder=folder, query=repr(query), max_length=length, pooled=pooled)
    else:
        text += NO_PLAIN_CODE
    inputs = f'inputs = tokenizer([{query!r} + "a query"], truncation=True, max_length={length}, return_tensors="np")'
    text += ONNX.format(
        folder=folder, inputs=inputs, output="tokens", kind="SentenceTransformer", imports=RUNTIME, then=then
    )
    return text + SERVERS.format(
        folder=folder,
        path="/embed",
        body=_json({"inputs": query + "a query", "truncate": True}),
        vllm_path="/v1/embeddings",
        vllm_body=_json({"model": folder, "input": query + "a query"}),
    )


def serve_cross_encoder(model: CrossEncoder, folder: str) -> str:
    """Markdown on serving a cross-encoder of this `folder`."""
    tokenizer = model.tokenizer
    query, document, length = tokenizer.query_prompt, tokenizer.document_prompt, tokenizer.max_length
    text = OPENING.format(what="scores", folder=folder) + RANK.format(folder=folder)
    text += CLASSIFY.format(folder=folder, query=repr(query), document=repr(document), max_length=length)
    inputs = (
        "inputs = tokenizer(\n"
        f'    [{query!r} + "a query"], [{document!r} + "a document"], truncation=True, max_length={length}, '
        'return_tensors="np"\n)'
    )
    text += ONNX.format(folder=folder, inputs=inputs, output="logits", kind="CrossEncoder", imports=RUNTIME, then="")
    before = {"query": query + "a query"}
    return text + SERVERS.format(
        folder=folder,
        path="/rerank",
        body=_json({**before, "texts": [document + "a document"], "raw_scores": True}),
        vllm_path="/rerank",
        vllm_body=_json({"model": folder, **before, "documents": [document + "a document"]}),
    )


def serve_llm_reranker(folder: str, *, cut: str) -> str:
    """Markdown on serving an LLM reranker of this `folder` by plackett and by ONNX Runtime. `cut`: code that cuts the
    document of a prompt that is too long."""
    text = OPENING.format(what="scores", folder=folder) + RANK.format(folder=folder)
    inputs = (
        'messages = [{"role": "query", "content": "a query"}, {"role": "document", "content": "a document"}]\n'
        f"ids = tokenizer.apply_chat_template(messages, return_dict=False){cut}\n"
        'inputs = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), dtype=np.int64)}'
    )
    imports = f"import numpy as np\n{RUNTIME}"
    return text + ONNX.format(
        folder=folder, inputs=inputs, output="logits", kind="CrossEncoder", imports=imports, then=""
    )


def _json(content: Any) -> str:
    """JSON within single quotes of a shell."""
    return json.dumps(content, ensure_ascii=False).replace("'", "'\\''")
