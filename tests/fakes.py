"""Stand-ins: a small numpy transformer, a byte tokenizer, a scripted engine, a random model.

The transformer keeps the ``Session`` contract, and checks all that it is fed, so that each test
of the engine is a test of the contract as well.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_llm.engine import EngineState
from edge_llm.engine.gate import Gate
from edge_llm.engine.generation import ModelRunner
from edge_llm.engine.local import LocalEngine
from edge_llm.engine.model import EmbeddingTable, Geometry
from edge_llm.engine.prompt import Prompter
from edge_llm.npu.host import HostStack
from edge_llm.npu.session import TensorInfo
from edge_llm.npu.stack import HIDDEN
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    Message,
    ModelInfo,
    Started,
    Tool,
)
from edge_llm.settings import EngineSettings
from tests.tiny_random_model import write_checkpoint

__all__ = [
    "CONTROL_IDS",
    "GROUPS",
    "BytePrompter",
    "FakeLayer",
    "FakeModel",
    "FakePost",
    "ScriptedEngine",
    "make_local_engine",
    "write_model",
    "write_tokenizer",
]

Groups = Sequence[tuple[int, int]]

GROUPS: Groups = ((1, 255), (16, 0), (16, 255), (128, 0), (128, 128), (128, 255))
"""``(chunk_len, history_len)``: decode, then chunks with short and with long histories."""

HIDDEN_SIZE, NUM_HEADS, HEAD_DIM = 32, 2, 8
KV_DIM = NUM_HEADS * HEAD_DIM
NUM_LAYERS = 2
PADDED_VOCAB = 272  # the logits have more rows than the tokenizer has tokens, as Qwen's do

IM_START, IM_END, THINK, END_THINK = 256, 257, 258, 259


class _FakeSession:
    """What all fakes share: names, shapes and dtypes, and a strict look at each feed."""

    def __init__(
        self, inputs: Sequence[dict[str, TensorInfo]], outputs: Sequence[dict[str, TensorInfo]]
    ) -> None:
        self._inputs = [MappingProxyType(group) for group in inputs]
        self._outputs = [MappingProxyType(group) for group in outputs]
        self.calls: list[int] = []
        """The shape group of each run."""
        self.fails_at: int | None = None
        """The call, counted from now on, that raises."""

    @property
    def num_groups(self) -> int:
        return len(self._inputs)

    def inputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        return self._inputs[group]

    def outputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        return self._outputs[group]

    def check(self, feed: Mapping[str, NDArray[Any]], group: int) -> None:
        assert set(feed) == set(self._inputs[group])
        for name, info in self._inputs[group].items():
            tensor = feed[name]
            assert tensor.shape == info.shape, f"{name}: {tensor.shape}, not {info.shape}"
            assert tensor.dtype == info.dtype, f"{name}: {tensor.dtype}, not {info.dtype}"
            assert tensor.flags.c_contiguous, f"{name} is not C-contiguous"
            assert np.isfinite(tensor.astype(np.float64)).all(), f"{name} has NaN or inf"
        self.calls.append(group)
        if self.fails_at is not None:
            self.fails_at -= 1
            if self.fails_at < 0:
                self.fails_at = None
                raise RuntimeError("the device is gone")

    def give(self, group: int, **tensors: NDArray[Any]) -> dict[str, NDArray[Any]]:
        infos = self._outputs[group]
        assert set(tensors) == set(infos)
        out = {name: tensor.astype(infos[name].dtype) for name, tensor in tensors.items()}
        assert all(out[name].shape == info.shape for name, info in infos.items())
        return out


class FakeLayer(_FakeSession):
    """A layer with real attention: rotary positions, an additive mask, a residual, a tanh.

    Args:
        groups: ``(chunk_len, history_len)`` of each shape group.
        dummy_row: as in the vendor's files, a group without history has a cache of one row.
    """

    def __init__(self, groups: Groups, seed: int, *, dummy_row: bool = False) -> None:
        float32, uint32 = np.dtype(np.float32), np.dtype(np.uint32)
        self._groups = groups
        inputs, outputs = [], []
        for chunk, history in groups:
            cache = (1, max(history, int(dummy_row)), KV_DIM)
            hidden, rows = (1, chunk, HIDDEN_SIZE), (1, chunk, KV_DIM)
            inputs.append(
                _infos(
                    ("K_cache", cache, float32),
                    ("V_cache", cache, float32),
                    ("indices", (1, chunk), uint32),
                    ("input", hidden, float32),
                    ("mask", (1, chunk, history + chunk), float32),
                )
            )
            outputs.append(
                _infos(
                    ("K_cache_out", rows, float32),
                    ("V_cache_out", rows, float32),
                    ("output", hidden, float32),
                )
            )
        super().__init__(inputs, outputs)
        random = np.random.default_rng(seed)
        scale = 1.5 / np.sqrt(HIDDEN_SIZE)
        self._q, self._k, self._v = random.normal(0, scale, (3, HIDDEN_SIZE, KV_DIM))
        self._o = random.normal(0, 0.6, (KV_DIM, HIDDEN_SIZE))
        self._mlp = random.normal(0, scale, (HIDDEN_SIZE, HIDDEN_SIZE))

    def run(self, feed: Mapping[str, NDArray[Any]], group: int = 0) -> dict[str, NDArray[Any]]:
        self.check(feed, group)
        _, history_len = self._groups[group]
        positions, mask = feed["indices"][0].astype(int), feed["mask"][0].astype(np.float64)
        _check_mask(mask, history_len, start=positions[0])
        hidden = feed["input"][0].astype(np.float64)
        normed = hidden / np.sqrt((hidden**2).mean(axis=1, keepdims=True) + 1e-6)
        query = _rotated(normed @ self._q, positions)
        keys = _rotated(normed @ self._k, positions).astype(np.float32)
        values = (normed @ self._v).astype(np.float32)
        all_keys = np.concatenate((feed["K_cache"][0, :history_len], keys)).astype(np.float64)
        all_values = np.concatenate((feed["V_cache"][0, :history_len], values)).astype(np.float64)
        heads = []
        for head in range(NUM_HEADS):
            part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            scores = query[:, part] @ all_keys[:, part].T / np.sqrt(HEAD_DIM) + mask
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            heads.append(weights / weights.sum(axis=1, keepdims=True) @ all_values[:, part])
        hidden = hidden + np.concatenate(heads, axis=1) @ self._o
        hidden = hidden + np.tanh(hidden @ self._mlp)
        return self.give(
            group, K_cache_out=keys[None], V_cache_out=values[None], output=hidden[None]
        )


class FakePost(_FakeSession):
    """A final norm and the logits of one position."""

    def __init__(self, seed: int) -> None:
        float32 = np.dtype(np.float32)
        super().__init__(
            [_infos(("input", (1, 1, HIDDEN_SIZE), float32))],
            [_infos(("output", (1, 1, PADDED_VOCAB), float32))],
        )
        random = np.random.default_rng(seed)
        self._head = random.normal(0, 0.5, (HIDDEN_SIZE, PADDED_VOCAB))
        # Past the tokenizer's tokens, and often the likeliest: never to be chosen.
        self._head[:, BytePrompter.VOCAB_SIZE :] *= 4

    def run(self, feed: Mapping[str, NDArray[Any]], group: int = 0) -> dict[str, NDArray[Any]]:
        self.check(feed, group)
        hidden = feed["input"].astype(np.float64)
        normed = hidden / np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + 1e-6)
        return self.give(group, output=normed @ self._head)


class FakeEmbedding(EmbeddingTable):
    """Random rows, without a file."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._rows = random.normal(0, 1, (PADDED_VOCAB, HIDDEN_SIZE)).astype(np.float32)

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def rows(self, token_ids: ArrayLike) -> NDArray[np.float32]:
        return np.asarray(self._rows[np.asarray(token_ids, np.int64)])


