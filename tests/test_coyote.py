"""coyote_interactive, a piece for the public: its calls as it makes them, its settings as we say.

Its own program is not ours; what is here is what it sends and what it reads of the reply.
"""

import ast
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.programs import HOST, free_port, running

EXAMPLE = Path(__file__).parent.parent / "examples" / "coyote"
MAX_CHANGED_LINES = 9
SYSTEM = "You are a coyote who watches television and is brief."
TELEVISION = (
    "The television says: the road is long, the bird is fast, and it is time for lunch. " * 3
)
OLLAMA_OPTIONS = {
    "temperature": 0.99,
    "top_k": 85,
    "top_p": 0.9,
    "repeat_last_n": 64,
    "repeat_penalty": 1.5,
    "num_predict": 100,
    "stop": ["#", "["],
}
TIMEOUT_S = 30


@dataclass
class Node:
    """A node at the ports where the example has it, or rather at two that are free here."""

    port: int
    ollama_port: int

    def settings_of(self, name: str) -> dict[str, str]:
        """Return what a diff leaves in the piece's settings."""
        settings: dict[str, str] = {}
        for line in (EXAMPLE / name).read_text().splitlines():
            if line.startswith(("+", " ")) and " = " in line:
                key, _, value = line[1:].partition(" = ")
                settings[key] = str(ast.literal_eval(value))
        ports = {":8000": f":{self.port}", ":11434": f":{self.ollama_port}"}
        for there, here in ports.items():
            settings = {key: value.replace(there, here) for key, value in settings.items()}
        return settings

    def url(self, path: str) -> str:
        return f"http://{HOST}:{self.port}{path}"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(free_port(), free_port())
    environment = os.environ | {
        "EDGE_LLM_HTTP__PORT": str(node.port),
        "EDGE_LLM_HTTP__OLLAMA_PORT": str(node.ollama_port),
    }
    command = [sys.executable, "-m", "edge_llm", "serve", "--no-mqtt"]
    command += ["--config", str(EXAMPLE / "edge-llm.toml")]

    def is_ready() -> bool:
        try:
            return requests.get(node.url("/health/ready"), timeout=1).ok
        except requests.ConnectionError:
            return False

    log = tmp_path_factory.mktemp("coyote") / "node.log"
    with running(command, log, is_ready, environment):
        yield node


@pytest.fixture
def conversation() -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Who are you?"}]


@pytest.mark.parametrize("name", ["azure.diff", "ollama.diff", "ax650.diff"])
def test_the_changes_are_few(name: str) -> None:
    lines = (EXAMPLE / name).read_text().splitlines()
    changed = [line for line in lines if line.startswith(("+", "-")) and line[1:3] not in "--++"]
    assert 0 < len(changed) <= MAX_CHANGED_LINES


def ask_azure(node: Node, messages: Any) -> tuple[str, str | None]:
    """Return the answer, and how many messages were dropped."""
    settings = node.settings_of("azure.diff")
    with openai.AzureOpenAI(
        azure_endpoint=settings["AZURE_OPENAI_GPT4_ENDPOINT"],
        api_key=settings["AZURE_OPENAI_GPT4_KEY"],
        api_version="2024-02-15-preview",
    ) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=settings["AZURE_MODEL"],
            messages=messages,
            temperature=0.9,
            max_tokens=125,
            top_p=0.95,
            frequency_penalty=0,
            presence_penalty=0,
            stop=None,
        )
    content = raw.parse().choices[0].message.content
    assert content
    return content, raw.headers.get("X-Dropped-Messages")


def ask_ollama(node: Node, messages: Any) -> tuple[str, str | None]:
    """Return the answer, and how many messages were dropped."""
    settings = node.settings_of("ollama.diff")
    payload = {
        "model": settings["OLLAMA_MODEL"],
        "keep_alive": -1,
        "stream": False,
        "think": False,
        "options": OLLAMA_OPTIONS,
        "messages": messages,
    }
    response = requests.post(settings["OLLAMA_ENDPOINT"], json=payload, timeout=TIMEOUT_S)
    content = response.json()["message"]["content"]
    assert isinstance(content, str)
    return content, response.headers.get("X-Dropped-Messages")


def ask_ax650(node: Node, prompt: str) -> str:
    endpoint = f"http://{HOST}:{node.ollama_port}/api/generate"
    payload = {"model": "qwen3-ax650", "prompt": prompt, "stream": False}
    response = requests.post(endpoint, json=payload, timeout=TIMEOUT_S)
    response.raise_for_status()
    return str(response.json()["response"]).strip()


def reset_ax650(node: Node) -> None:
    requests.get(node.url("/api/stop"), timeout=TIMEOUT_S).raise_for_status()
    requests.post(
        node.url("/api/reset"), json={"system_prompt": SYSTEM}, timeout=TIMEOUT_S
    ).raise_for_status()


def test_azures_client_is_answered(node: Node, conversation: Any) -> None:
    said, dropped = ask_azure(node, conversation)
    assert said.strip()
    assert dropped is None


def test_ollamas_call_is_answered(node: Node, conversation: Any) -> None:
    said, dropped = ask_ollama(node, conversation)
    assert said.strip()
    assert not {"#", "["} & set(said)
    assert dropped is None


@pytest.mark.parametrize("ask", [ask_azure, ask_ollama])
def test_a_conversation_may_grow_without_bound(node: Node, conversation: Any, ask: Any) -> None:
    num_dropped: list[int] = []
    for _ in range(20):
        said, dropped = ask(node, conversation)
        conversation += [
            {"role": "assistant", "content": said},
            {"role": "user", "content": TELEVISION},
        ]
        num_dropped.append(int(dropped or 0))
    assert num_dropped[0] == 0
    assert num_dropped[-1] > 2
    assert num_dropped == sorted(num_dropped)


def test_the_ax650s_runtime_is_reset_and_remembers(node: Node) -> None:
    reset_ax650(node)
    assert ask_ax650(node, "Hello")
    for _ in range(12):
        assert ask_ax650(node, TELEVISION)
    reset_ax650(node)
    assert ask_ax650(node, "Who are you?")


def test_a_boom_ends_what_is_being_said(node: Node) -> None:
    reset_ax650(node)
    said: list[str] = []
    talking = threading.Thread(target=lambda: said.append(ask_ax650(node, TELEVISION * 4)))
    talking.start()
    time.sleep(0.02)
    reset_ax650(node)
    talking.join(5)
    assert len(said) == 1
    assert ask_ax650(node, "Hello")
