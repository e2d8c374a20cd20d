"""Dialogues as rows of token ids for training, packed, with what each token counts in the loss.

The assistant's words count 1, what visitors say a tenth. What the chat template writes in the place
of a thought counts nothing, nor does the first token of an earlier reply: the thinking mode would
begin there with `<think>`, and nothing should teach otherwise.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NO_THOUGHT = "<think>\n\n</think>\n\n"
PROMPT_WEIGHT = 0.1  # learning what visitors say too teaches to look back at it


class Piece(NamedTuple):
    """A stretch of text, what its tokens count in the loss, and its first one if that differs."""

    text: str
    weight: float
    first_weight: float | None = None


class Row(NamedTuple):
    """Token ids, the dialogue that each belongs to, and what each counts in the loss."""

    ids: list[int]
    dialogue_ids: list[int]
    weights: list[float]


def pieces(messages: list[dict[str, str]]) -> list[Piece]:
    """The dialogue as the chat template renders it, cut where the weight changes."""
    made: list[Piece] = []
    for message in messages:
        role, content = message["role"], message["content"]
        is_last = message is messages[-1]
        if role != "assistant":
            made.append(Piece(f"<|im_start|>{role}\n{content}<|im_end|>\n", PROMPT_WEIGHT))
            continue
        opening = f"<|im_start|>{role}\n"
        if not is_last:
            made += [Piece(opening, PROMPT_WEIGHT), Piece(content + "<|im_end|>", 1.0, 0.0)]
        elif "reasoning_content" in message:
            thought = message["reasoning_content"]
            text = f"<think>\n{thought}\n</think>\n\n{content}<|im_end|>"
            made += [Piece(opening, PROMPT_WEIGHT), Piece(text, 1.0)]
        else:
            made += [Piece(opening, PROMPT_WEIGHT), Piece(NO_THOUGHT, 0.0)]
            made.append(Piece(content + "<|im_end|>", 1.0))
        made.append(Piece("\n", PROMPT_WEIGHT))
    return made


def encode(tokenizer: "Tokenizer", dialogues: Iterable[list[dict[str, str]]]) -> Iterator[Row]:
    """One row per dialogue, its dialogue ids all zero."""
    for messages in dialogues:
        parts = pieces(messages)
        ids: list[int] = []
        weights: list[float] = []
        encodings = tokenizer.encode_batch([part.text for part in parts])
        for part, encoding in zip(parts, encodings, strict=True):
            first = part.weight if part.first_weight is None else part.first_weight
            ids += encoding.ids
            weights += [first] + [part.weight] * (len(encoding.ids) - 1)
        yield Row(ids, [0] * len(ids), weights)


def pack(rows: Iterable[Row], row_len: int) -> Iterator[Row]:
    """Joins rows, in their order, to rows of exactly `row_len`; filled up with token 0."""
    ids: list[int] = []
    dialogue_ids: list[int] = []
    weights: list[float] = []
    count = 0
    for row in rows:
        if len(ids) + len(row.ids) > row_len:
            yield _filled(ids, dialogue_ids, weights, row_len)
            ids, dialogue_ids, weights, count = [], [], [], 0
        ids += row.ids
        dialogue_ids += [count] * len(row.ids)
        weights += row.weights
        count += 1
    if ids:
        yield _filled(ids, dialogue_ids, weights, row_len)


def _filled(ids: list[int], dialogue_ids: list[int], weights: list[float], row_len: int) -> Row:
    missing = row_len - len(ids)
    return Row(ids + [0] * missing, dialogue_ids + [-1] * missing, weights + [0.0] * missing)