@dataclass
class FakeModel:
    """A transformer of random weights and its runner; the same seed gives the same model."""

    groups: Groups = GROUPS
    seed: int = 0
    dummy_row: bool = False
    num_slots: int = 1
    layers: list[FakeLayer] = field(init=False)
    post: FakePost = field(init=False)
    runner: ModelRunner = field(init=False)

    def __post_init__(self) -> None:
        self.layers = [
            FakeLayer(self.groups, self.seed + 1 + index, dummy_row=self.dummy_row)
            for index in range(NUM_LAYERS)
        ]
        self.post = FakePost(self.seed)
        history_len = self.groups[0][1]
        self.runner = ModelRunner(
            stack=HostStack(self.layers, self.post, num_slots=self.num_slots),
            embedding=FakeEmbedding(self.seed),
            geometry=Geometry(
                num_layers=NUM_LAYERS,
                hidden_size=HIDDEN_SIZE,
                kv_dim=KV_DIM,
                history_len=history_len,
                context_len=history_len + 1,
                vocab_size=PADDED_VOCAB,
                groups=tuple(self.groups),
            ),
        )

    def take_calls(self) -> list[tuple[int, int]]:
        """Return the shapes of the runs since the last time, which all layers must have seen."""
        calls = [layer.calls.copy() for layer in self.layers]
        assert all(layer == calls[0] for layer in calls)
        for layer in self.layers:
            layer.calls.clear()
        return [self.groups[group] for group in calls[0]]


def _infos(*tensors: tuple[str, tuple[int, ...], np.dtype[Any]]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, shape, dtype) for name, shape, dtype in tensors}


