"""The worker process: owns the device, takes requests from a socket, sends events back.

The main thread runs the model, one step at a time; a second thread reads the socket, so that a
cancel or the end of the stream is seen between two steps. While nobody asks for anything, it
computes what the next requests will begin with. A vendor call that hangs blocks only this process.
"""

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from edge_llm.engine.loading import load_engine
from edge_llm.engine.local import LocalEngine
from edge_llm.engine.worker.frames import (
    TO_WORKER,
    Cancel,
    Check,
    Checked,
    Failed,
    FromWorker,
    Generate,
    GivenUp,
    Happened,
    Loading,
    Pace,
    Prepare,
    Probe,
    Probed,
    Ready,
    Start,
    ToWorker,
    encode,
)
from edge_llm.errors import DeviceLostError, EdgeLLMError
from edge_llm.protocol import ErrorBody
from edge_llm.settings import EngineSettings

__all__ = ["main"]

OOM_SCORE = "500"  # of 1000; anybody may raise his own
IDLE_AFTER_S = 0.05  # the next of those that wait is sent when the one before has ended


@dataclass(frozen=True, slots=True)
class _Job:
    frame: Start | Prepare | Generate | Check | Probe
    arrived: float = field(default_factory=time.monotonic)


class _StoppedError(Exception):
    """The core is gone, or has asked us to end."""


class _Worker:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._checks: queue.SimpleQueue[Check] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._last_done = 0  # requests come with rising ids, and run in that order
        self._stopping = False
        self._duty = 1.0
        self._news = threading.Event()  # ends a rest

    def run(self) -> None:
        """Load, then answer requests until the stream ends."""
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        reader = threading.Thread(target=self._read, name="worker.reader", daemon=True)
        reader.start()
        start = self._jobs.get()
        if (
            start
            and isinstance(start.frame, Start)
            and (engine := self._load(start.frame.settings))
        ):
            try:
                self._serve(engine)
            finally:
                engine.close()
        with contextlib.suppress(OSError):  # the core has closed its end
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the reader
        reader.join()

    def _read(self) -> None:
        try:
            # A reset is as good as an end: the core died before it had read all that we sent.
            with contextlib.suppress(ConnectionResetError), self._socket.makefile("rb") as lines:
                for line in lines:
                    self._take(TO_WORKER.validate_json(line))
        finally:  # also of a line that can't be read: what is deaf must not live on
            self._stop()

    def _take(self, frame: ToWorker) -> None:
        if isinstance(frame, Cancel):
            if frame.id > self._last_done:  # else it came too late
                self._cancelled.add(frame.id)
        elif isinstance(frame, Pace):
            self._duty = frame.duty
        else:
            if isinstance(frame, Check):
                self._checks.put(frame)
            self._jobs.put(_Job(frame))  # of a check it wakes only whoever waits
        self._news.set()

    def _stop(self) -> None:
        self._stopping = True
        self._news.set()
        self._jobs.put(None)  # SimpleQueue.put may be called from a signal handler

    def _load(self, settings: EngineSettings) -> LocalEngine | None:
        def report(done: int, total: int) -> None:
            if self._stopping:
                raise _StoppedError
            self._send(Loading(done=done, total=total))

        try:
            engine = load_engine(settings, report)
        except EdgeLLMError as exc:
            self._send(Failed(error=ErrorBody.from_error(exc)))
            return None
        except _StoppedError:
            return None
        self._send(Ready(models=(engine.info,), loaded=engine.loaded))
        return engine

    def _serve(self, engine: LocalEngine) -> None:
        while job := self._next_job(engine):
            self._check_all(engine)
            is_well = True
            if isinstance(job.frame, Prepare):
                engine.prepare(job.frame.conversations)
            elif isinstance(job.frame, Probe):
                is_well = self._probe(engine, job.frame)
            elif isinstance(job.frame, Generate):
                is_well = self._answer(engine, job.frame, job.arrived)
            if not is_well:
                break

    def _next_job(self, engine: LocalEngine) -> _Job | None:
        """Wait for a job; make use of the time, one step after another, until there is one."""
        with contextlib.suppress(queue.Empty):
            return self._jobs.get(timeout=IDLE_AFTER_S)
        with contextlib.suppress(EdgeLLMError):  # nobody asked for it; a request will tell
            if self._duty == 1:  # else the card is to rest
                for _ in engine.settle():
                    if self._stopping or not self._jobs.empty():
                        break
        return self._jobs.get()

    def _probe(self, engine: LocalEngine, probe: Probe) -> bool:
        """Compute a token for nobody; return whether the device is still of use."""
        try:
            engine.probe()
        except EdgeLLMError as exc:
            self._send(Failed(id=probe.id, error=ErrorBody.from_error(exc)))
            return not isinstance(exc, DeviceLostError)
        self._send(Probed(id=probe.id))
        return True

    def _rest(self, step_s: float) -> None:
        """Let the card cool after a step, for as long as the pace asks; news from the core end it.

        A step of a hot card's takes a part of a second, so nobody waits long for a cancel.
        """
        if self._duty < 1:
            self._news.clear()
            self._news.wait(step_s * (1 / self._duty - 1))

    def _answer(self, engine: LocalEngine, job: Generate, arrived: float) -> bool:
        """Answer a request; return whether another one can be answered after it."""
        try:
            began = time.monotonic()
            for event in engine.generate(job.request, job.resume, arrived):
                step_s = time.monotonic() - began
                if self._stopping or job.id in self._cancelled:
                    self._send(GivenUp(id=job.id))
                    break
                self._send(Happened(id=job.id, event=event))  # also when nothing was said: a sign
                self._check_all(engine)
                self._rest(step_s)
                began = time.monotonic()
        except DeviceLostError as exc:
            self._send(Failed(id=job.id, error=ErrorBody.from_error(exc)))
            return False
        except EdgeLLMError as exc:
            self._send(Failed(id=job.id, error=ErrorBody.from_error(exc)))
        except (OSError, MemoryError):  # the core is gone; or this process has become too large
            raise
        except Exception:  # noqa: BLE001 - the boundary of a request: the next one may be well
            traceback.print_exc()
            error = ErrorBody(code=EdgeLLMError.code, message="the engine failed; see its log")
            self._send(Failed(id=job.id, error=error))
        finally:
            self._last_done = job.id
            self._cancelled.discard(job.id)
        return True

    def _check_all(self, engine: LocalEngine) -> None:
        """Look at the requests that wait, between two steps of the one that runs."""
        with contextlib.suppress(queue.Empty):
            while True:
                check = self._checks.get_nowait()
                error = None
                try:
                    engine.check(check.request)
                except EdgeLLMError as exc:
                    error = ErrorBody.from_error(exc)
                except Exception:  # noqa: BLE001 - it fails again when its turn comes, and is told then
                    traceback.print_exc()
                self._send(Checked(id=check.id, error=error))

    def _send(self, frame: FromWorker) -> None:
        try:
            self._socket.sendall(encode(frame))
        except (BrokenPipeError, ConnectionResetError):
            self._stopping = True


def main() -> None:
    """Serve the socket whose file descriptor is the first argument."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # vendor libraries print to stdout
    with contextlib.suppress(OSError):  # if memory runs out, then the model's; the core lives on
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        _Worker(sock).run()


if __name__ == "__main__":
    main()
