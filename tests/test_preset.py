"""Personas: what a request leaves out, and no more."""

import pytest
from pydantic import ValidationError

from edge_llm.errors import InvalidRequestError, UnknownPresetError
from edge_llm.preset import Preset, Presets
from edge_llm.protocol import ChatRequest, Message, MqttRequest, validate

ORACLE = Preset(
    system_prompt="You are an oracle.",
    prompt="What do you see?",
    temperature=0.9,
    max_tokens=60,
    stop=("#",),
    stream="sentence",
    format="text",
    priority=7,
    max_bytes=200,
)


def ask(text: str) -> MqttRequest:
    return validate(MqttRequest, text)


def test_an_empty_request_is_all_preset() -> None:
    request = ORACLE.complete(MqttRequest())
    assert request.conversation == (
        Message(role="system", content="You are an oracle."),
        Message(role="user", content="What do you see?"),
    )
    assert (request.temperature, request.max_tokens, request.stop) == (0.9, 60, ("#",))
    assert (request.stream, request.format, request.priority) == ("sentence", "text", 7)


def test_what_a_request_says_itself_counts() -> None:
    request = ORACLE.complete(
        ask('{"prompt": "Who?", "temperature": 0, "stream": false, "priority": 5, "max_bytes": 99}')
    )
    assert request.conversation[-1].content == "Who?"
    assert (request.temperature, request.max_tokens) == (0, 60)
    assert (request.stream, request.priority, request.max_bytes) == (False, 5, 99)


def test_null_is_not_said() -> None:
    assert ORACLE.complete(ask('{"prompt": "Who?", "temperature": null}')).temperature == 0.9


def test_a_system_turn_of_the_request_takes_the_place_of_the_persona() -> None:
    said = (
        '{"messages": [{"role": "system", "content": "A cat."}, {"role": "user", "content": "?"}]}'
    )
    assert [turn.content for turn in ORACLE.complete(ask(said)).conversation] == ["A cat.", "?"]


def test_a_conversation_gets_the_persona_in_front() -> None:
    said = '{"messages": [{"role": "user", "content": "1"}, {"role": "user", "content": "2"}]}'
    turns = ORACLE.complete(ask(said)).conversation
    assert [turn.content for turn in turns] == ["You are an oracle.", "1", "2"]


def test_a_preset_without_a_persona_leaves_the_prompt_alone() -> None:
    request = Preset(temperature=0.5).complete(ask('{"prompt": "Who?"}'))
    assert (request.prompt, request.messages) == ("Who?", None)
    assert Preset(prompt="What?").complete(MqttRequest()).prompt == "What?"


def test_a_language_is_asked_for() -> None:
    def system(**said: str) -> str:
        return Preset.model_validate(said).opening[0].content

    assert system(language="de") == "Answer in German."
    assert system(system_prompt="A cat.", language="Swiss German") == (
        "A cat. Answer in Swiss German."
    )
    assert Preset().opening == ()


def test_a_blank_prompt_is_none() -> None:
    with pytest.raises(ValidationError):
        Preset(prompt=" \n")


def test_without_a_prompt_anywhere_there_is_nothing_to_ask() -> None:
    with pytest.raises(InvalidRequestError, match="the prompt is empty"):
        Preset(system_prompt="A cat.").complete(MqttRequest())


def test_a_completed_request_is_one_the_engine_takes() -> None:
    """It was put together without validation; so validate it."""
    request = ORACLE.complete(ask('{"prompt": "Who?"}'))
    ChatRequest.model_validate(
        {name: getattr(request, name) for name in ChatRequest.model_fields}, strict=True
    )


def test_presets_are_found_by_name_or_by_default() -> None:
    presets = Presets({"oracle": ORACLE, "plain": Preset(), "cat": Preset(language="en")}, "cat")
    assert presets.find("oracle") is ORACLE
    assert presets.find(None).language == "en"
    assert Presets().find(None) == Preset()
    with pytest.raises(UnknownPresetError, match=r"'dog' here \(there are: oracle, plain, cat\)"):
        presets.find("dog")
    # The default one's beginning is the first to be computed.
    assert [opening[0].content for opening in presets.openings] == [
        "Answer in English.",
        "You are an oracle.",
    ]
