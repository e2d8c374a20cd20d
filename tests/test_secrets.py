"""No password, key or prompt is in a log, a metric, an error or what a node says of itself.

A whole node in a process of its own, at the level that logs most, is asked well and badly with
words that are nowhere else; then all that it has written is searched for them.
"""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from bridges.http import hash_key
from edge_llm.log import set_up_log
from edge_llm.settings import LogSettings, load_settings
from tests.accounts import Accounts
from tests.brokers import Mosquitto
from tests.clients import RawClient, eventually
from tests.programs import HOST, free_port, running

PASSWORD, HTTP_KEY, UPSTREAM_KEY = "canary-password", "sk-canary-http", "sk-canary-upstream"
PERSONA, NODE_PROMPT, PRESET_PROMPT = "canary-persona", "canary-node-prompt", "canary-preset-prompt"
SECRETS = (PASSWORD, HTTP_KEY, UPSTREAM_KEY)
HIDDEN = (*SECRETS, PERSONA, NODE_PROMPT, PRESET_PROMPT)
"""What nobody may be told who did not say it."""

SETTINGS = f"""\
node = "stage"
default_preset = "oracle"
[mqtt]
username = "edge-llm"
[engine]
max_tokens = 8
system_prompt = "{NODE_PROMPT}"
[engine.openai]
base_url = "http://127.0.0.1:1/v1"
api_key = "{UPSTREAM_KEY}"
[log]
level = "debug"
[[http.key]]
name = "lamp"
sha256 = "{hash_key(HTTP_KEY)}"
[preset.oracle]
system_prompt = "{PERSONA}"
prompt = "{PRESET_PROMPT}"
[[route]]
name = "button"
topic = "house/button"
prompt = "Say {{{{ json.word }}}}"
respond_to = "house/speaker"
"""


@dataclass
class Node:
    """A node in a process of its own."""

    log: Path
    http_port: int
    broker: Mosquitto
    said: list[str] = field(default_factory=list)
    """What it was sent, each a word that is nowhere else."""

    def word(self, where: str) -> str:
        """Make a word that is nowhere else."""
        self.said.append(f"canary-{len(self.said)}-{where}-canary")
        return self.said[-1]

    def client(self) -> RawClient:
        client = self.broker.broker().client()
        client.paho.username_pw_set("edge-llm", PASSWORD)
        return client

    def found(self, text: str, *, also: tuple[str, ...] = HIDDEN) -> list[str]:
        """Return what of all that is in a text."""
        return [word for word in (*self.said, *also) if word in text]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    accounts = Accounts(tmp_path / "accounts")
    accounts.set("edge-llm", PASSWORD)
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "mqtt-password").write_text(f"{PASSWORD}\n")
    (tmp_path / "edge-llm.toml").write_text(SETTINGS)
    more = f"password_file {accounts.file}"
    with Mosquitto(tmp_path, {"allow_anonymous": "false"}, more) as mosquitto:
        node = Node(tmp_path / "node.log", free_port(), mosquitto)
        values = {
            "EDGE_LLM_MQTT__PORT": str(mosquitto.port),
            "EDGE_LLM_HTTP__PORT": str(node.http_port),
            "EDGE_LLM_STORE__DIRECTORY": str(tmp_path / "store"),
            "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
        }
        command = [sys.executable, "-m", "edge_llm", "serve"]
        command += ["--config", str(tmp_path / "edge-llm.toml")]
        is_ready = lambda: node.log.exists() and "model.loaded" in node.log.read_text()  # noqa: E731
        with running(command, node.log, is_ready, {**os.environ, **values}):
            yield node


@asynccontextmanager
async def connections(node: Node) -> AsyncIterator[tuple[RawClient, aiohttp.ClientSession]]:
    headers = {"Authorization": f"Bearer {HTTP_KEY}"}
    url = f"http://{HOST}:{node.http_port}"
    async with node.client() as client, aiohttp.ClientSession(url, headers=headers) as http:
        await client.subscribe("llm/node/#", "llm/response/#", "house/#")
        yield client, http


