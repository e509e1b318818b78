# SPDX-License-Identifier: Apache-2.0
"""Published files: checked before anything reads them, fetched if they are missing."""

import hashlib
import os
import urllib.request
from pathlib import Path


def download(url: str, path: str | Path, sha256: str) -> Path:
    """Fetch a file to `path`, whole or not at all; its folder is made.

    Raises ValueError if what came has another SHA-256 (it is not kept), and
    FileNotFoundError, which names the address, when it cannot be fetched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, open(part, "wb") as to:
            while block := answer.read(1 << 20):
                digest.update(block)
                to.write(block)
        if digest.hexdigest() != sha256:
            raise ValueError(
                f"{url} gave a file with the SHA-256 {digest.hexdigest()[:16]}..., but "
                f"{sha256[:16]}... is published: nothing was kept"
            )
        part.replace(path)
    except OSError as error:
        raise FileNotFoundError(
            f"{path} is not there, and fetching {url} failed ({error}); put it there "
            "by hand"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return path


def published(path: str | Path, sha256: str, url: str | None = None) -> Path:
    """A file that must be the published one; fetched from `url` if it is not there.

    Raises ValueError for another SHA-256, FileNotFoundError if there is none.
    """
    path = Path(path)
    if not path.exists() and url is not None:
        return download(url, path, sha256)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    found = file_hash(path)
    if found != sha256:
        raise ValueError(
            f"{path} has the SHA-256 {found[:16]}..., but the published file has "
            f"{sha256[:16]}...: scores made with it would not compare with any other"
        )
    return path


def file_hash(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
