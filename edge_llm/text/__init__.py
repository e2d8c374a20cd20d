"""Text made for speech and for small displays: sentences, words, and what fits into some bytes."""

from edge_llm.text.fitting import FittingText, cut_to_bytes, split_to_bytes
from edge_llm.text.sentences import SentenceSplitter
from edge_llm.text.words import WordSplitter

__all__ = ["FittingText", "SentenceSplitter", "WordSplitter", "cut_to_bytes", "split_to_bytes"]
