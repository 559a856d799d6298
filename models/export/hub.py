"""Upload exported models to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from models.loading.folder import first_line


def check_repo_id(repo_id: str) -> None:
    """Raise ValueError, in one line, if this is not a valid name of a repository."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"push_to_hub={repo_id}: {first_line(error)}") from None


def push_to_hub(folder: Path, repo_id: str, *, private: bool = True) -> str:
    """Upload an exported folder to the hub, and create the repository if there is none. Returns its URL. The uploaded
    model card names the repository instead of the folder.

    Raises ValueError, in one line, if the upload fails (not logged in, no permission, no network).
    """
    from huggingface_hub import HfApi

    from models.export.folder import card_on_hub  # peft and transformers, which not every command needs

    if not (folder / "README.md").is_file():
        raise ValueError(f"{folder} is not an exported model: it has no README.md")
    try:
        api = HfApi()
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        card = card_on_hub((folder / "README.md").read_text(encoding="utf-8"), folder, repo_id)
        api.upload_folder(
            repo_id=repo_id, folder_path=str(folder), ignore_patterns="README.md", commit_message="Upload by plackett"
        )
        api.upload_file(repo_id=repo_id, path_or_fileobj=card.encode(), path_in_repo="README.md")
    except Exception as error:  # the network library under huggingface_hub, and its errors, differ between versions
        raise ValueError(f"hub {repo_id}: {first_line(error)} (log in: `hf auth login`, or no network?)") from error
    return str(address)
