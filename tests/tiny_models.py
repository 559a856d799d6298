"""Tiny models with random weights, which tests train and load. They are built offline in a second."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

WORDS = "what is the a of to in red green blue apple pear train rank list query document python returns value".split()  # noqa: SIM905


def write_tokenizer(folder: Path, *, max_length: int = 128, pad_id: int = 0) -> None:
    """Write an uncased WordPiece tokenizer with a few words and all single characters. `pad_id`: 0, or 1 as that of
    RoBERTa and MPNet."""
    characters = list(string.ascii_lowercase + string.digits + string.punctuation)
    first = ["[PAD]", "[UNK]"] if pad_id == 0 else ["[UNK]", "[PAD]"]
    tokens = [*first, "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(dict.fromkeys(tokens)) + "\n", encoding="utf-8")
    ids = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    BertTokenizerFast(vocab=ids, do_lower_case=True, model_max_length=max_length).save_pretrained(folder)


def tiny_config(**options: Any) -> BertConfig:
    """The configuration of a tiny BERT."""
    size = len(dict.fromkeys(string.ascii_lowercase + string.digits + string.punctuation))
    defaults = {
        "vocab_size": 5 + 2 * size + len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,  # large, so that the scores of random weights differ clearly
    }
    return BertConfig(**(defaults | options))


def write_tiny_bert(folder: Path, *, reranker: bool = False, seed: int = 0, **options: Any) -> Path:
    """Write a BERT encoder, with a score head if `reranker` is set, in the format of transformers."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if reranker:
            model = BertForSequenceClassification(tiny_config(**({"num_labels": 1} | options)))
        else:
            model = BertModel(tiny_config(**options))
    write_tokenizer(folder)
    model.save_pretrained(folder)
    return folder


# What an architecture needs beside the sizes of `write_tiny`. Windows are shorter than the texts of tests.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "camembert": {"pad_token_id": 1},
    "mpnet": {"pad_token_id": 1, "relative_attention_num_buckets": 32},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2, "classifier_pooling": "mean"},
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 5},
    "qwen2": {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 16},
}


def write_tiny(folder: Path, architecture: str, *, seed: int = 0, **options: Any) -> Path:
    """Write a tiny encoder or decoder without a head, with random weights, whose tokenizer is that of
    `write_tokenizer`."""
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    options = ARCHITECTURES[architecture] | options
    pad_id = options.get("pad_token_id", 0)
    write_tokenizer(folder, pad_id=pad_id)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    if architecture != "bert":
        tokenizer.save_pretrained(folder)  # as one of no class, which has no token types
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    ids = {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": pad_id}
    limits = {"max_position_embeddings": 130, "initializer_range": 0.2, "vocab_size": len(tokenizer) + 3}
    config = AutoConfig.for_model(architecture, **(sizes | ids | limits | options))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        AutoModel.from_config(config).save_pretrained(folder)
    return folder


CHAT_TEMPLATE = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"


def write_tiny_decoder(folder: Path, *, seed: int = 0, embedder: bool = True, **options: Any) -> Path:
    """Write a Qwen3 decoder whose tokenizer pads on the left and appends an end token, which is also the padding token.

    With `embedder` it has the modules and prompts of Qwen3-Embedding.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    write_tokenizer(folder / "bert")
    backend = BertTokenizerFast.from_pretrained(folder / "bert").backend_tokenizer
    shutil.rmtree(folder / "bert")
    end = "[SEP]"
    backend.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, backend.token_to_id(end))])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=end, eos_token=end, padding_side="left", model_max_length=128
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "head_dim": 16}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = Qwen3Config(vocab_size=len(tokenizer), initializer_range=0.2, **(sizes | ids | options))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        Qwen3Model(config).save_pretrained(folder)
    if embedder:
        package = "sentence_transformers.models"
        names = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        modules = [{"idx": i, "name": str(i), "path": p, "type": f"{package}.{t}"} for i, (p, t) in enumerate(names)]
        pooling = {"word_embedding_dimension": 32, "pooling_mode_lasttoken": True, "include_prompt": True}
        prompts = {"query": "what is the rank of\nquery: ", "document": ""}
        settings = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
        (folder / "1_Pooling").mkdir()
        for file, content in (
            ("modules.json", modules),
            ("1_Pooling/config.json", pooling),
            ("config_sentence_transformers.json", settings),
        ):
            (folder / file).write_text(json.dumps(content))
    return folder


def write_causal_tokenizer(folder: Path) -> None:
    """Write a byte-level BPE tokenizer with Qwen's rules, trained on the licence of the repository.

    "yes" and "no" are tokens, and so is a full stop followed by a line break.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    texts = [(Path(__file__).resolve().parent.parent / "LICENSE").read_text(encoding="utf-8")]  # never changes
    texts += ["yes\nno\nquery: document: <Instruct>: <Query>: <Document>: why?\nso.\n"] * 500
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    options = {"special_tokens": special, "initial_alphabet": alphabet, "show_progress": False}
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, **options))
    learned = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=learned["vocab"], merges=merges, model_max_length=512)
    tokenizer.add_special_tokens({"extra_special_tokens": special[1:3]})
    tokenizer.add_tokens(special[3:])
    tokenizer.save_pretrained(folder)


