"""What systemd is told, by way of a socket as it opens one."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_llm.systemd import Notifier, notify, reloading, watchdog_interval_s
from tests.clients import eventually


class Systemd:
    """The other end of the socket."""

    def __init__(self, address: str | bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)
        self._heard: list[str] = []

    def heard(self) -> list[str]:
        """All lines so far, in order."""
        try:
            while True:
                self._heard += self.socket.recv(65536).decode().splitlines()
        except BlockingIOError:
            return self._heard


@pytest.fixture(params=["file", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Systemd]:
    name = (
        str(tmp_path / "notify") if request.param == "file" else f"@edge-llm-{os.urandom(8).hex()}"
    )
    systemd = Systemd(name.replace("@", "\0"))
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield systemd
    systemd.socket.close()


class Played:
    """A service that is as a test wants it."""

    def __init__(self) -> None:
        self.is_ready = False
        self.status = "loading"
        self.progress = 0
        self.trouble: str | None = None

    @asynccontextmanager
    async def managed(self) -> AsyncIterator[None]:
        notifier = Notifier(
            is_ready=lambda: self.is_ready,
            status=lambda: self.status,
            is_alive=lambda: self.trouble,
            progress=lambda: self.progress,
        )
        running = asyncio.create_task(notifier.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait({running})
            assert running.cancelled()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Played:
    monkeypatch.setattr("edge_llm.systemd.notifier.POLL_S", 0.01)
    return Played()


def test_a_message_is_lines_of_names_and_values(systemd: Systemd) -> None:
    assert notify(READY=1, STATUS="two\nlines")
    assert systemd.heard() == ["READY=1", "STATUS=two lines"]


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/notify", "@nobody-listens"])
def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify(READY=1)
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify(READY=1)


def test_a_socket_that_is_full_is_not_waited_for(systemd: Systemd) -> None:
    begun = time.monotonic()
    while notify(STATUS="x" * 1000):
        assert time.monotonic() - begun < 5
    systemd.heard()
    assert notify(READY=1)


@pytest.mark.parametrize(
    ("microseconds", "pid", "interval_s"),
    [
        ("60000000", None, 60.0),
        ("500000", "ours", 0.5),
        ("500000", "1", None),  # of whoever started us
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdogs_interval(
    monkeypatch: pytest.MonkeyPatch,
    microseconds: str | None,
    pid: str | None,
    interval_s: float | None,
) -> None:
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, str(os.getpid()) if value == "ours" else value)
    assert watchdog_interval_s() == interval_s


async def test_ready_is_said_once_when_it_is_so(systemd: Systemd, service: Played) -> None:
    async with service.managed():
        await eventually(lambda: "STATUS=loading" in systemd.heard())
        assert "READY=1" not in systemd.heard()
        service.is_ready, service.status = True, "serving"
        await eventually(lambda: "READY=1" in systemd.heard())
        service.status = "paused"
        await eventually(lambda: "STATUS=paused" in systemd.heard())
    heard = systemd.heard()
    assert heard.count("READY=1") == 1
    assert [line for line in heard if line.startswith("STATUS=")] == [
        "STATUS=loading", "STATUS=serving", "STATUS=paused", "STATUS=stopping",
    ]  # fmt: skip
    assert not [line for line in heard if line.startswith("WATCHDOG")]  # which nobody asked for


async def test_the_end_is_said(systemd: Systemd, service: Played) -> None:
    async with service.managed():
        await eventually(systemd.heard)
        assert "STOPPING=1" not in systemd.heard()
    assert systemd.heard()[-2:] == ["STOPPING=1", "STATUS=stopping"]


async def test_loading_that_goes_on_is_given_more_time(systemd: Systemd, service: Played) -> None:
    def count() -> int:
        return systemd.heard().count("EXTEND_TIMEOUT_USEC=180000000")

    async with service.managed():
        await eventually(lambda: count() == 1)
        service.progress = 1
        await eventually(lambda: count() == 2)
        service.status = "a new status is a sign that the loop has come round"
        await eventually(lambda: systemd.heard()[-1].startswith("STATUS=a new"))
        service.status = "and again"
        await eventually(lambda: systemd.heard()[-1] == "STATUS=and again")
        assert count() == 2  # no progress, no more time
        service.is_ready = True
        await eventually(lambda: "READY=1" in systemd.heard())
        service.progress, service.status = 2, "ready"
        await eventually(lambda: systemd.heard()[-1] == "STATUS=ready")
        assert count() == 2


async def test_ready_is_said_again_if_the_socket_was_full(
    systemd: Systemd, service: Played
) -> None:
    while notify(STATUS="x" * 1000):
        pass
    service.is_ready = True
    async with service.managed():
        await asyncio.sleep(0.05)  # some rounds, in which nothing gets through
        systemd.heard()
        await eventually(lambda: "READY=1" in systemd.heard())


async def test_the_watchdog_is_fed_while_all_is_well_and_not_else(
    systemd: Systemd, service: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "40000")

    def fed() -> int:
        return systemd.heard().count("WATCHDOG=1")

    with capture_logs() as logs:
        async with service.managed():
            await eventually(lambda: fed() >= 3)
            service.trouble = "the worker has said nothing for 90 s"
            await eventually(lambda: logs)
            before = fed()
            service.status = "in trouble"
            await eventually(lambda: "STATUS=in trouble" in systemd.heard())
            assert fed() == before
            service.trouble = None
            await eventually(lambda: fed() > before)
    assert [entry["event"] for entry in logs] == ["watchdog.withheld", "watchdog.fed_again"]
    assert logs[0]["reason"] == "the worker has said nothing for 90 s"


async def test_the_watchdog_is_fed_twice_in_its_interval(
    systemd: Systemd, service: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    begun = time.monotonic()
    async with service.managed():
        await eventually(lambda: systemd.heard().count("WATCHDOG=1") >= 4)
    assert time.monotonic() - begun > 0.25  # four at 0, 100, 200 and 300 ms, not one a round


def test_a_reload_begins_and_ends(systemd: Systemd) -> None:
    before = time.monotonic_ns() // 1000
    with reloading():
        [said, when] = systemd.heard()
        assert said == "RELOADING=1"
        name, _, value = when.partition("=")
        assert name == "MONOTONIC_USEC"
        assert before <= int(value) <= time.monotonic_ns() // 1000
    assert systemd.heard()[-1] == "READY=1"