async def ask_over_mqtt(node: Node, client: RawClient) -> None:
    """Ask well, and in every way that goes wrong."""
    word = node.word
    tool = {"type": "function", "function": {"name": "f", "description": word("tool")}}
    call: dict[str, Any] = {
        "id": "c",
        "function": {"name": "f", "arguments": json.dumps({"a": word("argument")})},
    }
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": word("system")},
        {"role": "user", "content": word("turn")},
        {"role": "assistant", "content": word("answer"), "tool_calls": [call]},
        {"role": "tool", "content": word("result"), "tool_call_id": "c"},
    ]
    asked: list[str | dict[str, Any]] = [
        word("plain"),
        {"prompt": word("prompt"), "session": "visitor", "stream": "word", "events": True},
        {"prompt": word("turn 2"), "session": "visitor"},
        {"messages": turns, "tools": [tool]},
        {"prompt": word("stop"), "stop": [word("stops")], "choices": [word("choice")]},
        {
            "prompt": word("schema"),
            "response_format": {"type": "regex", "regex": word("other regex[")},
        },
        {"prompt": word("long ") * 4000},
        f'{{"prompt": "{word("broken json")}',
        f'{{"prompt": "{word("two objects")}"}} {{}}',
        {"prompt": word("number"), "max_tokens": word("not a number")},
        {"prompt": word("enum"), "stream": word("not a stream")},
        {"messages": [{"role": word("role"), "content": word("content")}]},
        {"messages": [{"role": "user", "content": [word("list")]}]},
        {"messages": [*turns[:2], {**turns[2], "tool_calls": [{**call, "type": word("type")}]}]},
        {"prompt": word("session"), "session": f"{word('a')}/{word('b')}"},
        {"prompt": word("node"), "node": word("other node")},
        {"prompt": word("model"), "model": word("other model")},
        {"prompt": word("preset"), "preset": word("other preset")},
        {},
    ]
    for number, request in enumerate(asked):
        payload = request if isinstance(request, str) else json.dumps(request)
        client.publish(f"llm/request/a/{number}", payload)
    client.publish("llm/request/b", word("not UTF-8").encode() + b"\xff")
    client.publish("llm/request/c/error", word("bad id"))
    client.publish("llm/request/d", word("retained"), retain=True)
    client.publish("llm/cancel/e", word("cancel"))
    client.publish("llm/node/stage/command", "dance")
    client.publish("house/button", json.dumps({"word": word("press")}))
    client.publish("house/button", json.dumps({"wrong": word("bad press")}))
    await client.wait_for("llm/response/a/18", timeout_s=60)
    await client.wait_for("house/speaker", timeout_s=60)
    await client.wait_for("llm/response/button/error")


async def ask_over_http(node: Node, http: aiohttp.ClientSession) -> list[str]:
    """Do so over HTTP; return what was answered to those who were refused."""
    word, refusals = node.word, []
    chat, turn = "/v1/chat/completions", {"role": "user", "content": word("http")}
    bodies: list[tuple[str, Any]] = [
        (chat, {"messages": [turn]}),
        (chat, {"messages": [turn], "stream": True}),
        (chat, {"messages": [{"role": "user", "content": 7, "name": word("name")}]}),
        (chat, {"messages": word("messages")}),
        (chat, {"messages": [turn], "temperature": word("hot")}),
        (chat, {"messages": [turn], "response_format": {"type": word("format")}}),
        ("/v1/completions", {"prompt": word("completion"), "max_tokens": 2}),
        ("/v1/responses", {"input": word("input"), "instructions": word("instructions")}),
        ("/api/chat", {"messages": [turn], "options": {"num_predict": word("option")}}),
        ("/api/generate", {"prompt": word("generate"), "system": word("ollama"), "stream": False}),
        ("/api/reset", {"system_prompt": word("axera")}),
        ("/api/show", {"model": "edge-llm-tiny"}),
    ]
    for path, body in bodies:
        async with http.post(path, json=body) as response:
            text = await response.text()
            assert not [hidden for hidden in HIDDEN if hidden in text], (path, text)
            if response.status >= 400:
                refusals.append(text)
    async with http.post(chat, data=f'{{"messages": "{word("half")}') as response:
        refusals.append(await response.text())
    url = f"http://{HOST}:{node.http_port}/v1/models"
    for headers in (
        {"Authorization": f"Bearer {word('key')}"},
        {"Authorization": f"Basic {word('basic')}"},
        {"api-key": word("api-key")},
        {"X-Api-Key": word("x-api-key")},
    ):
        async with aiohttp.request("GET", url, headers=headers) as answer:
            assert answer.status == 401
            refusals.append(await answer.text())
    async with http.get(f"/v1/models?key={word('query')}") as response:
        assert response.status == 200
    return refusals


