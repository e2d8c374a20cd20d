"""``edge-llm mqtt-user``: a device's account, from the command to the device's first answer."""

import asyncio
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_llm.cli import run
from edge_llm.errors import ConfigurationError
from edge_llm.mosquitto import PasswordFile, explain_bad_name, reload_mosquitto
from edge_llm.topics import MAX_ID_CHARS, Topics
from tests.accounts import (
    DEVICES,
    NOT_AUTHORIZED,
    Accounts,
    Lan,
    answer_to,
    make_etc,
    mqtt_user,
    refused,
    set_up_lan,
    shown,
)
from tests.clients import eventually
from tests.programs import HOST

NOBODY = 65534


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """Where /etc/mosquitto is, as Debian's package leaves it."""
    return make_etc(tmp_path)


@pytest.fixture
def lan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Lan:
    """The broker that ``setup`` makes; it does not run yet."""
    lan = set_up_lan(tmp_path)
    capsys.readouterr()
    return lan


async def test_a_device_comes_in_with_what_the_command_shows_and_nobody_is_dropped(
    lan: Lan, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped: list[str] = []
    mqtt_user(lan, "add", "esp1")
    first = shown(capsys.readouterr().out, "password")
    with lan.running():
        esp1 = lan.client("esp1", password=first)
        node = lan.node_at_home().client()
        for name, client in (("esp1", esp1), ("node", node)):
            client.paho.on_disconnect = lambda *_, name=name: dropped.append(name)
        async with esp1, node:
            await node.subscribe("llm/request/#")
            assert await asyncio.to_thread(mqtt_user, lan, "add", "esp2") == 0
            said = capsys.readouterr()
            assert said.err.strip() == "mosquitto knows it now"
            assert shown(said.out, "host") == HOST
            assert f"  port      {lan.devices}, TLS\n" in said.out
            assert f"  port      {lan.pages}, websockets, TLS\n" in said.out
            assert shown(said.out, "user") == "esp2"
            esp2 = lan.client("esp2", password=shown(said.out, "password"))
            async with esp2:
                esp2.publish(shown(said.out, "ask").split(",")[0], "say Yes")
                assert await node.wait_for("llm/request/esp2") == [b"say Yes"]
                await esp2.subscribe(shown(said.out, "answer").split(",")[0])
                node.publish("llm/response/esp2", "Yes")
                assert await esp2.wait_for("llm/response/esp2") == [b"Yes"]

                gone: list[int] = []
                esp2.paho.on_disconnect = lambda *_: gone.append(1)
                assert await asyncio.to_thread(mqtt_user, lan, "remove", "esp2") == 0
                await eventually(lambda: gone)
            again = lan.client("esp2", password=shown(said.out, "password"))
            assert await answer_to(again) == NOT_AUTHORIZED
            assert not dropped
            assert await asyncio.to_thread(mqtt_user, lan, "add", "esp1", "--replace") == 0
            await eventually(lambda: dropped == ["esp1"])  # its password is another now
            second = shown(capsys.readouterr().out, "password")
            esp1.paho.disconnect()
            assert second != first
            assert await answer_to(lan.client("esp1", password=second)) == 0


async def test_a_node_elsewhere_has_what_it_needs_and_a_person_is_told_what_lacks(
    lan: Lan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mqtt_user(lan, "add", "--staff", "edge-llm") == 0
    node = capsys.readouterr().out
    assert mqtt_user(lan, "add", "--staff", "anna") == 0
    anna = capsys.readouterr().out
    assert f"{lan.staff}, TLS" in shown(node, "port")
    assert "user edge-llm" in shown(node, "rights")
    [line] = re.findall(r"printf '.*", anna)
    await asyncio.to_thread(subprocess.run, line, shell=True, check=True)
    with lan.running():
        person = lan.client("anna", lan.staff, password=shown(anna, "password"))
        async with (
            person,
            lan.client("edge-llm", lan.staff, password=shown(node, "password")) as edge_llm,
        ):
            await person.subscribe("llm/#")
            edge_llm.publish("llm/node/stage/status", "online", retain=True)
            assert await person.wait_for("llm/node/stage/status") == [b"online"]


def test_it_says_what_is_left_to_do(lan: Lan, capsys: pytest.CaptureFixture[str]) -> None:
    mqtt_user(lan, "add", "esp1")
    assert f"nobody listens on port {lan.devices} yet" in capsys.readouterr().err
    with lan.running():
        lan.pid_file.write_text("1\n")  # of somebody else
        mqtt_user(lan, "add", "esp2")
        assert "type: systemctl reload mosquitto" in capsys.readouterr().err
    for file in (lan.etc / "conf.d").iterdir():
        file.unlink()
    mqtt_user(lan, "add", "esp3")
    assert "edge-llm mqtt-user setup" in capsys.readouterr().err
    mqtt_user(lan, "list")
    assert capsys.readouterr().out == "esp1\nesp2\nesp3\n"
    mqtt_user(lan, "list", "--staff")
    assert capsys.readouterr().out == ""


def test_the_fingerprint_is_what_openssl_says(lan: Lan, capsys: pytest.CaptureFixture[str]) -> None:
    mqtt_user(lan, "add", "esp1")
    output = capsys.readouterr().out
    ca_file = lan.etc / "certs" / "edge-llm-ca.pem"
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(ca_file)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown(output, "CA") == f"{ca_file}, SHA-256 {said.strip().partition('=')[2]}"
    assert ca_file.read_text() in output


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("esp1/kitchen", "one level of a topic"),
        ("+", "stand for any name"),
        ("esp#", "stand for any name"),
        ("esp1:x", "a name has letters"),
        ("esp1\nesp2", "a name has letters"),
        ("", "a name has letters"),
        ("$SYS", "a name has letters"),
        ("küche", "a name has letters"),
        ("x" * 65, "more than 64"),
        ("edge-llm", "rights of its own"),
        ("admin", "rights of its own"),
    ],
)
def test_a_name_that_could_do_harm_is_refused(
    etc: Path, capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    assert reason in refused(capsys, "add", "--directory", str(etc), "--", name)
    assert list(etc.glob("*.devices")) == []


def test_the_longest_name_leaves_room_for_an_id() -> None:
    name = "x" * 64
    assert explain_bad_name(name) is None
    request_id = f"{name}/{'y' * (MAX_ID_CHARS - 65)}"
    assert Topics("llm", "stage").request_id(f"llm/request/{request_id}") == request_id


def test_a_name_with_rights_in_an_edited_file_is_refused_too(
    lan: Lan, capsys: pytest.CaptureFixture[str]
) -> None:
    with (lan.etc / "edge-llm.acl").open("a") as file:
        file.write("\nuser lights\ntopic read house/#\n")
    error = refused(capsys, "add", "lights", "--directory", str(lan.etc))
    assert "lights has rights of its own" in error


def test_an_account_that_is_there_is_kept(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Accounts(etc / "edge-llm.devices", *DEVICES).file
    before = file.read_text()
    assert "--replace" in refused(capsys, "add", "esp1", "--directory", str(etc))
    assert "esp3 has no account" in refused(capsys, "remove", "esp3", "--directory", str(etc))
    assert file.read_text() == before
    assert run(["mqtt-user", "add", "esp1", "--replace", "--directory", str(etc)]) == 0
    other = before.splitlines()[1]
    assert other.startswith("esp2:")
    assert other in file.read_text().splitlines()
    assert PasswordFile(file).names() == ["esp2", "esp1"]


def test_comments_and_modes_stay_as_they_should_be(etc: Path) -> None:
    file = etc / "edge-llm.devices"
    file.write_text("# those in the hall\n")
    file.chmod(0o644)  # as an editor may leave it
    if os.geteuid() == 0:
        os.chown(file, NOBODY, NOBODY)
    link = etc / "link"
    link.symlink_to(file)
    accounts = PasswordFile(link)
    accounts.add("esp1", "secret")
    assert link.is_symlink()
    assert file.read_text().startswith("# those in the hall\nesp1:$")
    assert "secret" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.stat().st_uid == (NOBODY if os.geteuid() == 0 else os.getuid())
    accounts.remove("esp1")
    assert file.read_text() == "# those in the hall\n"
    assert [path.name for path in etc.iterdir() if path.name.startswith(".")] == []


async def test_accounts_that_are_made_at_the_same_time_are_all_there(etc: Path) -> None:
    file = etc / "edge-llm.devices"
    await asyncio.gather(
        *(
            asyncio.to_thread(PasswordFile(file).add, f"esp{number}", "secret")
            for number in range(8)
        )
    )
    assert sorted(PasswordFile(file).names()) == [f"esp{number}" for number in range(8)]


@contextmanager
def as_nobody(etc: Path) -> Iterator[None]:
    """Be somebody who may not write there."""
    if os.geteuid() != 0:
        etc.chmod(0o555)
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_without_rights_it_says_to_be_root(lan: Lan, capsys: pytest.CaptureFixture[str]) -> None:
    mqtt_user(lan, "add", "esp1")
    capsys.readouterr()
    (lan.etc / "edge-llm.devices").chmod(0o600 if os.geteuid() == 0 else 0)
    with as_nobody(lan.etc):
        error = refused(capsys, "add", "esp2", "--directory", str(lan.etc))
        listing = refused(capsys, "list", "--directory", str(lan.etc))
    assert "run this as root, with sudo" in error
    assert "run this as root, with sudo" in listing


def test_where_it_may_read_and_not_write_it_says_so_too() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own nobody else may enter
        directory = Path(name)
        directory.chmod(0o755)
        with as_nobody(directory), pytest.raises(ConfigurationError, match="can't be written: run"):
            PasswordFile(directory / "edge-llm.devices").add("esp1", "secret")
        directory.chmod(0o755)
        assert list(directory.iterdir()) == []


def test_without_the_programs_it_says_what_to_install(
    etc: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_args, **_kwargs: None)
    directory = ("--directory", str(etc))
    assert "apt install mosquitto" in refused(capsys, "add", "esp1", *directory)
    assert "apt install openssl" in refused(capsys, "setup", *directory)
    gone = ("--directory", str(etc / "nowhere"))
    assert "apt install mosquitto" in refused(capsys, "add", "esp1", *gone)
    assert "apt install mosquitto" in refused(capsys, "setup", *gone)


def test_only_a_mosquitto_is_sent_the_signal(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    assert not reload_mosquitto(file)
    for text in ("", "mosquitto", str(os.getpid())):
        file.write_text(text)
        assert not reload_mosquitto(file)
