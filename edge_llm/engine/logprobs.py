"""How likely a token was, and which others would have been likelier."""

import numpy as np
from numpy.typing import NDArray

from edge_llm.engine.prompt import Prompter
from edge_llm.engine.sampling import top_k_ids
from edge_llm.protocol import TokenLogprob, TopLogprob

__all__ = ["Logprobs"]

LEAST = -9999.0  # as OpenAI says of what can't be; JSON has no infinity


class Logprobs:
    """Says so of the tokens of one answer, from the logits as the model gave them.

    Args:
        prompter: knows the bytes of the tokens, and how many there are.
        num_top: how many of the likeliest tokens are told.
    """

    def __init__(self, prompter: Prompter, num_top: int) -> None:
        self._token_bytes = prompter.token_bytes
        self._vocab_size = prompter.vocab_size
        self._num_top = num_top

    def of(self, token_id: int, logits: NDArray[np.float32]) -> TokenLogprob:
        """Return what there is to say of the token that followed ``(vocab,)`` logits."""
        logits = logits[: self._vocab_size]
        highest = float(logits.max())
        total = highest + float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))
        top: list[TopLogprob] = []
        if self._num_top:
            ids = top_k_ids(logits, self._num_top)
            ids = ids[np.lexsort((ids, -logits[ids]))]
            top = [self._told(int(each), float(logits[each]) - total) for each in ids]
        chosen = self._told(token_id, float(logits[token_id]) - total)
        return TokenLogprob(**chosen.model_dump(), top_logprobs=tuple(top))

    def _told(self, token_id: int, logprob: float) -> TopLogprob:
        data = self._token_bytes[token_id]
        return TopLogprob(
            token=data.decode(errors="replace"),
            bytes=tuple(data),
            logprob=max(logprob, LEAST),
        )
