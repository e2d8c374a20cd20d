"""What an OpenAI-compatible server is asked, and what it says of its models."""

from contextlib import aclosing
from typing import Any

import pytest
from pydantic import ValidationError

from edge_llm.engine import open_engine
from edge_llm.engine.upstream import server as upstream_server
from edge_llm.engine.upstream.body import make_body
from edge_llm.errors import UpstreamError
from edge_llm.protocol import ChatRequest, Delta
from edge_llm.settings import EngineSettings, OpenAISettings, load_settings
from tests.misbehaving import answers, serve

URL = "http://127.0.0.1:8080/v1"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def body_of(settings: EngineSettings | None = None, **fields: Any) -> dict[str, Any]:
    said = fields if "messages" in fields else {"prompt": "Hi", **fields}
    request = ChatRequest.model_validate(said, strict=False)
    return make_body(request, request.conversation, settings or EngineSettings(), "m")


PLAIN = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hi"}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_tokens": 256,
}


def test_nothing_is_sent_that_nobody_said() -> None:
    assert body_of() == PLAIN
    local: Any = {
        "priority": 7,
        "preempt": True,
        "ttl_s": 5.0,
        "time_budget_s": 5.0,
        "max_bytes": 99,
    }
    assert body_of(**local, overflow="drop_oldest", response_format={"type": "text"}) == PLAIN


def test_what_is_said_is_sent() -> None:
    said = {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "repeat_penalty": 1.2,
        "repeat_last_n": 9,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "seed": 42,
        "stop": ["x", "y"],
        "logit_bias": {"5": -1.0},
        "logprobs": True,
        "top_logprobs": 3,
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    given: Any = {**said, "logit_bias": {5: -1.0}}
    assert body_of(**given) == PLAIN | said


def test_the_settings_fill_in_what_they_name() -> None:
    settings = EngineSettings(
        max_tokens=9, temperature=0.0, top_k=5, min_p=0.05, system_prompt="Be kind."
    )
    body = body_of(settings, top_k=1)
    assert {name: body[name] for name in ("max_tokens", "temperature", "top_k", "min_p")} == {
        "max_tokens": 9,
        "temperature": 0.0,
        "top_k": 1,
        "min_p": 0.05,
    }
    assert body["messages"][0] == {"role": "system", "content": "Be kind."}
    assert "repeat_penalty" not in body


def test_developers_are_the_system_and_calls_keep_their_results() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "5", "tool_call_id": "c"},
    ]
    assert body_of(messages=messages)["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "5", "tool_call_id": "c"},
    ]


def test_tools_that_must_not_be_called_are_not_shown() -> None:
    assert body_of(tools=[TOOL], tool_choice="none") == PLAIN


def test_forms_of_answers() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"name": "n", "schema": schema, "strict": True}
    form = {"type": "json_schema", "json_schema": named}
    assert body_of(response_format=form)["response_format"] == form
    assert body_of(response_format={"type": "json_object"})["response_format"] == {
        "type": "json_object"
    }
    (choice,) = [body_of(choices=["yes", "no"])["response_format"]["json_schema"]["schema"]]
    assert choice == {"type": "string", "enum": ["yes", "no"]}


def test_thinking_is_asked_for_in_the_words_of_several_servers() -> None:
    off = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "none"}
    on = {"chat_template_kwargs": {"enable_thinking": True}}
    assert body_of(enable_thinking=False) == PLAIN | off
    assert body_of(enable_thinking=True) == PLAIN | on
    assert body_of(EngineSettings(enable_thinking=False)) == PLAIN | off
    assert body_of(EngineSettings(enable_thinking=False), enable_thinking=True) == PLAIN | on


def settings_for(url: str, **openai: Any) -> EngineSettings:
    return EngineSettings(kind="openai", openai=OpenAISettings(base_url=url, **openai))


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        ('"say \\"no\\""', 'say "no"'),
        ("ja 🦊", "ja 🦊"),  # by a server that knows no schemas
        ("perhaps", None),
    ],
)
async def test_a_choice_is_taken_out_of_its_quotes(said: str, chosen: str | None) -> None:
    request = ChatRequest(prompt="Hi", choices=('say "no"', "ja 🦊"))
    async with (
        serve(answers(*said)) as server,
        open_engine(settings_for(server.url)) as engine,
        aclosing(engine.generate(request)) as events,
    ):
        if chosen is None:
            with pytest.raises(UpstreamError, match="'perhaps', which is no choice"):
                _ = [event async for event in events]
        else:
            deltas = [event async for event in events if isinstance(event, Delta)]
            assert deltas == [Delta(text=chosen)]


