"""What outlives a restart, what is forgotten, and what happens when the disk fails."""

import os
import sqlite3
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_llm.errors import ConfigurationError
from edge_llm.outgoing import Outgoing
from edge_llm.protocol import Message
from edge_llm.settings import SessionSettings, StoreSettings
from edge_llm.store import Store, make_key, open_store, store_path

FINALS = [
    Outgoing("r/a/part/0", b"Part \xc3\xbc", "text/plain", qos=1, properties=(("node", "stage"),)),
    Outgoing(
        "r/a",
        b'{"text": "\xf0\x9f\x8e\xad"}',
        "application/json",
        qos=2,
        retain=True,
        correlation=bytes(range(256)),
        properties=(("node", "stage"), ("error", "expired")),
    ),
]
TURNS = (
    Message(role="user", content="I am Ada."),
    Message(role="assistant", content="Hello, Ada."),
)


def opened(
    path: Path | None, sessions: SessionSettings | None = None, **settings: float
) -> AbstractContextManager[Store]:
    return open_store(path, StoreSettings.model_validate(settings), sessions or SessionSettings())


def test_an_answer_is_the_same_to_the_byte_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path / "a.sqlite3") as store:
        store.answers.finish(b"key", FINALS)
    with opened(tmp_path / "a.sqlite3") as store:
        assert store.answers.finished(b"key") == FINALS
        assert store.answers.finished(b"other") is None


def test_an_answer_is_there_though_the_process_was_killed(tmp_path: Path) -> None:
    if (pid := os.fork()) == 0:
        with opened(tmp_path / "a.sqlite3") as store:
            store.answers.finish(b"key", FINALS)
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    with opened(tmp_path / "a.sqlite3") as store:
        assert store.answers.finished(b"key") == FINALS


def test_the_age_of_a_request_counts_from_its_first_life(tmp_path: Path) -> None:
    with opened(tmp_path / "a.sqlite3") as store:
        assert store.answers.receive(b"key", again=True) < 0.05
    time.sleep(0.1)
    with opened(tmp_path / "a.sqlite3") as store:
        assert 0.1 <= store.answers.receive(b"key", again=True) < 2
        store.answers.finish(b"key", FINALS)
        assert store.answers.receive(b"key", again=True) < 0.05  # a new one
        time.sleep(0.06)
        assert store.answers.receive(b"key", again=False) < 0.05  # so is this


def test_a_clock_that_jumps_back_makes_no_negative_age(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(None) as store:
        store.answers.receive(b"key", again=True)
        monkeypatch.setattr(time, "time", lambda: 1.0)
        assert store.answers.receive(b"key", again=True) == 0


def test_the_oldest_answers_go_first_by_number_and_by_size() -> None:
    with opened(None, max_answers=3) as store:
        for number in range(5):
            store.answers.finish(b"%d" % number, FINALS)
        kept = [n for n in range(5) if store.answers.finished(b"%d" % n)]
        assert kept == [2, 3, 4]
    big = [Outgoing("r", b"x" * 3000, "text/plain")]
    with opened(None, max_mb=0.01) as store:  # 4,000 bytes each, in base64
        for number in range(5):
            store.answers.finish(b"%d" % number, big)
        assert [n for n in range(5) if store.answers.finished(b"%d" % n)] == [3, 4]
        store.answers.finish(b"4", big)  # the same once more
        assert [n for n in range(5) if store.answers.finished(b"%d" % n)] == [3, 4]


def test_an_answer_is_forgotten_with_age() -> None:
    with opened(None, max_age_s=0.05) as store:
        store.answers.finish(b"old", FINALS)
        time.sleep(0.06)
        store.answers.finish(b"new", FINALS)
        assert store.answers.finished(b"old") is None
        assert store.answers.finished(b"new") == FINALS


def test_an_answer_may_be_too_old_to_count() -> None:
    with opened(None) as store:
        store.answers.finish(b"key", FINALS)
        time.sleep(0.06)
        assert store.answers.finished(b"key", 60) == FINALS
        assert store.answers.finished(b"key", 0.05) is None


def test_parts_of_a_key_do_not_run_into_each_other() -> None:
    keys = {
        make_key("a", b"b", None),
        make_key("ab", b"", None),
        make_key("a", None, b"b"),
        make_key("a", b"b", b""),
        make_key("a", b"b"),
    }
    assert len(keys) == 5
    assert make_key("a", b"b") == make_key("a", "b")


def test_a_conversation_outlives_a_restart_and_can_be_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path / "a.sqlite3") as store:
        store.sessions.keep("booth-1", TURNS)
    with opened(tmp_path / "a.sqlite3") as store:
        assert store.sessions.turns("booth-1") == TURNS
        store.sessions.reset("booth-1")
        assert store.sessions.turns("booth-1") == ()


