"""Accounts at nats-server: our file of them, a node that has none, and what is left open."""

import asyncio
import json
import os
import pwd
import signal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from edge_llm.cli import run
from edge_llm.errors import ConfigurationError
from edge_llm.fleet.accounts import AccountsFile, device_rights
from edge_llm.fleet.connection import connect_fleet
from edge_llm.settings import FleetSettings, Settings, find_exposures
from tests.clients import eventually
from tests.programs import HOST, free_port
from tests.secure_nats import make_certificates, secure_servers


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


async def test_a_node_waits_for_its_account_and_says_so_once(
    tmp_path: Path, certificates: Path
) -> None:
    with secure_servers(tmp_path, certificates, accounts=("esp1",)) as [server]:
        settings = server.settings("n1").fleet
        with capture_logs() as logs:
            connection = connect_fleet(settings, "n1")
            entering = asyncio.create_task(connection.__aenter__())
            await asyncio.sleep(1.5)  # long enough for a second try
            AccountsFile(server.accounts).add(
                "edge-llm", "password of edge-llm", "permissions: $NODE"
            )
            server.nats.process.send_signal(signal.SIGHUP)
            client = await asyncio.wait_for(entering, 10)
            assert client.is_connected
            await connection.__aexit__(None, None, None)
        assert [e["event"] for e in logs if e["log_level"] == "error"] == ["fleet.refused"]
        assert "nats-user" in next(e["do"] for e in logs if e["event"] == "fleet.refused")


async def test_a_server_that_is_not_there_is_told_of_once() -> None:
    settings = FleetSettings(servers=(f"nats://{HOST}:{free_port()}",))
    with capture_logs() as logs:
        entering = asyncio.create_task(connect_fleet(settings, "n1").__aenter__())
        await asyncio.sleep(1.5)
        entering.cancel()
        await asyncio.wait({entering})
    assert [e["event"] for e in logs if e["log_level"] == "error"] == ["fleet.unreachable"]


async def test_the_password_is_not_told_where_somebody_has_taken_tls_away(
    certificates: Path,
) -> None:
    heard: list[bytes] = []

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.9.10", "max_payload": 1000, "auth_required": True}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        heard.append(await reader.read(1000))
        writer.close()

    async with await asyncio.start_server(pretend, HOST, 0) as fake:
        port = fake.sockets[0].getsockname()[1]
        settings = FleetSettings(
            servers=(f"tls://{HOST}:{port}",),
            ca_file=certificates / "edge-llm-ca.pem",
            username="edge-llm",
            password=SecretStr("sesame"),
        )
        with capture_logs() as logs:
            entering = asyncio.create_task(connect_fleet(settings, "n1").__aenter__())
            await eventually(lambda: heard)
            entering.cancel()
            await asyncio.wait({entering})
    assert heard[0] == b""
    assert "does not speak TLS" in next(e["reason"] for e in logs if e["log_level"] == "error")


@pytest.mark.parametrize(
    ("fleet", "found"),
    [
        ({"servers": ["nats://10.0.0.5:4222"]}, ["not encrypted", "without an account"]),
        ({"servers": ["nats://127.0.0.1:4222", "nats://n2:4222"]}, ["n2 is not", "n2 lets us in"]),
        ({"servers": ["tls://10.0.0.5:4222"]}, ["without an account"]),
        ({"servers": ["tls://10.0.0.5:4222"], "username": "a", "password": "b"}, []),
        ({"servers": ["nats://127.0.0.1:4222"]}, []),
        ({}, []),
    ],
)
def test_servers_elsewhere_without_tls_or_an_account_are_exposures(
    fleet: dict[str, Any], found: list[str]
) -> None:
    exposures = find_exposures(
        Settings.model_validate({"fleet": fleet, "http": {"enabled": False}})
    )
    assert [exposure.event for exposure in exposures] == ["fleet.unprotected"] * len(found)
    for exposure, words in zip(exposures, found, strict=True):
        assert words in exposure.reason


@pytest.mark.parametrize(
    "fleet",
    [
        {"servers": ["tls://a:4222", "nats://b:4222"]},
        {"servers": ["nats://a:4222"], "ca_file": "ca.pem"},
    ],
)
def test_settings_that_would_tell_the_password_are_refused(fleet: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="tls://"):
        FleetSettings.model_validate(fleet)


@pytest.mark.parametrize("name", ["a.b", "a/b", "a*", ">", "a b", 'a"', "$x", ""])
def test_a_name_that_would_be_another_subject_gets_no_account(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError):
        AccountsFile(tmp_path / "users").add(name, "x", device_rights(name, "llm"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_accounts_that_was_edited_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("users: [ { user: a, password: b } ]\n")
    assert run(["nats-user", "add", "esp1", "--file", str(file)]) == 1
    assert file.read_text() == "users: [ { user: a, password: b } ]\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_the_file_belongs_to_whom_its_directory_does(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(tmp_path, nobody.pw_uid, nobody.pw_gid)
    accounts = AccountsFile(tmp_path / "users")
    for name in ("esp1", "esp2"):  # a new file, and one that is there
        accounts.add(name, "x", device_rights(name, "llm"))
        status = accounts.file.stat()
        assert (status.st_uid, status.st_gid) == (nobody.pw_uid, nobody.pw_gid)
        assert status.st_mode & 0o777 == 0o600
    assert accounts.names() == ["esp1", "esp2"]


def test_a_new_password_takes_the_place_of_the_old_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ("--file", str(tmp_path / "users"))
    assert run(["nats-user", "add", "--node", "edge-llm", *file]) == 0
    before = (tmp_path / "users").read_text()
    assert run(["nats-user", "add", "--node", "edge-llm", *file]) == 1
    assert (tmp_path / "users").read_text() == before
    assert run(["nats-user", "add", "--replace", "--node", "edge-llm", *file]) == 0
    after = (tmp_path / "users").read_text()
    assert after != before
    assert after.count('"edge-llm"') == 1
    capsys.readouterr()
    assert run(["nats-user", "list", *file]) == 0
    assert capsys.readouterr().out == "edge-llm\n"
    assert run(["nats-user", "remove", "esp1", *file]) == 1
