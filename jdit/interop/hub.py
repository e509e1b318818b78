# SPDX-License-Identifier: Apache-2.0
"""Names on the Hugging Face hub, as local folders."""

import re
from pathlib import Path

WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "**/*.json",
          "**/*.safetensors", "**/*.model", "**/*.txt")  # fmt: skip
"""What is downloaded: configs, weights and tokenisers; nothing that is unpickled."""

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(name: str | Path, revision: str | None = None) -> Path:
    """A local path as it is, or the hub's repository of that name, downloaded.

    revision: a commit, tag or branch; a commit's hash makes a run reproducible. What
    was downloaded before is not downloaded again, and what was interrupted goes on.

    Raises FileNotFoundError for what is neither there nor "owner/name", and what
    huggingface_hub raises for a repository that is not there.
    """
    folder = Path(name)
    if folder.exists():
        return folder
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise FileNotFoundError(
            f"{name} is not there, and not the name of a repository (owner/name)"
        )
    from huggingface_hub import snapshot_download

    found = snapshot_download(name, revision=revision, allow_patterns=list(WANTED))
    return Path(found)
