"""What the documentation lists is written into it: ``python -m tests.docs.generate``.

``<!-- fields: MqttRequest -->`` in a page is followed by the fields of that model of the protocol,
``<!-- paths: openai -->`` by the paths of that part of the HTTP bridge; ``<!-- end -->`` ends each.
docs/configuration.md is a whole page of its own: ``edge-llm settings --markdown``.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

import bridges.http.axera
import bridges.http.health
import bridges.http.metrics
import bridges.http.ollama
import bridges.http.openai
import bridges.http.page
from bridges.http.endpoint import Endpoint
from bridges.http.openapi import make_endpoint
from edge_llm.protocol import AnswerOptions
from edge_llm.protocol.wire import Told, Wire
from edge_llm.settings.reference import Key, read_keys
from tests.docs.blocks import ROOT

__all__ = ["COMMAND", "HEADING", "anchor_of", "generate", "pages"]

COMMAND = "python -m tests.docs.generate"
PART = re.compile(r"<!-- (fields|paths): (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

UNIONS = {
    "NamedTool": "[a tool by name](#tools)",
    **dict.fromkeys(
        ("TextFormat", "JsonObjectFormat", "JsonSchemaFormat", "RegexFormat"), "[form](#a-form)"
    ),
}
"""What is one of several models has one description."""

PATHS: Mapping[str, Sequence[Endpoint]] = {
    "openai": bridges.http.openai.ENDPOINTS,
    "ollama": bridges.http.ollama.ENDPOINTS,
    "axera": bridges.http.axera.ENDPOINTS,
    "node": (
        *bridges.http.health.ENDPOINTS,
        Endpoint("GET", "/metrics", bridges.http.metrics.metrics, str),
        make_endpoint((), needs_key=False),
        *bridges.http.page.ENDPOINTS,
    ),
}


def pages() -> list[Path]:
    """Return the pages that have something generated in them."""
    return [page for page in sorted((ROOT / "docs").glob("*.md")) if PART.search(page.read_text())]


def generate(text: str) -> str:
    """Return a page with all that is generated in it as it must be now."""
    anchors = {
        part[2]: anchor_of(HEADING.findall(text[: part.start()])[-1])
        for part in PART.finditer(text)
        if part[1] == "fields"
    }

    def replace(part: re.Match[str]) -> str:
        kind, name, _ = part.groups()
        lines = _fields(_model(name), anchors) if kind == "fields" else _paths(PATHS[name])
        table = "".join(f"{line}\n" for line in lines)
        return f"<!-- {kind}: {name} -->\n{table}<!-- end -->"

    return PART.sub(replace, text)


def anchor_of(heading: str) -> str:
    """Return what GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _models(base: type[BaseModel] = Wire) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _model(name: str) -> type[BaseModel]:
    [model] = {model for model in _models() if model.__name__ == name}
    return model


def _fields(model: type[BaseModel], anchors: Mapping[str, str]) -> Iterator[str]:
    """Yield the table of a model's fields; with defaults, if it is something that others send."""
    named = {name: f"[{name}](#{anchor})" for name, anchor in anchors.items()}
    keys = read_keys(model, {**{cls.__name__: "object" for cls in _models()}, **named, **UNIONS})
    # What is asked before how to answer it.
    keys.sort(key=lambda key: key.name in AnswerOptions.model_fields)
    if issubclass(model, Told):
        yield from _table(
            ("field", "", ""), ((f"`{key.name}`", _form(key), _words(key)) for key in keys)
        )
        return
    rows = ((f"`{key.name}`", _form(key), _default(key), _words(key)) for key in keys)
    yield from _table(("field", "type, range", "default", ""), rows)


def _default(key: Key) -> str:
    return f"`{key.value}`" if key.value else "must be given" if key.is_required else ""


def _form(key: Key) -> str:
    return re.sub(r"\btable\b", "object", key.form)


def _words(key: Key) -> str:
    return " ".join(key.words.split()).replace("``", "`")


def _paths(endpoints: Iterable[Endpoint]) -> Iterator[str]:
    """Yield the table of paths; those that one handler answers are one row."""
    by_handler: dict[object, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_handler.setdefault(endpoint.handler, []).append(endpoint)
    rows = []
    for first, *others in by_handler.values():
        tail = re.sub(r"^/[^/]+", "", first.path)
        roots = [f"`{_plain(other.path.removesuffix(tail))}`" for other in others]
        also = f"; also below {', '.join(roots)}" if roots else ""
        what = (first.handler.__doc__ or "").partition("\n")[0].replace("``", "`")
        streams = "can be streamed" if first.chunk is not None else ""
        rows.append((f"`{first.method} {_plain(first.path)}`{also}", what, streams))
    yield from _table(("path", "", ""), rows)


def _plain(path: str) -> str:
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def main() -> None:
    """Rewrite the pages in place."""
    for page in pages():
        page.write_text(generate(page.read_text()))
        print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
