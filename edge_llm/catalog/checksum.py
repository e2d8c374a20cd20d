"""Whether a file has the bytes that the hub says it has."""

import hashlib
from pathlib import Path

from edge_llm.catalog.layout import RemoteFile

__all__ = ["checksum_of", "is_right", "wanted_checksum"]


def wanted_checksum(file: RemoteFile) -> str:
    """Return the checksum that its bytes must have; empty if the hub tells none."""
    return file.sha256 or file.git_sha1 or ""


def is_right(path: Path, file: RemoteFile) -> bool:
    """Tell whether a file has the length and the checksum that the hub tells; reads all of it."""
    if path.stat().st_size != file.size_bytes:
        return False
    wanted = wanted_checksum(file)
    return not wanted or checksum_of(path, file) == wanted


def checksum_of(path: Path, file: RemoteFile) -> str:
    """Return the SHA-256 of a file of LFS, or the SHA-1 of another as a Git blob."""
    if file.sha256:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