def _rotated(rows: NDArray[np.float64], positions: NDArray[Any]) -> NDArray[np.float64]:
    """Apply rotary position embeddings to each head."""
    angles = positions[:, None] * 100.0 ** (-np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    heads = rows.reshape(len(rows), NUM_HEADS, HEAD_DIM)
    first, second = heads[..., : HEAD_DIM // 2], heads[..., HEAD_DIM // 2 :]
    rotated = np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=2)
    return np.asarray(rotated.reshape(len(rows), KV_DIM))


def _check_mask(mask: NDArray[np.float64], history_len: int, start: int) -> None:
    """All rows see the history before them and no more of it, and the chunk up to themselves."""
    rows = len(mask)
    expected = np.full((rows, history_len + rows), HIDDEN)
    expected[:, :start] = 0
    expected[:, history_len:] = np.triu(expected[:, history_len:], 1)
    assert np.array_equal(mask, expected)


class BytePrompter(Prompter):
    """A tokenizer whose tokens are the 256 bytes and four control tokens, and a ChatML template."""

    VOCAB_SIZE = 260

    def __init__(self, generation_config: dict[str, Any] | None = None) -> None:
        self.generation_config = generation_config or {}
        self.vocab_size = self.VOCAB_SIZE
        self.token_bytes = [
            *(bytes([byte]) for byte in range(256)), b"", b"", b"<think>", b"</think>"
        ]  # fmt: skip
        self.think_id: int | None = THINK
        self.end_think_id: int | None = END_THINK
        self.call_id = self.end_call_id = None

    @cached_property
    def end_ids(self) -> frozenset[int]:
        return frozenset({IM_END})

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def render(
        self,
        conversation: Sequence[Message],
        *,
        enable_thinking: bool,
        tools: Sequence[Tool] = (),
    ) -> list[int]:
        ids: list[int] = []
        for turn in conversation:
            ids += [IM_START, *f"{turn.role}\n{turn.content}".encode(), IM_END, *b"\n"]
        ids += [IM_START, *b"assistant\n"]
        return ids if enable_thinking else [*ids, THINK, END_THINK, *b"\n"]


def make_local_engine(
    model: FakeModel | None = None, prompter: Prompter | None = None, **settings: Any
) -> LocalEngine:
    """Return a LocalEngine over the fakes."""
    runner = (model or FakeModel()).runner
    prompter = prompter or BytePrompter()
    return LocalEngine(
        runner=runner,
        prompter=prompter,
        info=ModelInfo(
            id="fake", context_len=runner.geometry.context_len, vocab_size=prompter.vocab_size
        ),
        settings=EngineSettings(**settings),
    )


class ScriptedEngine:
    """An Engine that does what its script says, once per request.

    Args:
        script: events to yield while the gate is open, exceptions to raise, asyncio events to
            wait for.
        models: what it says that it serves.
    """

    def __init__(
        self,
        script: Iterable[Event | Exception | asyncio.Event] = (
            Started(),
            Delta(text="Hello"),
            Delta(text=" there."),
            Done(finish_reason="stop"),
        ),
        models: Sequence[ModelInfo] = (ModelInfo(id="scripted", context_len=64, vocab_size=260),),
    ) -> None:
        self.script = list(script)
        self.models = tuple(models)
        self.state: EngineState = "ready"
        self.activity = "idle"
        self.requests: list[ChatRequest] = []
        """In the order in which they began."""
        self.prepared: tuple[tuple[Message, ...], ...] = ()
        self.num_running = 0
        self.most_running = 0
        self.num_closed = 0
        """Requests that ended before their script did."""

    async def ready(self) -> tuple[ModelInfo, ...]:
        return self.models

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        self.prepared = tuple(map(tuple, conversations))

    async def check(self, request: ChatRequest) -> None:
        """Nothing is checked."""

    async def generate(
        self, request: ChatRequest, gate: Gate | None = None
    ) -> AsyncGenerator[Event]:
        self.requests.append(request)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        finished = False
        try:
            for step in self.script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    finished = True
                    raise step
                else:
                    await asyncio.sleep(0)
                    if gate:
                        await gate.wait_until_open()
                    yield step
            finished = True
        finally:
            self.num_running -= 1
            self.num_closed += not finished


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
THINK_TOKENS = ("<think>", "</think>")
SAMPLE_TEXT = (
    "The fox says good morning, and the moon says good night.",
    "Größe, naïve, Ærø: čas plyne. Где ты? 你好世界。今日は良い天気です。",
    "🦊🌕👩‍👩‍👧 and a flag 🇩🇪, e\u0301 and ñ",
)


TOKENIZER_SIZE = 384
CONTROL_IDS = range(TOKENIZER_SIZE - len(CONTROL_TOKENS) - len(THINK_TOKENS), TOKENIZER_SIZE)
"""Ids of the control tokens in the tokenizer below, which come last."""


def write_tokenizer(path: Path) -> Path:
    """Write the folder of a byte-level BPE with ChatML tokens; returns it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONTROL_IDS.start,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SAMPLE_TEXT * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in THINK_TOKENS])
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def write_model(path: Path, *, context_len: int = 512) -> Path:
    """Write a model directory of small random graphs that ONNX Runtime runs; returns it."""
    from edge_llm.engine.export import export_model

    source = write_checkpoint(
        path.parent / f"{path.name}-source",
        "qwen3",
        vocab_size=512,
        max_position_embeddings=context_len,
    )
    write_tokenizer(source)
    (source / "generation_config.json").write_text(json.dumps({"temperature": 0.7, "top_k": 20}))
    export_model(
        source, path, context_len=context_len, chunk_len=32, name="random", progress=_silent
    )
    return path


def _silent(done: int, total: int) -> None:
    pass
