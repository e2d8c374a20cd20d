"""The vendor's tool as it is run: programs stand in for it that do what it does, or worse."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from edge_llm.device import CardsReading
from edge_llm.device.axcl_smi import AxclSmi, Unreadable, find_axcl_smi, tool
from tests.card_tools import SEEN, make_tool, num_open_files, outliving
from tests.clients import eventually
from tests.test_axcl_smi import BUSY, DRIVER, INIT, OPEN

READING = CardsReading(DRIVER, (BUSY,))
TABLE = "cat $seen/table_busy.stdout.txt"
LOGGED = 'echo "$*" >> $folder/runs'
BY_COMMAND = f"""\
{LOGGED}
if [ "$1" = reboot ]; then
  read answer
  [ "$answer" = y ] && cat $seen/reboot_yes.stdout.txt
else
  sleep 0.3
  {TABLE}
fi
echo end >> $folder/runs"""


def make(folder: Path, script: str, timeout_s: float = 5.0, pause_s: float = 0.0) -> AxclSmi:
    return AxclSmi(make_tool(folder, script), timeout_s, pause_s)


def runs(folder: Path) -> list[str]:
    """Return the arguments of each run, and the ends of runs, in their order."""
    path = folder / "runs"
    return path.read_text().splitlines() if path.exists() else []


async def reason(smi: AxclSmi) -> str:
    reading = await smi.read()
    assert isinstance(reading, Unreadable)
    return reading.reason


# Readings


async def test_it_is_run_without_a_terminal(tmp_path: Path) -> None:
    smi = make(tmp_path, f'[ "$(readlink /proc/$$/fd/0)" = /dev/null ] && {TABLE}')
    assert await smi.read() == READING


async def test_it_may_be_slow(tmp_path: Path) -> None:
    text = (
        'while IFS= read -r line; do sleep 0.01; echo "$line"; done < $seen/table_busy.stdout.txt'
    )
    assert await make(tmp_path, text).read() == READING


async def test_its_code_does_not_matter(tmp_path: Path) -> None:
    assert await make(tmp_path, f"{TABLE}; exit 3").read() == READING
    smi = make(tmp_path, f"{TABLE}; kill -SEGV $$")  # at its end, after good results
    assert await smi.read() == READING


async def test_without_a_driver_it_says_why(tmp_path: Path) -> None:
    reading = await make(tmp_path, "cat $seen/no_driver_table.stdout.txt").read()
    assert reading == CardsReading(DRIVER, (), error=f"{INIT}; {OPEN}")


async def test_a_missing_tool_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    assert await reason(AxclSmi(path)) == f"{path} can't be run: No such file or directory"


async def test_a_tool_that_is_no_program_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "axcl-smi"
    path.write_bytes(os.urandom(4096))
    assert "Permission denied" in await reason(AxclSmi(path))
    path.write_bytes(b"\x7fELF" + bytes(100))
    path.chmod(0o755)
    assert "can't be run: " in await reason(AxclSmi(path))
    assert "can't be run: " in await reason(AxclSmi(tmp_path))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("true", "axcl-smi printed nothing"),
        ("kill -SEGV $$", "axcl-smi was ended by signal 11"),
        (
            "echo 'axcl-smi: libaxcl_rt.so: cannot open shared object file' >&2; exit 127",
            "axcl-smi printed no table, but: axcl-smi: libaxcl_rt.so: "
            "cannot open shared object file",
        ),
        (
            "echo 'axcl-smi is already running, please try later.'",
            "axcl-smi is already running, please try later.",
        ),
        (
            "head -c 900 $seen/table_busy.stdout.txt",
            "axcl-smi printed a table that is not whole, or of a form that is not known",
        ),
        ("cat $seen/unknown_command.stderr.txt >&2", "Unknown command: bogus"),
        (
            "cat $seen/index_out_of_range.stdout.txt",
            "device index 3 is out of connected devices number 1",
        ),
    ],
)
async def test_it_is_said_why_there_is_no_table(tmp_path: Path, script: str, why: str) -> None:
    assert await reason(make(tmp_path, script)) == why


async def test_garbage_is_unknown(tmp_path: Path) -> None:
    why = await reason(make(tmp_path, "head -c 100000 /dev/urandom"))
    assert why.startswith("axcl-smi printed no table")
    assert why.isprintable()
    assert len(why) < 150


@pytest.mark.parametrize("flood", ["exec yes", "exec yes >&2", "yes", "exec cat /dev/zero"])
async def test_a_flood_is_stopped(tmp_path: Path, flood: str) -> None:
    begin = time.monotonic()
    why = await reason(make(tmp_path, f"{TABLE}; {flood}", timeout_s=30))
    assert why == "axcl-smi printed more than 256 KiB"
    assert time.monotonic() - begin < 15


async def test_one_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    script = f"{LOGGED}; trap '' TERM; sh -c 'echo $$ > $folder/pid; exec sleep 60'"
    script = script.replace("$folder/pid", str(tmp_path / "pid"))
    smi = make(tmp_path, script, timeout_s=1)
    begin = time.monotonic()
    assert await reason(smi) == "axcl-smi did not end within 1 s"
    assert time.monotonic() - begin < 10
    pid = (tmp_path / "pid").read_text().strip()
    await eventually(lambda: is_gone(pid))
    make_tool(tmp_path, TABLE)
    assert await smi.read() == READING


def is_gone(pid: str) -> bool:
    """Say whether a process has ended; one that nobody has waited for yet has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_beside_one_that_can_not_be_killed_no_other_is_started(tmp_path: Path) -> None:
    with outliving(tmp_path) as outlives:
        smi = make(tmp_path, f"{LOGGED}\n{outlives}", timeout_s=1.5)
        assert await reason(smi) == "axcl-smi did not end within 1.5 s"
        for _ in range(3):
            assert await reason(smi) == "an earlier axcl-smi still hangs"
        assert not await smi.reboot(timeout_s=1)
        assert smi.reboot_error == "an earlier axcl-smi still hangs"
        assert runs(tmp_path) == [""]
    make_tool(tmp_path, TABLE)
    assert await eventually_read(smi) == READING


