"""``edge-llm mqtt-user setup``: certificates, listeners and files, as a real broker takes them."""

import asyncio
import grp
import os
import pwd
import re
import shutil
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge_llm.cli import run
from edge_llm.mosquitto import find_listeners
from tests.accounts import (
    Lan,
    answer_to,
    blocks_of,
    make_etc,
    mqtt_user,
    refused,
    set_up_lan,
    shown,
)
from tests.clients import RawClient
from tests.programs import HOST
from tests.test_mqtt_tls import Authority


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


async def test_a_strict_client_accepts_the_certificate_that_setup_makes(lan: Lan) -> None:
    with lan.running():
        context = ssl.create_default_context(cafile=lan.authority.ca_file)
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python does by itself from 3.13 on
        for name in (HOST, "stage.local"):
            _, writer = await asyncio.open_connection(
                HOST, lan.devices, ssl=context, server_hostname=name
            )
            writer.close()
            await writer.wait_closed()
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await asyncio.open_connection(
                HOST, lan.devices, ssl=context, server_hostname="other.local"
            )


async def test_the_commands_of_docs_broker_md_let_a_device_in(tmp_path: Path, etc: Path) -> None:
    """In the page's words, but for where mosquitto's files are, and the one that restarts it."""
    enter, certify = blocks_of("broker.md", "test_mqtt_setup.py")
    place = f"mqtt-user \\1 --directory {etc}"
    enter = re.sub(r"mqtt-user (\w+)", place, enter).replace("systemctl restart mosquitto", "true")
    enter = enter.replace("stage.local", HOST)
    done = await sh(enter, tmp_path)
    lan = Lan(tmp_path, Authority(tmp_path))
    shutil.copy(etc / "certs" / "edge-llm-ca.pem", lan.authority.ca_file)
    lan.adapt()
    await sh(certify.replace("/etc/mosquitto", str(etc)), tmp_path)
    with lan.running():
        password = shown(done, "password")
        assert await answer_to(lan.client("esp1", password=password)) == 0
    commented = ("cafile", "require_certificate", "use_identity_as_username")
    lan.adapt({f"#   {name}": name for name in commented})
    with lan.running():
        client = RawClient(lan.devices, "5")
        context = ssl.create_default_context(cafile=lan.authority.ca_file)
        context.load_cert_chain(tmp_path / "esp1.pem", tmp_path / "esp1.key")
        client.paho.tls_set_context(context)
        async with client, lan.node_at_home().client() as node:
            await node.subscribe("llm/request/#")
            client.publish("llm/request/esp2", "say never")
            client.publish("llm/request/esp1", "say Yes")
            assert await node.wait_for("llm/request/esp1") == [b"say Yes"]
            assert not node.payloads("llm/request/esp2")


async def sh(commands: str, directory: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-e", "-c", commands],
        cwd=directory,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_setup_keeps_what_is_there(lan: Lan, capsys: pytest.CaptureFixture[str]) -> None:
    mqtt_user(lan, "add", "esp1")
    (lan.etc / "edge-llm.acl").write_text("# ours\n")
    (lan.etc / "conf.d" / "default.conf").write_text("listener 1883\nallow_anonymous true\n")
    before = {file: file.read_bytes() for file in lan.etc.rglob("*") if file.is_file()}
    capsys.readouterr()
    setup = ["mqtt-user", "setup", "--directory", str(lan.etc)]
    assert run(setup) == 0
    said = capsys.readouterr()
    assert {file: file.read_bytes() for file in before} == before
    assert f"{lan.etc / 'edge-llm.devices'}: kept\n" in said.out
    assert f"{lan.etc / 'edge-llm.acl'}: kept, and differs from ours\n" in said.out
    assert f"{lan.etc / 'conf.d' / 'default.conf'} has a listener, too, on port 1883" in said.err

    assert run([*setup, "--host", "new.local"]) == 0
    changed = {file.name for file, old in before.items() if file.read_bytes() != old}
    assert changed == {"edge-llm.pem", "edge-llm.key"}  # by the CA that the devices know
    assert "Devices connect to new.local." in capsys.readouterr().out
    certificate = str(lan.etc / "certs" / "edge-llm.pem")
    verify = ["openssl", "verify", "-CAfile", str(lan.authority.ca_file), certificate]
    subprocess.run(verify, check=True, capture_output=True)
    (lan.etc / "certs" / "edge-llm-ca.key").unlink()  # it is in the drawer
    assert "bring the key back" in refused(capsys, *setup[1:], "--host", "newer.local")


def test_a_host_can_not_bring_more_into_the_certificate(
    etc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for host in ("a.local, DNS:bank.example", "a\nbasicConstraints = CA:TRUE", "*.local", ""):
        error = refused(capsys, "setup", "--directory", str(etc), "--host", host)
        assert "no name or address of a host" in error


def test_what_setup_makes_only_the_broker_can_read(lan: Lan) -> None:
    modes = {
        file.name: oct(stat.S_IMODE(file.stat().st_mode))
        for file in lan.etc.rglob("*")
        if file.is_file() and file.name != "mosquitto.conf"
    }
    private = {"edge-llm.devices", "edge-llm.staff", "edge-llm.acl", "edge-llm.key"}
    private.add("edge-llm-ca.key")
    assert {name for name, mode in modes.items() if mode == "0o600"} == private
    assert {mode for name, mode in modes.items() if name not in private} == {"0o644"}
    if os.geteuid() == 0:
        owners = {
            path.name: (pwd.getpwuid(path.stat().st_uid).pw_name, grp.getgrgid(path.stat().st_gid))
            for path in lan.etc.rglob("edge-llm*")
        }
        theirs = {name for name, (user, _) in owners.items() if user == "mosquitto"}
        assert theirs == private - {"edge-llm-ca.key"}


def test_listeners_are_found_as_mosquitto_reads_them(etc: Path) -> None:
    (etc / "mosquitto.conf").write_text("# port 1\nport 1884\nlistener 0 /run/mosquitto.sock\n")
    text = "listener 8883 10.0.0.1\n  # certfile no\ncertfile /a b.pem\nlistener 1\n"
    (etc / "conf.d" / "x.conf").write_text(text)
    (etc / "conf.d" / "not-read").write_text("listener 9\n")
    found = find_listeners(etc)
    assert [(listener.port, listener.address) for listener in found] == [
        (1884, ""),
        (0, "/run/mosquitto.sock"),
        (8883, "10.0.0.1"),
        (1, ""),
    ]
    assert [listener.certificate for listener in found] == [None, None, Path("/a b.pem"), None]
