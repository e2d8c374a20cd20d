"""The worker process: its deaths are pauses, its end is quiet, and it never outlives its core."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self, cast

import pytest
from structlog.testing import capture_logs

from edge_llm.engine import open_engine
from edge_llm.engine.local import LocalEngine
from edge_llm.engine.worker import WorkerEngine
from edge_llm.engine.worker.frames import (
    FROM_WORKER,
    Cancel,
    FromWorker,
    Generate,
    GivenUp,
    Happened,
    Loading,
    Ready,
    Start,
    ToWorker,
    encode,
)
from edge_llm.engine.worker.link import Link
from edge_llm.engine.worker.process import _Worker
from edge_llm.errors import ContextOverflowError, EdgeLLMError, EngineFailedError, ModelError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, RegexFormat, Started
from edge_llm.settings import EngineSettings, WorkerSettings
from tests.fakes import CONTROL_IDS, write_model

ROOT = Path(__file__).parents[1]
CONTEXT_LEN = 2048
LONG = 1000  # tokens; most of a second, so that a worker is killed long before it is done

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("worker") / "model", context_len=CONTEXT_LEN)


def settings(model: Path, **worker: Any) -> EngineSettings:
    return EngineSettings(worker=WorkerSettings(model=model, restart_delay_s=0, **worker))


@contextlib.asynccontextmanager
async def open_worker(model: Path, **worker: Any) -> AsyncIterator[WorkerEngine]:
    """Open a worker without a queue in front, and wait until it is ready."""
    engine = WorkerEngine(settings(model, **worker))
    async with asyncio.TaskGroup() as tasks:
        supervisor = tasks.create_task(engine.run())
        await engine.ready()
        yield engine
        supervisor.cancel()


def ask(max_tokens: int = LONG, **fields: Any) -> ChatRequest:
    # A random model would end its answer now and then.
    defaults: dict[str, Any] = {
        "prompt": "What does the fox say?",
        "temperature": 0.0,
        "logit_bias": dict.fromkeys(CONTROL_IDS, -100.0),
    }
    return ChatRequest(max_tokens=max_tokens, **defaults | fields)


async def collect(
    engine: WorkerEngine, request: ChatRequest, kill_after: Sequence[int] = ()
) -> tuple[str, Done]:
    """Return text and end of an answer; kill a worker after so many deltas, each once."""
    text = ""
    kinds = []
    kills = list(kill_after)
    num_deltas = killed = 0
    async for event in engine.generate(request):
        kinds.append(event.type)
        if isinstance(event, Delta):
            text += event.text
            num_deltas += 1
            assert event.token_ids == ()
            if kills and num_deltas >= kills[0] and engine.pid not in (killed, None):
                killed = engine.pid or 0
                os.kill(killed, signal.SIGKILL)
                del kills[0]
        if isinstance(event, Done):
            done = event
    assert kinds == ["started", *["delta"] * num_deltas, "done"]
    assert kills == []
    return text, done


def link_of(engine: WorkerEngine) -> Link:
    link = engine._supervisor.link
    assert link
    return link


def process_of(engine: WorkerEngine) -> Process:
    return link_of(engine).process


async def test_a_killed_worker_is_a_pause_and_not_a_change(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        for request in (
            ask(),
            ask(temperature=0.8, top_p=0.9, seed=-7, presence_penalty=0.2, stop=["a b c"]),
        ):
            undisturbed, end = await collect(engine, request)
            pid = engine.pid
            with capture_logs() as logs:
                text, done = await collect(engine, request, kill_after=[3])
            assert [line["event"] for line in logs].count("request.interrupted") == 1
            assert text == undisturbed
            assert done.finish_reason == end.finish_reason == "length"
            assert done.usage.completion_tokens == end.usage.completion_tokens == LONG
            assert engine.pid not in (pid, None)


async def test_a_form_survives_the_death_of_its_worker(model_dir: Path) -> None:
    form = RegexFormat(type="regex", regex="a long beginning that must be[a-z ]{200}, and an end")
    request = ask(response_format=form, temperature=1.0, seed=5, logprobs=True, top_logprobs=20)
    async with open_worker(model_dir, max_attempts=3) as engine:
        undisturbed, _ = await collect(engine, request)
        assert re.fullmatch(form.regex, undisturbed)
        text, done = await collect(engine, request, kill_after=[3, 60])
        assert text == undisturbed
        assert done.finish_reason == "stop"


async def test_a_worker_may_die_twice_on_one_request(model_dir: Path) -> None:
    async with open_worker(model_dir, max_attempts=3) as engine:
        text, done = await collect(engine, ask(temperature=1.0), kill_after=[2, 120])
        assert done.usage.completion_tokens == LONG  # without a seed of its own, too
        assert text


async def test_a_request_that_kills_every_worker_is_given_up(model_dir: Path) -> None:
    async with open_worker(model_dir, max_attempts=2) as engine:
        with pytest.raises(EngineFailedError, match="died 2 times"), capture_logs() as logs:
            await collect(engine, ask(), kill_after=[1, 2])
        interrupted = [line for line in logs if line["event"] == "request.interrupted"]
        assert len(interrupted) == 2
        assert interrupted[0]["completion_tokens"] < interrupted[1]["completion_tokens"]
        _, done = await collect(engine, ask(5))  # the next worker is well
        assert done.usage.completion_tokens == 5


async def test_a_worker_that_dies_idle_is_replaced(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        text, _ = await collect(engine, ask(20))
        assert engine.state == "ready"
        process = process_of(engine)
        process.kill()
        await process.wait()
        again, _ = await collect(engine, ask(20))
        assert again == text
        assert engine.state == "ready"


async def test_a_worker_rests_between_two_tokens_when_it_is_paced(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        taken = []
        for duty in (1.0, 0.1, 1.0):
            engine.pace(duty)
            begin = time.monotonic()
            text, _ = await collect(engine, ask(200))
            taken.append((text, time.monotonic() - begin))
    (text, fast_s), (slow_text, slow_s), (_, again_s) = taken
    assert slow_text == text
    assert slow_s > 3 * max(fast_s, again_s), taken  # ten times, but for what is not a step


async def test_states_follow_the_process(model_dir: Path) -> None:
    engine = WorkerEngine(settings(model_dir))
    assert (engine.state, engine.models, engine.pid) == ("loading", (), None)
    task = asyncio.create_task(engine.run())
    request = asyncio.create_task(collect(engine, ask(3)))  # taken while loading, and waits
    (model,) = await engine.ready()
    assert (model.id, model.context_len) == ("random", CONTEXT_LEN)
    await request
    assert engine.state == "ready"
    assert engine.models == (model,)
    os.kill(engine.pid or 0, signal.SIGKILL)
    while engine.state == "ready":  # noqa: ASYNC110 - nothing else tells it
        await asyncio.sleep(0.01)
    assert (engine.state, engine.models, engine.pid) == ("recovering", (model,), None)
    await engine.ready()
    assert engine.state == "ready"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_line_that_death_cut_off_is_not_read(model_dir: Path) -> None:
    engine = WorkerEngine(settings(model_dir))
    reader = asyncio.StreamReader()
    reader.feed_data(encode(Loading(done=1, total=4)) + b'{"type":"happened","id')
    reader.feed_eof()
    await engine._supervisor._listen(reader, cast(Link, SimpleNamespace(hear_loading=lambda: None)))
    assert engine.activity == "loading 1/4"


async def test_closing_the_engine_ends_the_process_by_itself(model_dir: Path) -> None:
    with capture_logs() as logs:
        async with open_worker(model_dir) as engine:
            process = process_of(engine)
            await collect(engine, ask(3))
    assert process.returncode == 0
    assert {line["event"] for line in logs} == {"model.loaded"}


async def test_closing_the_engine_in_mid_answer_ends_the_process_by_itself(
    model_dir: Path,
) -> None:
    with capture_logs() as logs:
        async with open_worker(model_dir) as engine:
            process = process_of(engine)
            async with contextlib.aclosing(engine.generate(ask())) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        break
    assert process.returncode == 0
    assert {line["event"] for line in logs} == {"model.loaded"}


async def test_closing_the_engine_while_it_loads(model_dir: Path) -> None:
    begin = time.monotonic()
    with capture_logs() as logs:
        async with open_engine(settings(model_dir)):
            await asyncio.sleep(0.05)
    assert logs == []
    assert time.monotonic() - begin < 15


async def test_a_cancelled_request_leaves_no_trace(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        expected, _ = await collect(engine, ask(30))
        for taken in (1, 2, 40):
            async with contextlib.aclosing(engine.generate(ask(temperature=1.0))) as events:
                for _ in range(taken):
                    await anext(events)
            link = engine._supervisor.link
            assert link
            assert link._asked == {}
            text, _ = await collect(engine, ask(30))
            assert text == expected


async def test_requests_that_the_model_refuses_fail_alone(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        with pytest.raises(ContextOverflowError, match="2048"):
            await collect(engine, ChatRequest(prompt="x " * 3000))
        with pytest.raises(EdgeLLMError, match="no token 5000"):
            await collect(engine, ask(logit_bias={5000: 1}))
        _, done = await collect(engine, ask(5))
        assert done.usage.completion_tokens == 5


def broken(model_dir: Path, out: Path, name: str) -> str:
    """Break a copy of a model; return what the error must name."""
    shutil.copytree(model_dir, out)
    layer = out / "qwen3_p32_l1_together.onnx"
    match name:
        case "a layer is missing":
            layer.unlink()
        case "a layer is cut off":
            layer.write_bytes(layer.read_bytes()[:5000])
        case "the embedding is cut off":
            layer = out / "model.embed_tokens.weight.bfloat16.bin"
            layer.write_bytes(layer.read_bytes()[:1000])
        case "the tokenizer is broken":
            layer = out / "tokenizer"
            (layer / "tokenizer.json").write_text("{}")
        case "there is none":
            shutil.rmtree(out)
            layer = out
    return str(layer)


@pytest.mark.parametrize(
    "name",
    [
        "a layer is missing",
        "a layer is cut off",
        "the embedding is cut off",
        "the tokenizer is broken",
        "there is none",
    ],
)
async def test_a_broken_model_is_named(model_dir: Path, tmp_path: Path, name: str) -> None:
    file = broken(model_dir, tmp_path / "broken", name)

    async def use() -> None:
        async with open_engine(settings(tmp_path / "broken")) as engine:
            with pytest.raises(ModelError, match=re.escape(file)):
                await anext(engine.generate(ask()))
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as group:
        await use()
    (error,) = group.value.exceptions
    assert isinstance(error, ModelError)
    assert file in error.message


async def test_a_body_that_fails_ends_the_worker_and_is_heard(model_dir: Path) -> None:
    async def use() -> None:
        async with open_engine(settings(model_dir)) as engine:
            await engine.ready()
            raise ValueError("the body")

    with pytest.raises(ExceptionGroup) as group:
        await use()
    assert [str(error) for error in group.value.exceptions] == ["the body"]


class RawWorker:
    """A worker process without the core's side, which the test plays."""

    def __init__(self, model: Path) -> None:
        self._model = model

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge_llm.engine.worker.process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        self.socket = ours
        self._reader = ours.makefile("rb")
        self.send(Start(settings=settings(self._model)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.hang_up()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stderr, self.process.stdout):
            if stream:
                stream.close()

    def send(self, *frames: ToWorker) -> None:
        self.socket.sendall(b"".join(encode(frame) for frame in frames))

    def frames(self) -> Iterator[FromWorker]:
        for line in self._reader:
            yield FROM_WORKER.validate_json(line)

    def wait_ready(self) -> None:
        next(frame for frame in self.frames() if isinstance(frame, Ready))

    def wait_text(self) -> None:
        next(f for f in self.frames() if isinstance(f, Happened) and isinstance(f.event, Delta))

    def hang_up(self) -> None:
        self._reader.close()
        self.socket.close()

    def wait_end(self) -> tuple[int, bytes]:
        """Return exit code and stderr."""
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


def test_sigterm_ends_an_idle_worker(model_dir: Path) -> None:
    with RawWorker(model_dir) as worker:
        worker.wait_ready()
        worker.process.terminate()
        assert worker.wait_end() == (0, b"")


def test_sigterm_ends_a_worker_in_mid_answer(model_dir: Path) -> None:
    with RawWorker(model_dir) as worker:
        worker.wait_ready()
        worker.send(Generate(id=1, request=ask()))
        worker.wait_text()
        worker.process.terminate()
        assert not any(
            isinstance(frame, Happened) and isinstance(frame.event, Done)
            for frame in worker.frames()
        )
        assert worker.wait_end() == (0, b"")


def test_the_end_of_the_stream_ends_an_idle_worker(model_dir: Path) -> None:
    with RawWorker(model_dir) as worker:
        worker.wait_ready()
        worker.hang_up()
        assert worker.wait_end() == (0, b"")


def test_the_end_of_the_stream_ends_a_worker_in_mid_answer(model_dir: Path) -> None:
    with RawWorker(model_dir) as worker:
        worker.wait_ready()
        worker.send(Generate(id=1, request=ask()))
        worker.wait_text()
        worker.hang_up()
        assert worker.wait_end() == (0, b"")


def test_the_end_of_the_stream_ends_a_worker_that_loads(model_dir: Path) -> None:
    with RawWorker(model_dir) as worker:
        worker.hang_up()
        assert worker.wait_end() == (0, b"")


def test_nothing_of_a_cancelled_request_comes_after_the_next_ones_first_event(
    model_dir: Path,
) -> None:
    with RawWorker(model_dir) as worker:
        worker.wait_ready()
        worker.send(Generate(id=1, request=ask()))
        worker.wait_text()
        worker.send(Cancel(id=1), Generate(id=2, request=ask(5)))
        frames: list[Happened | GivenUp] = []
        for frame in worker.frames():
            assert isinstance(frame, Happened | GivenUp)
            frames.append(frame)
            if isinstance(frame, Happened) and isinstance(frame.event, Done):
                break
        ids = [frame.id for frame in frames]
        assert ids == sorted(ids)
        assert ids[-1] == 2
        assert ids.count(1) < LONG / 2
        assert [n for n, frame in enumerate(frames) if isinstance(frame, GivenUp)] == [
            ids.index(2) - 1
        ]


def test_a_cancel_takes_effect_before_the_next_step() -> None:
    ours, theirs = socket.socketpair()
    steps = []

    class Endless:
        def generate(self, *_args: object) -> Generator[Event]:
            yield Started()
            for step in range(100):
                steps.append(step)
                if step == 3:  # the reader thread does this, at any time
                    worker._cancelled.add(1)
                yield Delta(text="x", token_ids=(step,))

    with ours, theirs:
        worker = _Worker(theirs)
        worker._answer(cast(LocalEngine, Endless()), Generate(id=1, request=ask()), 0.0)
        sent = [FROM_WORKER.validate_json(line) for line in ours.recv(65536).splitlines()]
    assert steps == [0, 1, 2, 3]
    assert len(sent) == 1 + 3 + 1  # Started, three deltas, and that it is out of hand
    assert sent[-1] == GivenUp(id=1)
    assert worker._cancelled == set()


def run_core(script: str, model_dir: Path) -> "subprocess.Popen[str]":
    """Run a core in a process of its own; ``ENGINE`` in the script is its settings."""
    engine = (
        f"EngineSettings(worker=WorkerSettings(model=Path({str(model_dir)!r}), restart_delay_s=0))"
    )
    code = textwrap.dedent(script).replace("ENGINE", engine)
    head = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom edge_llm.engine import open_engine\n"
        "from edge_llm.protocol import ChatRequest\n"
        "from edge_llm.settings import EngineSettings, WorkerSettings\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_a_worker_does_not_outlive_a_killed_core(model_dir: Path) -> None:
    script = """
        async def main():
            async with open_engine(ENGINE) as engine:
                await engine.ready()
                print("pid", engine._engine.pid, flush=True)
                async for event in engine.generate(ChatRequest(prompt="x", max_tokens=900)):
                    pass
                await asyncio.sleep(60)
        asyncio.run(main())
    """
    with run_core(script, model_dir) as core:
        pid = next(int(line.split()[1]) for line in core.stdout or () if line.startswith("pid"))
        core.kill()
    deadline = time.monotonic() + 15
    while _is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # nobody may be there to bury it


def test_the_core_never_imports_what_the_worker_needs(model_dir: Path) -> None:
    script = """
        import edge_llm.node, edge_llm.service, bridges.http
        async def main():
            async with open_engine(ENGINE) as engine:
                async for event in engine.generate(ChatRequest(prompt="x", max_tokens=5)):
                    pass
            heavy = {"numpy", "transformers", "tokenizers", "onnxruntime", "torch", "jinja2"}
            print("heavy:", sorted(heavy & set(sys.modules)))
        asyncio.run(main())
    """
    with run_core(script, model_dir) as core:
        assert core.stdout is not None
        lines = core.stdout.read().splitlines()
    assert lines[-1] == "heavy: []"
    assert core.returncode == 0
