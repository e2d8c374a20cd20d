"""A card is reset by programs that do what such programs do: they work, fail, hang and talk."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_llm.device import card as card_module
from edge_llm.device.axcl_smi import AxclSmi
from edge_llm.device.card import CardControl
from edge_llm.settings import RecoverySettings
from tests.card_tools import make_tool, num_open_files
from tests.clients import eventually

REBOOTS = 'read answer; echo "$@ $answer" >> $folder/runs; echo "reboot device 0 success"'


def settings(*command: str, timeout_s: float = 20.0, allowed: bool = True) -> RecoverySettings:
    return RecoverySettings(
        card_reboot=allowed,
        card_reboot_timeout_s=timeout_s,
        driver_reload=command,
        driver_reload_timeout_s=timeout_s,
    )


def shell(script: str, timeout_s: float = 20.0) -> CardControl:
    """Return one whose driver is loaded by this script."""
    return CardControl(settings("/bin/sh", "-c", script, timeout_s=timeout_s))


@contextmanager
def open_standard_input() -> Iterator[None]:
    """Have a standard input that does not end, as on a terminal."""
    ours, ends = os.dup(0), os.pipe()
    os.dup2(ends[0], 0)
    try:
        yield
    finally:
        os.dup2(ours, 0)
        for end in (ours, *ends):
            os.close(end)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # killed, and not yet waited for by whoever has adopted it


def test_what_is_possible_depends_on_the_tool_and_the_settings(tmp_path: Path) -> None:
    smi = AxclSmi(make_tool(tmp_path, REBOOTS))
    assert CardControl(settings("/bin/true"), smi).steps == ("reboot_card", "reload_driver")
    assert CardControl(settings(), smi).steps == ("reboot_card",)
    assert CardControl(settings("/bin/true"), None).steps == ("reload_driver",)
    assert CardControl(settings(allowed=False), smi).steps == ()


# Reboot -----------------------------------------------------------------------------------------


async def test_a_card_is_rebooted(tmp_path: Path) -> None:
    card = CardControl(settings(), AxclSmi(make_tool(tmp_path, REBOOTS)))
    with capture_logs() as logs:
        assert await card.reboot(1)
    assert (tmp_path / "runs").read_text() == "reboot -d 1 y\n"
    assert card.last_error is None
    assert [entry["event"] for entry in logs] == ["card.rebooted"]


async def test_a_reboot_that_fails_says_why(tmp_path: Path) -> None:
    card = CardControl(settings(), AxclSmi(make_tool(tmp_path, "read answer")))
    with capture_logs() as logs:
        assert not await card.reboot(0)
    assert card.last_error == "axcl-smi did not say that the card was rebooted"
    assert logs == [
        {"event": "card.not_rebooted", "log_level": "warning", "reason": card.last_error}
    ]
    make_tool(tmp_path, REBOOTS)
    assert await card.reboot(0)
    assert card.last_error is None


async def test_a_reboot_that_hangs_is_given_up(tmp_path: Path) -> None:
    card = CardControl(settings(timeout_s=0.3), AxclSmi(make_tool(tmp_path, "exec sleep 60")))
    begin = time.monotonic()
    assert not await card.reboot(0)
    assert time.monotonic() - begin < 10
    assert card.last_error
    assert "did not end within 0.3 s" in card.last_error


async def test_a_rebooter_that_forgets_the_time_is_given_up_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Forgetful:
        reboot_error: str | None = None

        async def reboot(self, index: int, timeout_s: float) -> bool:
            await asyncio.sleep(60)
            return True

    monkeypatch.setattr(card_module, "GRACE_S", 0.05)
    card = CardControl(settings(timeout_s=0.05), Forgetful())
    assert not await card.reboot(3)
    assert card.last_error == "card 3 did not come back within 0.05 s"


async def test_a_reboot_that_is_not_allowed_is_not_done(tmp_path: Path) -> None:
    smi = AxclSmi(make_tool(tmp_path, REBOOTS))
    for card in (CardControl(settings(allowed=False), smi), CardControl(settings())):
        assert not await card.reboot(0)
        assert card.last_error == "the card can't be rebooted here"
    assert not (tmp_path / "runs").exists()


# Driver -----------------------------------------------------------------------------------------


async def test_the_driver_is_loaded_anew_by_a_program_without_a_shell(tmp_path: Path) -> None:
    file = tmp_path / "$(echo reload) driver"
    card = CardControl(settings("/usr/bin/touch", str(file)))
    with capture_logs() as logs:
        assert await card.reload_driver()
    assert file.exists()
    assert card.last_error is None
    assert [entry["event"] for entry in logs] == ["card.driver_reloaded"]


async def test_a_program_has_no_input_and_a_session_of_its_own(tmp_path: Path) -> None:
    card = shell(f"cat > {tmp_path}/input; cut -d' ' -f6 /proc/$$/stat > {tmp_path}/session")
    with open_standard_input():
        assert await card.reload_driver()
    assert (tmp_path / "input").read_text() == ""
    assert int((tmp_path / "session").read_text()) != os.getsid(0)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("exit 3", "/bin/sh ended with code 3"),
        ("echo; echo '  FATAL: in use ' >&2; echo more; exit 1",
         "/bin/sh ended with code 1: FATAL: in use"),
        ("printf 'a\\033[31m\\001b\\nc'; false", "/bin/sh ended with code 1: a?[31m?b"),
        ("printf '\\377'; false", "/bin/sh ended with code 1: \N{REPLACEMENT CHARACTER}"),
        ("kill -9 $$", "/bin/sh was ended by signal 9"),
    ],
)  # fmt: skip
async def test_a_program_that_fails_is_quoted(script: str, error: str) -> None:
    card = shell(script)
    with capture_logs() as logs:
        assert not await card.reload_driver()
    assert card.last_error == error
    assert logs == [{"event": "card.driver_not_reloaded", "log_level": "warning", "reason": error}]


async def test_a_program_that_says_a_lot_is_quoted_in_brief(tmp_path: Path) -> None:
    card = shell("yes x | head -c 3000000; false")
    assert not await card.reload_driver()
    assert card.last_error == "/bin/sh ended with code 1: x"
    card = shell("head -c 3000000 /dev/zero | tr '\\0' y; false")
    assert not await card.reload_driver()
    assert card.last_error == "/bin/sh ended with code 1: " + "y" * 200


@pytest.mark.parametrize("path", ["/nowhere/modprobe", "/etc/passwd", "/"])
async def test_a_program_that_can_not_be_run_is_an_error(path: str) -> None:
    card = CardControl(settings(path))
    assert not await card.reload_driver()
    assert card.last_error
    assert card.last_error.startswith(f"{path} can't be run: ")
    assert not await CardControl(settings()).reload_driver()


async def test_a_program_that_hangs_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    card = shell(
        f"echo began; sleep 60 & echo $! $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pids;"
        " trap '' TERM; wait; wait",
        timeout_s=1.5,
    )
    begin = time.monotonic()
    assert not await card.reload_driver()
    assert time.monotonic() - begin < 10
    assert card.last_error == "/bin/sh took longer than 1.5 s: began"
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    await eventually(lambda: not any(map(is_alive, pids)))


async def test_one_that_can_not_be_killed_keeps_others_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_vain(process: asyncio.subprocess.Process) -> None:
        """As with a process that hangs in the kernel."""

    card = shell(f"echo $$ > {tmp_path}/pid; test -e {tmp_path}/go || exec sleep 60", timeout_s=0.3)
    with monkeypatch.context() as patch:
        patch.setattr(card_module, "_kill", in_vain)
        assert not await card.reload_driver()
    assert not await card.reload_driver()
    assert card.last_error == "another reset is under way"
    await eventually((tmp_path / "pid").exists)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    (tmp_path / "go").touch()
    await eventually(lambda: not card.is_busy)
    assert await card.reload_driver()


async def test_a_daemon_that_it_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    card = shell(f"sleep 60 & echo $! > {tmp_path}/pid")
    begin = time.monotonic()
    try:
        assert await card.reload_driver()
        assert time.monotonic() - begin < 10
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


async def test_cancelling_kills_the_program(tmp_path: Path) -> None:
    card = shell(f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 60")
    reloading = asyncio.create_task(card.reload_driver())
    await eventually((tmp_path / "pid").exists)
    reloading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reloading
    assert not is_alive(int((tmp_path / "pid").read_text()))
    (tmp_path / "pid").unlink()
    again = asyncio.create_task(card.reload_driver())  # nothing is under way any more
    await eventually((tmp_path / "pid").exists)
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again


async def test_there_are_never_two_resets_at_a_time(tmp_path: Path) -> None:
    reload = f"echo >> {tmp_path}/reloads; while ! test -e {tmp_path}/go; do sleep 0.01; done"
    smi = AxclSmi(make_tool(tmp_path, REBOOTS))
    card = CardControl(settings("/bin/sh", "-c", reload), smi)
    first = asyncio.create_task(card.reload_driver())
    await eventually((tmp_path / "reloads").exists)
    assert not await card.reload_driver()
    assert not await card.reboot(0)
    assert card.last_error == "another reset is under way"
    (tmp_path / "go").touch()
    assert await first
    assert (tmp_path / "reloads").read_text() == "\n"
    assert not (tmp_path / "runs").exists()
    (tmp_path / "go").unlink()
    make_tool(tmp_path, f"while ! test -e $folder/go; do sleep 0.01; done; {REBOOTS}")
    second = asyncio.create_task(card.reboot(0))
    await eventually(lambda: card.is_busy)
    assert not await card.reload_driver()
    (tmp_path / "go").touch()
    assert await second
    assert (tmp_path / "reloads").read_text() == "\n"
    assert await card.reload_driver()


async def test_no_file_is_left_open(tmp_path: Path) -> None:
    card = CardControl(settings("/bin/echo", "done"))
    assert await card.reload_driver()
    before = num_open_files()
    for command in (("/bin/echo", "done"), ("/bin/false",), ("/nowhere",)):
        await CardControl(settings(*command)).reload_driver()
    assert num_open_files() == before
