"""A persona: what a request leaves out, under a name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from edge_llm.errors import InvalidRequestError, UnknownPresetError
from edge_llm.protocol import AnswerOptions, Message, MqttRequest, NonEmptyText
from edge_llm.section import Section

__all__ = ["Preset", "Presets"]

LANGUAGES = {
    "ar": "Arabic", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "es": "Spanish", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi",
    "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean",
    "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian",
    "ru": "Russian", "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


class Preset(AnswerOptions, Section):
    """A named persona; whatever it leaves out is as the engine's settings say."""

    system_prompt: str | None = None
    """Who the model is to be."""
    prompt: Annotated[str, StringConstraints(pattern=r"\S")] | None = None
    """What an empty request asks."""
    language: NonEmptyText | None = None
    """The language of the answers: ``de``, or any name as in ``Swiss German``."""
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    """A higher one goes ahead of lower ones that wait; 5 if not given."""
    preempt: bool | None = None
    """Pause a running answer of lower priority."""
    format: Literal["json", "text"] | None = None
    """Of replies to requests that do not say; else JSON for JSON, text for text."""
    parts: bool | None = None
    """Also send the whole text in parts of ``max_bytes``."""
    stream: Literal[False, "token", "word", "sentence"] | None = None
    """Publish deltas."""
    events: bool | None = None
    """Publish what happens to the request, for lights."""
    fallback: str | None = None
    """What is said when there is no answer, as after a failure of the device."""

    def complete(self, request: MqttRequest) -> MqttRequest:
        """Return a request with what it left out.

        Raises:
            InvalidRequestError: neither has a prompt.
        """
        said = request.model_fields_set
        update = {
            name: getattr(self, name)
            for name in Preset.model_fields.keys() & MqttRequest.model_fields.keys() - {"prompt"}
            if getattr(self, name) is not None
            and (name not in said or getattr(request, name) is None)
        }
        prompt = request.prompt or self.prompt
        if request.messages is None and prompt is None:
            raise InvalidRequestError("the prompt is empty", param="prompt")
        turns = request.messages or (Message(role="user", content=prompt or ""),)
        if not self.opening or any(turn.role in ("system", "developer") for turn in turns):
            return request.model_copy(
                update=update if request.messages else {**update, "prompt": prompt}
            )
        return request.model_copy(
            update={**update, "prompt": None, "messages": (*self.opening, *turns)}
        )

    @property
    def opening(self) -> tuple[Message, ...]:
        """The system turn with which each conversation of this persona begins, if it has one."""
        language = LANGUAGES.get(self.language or "", self.language)
        sentences = (self.system_prompt, f"Answer in {language}." if language else None)
        text = " ".join(sentence for sentence in sentences if sentence)
        return (Message(role="system", content=text),) if text else ()


@dataclass(frozen=True, slots=True)
class Presets:
    """The personas of a node, by name."""

    by_name: Mapping[str, Preset] = field(default_factory=dict)
    default: str | None = None

    def find(self, name: str | None) -> Preset:
        """Return the preset of this name, or the default one; an empty one if there is none.

        Raises:
            UnknownPresetError: there is none of this name.
        """
        name = name or self.default
        if name is None:
            return Preset()
        if name not in self.by_name:
            known = ", ".join(self.by_name) or "none"
            raise UnknownPresetError(
                f"there is no preset {name!r} here (there are: {known})", param="preset"
            )
        return self.by_name[name]

    @property
    def openings(self) -> list[tuple[Message, ...]]:
        """With what conversations begin, the default preset's first."""
        names = sorted(self.by_name, key=lambda name: name != self.default)
        return [self.by_name[name].opening for name in names if self.by_name[name].opening]