LLAMA_SERVER = {"id": "a.gguf", "meta": {"n_vocab": 300, "n_ctx": 512, "n_ctx_train": 4096}}


@pytest.mark.parametrize(
    ("told", "context_len", "vocab_size"),
    [
        ({"id": "x"}, 0, 0),
        (LLAMA_SERVER, 512, 300),
        ({"id": "vllm", "max_model_len": 8192, "root": "x"}, 8192, 0),
        ({"id": "openrouter", "context_length": 131072}, 131072, 0),
        ({"id": "ours", "context_len": 1024}, 1024, 0),
        ({"id": "axllm", "max_token_len": 2047, "context_length": None}, 2047, 0),
    ],
)
async def test_what_servers_say_of_a_model(
    told: dict[str, Any], context_len: int, vocab_size: int
) -> None:
    async with serve(answers("x")) as server:
        server.models = {"object": "list", "data": [told, {"id": "other"}]}
        async with open_engine(settings_for(server.url)) as engine:
            (model,) = await engine.ready()
    assert (model.id, model.context_len, model.vocab_size) == (told["id"], context_len, vocab_size)
    assert (model.runtime, model.max_tokens) == ("openai", 256)


async def test_the_settings_choose_the_model_also_one_that_is_not_listed() -> None:
    async with serve(answers("x")) as server:
        server.models = [{"id": "a"}, {"id": "b", "context_length": 99, "capabilities": []}]
        for wanted, context_len in (("b", 99), ("c", 0)):
            async with open_engine(settings_for(server.url, model=wanted)) as engine:
                (model,) = await engine.ready()
                assert (model.id, model.context_len) == (wanted, context_len)
                async for _ in engine.generate(ChatRequest(prompt="Hi")):
                    pass
        assert [body["model"] for body in server.bodies] == ["b", "c"]


@pytest.mark.parametrize(
    ("models", "status"), [({"data": []}, 200), ("?", 200), ({}, 404), ({"data": [{"x": 1}]}, 200)]
)
async def test_a_server_without_a_list_needs_a_name(
    models: object, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_server, "EMPTY_LIST_S", 0.0)
    async with serve(answers("x")) as server:
        server.models, server.models_status = models, status
        async with open_engine(settings_for(server.url)) as engine:
            with pytest.raises(UpstreamError, match=r"set engine\.openai\.model"):
                await engine.ready()
        async with open_engine(settings_for(server.url, model="m")) as engine:
            assert [model.id for model in await engine.ready()] == ["m"]


async def test_a_server_that_wants_another_key() -> None:
    async with serve(answers("x")) as server:
        server.models, server.models_status = {"error": {"message": "who?"}}, 401
        async with open_engine(settings_for(server.url)) as engine:
            with pytest.raises(
                UpstreamError, match=r"who\?; set engine\.openai\.api_key"
            ) as caught:
                await engine.ready()
            assert not caught.value.retryable
            assert engine.state == "offline"


def test_an_address_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match=r"set engine\.openai\.base_url"):
        EngineSettings(kind="openai")
    with pytest.raises(ValidationError, match="use a URL such as"):
        OpenAISettings(base_url="localhost:8080/v1")
    monkeypatch.setenv("EDGE_LLM_ENGINE__KIND", "openai")
    monkeypatch.setenv("EDGE_LLM_ENGINE__OPENAI__BASE_URL", "http://pi:8080/v1/")
    monkeypatch.setenv("EDGE_LLM_ENGINE__OPENAI__API_KEY", "k")
    openai = load_settings().engine.openai
    assert openai.base_url == "http://pi:8080/v1"
    assert openai.api_key
    assert openai.api_key.get_secret_value() == "k"
