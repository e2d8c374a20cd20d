"""The Hugging Face Hub: what a repository holds, and the bytes of a file; its errors in words.

Files come over plain HTTP, by the library's own function, and not by Xet: with Xet the library
throws away a file that is half there when it ends (``file_download._download_to_tmp_and_move``,
2.4), and on the Wi-Fi of a museum that is most of an evening. Every file of the hub can be had so.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from edge_llm.catalog.layout import RemoteFile, Repository
from edge_llm.errors import ConfigurationError, EdgeLLMError, ModelError, UnavailableError

__all__ = ["fetch", "look_up"]


def look_up(repo: str, revision: str | None = None) -> Repository:
    """Ask the hub what a repository holds at a revision; its newest commit if that is None.

    Raises:
        ModelError: there is no such repository or revision, or it is not for everybody.
        UnavailableError: the hub can't be reached.
        ConfigurationError: the id is not one.
    """
    from huggingface_hub import HfApi

    # It tells of each new try, with an address of 400 characters.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with _in_words(repo, revision):
        found = HfApi().model_info(repo, revision=revision, files_metadata=True)
    files = tuple(
        RemoteFile(
            path=sibling.rfilename,
            size_bytes=sibling.lfs.size if sibling.lfs else sibling.size or 0,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            git_sha1=None if sibling.lfs else sibling.blob_id,
        )
        for sibling in found.siblings or ()
    )
    return Repository(repo, found.sha or "main", files)


def fetch(
    repository: Repository, file: RemoteFile, part: BinaryIO, progress: Callable[[int], None]
) -> None:
    """Fetch what is missing of a file, and append it.

    A connection that breaks is made again a few times, and only the rest is asked for.

    Args:
        repository: whose commit is meant.
        file: which of its files.
        part: what is there of it, open for appending.
        progress: called with the bytes that have arrived; a negative number takes some back.

    Raises:
        ModelError: it may not be had.
        UnavailableError: the hub can't be reached, or stopped in the middle.
        OSError: it can't be written.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    class Bar:
        """What the library counts with; there is one bar for all files, and it is elsewhere."""

        def __init__(self, **_: Any) -> None: ...

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, num_bytes: int) -> None:
            progress(num_bytes)

    headers = build_hf_headers(library_name="edge-llm")
    headers["Accept-Encoding"] = "identity"  # else a part's length says nothing of the whole
    with _in_words(repository.repo, repository.revision):
        http_get(
            hf_hub_url(repository.repo, file.path, revision=repository.revision),
            part,
            resume_size=part.tell(),
            headers=headers,
            expected_size=file.size_bytes,
            displayed_filename=Path(file.path).name,
            tqdm_class=cast(Any, Bar),
        )


@contextmanager
def _in_words(repo: str, revision: str | None) -> Iterator[None]:
    """Say what the hub's errors mean, and what to do."""
    from huggingface_hub import constants, errors

    # httpx.HTTPError, of the httpx that the installed version is made for.
    http_error = cast(type[Exception], errors.HfHubHTTPError.__bases__[0])
    hub = constants.ENDPOINT
    try:
        yield
    except errors.HFValidationError as exc:
        raise ConfigurationError(f"{repo!r} is not the id of a repository: OWNER/NAME") from exc
    except errors.HfHubHTTPError as exc:
        raise _explain_answer(exc, hub, repo, revision) from exc
    except errors.OfflineModeIsEnabled as exc:
        raise UnavailableError(
            "HF_HUB_OFFLINE forbids to ask the hub; unset it to download a model"
        ) from exc
    except http_error as exc:
        raise UnavailableError(
            f"{hub} can't be reached ({exc}): is this machine on the network? What has arrived is "
            "kept; run the same command again to go on"
        ) from exc
    except OSError as exc:
        if exc.errno is not None:  # the disk's; the library's own have none
            raise
        raise UnavailableError(f"{hub} broke off: {exc}; run the same command again") from exc


def _explain_answer(exc: Any, hub: str, repo: str, revision: str | None) -> EdgeLLMError:
    """Say what an answer of the hub means."""
    from huggingface_hub import errors

    if isinstance(exc, errors.GatedRepoError):  # before the next: it is one, too
        return ModelError(
            f"{repo} is gated: accept its licence on {hub}/{repo}, make a token on "
            f"{hub}/settings/tokens, and run this again with HF_TOKEN=... before it"
        )
    if isinstance(exc, errors.RepositoryNotFoundError):
        return ModelError(
            f"there is no model {repo} on {hub}, or it is private; check the name ('edge-llm model "
            "list'), or set HF_TOKEN to a token that may read it"
        )
    if isinstance(exc, errors.RevisionNotFoundError):
        return ModelError(f"{repo} has no revision {revision!r}; leave out --revision")
    status = exc.response.status_code
    if status in (401, 403):
        return ModelError(f"{hub} refuses {repo} ({status}): the token in HF_TOKEN is not good")
    return UnavailableError(f"{hub} answers {status} for {repo}; try again later")