def test_a_conversation_ends_when_nobody_says_anything() -> None:
    with opened(None, SessionSettings(idle_expiry_s=0.05)) as store:
        store.sessions.keep("booth-1", TURNS)
        assert store.sessions.turns("booth-1") == TURNS
        time.sleep(0.06)
        assert store.sessions.turns("booth-1") == ()


def test_conversations_are_bounded_in_number_and_length() -> None:
    with opened(None, SessionSettings(max_sessions=2, max_chars=1000)) as store:
        for name in ("one", "two", "three"):
            store.sessions.keep(name, TURNS)
        assert [bool(store.sessions.turns(name)) for name in ("one", "two", "three")] == [
            False,
            True,
            True,
        ]
        long = [
            Message(role="user" if n % 2 == 0 else "assistant", content=f"{n}" * 300)
            for n in range(6)
        ]
        store.sessions.keep("two", long)
        assert store.sessions.turns("two") == tuple(long[4:])  # whole turns


def write_half(store: Store) -> None:
    with store.database.transaction():
        store.sessions.keep("booth-1", TURNS)
        store.answers.finish(b"key", FINALS)
        raise ZeroDivisionError


def test_both_are_written_or_neither() -> None:
    with opened(None) as store:
        with pytest.raises(ZeroDivisionError):
            write_half(store)
        assert store.sessions.turns("booth-1") == ()
        assert store.answers.finished(b"key") is None
        with store.database.transaction():
            store.sessions.keep("booth-1", TURNS)
        assert store.sessions.turns("booth-1") == TURNS


def test_a_broken_file_is_put_aside_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite3"
    path.write_bytes(b"this is not a database, but it is long enough to look at" * 100)
    with capture_logs() as logs, opened(path) as store:
        store.answers.finish(b"key", FINALS)
        assert store.answers.finished(b"key") == FINALS
    assert [entry["event"] for entry in logs] == ["store.broken"]
    assert path.with_suffix(".broken").read_bytes().startswith(b"this is not")


def test_a_full_disk_is_said_once_and_nothing_fails(tmp_path: Path) -> None:
    with capture_logs() as logs, opened(tmp_path / "a.sqlite3") as store:
        connection = store.database._connection
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "disk is full"
        big = [Outgoing("r", b"x" * 50_000, "text/plain")]
        for number in range(3):
            store.answers.finish(b"%d" % number, big)
            assert store.answers.finished(b"%d" % number) is None
        assert [entry["event"] for entry in logs] == ["store.failed"]
        assert "full" in logs[0]["reason"]
        connection.execute("PRAGMA max_page_count = 100000")
        store.answers.finish(b"key", FINALS)
        assert store.answers.finished(b"key") == FINALS
        assert [entry["event"] for entry in logs] == ["store.failed", "store.recovered"]


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    with opened(tmp_path / "new" / "a.sqlite3"):
        assert (tmp_path / "new" / "a.sqlite3").stat().st_mode & 0o077 == 0
        assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"store\.directory"):
        opened(tmp_path / "file" / "a.sqlite3").__enter__()


def test_a_file_of_a_later_version_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with capture_logs() as logs, opened(path):
        pass
    assert "version (99)" in logs[0]["reason"]


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert store_path(StoreSettings(), "n") == tmp_path / "edge-llm" / "n.sqlite3"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/edge-llm")
    assert store_path(StoreSettings(), "n") == Path("/var/lib/edge-llm/n.sqlite3")
    assert store_path(StoreSettings(directory=tmp_path), "n") == tmp_path / "n.sqlite3"