async def ask_broken_http(node: Node) -> str:
    """Send what is no HTTP, with a key in it."""
    reader, writer = await asyncio.open_connection(HOST, node.http_port)
    lines = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {HTTP_KEY}\x00\r\n\r\n"
    writer.write(lines.encode())
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer.decode()


def told_values(node: Node, said: list[Any], refusals: list[str]) -> list[str]:
    """Return the values that errors tell: one of the wrong kind may be a prompt in the wrong field.

    Names of presets and models, and an expression that is none, are told to who said them.
    """
    errors = [
        json.dumps(json.loads(message.payload)["error"])
        for message in said
        if message.topic.startswith("llm/response/a/") and b'"error"' in message.payload
    ]
    assert len(errors) > 8
    values = [word for word in node.said if "-other " not in word]
    return [word for word in values if word in "".join([*errors, *refusals])]


async def test_nothing_that_is_secret_or_was_said_is_anywhere(node: Node) -> None:
    async with connections(node) as (client, http):
        await ask_over_mqtt(node, client)
        refusals = await ask_over_http(node, http)
        broken = await ask_broken_http(node)
        said = list(client.messages)
        pages = []
        for path in ("/metrics", "/health", "/health/ready", "/v1/models", "/openapi.json"):
            async with http.get(path) as response:
                assert response.status == 200
                pages.append(await response.text())
        await eventually(lambda: client.payloads("llm/node/stage/health"))
    assert told_values(node, said, refusals) == []
    log = node.log.read_text()
    assert "request.done" in log
    assert "request.rejected" in log
    assert node.found(log) == []
    for page in pages:
        assert node.found(page) == []
    assert not [word for word in SECRETS if word in "".join(refusals)]
    assert not [word for word in HIDDEN if word in broken and word != HTTP_KEY]  # its own sender
    for message in said:
        text = bytes(message.payload).decode(errors="replace")
        if message.topic.startswith("llm/node/"):
            if not message.topic.endswith("/command"):
                assert node.found(text) == [], message.topic
        else:  # it may repeat what it was asked, but not what others have set
            assert not [word for word in HIDDEN if word in text], message.topic


@pytest.fixture
def log_as_before() -> Iterator[None]:
    """The log of this process goes where it went, after a test that has set it up."""
    root, config = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**config)
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("log_as_before")
def test_a_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str]) -> None:
    for format_ in ("text", "json"):
        set_up_log(LogSettings.model_validate({"format": format_}))
        log = structlog.get_logger()
        prompt = "canary in a variable"
        try:
            raise RuntimeError("a bug")
        except RuntimeError:
            log.exception("request.crashed")
            logging.getLogger("aiohttp.server").exception("and of a library")
        written = capsys.readouterr().err
        assert written.count("RuntimeError: a bug") == 2
        assert prompt not in written


def test_what_is_wrong_with_settings_shows_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "edge-llm.toml"
    for text in (
        '[mqtt]\npassword = ["canary"]',
        '[mqtt]\npassword = "canary"\nport = 0',
        "[mqtt]\npassword = 'canary",
        '[[http.key]]\nname = "lamp"\nsha256 = "canary"',
        '[engine.openai]\napi_key = {a = "canary"}',
        "[mqtt.password]\ncanary = 1",
    ):
        file.write_text(text)
        command = [sys.executable, "-m", "edge_llm", "serve", "--config", str(file)]
        outcome = subprocess.run(command, check=False, capture_output=True, text=True)
        assert outcome.returncode == 1
        assert "canary" not in outcome.stderr.replace("mqtt.password.canary", "")
    file.write_text('[mqtt]\npassword = "canary"\n[engine.openai]\napi_key = "canary"')
    settings = load_settings(file)
    assert "canary" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_the_model_runtime_tells_nobody_of_us(tmp_path: Path) -> None:
    """ONNX Runtime would: it makes a device id, and keeps what it is going to send."""
    script = (
        "from edge_llm.engine.loading import load_engine\n"
        "from edge_llm.protocol import ChatRequest\n"
        "from edge_llm.settings import EngineSettings\n"
        "engine = load_engine(EngineSettings())\n"
        "print(len(list(engine.generate(ChatRequest(prompt='Hi', max_tokens=2)))))\n"
    )
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    outcome = subprocess.run(
        [sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True
    )
    assert int(outcome.stdout) >= 2
    assert list(tmp_path.rglob("*")) == []
