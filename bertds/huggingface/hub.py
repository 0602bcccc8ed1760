"""Uploads an exported model to the Hugging Face Hub.

huggingface_hub does it, with its settings: `HF_TOKEN` or the login of `hf auth login`, `HF_ENDPOINT`.
"""

import re
import shlex
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from bertds.errors import ConfigError

# The HTTP library differs between versions of huggingface_hub. Its base class covers the network.
_FAILURES: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, ValueError, RuntimeError)


def check_repo_name(repo: str) -> None:
    """Check the spelling of a repository's name.

    Raises:
        ConfigError: It cannot be the name of a repository.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(
            f"--push_to_hub is {repo!r}, expected USER/NAME or ORGANIZATION/NAME ({error})"
        ) from error


def push_to_hub(directory: Path, repo: str, *, private: bool) -> str:
    """Upload a directory as a model, into a repository that is created if it does not exist.

    Args:
        directory: The directory; it is only read.
        repo: Name of the repository, as USER/NAME, or NAME for the user's own.
        private: Whether others must not see it.

    Returns:
        The address of the repository.

    Raises:
        ConfigError: There is no token, the Hub cannot be reached or rejects it, or a repository that
            exists is not private.
    """
    command = ["hf", "upload", repo, str(directory), *(["--private"] if private else [])]
    retry = f"{directory} is complete and stays; to upload it, run: {shlex.join(command)}"
    try:
        if get_token() is None:
            raise ConfigError(
                f"--push_to_hub {repo} needs a token: log in with `hf auth login`, or set HF_TOKEN. "
                f"{retry}"
            )
        api = HfApi()
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(url.repo_id).private:
            raise ConfigError(
                f"--private: {url.repo_id} exists and is public. Choose another name, or make it "
                f"private first. {retry}"
            )
        api.upload_folder(repo_id=url.repo_id, folder_path=directory, commit_message="Upload model")
    except ConfigError:
        raise
    except _FAILURES as error:
        raise ConfigError(f"--push_to_hub {repo} failed ({_reason(error)}). {retry}") from error
    return str(url)


def _reason(error: BaseException) -> str:
    """The message of an error, or of the one behind a general one, without a link to a manual."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return _reason(error.__cause__)
    text = re.sub(r"For more information check: \S+", "", str(error))
    return " ".join(text.split()) or type(error).__name__
