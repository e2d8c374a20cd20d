"""The published figures of a model, beside those of a run."""

from collections.abc import Iterator, Sequence

from edge_llm.bench.report import Decode, Model, Prefill, Published
from edge_llm.catalog import MODELS, PublishedModel, PublishedSpeed, find_model

__all__ = ["compare_with_published"]

BF16_BYTES = 2
MOST_ROWS_PER_TOKEN = 1.1
"""Tables have a row for each token id, or a few more."""
CHUNK_TOKENS = 128
SIMILAR_PROMPT = 1.5
"""By what factor a prompt may be longer or shorter than a published one."""


def compare_with_published(
    model: Model, load_s: float, prefill: Sequence[Prefill], decode: Decode
) -> tuple[Published, ...]:
    """Return each published figure of this model, or of models of its size if it has another name.

    Args:
        model: what was measured.
        load_s: how long it took to load, in seconds.
        prefill: as measured.
        decode: as measured.
    """
    same = find_model(model.name)
    found = [same] if same else [other for other in MODELS if _has_its_size(model, other)]
    return tuple(
        _compare(published, speed, is_same=bool(same), load_s=load_s, prefill=prefill, ours=decode)
        for published, speed in _speeds(found)
    )


def _speeds(found: Sequence[PublishedModel]) -> Iterator[tuple[PublishedModel, PublishedSpeed]]:
    for published in found:
        for speed in published.speeds:
            yield published, speed


def _has_its_size(model: Model, published: PublishedModel) -> bool:
    """Compare layers, and the width of the embedding's rows as its size and vocabulary tell it."""
    if published.hidden_size is None or model.embedding_bytes is None:
        return False
    num_rows, rest = divmod(model.embedding_bytes, BF16_BYTES * published.hidden_size)
    fits = rest == 0 and 1 <= num_rows / model.vocab_size <= MOST_ROWS_PER_TOKEN
    return fits and model.num_layers == published.layers


def _compare(
    published: PublishedModel,
    speed: PublishedSpeed,
    *,
    is_same: bool,
    load_s: float,
    prefill: Sequence[Prefill],
    ours: Decode,
) -> Published:
    ttft_s = _ttft_s(prefill, speed.prompt_tokens or CHUNK_TOKENS)
    # The time to load is told once, beside the figure that a model is compared with.
    theirs_s = published.load_s if speed is published.speeds[0] else None
    return Published(
        model=published.name,
        quantization=published.quantization,
        is_same=is_same,
        source=speed.source,
        host=speed.host,
        certainty=speed.certainty,
        is_superseded=speed.is_superseded,
        tokens_per_s=speed.tokens_per_s,
        tokens_per_s_ratio=ours.tokens_per_s / speed.tokens_per_s,
        ttft_s=speed.ttft_s,
        ttft_ratio=ttft_s / speed.ttft_s if ttft_s and speed.ttft_s else None,
        load_s=theirs_s,
        load_ratio=load_s / theirs_s if theirs_s else None,
    )


def _ttft_s(prefill: Sequence[Prefill], length: int) -> float | None:
    """Return ours, of the prompt whose length comes nearest, if it is near at all."""
    near = [
        one
        for one in prefill
        if length / SIMILAR_PROMPT <= one.prompt_tokens <= length * SIMILAR_PROMPT
    ]
    nearest = min(near, key=lambda one: abs(one.prompt_tokens - length), default=None)
    return nearest.ttft_s if nearest else None
