"""Which files of a repository make a model directory, and where they go in it.

AXERA's repositories hold much more: programs for three machines, scripts, a second tokenizer, the
graphs for another chip. Their graphs lie in a folder of their own or at the top, the tokenizer's
folder inside or beside it (facts of the listings: ``published.py``). What is fetched is laid out
as one directory: graphs, embedding table and configurations at its top, the tokenizer in a folder.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from edge_llm.errors import ModelError

__all__ = ["RemoteFile", "Repository", "WantedFile", "choose_files"]

GRAPH_NAME = re.compile(r"(?P<prefix>[^.].*?)(?:_p\d+)?_l\d+(?:_together)?\.(?P<kind>axmodel|onnx)")
POST_NAME = re.compile(r"[^.].*_post\.(axmodel|onnx)")
EMBEDDING_FILE = "model.embed_tokens.weight.bfloat16.bin"
CONFIG_FILES = ("config.json", "post_config.json")
TOKENIZER_SUFFIXES = (".json", ".txt", ".jinja", ".model")
CHIP = re.compile(r"ax[568]\d{2,3}[a-z]?", re.IGNORECASE)
OURS = ("ax650", "ax650n", "ax8850")  # the card's chip has two names


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        path: within the repository, with ``/``.
        size_bytes: how long it is.
        sha256: of its bytes, if it is stored with LFS or Xet.
        git_sha1: of its Git blob, which covers its bytes too; for the other files.
    """

    path: str
    size_bytes: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit.

    Attributes:
        repo: its id.
        revision: the commit, as 40 hex digits.
        files: all of them.
    """

    repo: str
    revision: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file of a repository, and its place in the model directory, with ``/``."""

    remote: RemoteFile
    place: str


def choose_files(repository: Repository, folder: str | None = None) -> list[WantedFile]:
    """Return what is needed of a repository, the large files last.

    Args:
        repository: what there is.
        folder: which of its folders has the graphs, if there are several for this chip.

    Raises:
        ModelError: it holds no model for this card, or several, or one that is not complete.
    """
    chosen = _choose_folder(repository, folder)
    beside = [file for file in repository.files if _parent(file.path) == chosen]
    graphs = [file for file in beside if _is_graph(_name(file.path))]
    prefix = next(m["prefix"] for g in graphs if (m := GRAPH_NAME.fullmatch(_name(g.path))))
    wanted = [WantedFile(file, _name(file.path)) for file in graphs]
    wanted += _embedding(repository, chosen, beside)
    wanted += _configs(repository, chosen)
    taken = {file.place for file in wanted}
    tokenizer = _tokenizer(repository, chosen, prefix)
    wanted += [file for file in tokenizer if file.place not in taken]
    _check_places(repository, wanted)
    return sorted(wanted, key=lambda file: (file.remote.size_bytes, file.place))


def _check_places(repository: Repository, wanted: Sequence[WantedFile]) -> None:
    """Refuse what no file system of ours would keep apart, or take; the hub has none of that."""
    places = [file.place for file in wanted]
    odd = [place for place in places if places.count(place) > 1 or not place.isprintable()]
    if odd:
        raise ModelError(f"{repository.repo} has two files {odd[0]!r}, or one of an odd name")


def _choose_folder(repository: Repository, asked: str | None) -> str:
    layers = (file.path for file in repository.files if GRAPH_NAME.fullmatch(_name(file.path)))
    folders = sorted({_parent(path) for path in layers})
    if not folders:
        raise ModelError(f"{repository.repo} holds no model for this card: {_explain(repository)}")
    if asked is not None:
        if asked.strip("/") in folders:
            return asked.strip("/")
        raise ModelError(
            f"{repository.repo} has no graphs in {asked!r}; it has some in {_listed(folders)}"
        )
    fitting = [folder for folder in folders if _is_for_card(repository.repo, folder)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise ModelError(
            f"{repository.repo} holds graphs for another chip only, in {_listed(folders)}; this "
            "card needs those for AX650"
        )
    raise ModelError(
        f"{repository.repo} holds several models, in {_listed(fitting)}; say which with --folder"
    )


def _explain(repository: Repository) -> str:
    if any(file.path.endswith(".safetensors") for file in repository.files):
        return (
            "it has weights (*.safetensors), which must be compiled first; for the CPU download "
            "them with 'hf download' and use 'edge-llm export'"
        )
    return "there is no *_l0_together.axmodel in it; 'edge-llm model list' names those that have"


def _is_for_card(repo: str, folder: str) -> bool:
    """Go by the chips that the folder's name mentions, or else the repository's."""
    for text in (folder, repo):
        if chips := [chip.lower() for chip in CHIP.findall(text)]:
            return any(chip in OURS for chip in chips)
    return True


def _embedding(
    repository: Repository, folder: str, beside: Sequence[RemoteFile]
) -> list[WantedFile]:
    found = [file for file in beside if _name(file.path) == EMBEDDING_FILE]
    posts = [file for file in beside if POST_NAME.fullmatch(_name(file.path))]
    for missing, files in ((EMBEDDING_FILE, found), ("*_post.axmodel", posts)):
        if not files:
            raise ModelError(
                f"{repository.repo} has layers in {folder or 'its top folder'}, but no {missing} "
                "beside them; edge-llm can't use it"
            )
    return [WantedFile(found[0], EMBEDDING_FILE)]


def _configs(repository: Repository, folder: str) -> list[WantedFile]:
    """Those beside the graphs, or else at the top, where the vendor's tools have them."""
    wanted = []
    for name in CONFIG_FILES:
        for place in (folder, ""):
            path = f"{place}/{name}" if place else name
            if found := [file for file in repository.files if file.path == path]:
                wanted.append(WantedFile(found[0], name))
                break
    return wanted


def _tokenizer(repository: Repository, folder: str, prefix: str) -> list[WantedFile]:
    """The tokenizer inside the folder of the graphs, or beside it, or at the top.

    Of several that of the family is taken: the repositories of Qwen3 hold that of Qwen2.5, too.
    """
    folders = {_parent(file.path) for file in repository.files}
    having = sorted(place for place in folders if _has_tokenizer(repository, place))
    above = _parent(folder)
    inside = [place for place in having if place != folder and _parent(place) == folder]
    beside = [place for place in having if _parent(place) == above and place != folder]
    for places in ([folder] if folder in having else [], inside, beside, having):
        named = [place for place in places if _name(place).startswith(prefix)]
        found = named or places
        if len(found) > 1:
            raise ModelError(
                f"{repository.repo} has several tokenizers, in {_listed(found)}: edge-llm can't "
                "tell which is the right one"
            )
        if found:
            return [
                WantedFile(file, name if found[0] == folder else f"tokenizer/{name}")
                for file in repository.files
                if _parent(file.path) == found[0]
                and (name := _name(file.path)).endswith(TOKENIZER_SUFFIXES)
            ]
    raise ModelError(
        f"{repository.repo} has no tokenizer (tokenizer.json, or vocab.json and merges.txt); "
        "edge-llm can't use it"
    )


def _has_tokenizer(repository: Repository, folder: str) -> bool:
    names = {_name(file.path) for file in repository.files if _parent(file.path) == folder}
    return "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= names


def _is_graph(name: str) -> bool:
    return bool(GRAPH_NAME.fullmatch(name) or POST_NAME.fullmatch(name))


def _listed(folders: Sequence[str]) -> str:
    return ", ".join(folder or "its top folder" for folder in folders)


def _parent(path: str) -> str:
    parent = str(PurePosixPath(path).parent)
    return "" if parent == "." else parent


def _name(path: str) -> str:
    return PurePosixPath(path).name
