"""Files from the hub, asked for once and quietly: no retries, and no log lines of the hub's client."""

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

ANSWER_SECONDS = 2  # how long the hub may take to answer the first request
CLIENT_LOGGERS = ("huggingface_hub", "httpx", "httpx2")


def fetch(
    name: str,
    *,
    repo_type: str,
    revision: str | None,
    allow_patterns: Sequence[str] | None = None,
    offline_only: bool = False,
) -> Path:
    """Return the folder that holds a repository of the hub ("model" or "dataset"), downloaded if need be.

    No request is made with `offline_only` or HF_HUB_OFFLINE=1; the folder may then hold only some of the files.
    Every error is an OSError with a message of one line: `FileNotFoundError` if the name or the revision does not
    exist (offline: is not cached), `ConnectionError` if the hub does not answer, others if the disk fails.
    """
    for client in CLIENT_LOGGERS:
        logging.getLogger(client).setLevel(logging.CRITICAL)
    offline = offline_only or constants.HF_HUB_OFFLINE
    patterns = None if allow_patterns is None else list(allow_patterns)
    try:
        if not offline:  # the download below would retry for half a minute
            HfApi().repo_info(name, repo_type=repo_type, revision=revision, timeout=ANSWER_SECONDS)
        folder = snapshot_download(
            name, repo_type=repo_type, revision=revision, allow_patterns=patterns, local_files_only=offline
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError, FileNotFoundError) as error:
        raise FileNotFoundError(_one_line(error)) from error
    except Exception as error:  # those of the HTTP client share no closer base
        if isinstance(error, OSError) and not isinstance(error, HfHubHTTPError):
            raise
        raise ConnectionError(_one_line(error)) from error
    return Path(folder)


def _one_line(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …")
