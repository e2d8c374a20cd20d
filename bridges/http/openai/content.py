"""Content as a list of parts: text is joined, everything else is refused by name."""

from edge_llm.errors import InvalidRequestError, UnsupportedContentError

__all__ = ["CONTENT_SCHEMA", "join_parts"]

TEXT_FIELDS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
}
"""The types of parts that are text, and the field that has it."""

CONTENT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"type": "string"}, "text": {"type": "string"}},
                "required": ["type", "text"],
            },
        },
        {"type": "null"},
    ]
}
"""JSON schema of content: a string, or parts of text."""


def join_parts(content: object, where: str) -> object:
    """Return the text of parts, one to a line; what is no list of parts is returned as it is.

    Args:
        content: a message's content, as JSON.
        where: the path to it.

    Raises:
        UnsupportedContentError: a part is an image, sound or a file.
        InvalidRequestError: a part is nothing at all.
    """
    if not isinstance(content, list):
        return content
    # A new line for each, as in llama.cpp and vLLM: clients split where paragraphs end.
    return "\n".join(_text(part, f"{where}.{index}") for index, part in enumerate(content))


def _text(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        raise InvalidRequestError(f"{where}: a content part is an object with a type", param=where)
    field = TEXT_FIELDS.get(kind)
    if field is None:
        raise UnsupportedContentError(
            f"{where}: a part of type {kind[:32]!r} can't be read; models here read text",
            param=where,
        )
    text = part.get(field)
    if not isinstance(text, str):
        raise InvalidRequestError(
            f"{where}.{field}: Input should be a valid string", param=f"{where}.{field}"
        )
    return text
