"""Logits to a token id: penalties, then what is allowed, then the likeliest, then one draw.

Nothing here sorts the vocabulary. The k likeliest of 151,936 logits are found exactly by two
levels: the k largest of the maxima of blocks bound the k-th largest logit from below, so only
blocks whose maximum reaches that bound are looked at. Top-p without top-k drops at once what
can't be in it: tokens whose share is below ``(1 - p) / vocab_size``, which together weigh less
than the part that top-p leaves out. A draw from all tokens sums up blocks, then one block.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sampler", "SamplingParams", "top_k_ids"]

FEW = 4096  # allowed tokens: fewer are cheaper to gather than to find among the others
BLOCK = 256  # logits per block; a few hundred blocks of a few hundred logits cost least


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose; the fields mean what they mean in ``protocol.ChatRequest``."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None


class Sampler:
    """Chooses the tokens of one request.

    It draws exactly one random number per sampled token, so a request that goes on in another
    process draws the same ones: see ``accept``.

    Args:
        params: how to choose.
        vocab_size: ids from here on exist in the logits only, and are never chosen.
        prompt_ids: what ``repeat_penalty`` looks back at before there is an answer.
    """

    def __init__(
        self, params: SamplingParams, vocab_size: int, prompt_ids: Iterable[int] = ()
    ) -> None:
        self._params = params
        self._vocab_size = vocab_size
        self._history = list(prompt_ids)
        self._counts: Counter[int] = Counter()
        seed = None if params.seed is None else params.seed % 2**64
        self._random = np.random.Generator(np.random.PCG64(seed))
        bias = {token: value for token, value in params.logit_bias.items() if token < vocab_size}
        self._bias_ids = np.fromiter(bias, np.int64, len(bias))
        self._bias = np.fromiter(bias.values(), np.float32, len(bias))

    def sample(self, logits: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> int:
        """Choose the next token id and remember it.

        Args:
            logits: ``(vocab,)`` float32; overwritten.
            allowed: ``(vocab_size,)``, at least one of them; all if not given. No bias makes up
                for not being allowed.
        """
        logits = logits[: self._vocab_size]
        self._penalize(logits)
        if allowed is None:
            token_id = self._choose(logits)
        elif np.count_nonzero(allowed) <= FEW:
            ids = np.flatnonzero(allowed)
            token_id = int(ids[self._choose(logits[ids])])
        else:
            np.copyto(logits, -np.inf, where=~allowed)
            token_id = self._choose(logits)
        self._remember(token_id)
        return token_id

    def accept(self, token_ids: Iterable[int]) -> None:
        """Take tokens as sampled: an earlier process has sampled them, or they must come."""
        for token_id in token_ids:
            if self._params.temperature > 0:
                self._random.random()
            self._remember(token_id)

    def correct(self, token_id: int) -> None:
        """Take another token instead of the one that was sampled last."""
        self._counts[self._history.pop()] -= 1
        self._counts = +self._counts  # without what has never been
        self._remember(token_id)

    def _remember(self, token_id: int) -> None:
        self._history.append(token_id)
        self._counts[token_id] += 1

    def _choose(self, logits: NDArray[np.float32]) -> int:
        return int(logits.argmax()) if self._params.temperature == 0 else self._draw(logits)

    def _penalize(self, logits: NDArray[np.float32]) -> None:
        params = self._params
        last_n = params.repeat_last_n
        if params.repeat_penalty != 1 and last_n:
            recent = self._history if last_n < 0 else self._history[-last_n:]
            ids = np.fromiter(set(recent), np.int64)
            ids = ids[ids < self._vocab_size]
            values = logits[ids]
            # A negative logit becomes less likely by multiplying (CTRL, arXiv:1909.05858).
            logits[ids] = np.where(
                values > 0, values / params.repeat_penalty, values * params.repeat_penalty
            )
        if self._counts and (params.frequency_penalty or params.presence_penalty):
            ids = np.fromiter(self._counts, np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            logits[ids] -= params.frequency_penalty * counts + params.presence_penalty
        if self._bias_ids.size:
            logits[self._bias_ids] += self._bias

    def _draw(self, logits: NDArray[np.float32]) -> int:
        params = self._params
        if 0 < params.top_k < logits.size:
            ids = top_k_ids(logits, params.top_k)
            weights = _weights(logits[ids], params.temperature)
        else:
            ids = np.arange(logits.size)
            weights = _weights(logits, params.temperature)
        mass = float(weights.sum(dtype=np.float64))
        bound = max(params.min_p, (1 - params.top_p) * mass / weights.size)
        if bound > 0:
            near = np.flatnonzero(weights >= bound)
            ids, weights = ids[near], weights[near]
        if params.top_p < 1:
            order = np.lexsort((ids, -weights))  # the likeliest first, equal ones by id
            ids, weights = ids[order], weights[order]
            sums = np.cumsum(weights, dtype=np.float64)
            num_kept = int(np.searchsorted(sums, params.top_p * mass)) + 1
            ids, weights = ids[:num_kept], weights[:num_kept]
        return int(ids[_pick(weights, self._random.random())])


def _pick(weights: NDArray[np.float32], share: float) -> int:
    """Return where the running sum of ``(n,)`` weights passes this share of the whole.

    First among blocks, then inside one: running sums over a whole vocabulary take numpy longer
    than all else here together. A weight of 0 is never picked.
    """
    sums = np.cumsum(np.add.reduceat(weights, np.arange(0, weights.size, BLOCK), dtype=np.float64))
    point = share * sums[-1]
    block = _first_beyond(sums, point)
    start = block * BLOCK
    inner = np.cumsum(weights[start : start + BLOCK], dtype=np.float64)
    return start + _first_beyond(inner, point - (sums[block - 1] if block else 0.0))


def _first_beyond(sums: NDArray[np.float64], point: float) -> int:
    """Return the first index whose running sum is above ``point``, which rounding may put last."""
    return int(np.searchsorted(sums, min(point, np.nextafter(sums[-1], 0)), side="right"))


def _weights(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return probabilities up to a factor; the likeliest one's is 1."""
    scaled = (logits - logits.max()) * np.float32(1 / max(temperature, 1e-3))
    return np.asarray(np.exp(scaled, out=scaled), np.float32)


def top_k_ids(logits: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the ids of exactly the ``k`` largest of ``(n,)`` logits, in no order."""
    num_blocks = logits.size // BLOCK
    if k >= num_blocks:
        return np.asarray(np.argpartition(logits, -k)[-k:], np.int64)
    whole = num_blocks * BLOCK
    maxima = logits[:whole].reshape(num_blocks, BLOCK).max(axis=1)
    bound = np.partition(maxima, -k)[-k]
    blocks = np.flatnonzero(maxima >= bound)
    near = logits[:whole].reshape(num_blocks, BLOCK)[blocks]
    rows, columns = np.nonzero(near >= bound)
    ids = np.concatenate(
        (blocks[rows] * BLOCK + columns, np.flatnonzero(logits[whole:] >= bound) + whole)
    )
    if ids.size > k:
        ids = ids[np.argpartition(logits[ids], -k)[-k:]]
    return np.asarray(ids, np.int64)