def write_tiny_causal(folder: Path, *, architecture: str = "qwen2", seed: int = 0, **options: Any) -> Path:
    """Write a tiny Qwen2.5 or Qwen3 causal language model, its head tied to the embeddings, in transformers' format."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    write_causal_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": 512}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    defaults = {"vocab_size": len(tokenizer), "tie_word_embeddings": True, **sizes, **ids}
    if architecture == "qwen3":
        defaults["head_dim"] = 8
    config = AutoConfig.for_model(architecture, **(defaults | options))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def write_tiny_t5(
    folder: Path, *, kind: str = "t5", seed: int = 0, whole: bool = True, modules: bool = False, **options: Any
) -> Path:
    """Write a tiny T5, mT5 or UMT5 with a Unigram tokenizer: `whole` with its decoder, else its encoder alone.

    With `modules` it has those of gtr, sentence-t5 and instructor: mean pooling without the prompt, a linear layer and
    unit length.
    """
    from transformers import AutoConfig, T5Tokenizer
    from transformers.models.auto.modeling_auto import AutoModelForSeq2SeqLM

    from models.loading.backbone import ENCODERS

    words = [f"▁{word}" for word in (*WORDS, "query:", "passage:")]
    pieces = [(piece, -2.0) for piece in words] + [(c, -6.0) for c in string.ascii_lowercase + string.digits + ":.?"]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    tokenizer = T5Tokenizer(vocab=[*special, *pieces], extra_ids=4, model_max_length=128)
    tokenizer.save_pretrained(folder)
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 3, "num_decoder_layers": 2}
    sizes |= {
        "vocab_size": len(tokenizer) + 3,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
    }
    config = AutoConfig.for_model(kind, **(sizes | options))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_config(config) if whole else ENCODERS[kind](config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "relative_attention_bias" in name:
                    weight.normal_()  # so that positions matter
        model.save_pretrained(folder)
        dense = torch.nn.Linear(32, 24, bias=False)
    if modules:
        package = "sentence_transformers.models"
        names = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")]
        entries = [{"idx": i, "name": str(i), "path": p, "type": f"{package}.{t}"} for i, (p, t) in enumerate(names)]
        activation = "torch.nn.modules.linear.Identity"
        linear = {"in_features": 32, "out_features": 24, "bias": False, "activation_function": activation}
        for file, content in (
            ("modules.json", entries),
            ("sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False}),
            ("1_Pooling/config.json", {"word_embedding_dimension": 32, "include_prompt": False}),
            ("2_Dense/config.json", linear),
            ("config_sentence_transformers.json", {"prompts": {"query": "what is the query: "}}),
        ):
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(json.dumps(content))
        save_file({"linear.weight": dense.weight.detach()}, folder / "2_Dense" / "model.safetensors")
    return folder