async def eventually_read(smi: AxclSmi) -> CardsReading:
    for _ in range(250):
        if isinstance(reading := await smi.read(), CardsReading):
            return reading
        await asyncio.sleep(0.02)
    pytest.fail(f"was never read: {reading}")


async def test_it_is_run_once_for_all_who_ask(tmp_path: Path) -> None:
    smi = make(tmp_path, BY_COMMAND, pause_s=60)
    readings = await asyncio.gather(*(smi.read() for _ in range(5)))
    readings.append(await smi.read())
    assert readings == [READING] * 6
    assert runs(tmp_path) == ["", "end"]


async def test_between_two_readings_the_card_is_left_alone(tmp_path: Path) -> None:
    smi = make(tmp_path, f"{LOGGED}; true", pause_s=0.2)
    for _ in range(3):  # also after a failure
        assert await reason(smi) == "axcl-smi printed nothing"
    assert len(runs(tmp_path)) == 1
    make_tool(tmp_path, TABLE)
    assert await eventually_read(smi) == READING


async def test_without_a_pause_they_still_are_one_at_a_time(tmp_path: Path) -> None:
    smi = make(tmp_path, BY_COMMAND)
    assert list(await asyncio.gather(smi.read(), smi.read())) == [READING] * 2
    assert runs(tmp_path) == ["", "end", "", "end"]


async def test_a_reading_that_is_cancelled_leaves_nothing_running(tmp_path: Path) -> None:
    smi = make(tmp_path, f"{LOGGED}; exec sleep 60")
    reading = asyncio.create_task(smi.read())
    await eventually(lambda: runs(tmp_path))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    make_tool(tmp_path, TABLE)
    assert await smi.read() == READING


