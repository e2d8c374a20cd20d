"""What nodes say, as clients, other nodes and the screen read it; anybody may publish there."""

import json
from collections.abc import Iterable
from contextlib import suppress

from edge_llm.client.nodes import Nodes
from edge_llm.client.reading import Reading
from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import Delta, Done
from edge_llm.watch.state import State
from tests.fuzz.json_mutation import json_mutator, json_words
from tests.fuzz.source import Source, join
from tests.fuzz.target import Target

LEVELS = ("", "delta", "event", "error", "part/0")
TOPICS = (
    "llm/node/a/status",
    "llm/node/a/info",
    "llm/node/a/activity",
    "llm/node/a/error",
    "llm/node/a/health",
    "llm/request/a/1",
    "llm/response/a/1",
    "llm/response/a/1/delta",
    "llm/response/a/1/event",
    "llm/response/a/1/error",
    "llm/cancel/a/1",
    "me/reply",
)


def check(data: bytes) -> None:
    source = Source(data)
    is_retained, elsewhere = source.flag(), source.flag()
    choices = [source.byte() for _ in range(4)]
    first, second, rest = source.part(), source.part(), source.rest()
    payloads = (first, second, rest)
    _check_client(choices, payloads)
    _check_screen(choices, payloads, is_retained=is_retained, elsewhere=elsewhere)


def _check_client(choices: list[int], payloads: Iterable[bytes]) -> None:
    reading, nodes = Reading(), Nodes()
    text = ""
    with suppress(EdgeLLMError):
        for choice, payload in zip(choices, payloads, strict=False):
            nodes.feed("a", ("info", "activity")[choice % 2], payload)
            nodes.choose("tiny", {})
            for event in reading.read(LEVELS[choice % len(LEVELS)], payload):
                if isinstance(event, Delta):
                    text += event.text
                assert isinstance(event, Done) <= reading.is_over
                event.model_dump_json()


def _check_screen(
    choices: list[int], payloads: Iterable[bytes], *, is_retained: bool, elsewhere: bool
) -> None:
    state = State()
    for now, (choice, payload) in enumerate(zip(choices, payloads, strict=False)):
        happening = state.feed(
            TOPICS[choice % len(TOPICS)],
            payload,
            float(now),
            is_retained=is_retained,
            respond_to="me/reply" if elsewhere else None,
        )
        # A terminal must not be told what to do by whoever can publish.
        assert happening is None or str(happening).isprintable()


def seeds() -> Iterable[bytes]:
    info = {
        "node": "a",
        "version": "0.1.0",
        "protocol": 1,
        "boot_id": "x",
        "models": [{"id": "tiny", "context_len": 1024, "vocab_size": 2048}],
        "engine": "worker",
        "queue_limit": 100,
    }
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    final = {
        "id": "a/1",
        "node": "a",
        "text": "Hello there.",
        "finish_reason": "stop",
        "usage": usage,
        "tool_calls": [call],
        "timing": {"total_s": 1.5},
    }
    error = {"code": "queue_full", "message": "full", "retry_after_s": 2}
    request = {"prompt": "Hi", "preset": "oracle"}
    deltas = [{"seq": 0, "text": "Hello"}, {"seq": 1, "text": " there."}]
    for payload in (info, final, {**final, "error": error}, error, request, deltas[0]):
        for choice in range(12):
            yield join((0, choice % 2, choice, choice + 1, 0, 0), b"", b"", json.dumps(payload))
            yield join((0, 0, choice, 0, 0, 0), json.dumps(payload))
    yield join((0, 0, 1, 1, 0, 0), *(json.dumps(each) for each in (*deltas, final)))
    yield join((0, 1, 5, 7, 6, 0), *(json.dumps(each) for each in (request, deltas[0], final)))
    yield join((0, 0, 2, 2, 3, 0), '{"event": "queued", "position": 2}', "", "code: words")


WORDS = ("id", "node", "text", "seq", "event", "position", "code", "message", "error", "usage")
TARGET = Target(check, seeds, json_words(*WORDS, "models", "timing"), mutate=json_mutator(8))
