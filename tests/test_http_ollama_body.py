"""What Ollama's requests may say: options, formats, thinking, and what is refused."""

from collections.abc import AsyncIterator
from typing import Any

import ollama
import pytest
from structlog.testing import capture_logs

from edge_llm.protocol import (
    Delta,
    Done,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    Started,
    TokenLogprob,
    TopLogprob,
)
from tests.http_bridge import USAGE, HttpBridge, PlayedEngine, open_bridge, user
from tests.ollama_bridge import ASK, TINY, make_engine, refusal

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@pytest.fixture
def engine() -> PlayedEngine:
    return make_engine()


@pytest.fixture
async def bridge(engine: PlayedEngine) -> AsyncIterator[HttpBridge]:
    async with open_bridge(engine, model_aliases=("qwen3-*",)) as bridge:
        yield bridge


@pytest.fixture
async def client(bridge: HttpBridge) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=bridge.server.url) as client:
        yield client


async def test_every_option_reaches_the_engine(
    client: ollama.AsyncClient, engine: PlayedEngine
) -> None:
    options = {
        "temperature": 0.99,
        "top_k": 85,
        "top_p": 0.9,
        "min_p": 0.1,
        "repeat_last_n": 64,
        "repeat_penalty": 1.5,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "seed": 42,
        "stop": ["#", "["],
    }
    await client.chat("tiny", messages=[user()], options=options | {"num_predict": 100})
    sent = engine.asked[0].model_dump(exclude_none=True)
    assert options | {"stop": ("#", "["), "max_tokens": 100} == {
        name: sent[name] for name in [*options, "max_tokens"]
    }


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"num_predict": -1}, {"max_tokens": 512}),
        ({"num_predict": -2}, {"max_tokens": 512}),
        ({"num_predict": 0}, {"max_tokens": 512}),
        ({"num_predict": 20.0}, {"max_tokens": 20}),
        ({"seed": -1}, {"seed": None}),
        ({"seed": 0}, {"seed": 0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 40.0}, {"top_k": 40}),
        ({"repeat_last_n": -1}, {"repeat_last_n": -1}),
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"temperature": None, "stop": None}, {"temperature": None, "stop": None}),
        ({"time_budget_s": 8, "ttl_s": 20}, {"time_budget_s": 8, "ttl_s": 20}),
        ({"num_ctx": 8192.0}, {}),
    ],
)
async def test_options_mean_what_they_mean_at_ollama(
    bridge: HttpBridge, engine: PlayedEngine, options: dict[str, Any], fields: dict[str, Any]
) -> None:
    await bridge.post("/api/chat", ASK | {"stream": False, "options": options})
    for name, value in fields.items():
        assert getattr(engine.asked[0], name) == value


async def test_other_options_are_ignored_and_logged(
    bridge: HttpBridge, engine: PlayedEngine
) -> None:
    options = {"num_gpu": 1, "num_thread": 8, "mirostat": 1, "typical_p": 0.7, "tfs_z": 1}
    body = ASK | {"stream": False, "shift": True, "options": options | {"num_ctx": 8192}}
    with capture_logs() as logs:
        await bridge.post("/api/chat", body)
    assert engine.asked[0].model_dump(exclude_none=True).keys() <= {
        "model",
        "messages",
        "overflow",
        "priority",
        "preempt",
    }
    ignored = {log["event"]: log for log in logs if log["log_level"] == "debug"}
    assert ignored["request.options_ignored"]["options"] == sorted(options)
    assert ignored["request.fields_ignored"]["fields"] == ["shift"]
    assert ignored["request.context_is_shorter"]["num_ctx"] == 8192


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"options": {"temperature": 2.5}}, "options.temperature: Input should be less than"),
        ({"options": {"temperature": "hot"}}, "options.temperature: Input should be a valid"),
        ({"options": {"top_k": 1.5}}, "options.top_k: Input should be a valid integer"),
        ({"options": {"top_p": 0}}, "options.top_p: Input should be greater than 0"),
        ({"options": {"num_predict": -3}}, "options.num_predict: Input should be greater than"),
        ({"options": {"stop": list("abcde")}}, "options.stop: Tuple should have at most 4"),
        ({"options": {"max_bytes": 200}}, "options.max_bytes: "),
        ({"options": []}, "options: "),
        ({"format": "xml"}, "invalid format: 'xml'; expected \"json\" or a JSON schema"),
        ({"think": "hard"}, "invalid think value: 'hard'"),
        ({"keep_alive": "soon"}, "keep_alive: 'soon' is no duration"),
        ({"messages": [user("")]}, "the last message is empty"),
        ({"messages": [{"role": "alien", "content": "x"}]}, "messages.0.role: Input should be"),
        ({"messages": [user() | {"images": ["aGk="]}]}, "this node's models read text only"),
        ({"messages": "Hello"}, "messages: "),
        ({"top_logprobs": 21}, "top_logprobs: Input should be less than"),
    ],
)
async def test_what_is_wrong_is_refused_with_a_sentence(
    bridge: HttpBridge, engine: PlayedEngine, body: dict[str, Any], said: str
) -> None:
    status, sentence = await refusal(bridge, "/api/chat", ASK | body)
    assert status == 400
    assert sentence.startswith(said)
    assert engine.asked == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"suffix": "}"}, '"tiny" does not support insert'),
        ({"template": "{{ .Prompt }}"}, "the model's own chat template is used"),
        ({"raw": True}, "the prompt always goes through the model's chat template"),
        ({"context": [1, 2, 3]}, "answers have no 'context' here"),
        ({"images": ["aGk="]}, "this node's models read text only"),
        ({"prompt": " "}, "the last message is empty"),
    ],
)
async def test_what_generate_cant_honour_is_refused_by_name(
    bridge: HttpBridge, body: dict[str, Any], said: str
) -> None:
    status, sentence = await refusal(
        bridge, "/api/generate", {"model": "tiny", "prompt": "Hello"} | body
    )
    assert status == 400
    assert sentence.startswith(said)