async def test_no_file_stays_open(tmp_path: Path) -> None:
    floods, hangs = f"{TABLE}; exec yes", "yes | head -c 200000; exec sleep 60"
    smi = make(tmp_path, TABLE, timeout_s=0.2)
    await smi.read()
    before = num_open_files()
    for script in [floods, hangs, TABLE] * 5:
        make_tool(tmp_path, script)
        await smi.read()
    await eventually(lambda: num_open_files() <= before)


# Reboots


async def test_a_reboot_is_confirmed(tmp_path: Path) -> None:
    smi = make(tmp_path, BY_COMMAND)
    assert await smi.reboot(2) is True
    assert smi.reboot_error is None
    assert runs(tmp_path) == ["reboot -d 2", "end"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("cat > /dev/null; cat $seen/reboot_yes_fails.stdout.txt", "did not say"),
        ("exec < /dev/null; cat $seen/reboot_no_answer.stdout.txt", "did not say"),
        ("true", "did not say"),
        ("cat $seen/no_driver_temp.stdout.txt", INIT),
        ("cat > /dev/null; exec sleep 60", "did not end within"),
        ("exec yes", "more than 256 KiB"),
    ],
)
async def test_a_reboot_that_is_not_confirmed_was_none(
    tmp_path: Path, script: str, why: str
) -> None:
    smi = make(tmp_path, script)
    assert await smi.reboot(0, timeout_s=0.5 if "sleep" in script else 10) is False
    assert why in (smi.reboot_error or "")


async def test_a_reboot_without_the_tool_is_none(tmp_path: Path) -> None:
    smi = AxclSmi(tmp_path / "nothing")
    assert not await smi.reboot()
    assert "can't be run" in (smi.reboot_error or "")


async def test_a_reboot_waits_for_a_reading(tmp_path: Path) -> None:
    smi = make(tmp_path, BY_COMMAND, pause_s=60)
    reading = asyncio.create_task(smi.read())
    await eventually(lambda: runs(tmp_path))
    assert await smi.reboot()
    assert runs(tmp_path) == ["", "end", "reboot -d 0", "end"]
    assert await reading == READING
    assert await reason(smi) == "it was not read since a reboot"  # the old one is worth nothing


async def test_while_a_card_is_rebooted_it_is_unknown_at_once(tmp_path: Path) -> None:
    smi = make(tmp_path, f"{LOGGED}; read answer; sleep 0.5; cat $seen/reboot_yes.stdout.txt")
    rebooting = asyncio.create_task(smi.reboot())
    await eventually(lambda: runs(tmp_path))
    assert await reason(smi) == "the card is being rebooted"
    assert not await smi.reboot()  # not twice
    assert not rebooting.done()
    assert await rebooting
    assert runs(tmp_path) == ["reboot -d 0"]


async def test_a_reboot_waits_for_one_that_hangs(tmp_path: Path) -> None:
    with outliving(tmp_path) as outlives:
        smi = make(tmp_path, f"{LOGGED}\n{outlives}", timeout_s=1.5)
        assert await reason(smi) == "axcl-smi did not end within 1.5 s"
        make_tool(tmp_path, BY_COMMAND)
        rebooting = asyncio.create_task(smi.reboot())
        await asyncio.sleep(0.1)
        assert not rebooting.done()
        assert runs(tmp_path) == [""]
    assert await rebooting
    assert runs(tmp_path) == ["", "reboot -d 0", "end"]


# Where it is


def test_it_is_found_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "WHERE", tmp_path / "nowhere")
    monkeypatch.setenv("PATH", "bin")
    monkeypatch.chdir(tmp_path)
    assert find_axcl_smi() is None
    (tmp_path / "bin").mkdir()
    path = make_tool(tmp_path / "bin", TABLE)
    assert find_axcl_smi() == path
    monkeypatch.setattr(tool, "WHERE", SEEN / "table_busy.stdout.txt")
    assert find_axcl_smi() == SEEN / "table_busy.stdout.txt"
