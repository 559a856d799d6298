"""What the ranks of most tests import, and with DeepSpeed half of the time of a short run. A process that imports it
once hands it on to the ranks that are forked from it."""

from __future__ import annotations

MODULES = [
    "launch.cli.compose",
    "recipes.training_run",
    "hydra.compose",
    "hydra._internal.core_plugins.basic_launcher",
    "models.bi_encoder",
    "models.cross_encoder",
    "trainers.supervised",
    "trainers.grpo",
    "evaluation.reranking_evaluator",
    "evaluation.retrieval_evaluator",
    "engines.torch_engine",
    "engines.deepspeed.engine",
    "deepspeed.ops.op_builder.all_ops",
    "torch._inductor.compile_fx",  # DeepSpeed imports it when it builds its engine
    "ir_measures",
    "bm25s",
]
