"""Dialogues as rows of token ids for training, packed, with the assistant's words marked.

The prompt has no loss. In earlier turns the first token of the reply has none either: the thinking
mode would begin there with `<think>`, and the turn should not teach otherwise.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NO_THOUGHT = "<think>\n\n</think>\n\n"


class Piece(NamedTuple):
    """A stretch of text; `first_taught` is the index of its first token that has loss."""

    text: str
    first_taught: int | None


class Row(NamedTuple):
    """Token ids, the dialogue that each belongs to, and whether each is to be learned."""

    ids: list[int]
    dialogue_ids: list[int]
    taught: list[bool]


def pieces(messages: list[dict[str, str]]) -> list[Piece]:
    """The dialogue as the chat template renders it, cut where the loss begins and ends."""
    made: list[Piece] = []
    for message in messages:
        role, content = message["role"], message["content"]
        is_last = message is messages[-1]
        if role != "assistant":
            made.append(Piece(f"<|im_start|>{role}\n{content}<|im_end|>\n", None))
            continue
        opening = f"<|im_start|>{role}\n"
        if not is_last:
            made += [Piece(opening, None), Piece(content + "<|im_end|>", 1)]
        elif "reasoning_content" in message:
            thought = message["reasoning_content"]
            text = f"<think>\n{thought}\n</think>\n\n{content}<|im_end|>"
            made += [Piece(opening, None), Piece(text, 0)]
        else:
            made += [Piece(opening + NO_THOUGHT, None), Piece(content + "<|im_end|>", 0)]
        made.append(Piece("\n", None))
    return made


def encode(tokenizer: "Tokenizer", dialogues: Iterable[list[dict[str, str]]]) -> Iterator[Row]:
    """One row per dialogue, its dialogue ids all zero."""
    for messages in dialogues:
        parts = pieces(messages)
        ids: list[int] = []
        taught: list[bool] = []
        encodings = tokenizer.encode_batch([part.text for part in parts])
        for part, encoding in zip(parts, encodings, strict=True):
            first = len(encoding.ids) if part.first_taught is None else part.first_taught
            ids += encoding.ids
            taught += [index >= first for index in range(len(encoding.ids))]
        yield Row(ids, [0] * len(ids), taught)


def pack(rows: Iterable[Row], row_len: int) -> Iterator[Row]:
    """Joins rows, in their order, to rows of exactly `row_len`; filled up with token 0."""
    ids: list[int] = []
    dialogue_ids: list[int] = []
    taught: list[bool] = []
    count = 0
    for row in rows:
        if len(ids) + len(row.ids) > row_len:
            yield _filled(ids, dialogue_ids, taught, row_len)
            ids, dialogue_ids, taught, count = [], [], [], 0
        ids += row.ids
        dialogue_ids += [count] * len(row.ids)
        taught += row.taught
        count += 1
    if ids:
        yield _filled(ids, dialogue_ids, taught, row_len)


def _filled(ids: list[int], dialogue_ids: list[int], taught: list[bool], row_len: int) -> Row:
    missing = row_len - len(ids)
    return Row(ids + [0] * missing, dialogue_ids + [-1] * missing, taught + [False] * missing)
