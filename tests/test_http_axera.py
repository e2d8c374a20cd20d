"""Programs written for AXERA's ``main_api``: a reset, then bare prompts, and a stop."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridges.http.bridge import Bridge
from bridges.http.conversation import IDLE_EXPIRY_S, MAX_CLIENTS, MAX_WAITING, Conversations
from edge_llm.errors import EdgeLLMError, QueueFullError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, Message, Started
from edge_llm.settings import HttpSettings
from tests.http_bridge import ENDLESS, USAGE, HttpBridge, PlayedEngine, open_bridge, talk

COYOTE = "You are a coyote."
HOST = "127.0.0.1"


@pytest.fixture
def engine() -> PlayedEngine:
    return PlayedEngine(talk("Good ", "evening."))


@pytest.fixture
async def bridge(engine: PlayedEngine) -> AsyncIterator[HttpBridge]:
    async with open_bridge(engine, ollama_port=0) as bridge:
        yield bridge


async def reset(bridge: HttpBridge, system_prompt: str = COYOTE) -> None:
    assert await bridge.post("/api/reset", {"system_prompt": system_prompt}) == {"status": "ok"}


async def stop(bridge: HttpBridge) -> None:
    async with bridge.http.get("/api/stop") as response:
        assert response.status == 200
        assert await response.json() == {"status": "ok"}


async def ask(bridge: HttpBridge, prompt: str, **body: Any) -> Any:
    root = f"http://{bridge.server.address}:{bridge.server.ollama_port}"
    body = {"model": "tiny", "prompt": prompt, "stream": False} | body
    return await bridge.post(f"{root}/api/generate", body)


def asked(engine: PlayedEngine) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in engine.asked[-1].conversation]


async def test_after_a_reset_bare_prompts_are_a_conversation(
    bridge: HttpBridge, engine: PlayedEngine
) -> None:
    await reset(bridge)
    assert (await ask(bridge, "Hello"))["response"] == "Good evening."
    await ask(bridge, "And now?")
    assert asked(engine) == [
        ("system", COYOTE),
        ("user", "Hello"),
        ("assistant", "Good evening."),
        ("user", "And now?"),
    ]
    assert engine.asked[-1].overflow == "drop_oldest"
    await reset(bridge, "You are a wolf.")
    await ask(bridge, "Hello")
    assert asked(engine) == [("system", "You are a wolf."), ("user", "Hello")]
    await bridge.post("/api/reset", {})
    await ask(bridge, "Hello")
    assert asked(engine) == [("user", "Hello")]


async def test_without_a_reset_each_prompt_stands_alone(
    bridge: HttpBridge, engine: PlayedEngine
) -> None:
    await stop(bridge)
    await ask(bridge, "Hello")
    await ask(bridge, "And now?")
    assert asked(engine) == [("user", "And now?")]
    assert engine.asked[-1].overflow == "error"


async def test_a_prompt_that_brings_its_own_system_turn_stands_alone(
    bridge: HttpBridge, engine: PlayedEngine
) -> None:
    await reset(bridge)
    await ask(bridge, "Hello", system="Be brief.")
    assert asked(engine) == [("system", "Be brief."), ("user", "Hello")]
    await ask(bridge, "Who?")
    assert asked(engine) == [("system", COYOTE), ("user", "Who?")]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stop_ends_the_answer_as_if_it_had_been_said(
    bridge: HttpBridge, engine: PlayedEngine, stream: bool
) -> None:
    await reset(bridge)
    bridge.play(Started(), Delta(text="a", token_ids=(1, 2)), *ENDLESS)
    body = {"prompt": "Talk", "stream": stream}
    answer = asyncio.create_task(bridge.http.post("/api/generate", json=body))
    await engine.started.wait()
    await asyncio.sleep(0.05)
    await stop(bridge)
    await asyncio.wait_for(engine.closed.wait(), 1)
    response = await asyncio.wait_for(answer, 1)
    text = (await response.text()).strip()
    assert '"done_reason":"stop"' in text.replace(" ", "")
    assert "error" not in text
    bridge.play(*talk("Yes."))
    await ask(bridge, "And now?")
    assert engine.asked[-1].conversation[2].content.startswith("ab")
    assert engine.num_running == 0


async def test_a_stop_ends_also_what_still_waits_for_the_engine(
    bridge: HttpBridge, engine: PlayedEngine
) -> None:
    await reset(bridge)
    bridge.play(60.0, *talk("late"))
    answer = asyncio.create_task(ask(bridge, "Hello"))
    await engine.started.wait()
    await stop(bridge)
    reply = await asyncio.wait_for(answer, 1)
    assert (reply["response"], reply["done_reason"]) == ("", "stop")
    assert "prompt_eval_count" not in reply
    bridge.play(*talk("Yes."))
    await ask(bridge, "And now?")
    assert asked(engine) == [("system", COYOTE), ("user", "And now?")]


async def test_a_reset_ends_all_that_was_asked_before(
    bridge: HttpBridge, engine: PlayedEngine
) -> None:
    await reset(bridge)
    bridge.play(Started(), Delta(text="a"), *ENDLESS)
    answers = [asyncio.create_task(ask(bridge, f"Talk {n}")) for n in range(3)]
    await engine.started.wait()
    await asyncio.sleep(0.02)
    await reset(bridge, "You are a wolf.")
    replies = await asyncio.wait_for(asyncio.gather(*answers), 2)
    assert sorted(reply["response"][:1] for reply in replies) == ["", "", "a"]
    bridge.play(*talk("Yes."))
    await ask(bridge, "And now?")
    assert asked(engine) == [("system", "You are a wolf."), ("user", "And now?")]


async def test_an_error_in_a_conversation_is_an_error_and_forgotten(
    bridge: HttpBridge, engine: PlayedEngine
) -> None:
    await reset(bridge)
    bridge.play(Started(), Delta(text="a"), EdgeLLMError("oops"))
    async with bridge.http.post(
        "/api/generate", json={"prompt": "Hello", "stream": False}
    ) as response:
        assert response.status == 500
    bridge.play(*talk("Yes."))
    await ask(bridge, "And now?")
    assert asked(engine) == [("system", COYOTE), ("user", "And now?")]


async def test_what_the_context_has_no_room_for_is_forgotten(
    bridge: HttpBridge, engine: PlayedEngine
) -> None:
    await reset(bridge)
    await ask(bridge, "One")
    done = Done(finish_reason="stop", usage=USAGE, dropped_messages=2)
    bridge.play(Started(dropped_messages=2), Delta(text="Yes."), done)
    await ask(bridge, "Two")
    await ask(bridge, "Three")
    assert asked(engine)[1:] == [("user", "Two"), ("assistant", "Yes."), ("user", "Three")]


async def test_a_broken_reset_is_refused_and_changes_nothing(
    bridge: HttpBridge, engine: PlayedEngine
) -> None:
    await reset(bridge)
    async with bridge.http.post("/api/reset", data=b"system_prompt=x") as response:
        assert response.status == 400
        assert set(await response.json()) == {"error"}
    async with bridge.http.post("/api/reset", json={"system_prompt": 5}) as response:
        assert response.status == 400
    await ask(bridge, "Hello")
    assert asked(engine)[0] == ("system", COYOTE)


async def test_answers_are_not_polled_for(bridge: HttpBridge) -> None:
    async with bridge.http.get("/api/generate_provider") as response:
        assert response.status == 501
        assert "/api/generate" in (await response.json())["error"]


# The conversations themselves


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def talk_to(conversations: Conversations, engine: PlayedEngine, prompt: str) -> list[Event]:
    conversation = conversations.find(HOST)
    assert conversation
    chat = ChatRequest(messages=(Message(role="user", content=prompt),))
    async with conversation.generate(Bridge(engine, HttpSettings(), "pi5"), chat) as events:
        return [event async for event in events]


async def test_turns_are_forgotten_after_a_while_but_not_who_it_is(engine: PlayedEngine) -> None:
    clock = Clock()
    conversations = Conversations(clock)
    conversations.reset(HOST, COYOTE)
    await talk_to(conversations, engine, "One")
    clock.now += IDLE_EXPIRY_S - 1
    await talk_to(conversations, engine, "Two")
    assert len(engine.asked[-1].conversation) == 4
    clock.now += IDLE_EXPIRY_S + 1
    await talk_to(conversations, engine, "Three")
    assert asked(engine) == [("system", COYOTE), ("user", "Three")]


def test_a_machine_is_one_client_by_all_its_loopback_addresses() -> None:
    conversations = Conversations()
    conversations.reset("127.0.0.1", COYOTE)
    mine = conversations.find("127.0.0.1")
    assert mine is not None
    assert conversations.find("::1") is mine
    assert conversations.find("::ffff:127.0.0.1") is mine
    assert conversations.find("192.168.1.7") is None
    assert conversations.find(None) is None


def test_of_too_many_clients_the_quietest_is_forgotten() -> None:
    conversations = Conversations()
    for number in range(MAX_CLIENTS):
        conversations.reset(f"10.0.0.{number}", COYOTE)
    assert conversations.find("10.0.0.0")
    conversations.reset("10.0.1.0", COYOTE)
    assert conversations.find("10.0.0.0")
    assert conversations.find("10.0.0.1") is None
    assert conversations.find("10.0.1.0")


async def test_only_so_many_wait_for_each_other(engine: PlayedEngine) -> None:
    conversations = Conversations()
    conversations.reset(HOST, COYOTE)
    engine.scripts = [[Started(), *ENDLESS]]
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(talk_to(conversations, engine, "Talk"))
            for _ in range(MAX_WAITING + 1)
        ]
        await engine.started.wait()
        with pytest.raises(QueueFullError):
            await talk_to(conversations, engine, "Talk")
        conversations.reset(HOST, COYOTE)
    assert all(isinstance(task.result()[-1], Done) for task in waiting)
