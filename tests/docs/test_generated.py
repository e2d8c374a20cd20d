"""What the pages list is what the code has."""

import re

import aiohttp
import pytest

from bridges.http import open_http
from bridges.http.endpoint import Endpoint
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import MqttRequest
from edge_llm.protocol.wire import Told
from edge_llm.settings import HttpSettings
from tests.docs.blocks import ROOT
from tests.docs.generate import COMMAND, PATHS, generate, pages
from tests.fakes import ScriptedEngine


def test_every_list_is_as_it_would_be_generated_now() -> None:
    old = [page.name for page in pages() if page.read_text() != generate(page.read_text())]
    assert not old, f"{', '.join(old)}: to bring them up to date: {COMMAND}"


def test_what_a_request_may_say_is_in_the_page_with_default_and_range() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    table = text.split("<!-- fields: MqttRequest -->")[1].split("<!-- end -->")[0]
    assert "| `priority` | whole number, 0 to 9 | `5` |" in table
    names = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    assert set(names) == set(MqttRequest.model_fields)
    assert names.index("prompt") < names.index("preset") < names.index("temperature")


def test_a_field_that_is_new_makes_the_page_an_old_one() -> None:
    page = "## A turn\n\n<!-- fields: Told -->\n<!-- end -->\n"

    class Spoken(Told):
        """Only here."""

        word: str = "a | b"
        """What is ``said``."""

    generated = generate(page.replace("Told", "Spoken"))
    assert "| `word` | text | What is `said`. |" in generated
    assert generate(generated) == generated


async def test_each_path_that_is_served_is_among_them() -> None:
    context = BridgeContext("pi5", ScriptedEngine())
    async with (
        open_http(HttpSettings(port=0), context) as server,
        aiohttp.ClientSession(server.url) as http,
        http.get("/openapi.json") as response,
    ):
        served = (await response.json())["paths"]
    listed = [endpoint for group in PATHS.values() for endpoint in group]
    known = {(re.sub(r":[^}]*", "", end.path), end.method.lower()) for end in listed}
    assert len(served) > 20
    assert {(path, method) for path, methods in served.items() for method in methods} <= known


def test_the_pages_say_of_each_path_what_its_handler_says(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: object) -> None:
        """Say ``yes``."""

    roots = ("/v1", "/other/v1")
    endpoints = [Endpoint("GET", f"{root}/x/{{name:.+}}", answer, dict) for root in roots]  # type: ignore[arg-type]
    monkeypatch.setitem(PATHS, "openai", endpoints)
    assert "| `GET /v1/x/{name}`; also below `/other/v1` | Say `yes`. |  |" in generate(
        "<!-- paths: openai -->\n<!-- end -->"
    )
