"""Names of options that other trainers have, with the option here that takes their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GLOBAL_BATCH = "queries of the whole step, over all GPUs"
TOKENS, SPARSE, STATIC = (f"of model={kind}" for kind in ("late_interaction", "sparse_encoder", "static_embedder"))

# The name as users of transformers, sentence-transformers, PyLate, TRL, PEFT, FlagEmbedding and Lightning write it ->
# the option here, with a remark if its meaning differs, or if not every file of its group has it.
OPTIONS: dict[str, tuple[str, str]] = {
    **{
        name: (f"trainer.{name}", "")
        for name in ("learning_rate", "batch_size", "max_steps", "warmup_ratio", "weight_decay", "max_grad_norm")
    },
    **{name: (f"model.{name}", "") for name in ("name_or_path", "max_length", "gradient_checkpointing")},
    **dict.fromkeys(("lr", "max_lr", "peak_lr", "base_lr"), ("trainer.learning_rate", "")),
    **dict.fromkeys(
        ("epochs", "num_epochs", "n_epochs", "max_epochs", "num_train_epochs", "train_epochs"),
        ("trainer.max_epochs", ""),
    ),
    **dict.fromkeys(("patience", "early_stopping", "early_stop"), ("trainer.early_stopping_patience", "evaluations")),
    **dict.fromkeys(("steps", "num_steps", "total_steps", "num_train_steps", "train_steps"), ("trainer.max_steps", "")),
    **dict.fromkeys(
        ("per_device_train_batch_size", "train_batch_size", "per_gpu_train_batch_size", "micro_batch_size", "bs"),
        ("trainer.batch_size", GLOBAL_BATCH),
    ),
    **dict.fromkeys(
        ("per_device_eval_batch_size", "eval_batch_size"), ("eval.token_budget", "tokens that are scored at a time")
    ),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "grad_accum", "accumulate_grad_batches", "accumulation_steps"),
        ("trainer.token_budget", f"trainer.batch_size is {GLOBAL_BATCH}, and the budget cuts it into chunks by itself"),
    ),
    **dict.fromkeys(
        ("mini_batch_size", "chunk_size", "gc_chunk_size", "sub_batch_size"),
        ("trainer.token_budget", "tokens of a chunk"),
    ),
    **dict.fromkeys(("warmup_steps", "num_warmup_steps", "warmup"), ("trainer.warmup_ratio", "a share of max_steps")),
    **dict.fromkeys(("lr_scheduler_type", "scheduler", "lr_scheduler"), ("trainer.schedule", "")),
    **dict.fromkeys(("optim", "optimizer_class"), ("trainer.optimizer", "")),
    **dict.fromkeys(("wd", "l2"), ("trainer.weight_decay", "")),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "beta1", "beta2"), ("trainer.betas", "a list of two")),
    **dict.fromkeys(("max_norm", "gradient_clip_val", "grad_clip", "clip_grad_norm"), ("trainer.max_grad_norm", "")),
    **dict.fromkeys(("save_steps", "save_interval", "checkpointing_steps"), ("trainer.save_every", "steps")),
    **dict.fromkeys(
        ("eval_steps", "evaluation_steps", "eval_strategy", "evaluation_strategy", "eval_interval"),
        ("trainer.eval_every", "steps"),
    ),
    **dict.fromkeys(("logging_steps", "log_interval", "log_every_n_steps"), ("trainer.log_every", "steps")),
    **dict.fromkeys(("save_total_limit", "save_top_k"), ("trainer.keep_checkpoints", "")),
    **dict.fromkeys(("dataloader_num_workers", "num_workers"), ("trainer.workers", "")),
    **dict.fromkeys(("fp16", "bf16", "tf32", "mixed_precision", "amp", "use_amp"), ("engine.precision", "")),
    **dict.fromkeys(("model_name_or_path", "model_name", "base_model", "model_path"), ("model.name_or_path", "")),
    **dict.fromkeys(
        ("max_seq_length", "max_seq_len", "max_len", "query_max_len", "passage_max_len", "query_max_length"),
        ("model.max_length", "tokens"),
    ),
    **dict.fromkeys(
        ("train_file", "train_data", "dataset_name", "dataset", "train_dataset", "data_path"), ("data.path", "")
    ),
    **dict.fromkeys(("eval_file", "validation_file", "eval_dataset"), ("data.dev_path", "of data=file")),
    **dict.fromkeys(("test_file", "test_data"), ("data.test_path", "of data=file")),
    **dict.fromkeys(("train_group_size", "group_size", "num_negatives"), ("trainer.list_size", "documents of a list")),
    **dict.fromkeys(("metric_for_best_model", "monitor"), ("eval.metric", "")),
    **dict.fromkeys(("resume_from_checkpoint", "ckpt_path"), ("resume", "")),
    **dict.fromkeys(("report_to", "log_with"), ("logger", "")),
    **dict.fromkeys(("save_dir", "out_dir", "logging_dir"), ("output_dir", "")),
    **dict.fromkeys(("experiment_name", "exp_name", "wandb_run_name"), ("run_name", "")),
    **dict.fromkeys(("random_seed", "data_seed"), ("seed", "")),
    **dict.fromkeys(("hub_model_id", "push_to_hub_model_id"), ("push_to_hub", "")),
    **dict.fromkeys(
        ("use_lora", "peft", "lora_r", "lora_alpha", "lora_rank"), ("model", "a file of conf/model with lora")
    ),
    **dict.fromkeys(("use_gradient_checkpointing", "grad_checkpoint"), ("model.gradient_checkpointing", "")),
    **dict.fromkeys(("pooling_mode", "sentence_pooling_method"), ("model.pooling", "")),
    **dict.fromkeys(
        ("query_instruction_for_retrieval", "query_instruction", "query_prefix"), ("data.query_prompt", "")
    ),
    **dict.fromkeys(
        ("passage_prefix", "passage_instruction_for_retrieval", "document_prefix"), ("data.document_prompt", "")
    ),
    **{name: (f"model.{name}", TOKENS) for name in ("query_length", "document_length", "pool_factor")},
    "embedding_size": ("model.dimension", TOKENS),
    "do_query_expansion": ("model.query_expansion", f"{TOKENS}: fixed, min or none"),
    "attend_to_expansion_tokens": ("model.expansion_attends", TOKENS),
    "skiplist_words": ("model.skip_punctuation", f"{TOKENS}: true or false"),
    "max_active_dims": ("model.document_terms", f"{SPARSE}, and model.query_terms"),
    **{f"{role}_regularizer_weight": (f"loss.terms.{role}.weight", "of loss=splade") for role in ("query", "document")},
    "sif_coefficient": ("model.sif_coefficient", STATIC),
    "pca_dims": ("model.dimension", STATIC),
    **dict.fromkeys(("deepspeed", "fsdp", "zero_stage"), ("engine", "torch, zero0 ... zero3")),
}

# The same names where the chosen model has an option of its own for them.
OF_MODELS = dict.fromkeys(
    ("query_prefix", "document_prefix"), ("model.prompts", '{query: "[Q] ", document: "[D] "} are its markers')
)


def hint(key: str, settings: Mapping[str, Any]) -> str:
    """The text `here it is trainer.learning_rate; ` for a name that other trainers have, if the settings of the
    command have such an option; else empty."""
    typed = key.rpartition(".")[2].replace("-", "_").lower()
    has_markers = "query_expansion" in (settings.get("model") or {})
    option, remark = (has_markers and OF_MODELS.get(typed)) or OPTIONS.get(typed, ("", ""))
    group, _, name = option.partition(".")
    node = settings.get(group)
    if option == key and remark.startswith("of "):
        return f"it is one {remark}; "
    if option in ("", key) or group not in settings or (group == "trainer" and name not in (node or {})):
        return ""
    return f"here it is {option}{f' ({remark})' if remark else ''}; "