async def test_what_asks_for_nothing_is_accepted(bridge: HttpBridge) -> None:
    nothing = {"suffix": "", "template": "", "raw": False, "context": [], "images": []}
    nothing |= {"format": "", "options": {}, "system": "", "think": False, "logprobs": False}
    body = {"model": "tiny", "prompt": "Hello", "stream": False}
    assert (await bridge.post("/api/generate", body | nothing))["response"] == "Good evening."
    empty = dict.fromkeys(nothing)
    assert (await bridge.post("/api/generate", body | empty))["response"] == "Good evening."


@pytest.mark.parametrize(
    ("think", "thinking"),
    [(True, True), (False, False), ("low", True), ("max", True), (None, None)],
)
async def test_thinking_comes_apart(
    client: ollama.AsyncClient,
    bridge: HttpBridge,
    engine: PlayedEngine,
    think: Any,
    thinking: bool | None,
) -> None:
    bridge.play(
        Started(),
        Delta(reasoning="Hm"),
        Delta(reasoning=".", text="Yes"),
        Done(finish_reason="stop"),
    )
    reply = await client.chat("tiny", messages=[user()], think=think)
    assert (reply.message.content, reply.message.thinking) == ("Yes", "Hm.")
    assert engine.asked[0].enable_thinking is thinking
    parts = [
        part async for part in await client.generate("tiny", "Hello", think=think, stream=True)
    ]
    assert [(part.thinking, part.response) for part in parts] == [
        ("Hm", ""),
        (".", "Yes"),
        (None, ""),
    ]
    await client.chat("tiny", messages=[user(), reply.message, user("And?")])
    assert [turn.content for turn in engine.asked[-1].conversation] == ["Hello", "Yes", "And?"]


async def test_a_model_that_cant_is_not_asked_to(bridge: HttpBridge, engine: PlayedEngine) -> None:
    engine.models = (TINY.model_copy(update={"has_thinking": False, "has_tools": False}),)
    said = await refusal(bridge, "/api/chat", ASK | {"think": True})
    assert said == (400, '"tiny" does not support thinking')
    tool = {"type": "function", "function": {"name": "f"}}
    said = await refusal(bridge, "/api/chat", ASK | {"tools": [tool]})
    assert said == (400, '"tiny" does not support tools')
    await bridge.post("/api/chat", ASK | {"think": False, "tools": [], "stream": False})


async def test_a_format_is_json_or_a_schema(
    client: ollama.AsyncClient, engine: PlayedEngine
) -> None:
    await client.chat("tiny", messages=[user()], format="json")
    await client.generate("tiny", "Hello", format=PERSON)
    await client.chat("tiny", messages=[user()], format="")
    schema = JsonSchemaFormat(type="json_schema", json_schema=JsonSchema(schema=PERSON))
    assert [asked.response_format for asked in engine.asked] == [
        JsonObjectFormat(type="json_object"),
        schema,
        None,
    ]


@pytest.mark.parametrize(
    ("truncate", "overflow"), [(True, "drop_oldest"), (False, "error"), (None, "error")]
)
async def test_a_conversation_is_cut_only_if_somebody_says_so(
    bridge: HttpBridge, engine: PlayedEngine, truncate: bool | None, overflow: str
) -> None:
    await bridge.post("/api/chat", ASK | {"truncate": truncate, "stream": False})
    assert engine.asked[0].overflow == overflow


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cut_conversation_says_how_many_messages_are_gone(
    bridge: HttpBridge, stream: bool
) -> None:
    bridge.play(
        Started(dropped_messages=3),
        Delta(text="a"),
        Done(finish_reason="stop", dropped_messages=3),
    )
    async with bridge.http.post("/api/chat", json=ASK | {"stream": stream}) as response:
        assert response.headers["X-Dropped-Messages"] == "3"


async def test_probabilities_are_said_if_asked(
    client: ollama.AsyncClient, bridge: HttpBridge, engine: PlayedEngine
) -> None:
    other = TopLogprob(token="B", bytes=(66,), logprob=-2.0)
    token = TokenLogprob(token="A", bytes=(65,), logprob=-0.5, top_logprobs=(other,))
    bridge.play(
        Started(), Delta(text="A", logprobs=(token,)), Done(finish_reason="stop", usage=USAGE)
    )
    reply = await client.chat("tiny", messages=[user()], logprobs=True, top_logprobs=1)
    assert reply.logprobs
    assert (reply.logprobs[0].token, reply.logprobs[0].logprob) == ("A", -0.5)
    assert reply.logprobs[0].top_logprobs
    assert reply.logprobs[0].top_logprobs[0].token == "B"
    assert (engine.asked[0].logprobs, engine.asked[0].top_logprobs) == (True, 1)
    parts = [p async for p in await client.generate("tiny", "Hi", logprobs=True, stream=True)]
    assert [bool(part.logprobs) for part in parts] == [True, False]
