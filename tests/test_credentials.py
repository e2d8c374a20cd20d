"""Secrets from files, and what a node says at its start of what it leaves open."""

import re
import traceback
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_llm.doctor import Case, diagnose
from edge_llm.engine.upstream.engine import open_upstream
from edge_llm.errors import ConfigurationError
from edge_llm.mqtt import MqttConnection
from edge_llm.node import open_node
from edge_llm.settings import (
    EngineSettings,
    MqttSettings,
    OpenAISettings,
    Settings,
    find_exposures,
    load_settings,
)
from tests.accounts import Accounts
from tests.brokers import Mosquitto
from tests.clients import eventually
from tests.programs import HOST, free_port
from tests.test_mqtt_connection import logged

pytestmark = pytest.mark.usefixtures("reconnects_quickly")

SECRET = "correct horse battery"
HASH = "0" * 64


def write(file: Path, data: bytes) -> Path:
    file.write_bytes(data)
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("data", [b"correct horse battery", b"correct horse battery\r\n"])
def test_a_password_is_read_from_its_file(tmp_path: Path, data: bytes) -> None:
    file = write(tmp_path / "password", data)
    assert MqttSettings(username="llm", password_file=file).read_password() == SECRET
    assert OpenAISettings(api_key_file=file).read_api_key() == SECRET


def test_what_systemd_hands_over_is_taken_if_the_settings_have_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MqttSettings().read_password() is None
    write(tmp_path / "mqtt-password", SECRET.encode())
    write(tmp_path / "openai-api-key", b"sk-1\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert MqttSettings().read_password() == SECRET
    assert OpenAISettings().read_api_key() == "sk-1"
    assert MqttSettings.model_validate({"password": "own"}).read_password() == "own"
    own = write(tmp_path / "own", b"of its file")
    assert MqttSettings(password_file=own).read_password() == "of its file"
    (tmp_path / "mqtt-password").unlink()
    assert MqttSettings().read_password() is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hunter2\nhunter3\n", "has more than one line"),
        (b"hunter2" * 10_000, "has more than one line"),
        (b"hunter2\xff", "is not UTF-8"),
    ],
)
def test_a_file_that_holds_no_secret_is_named_and_not_shown(
    tmp_path: Path, data: bytes | None, why: str
) -> None:
    file = tmp_path / "secret"
    if data is not None:
        write(file, data)
    with pytest.raises(ConfigurationError, match=re.escape(why)) as error:
        MqttSettings(password_file=file).read_password()
    assert error.value.message.startswith("mqtt.password_file: ")
    assert "hunter2" not in "".join(traceback.format_exception(error.value))
    with pytest.raises(ConfigurationError, match=r"engine\.openai\.api_key_file"):
        OpenAISettings(api_key_file=file).read_api_key()


def test_a_secret_is_in_one_place(tmp_path: Path) -> None:
    file = tmp_path / "edge-llm.toml"
    file.write_text('[mqtt]\npassword = "hunter2"\npassword_file = "/x"')
    with pytest.raises(ConfigurationError, match="either 'password' or 'password_file'") as error:
        load_settings(file)
    assert "hunter2" not in error.value.message
    file.write_text('[engine.openai]\napi_key = "hunter2"\napi_key_file = "/x"')
    with pytest.raises(ConfigurationError, match="either 'api_key' or 'api_key_file'") as error:
        load_settings(file)
    assert "hunter2" not in error.value.message


async def test_a_broker_is_told_the_password_and_a_new_one_when_it_comes(tmp_path: Path) -> None:
    file = write(tmp_path / "password", b"old\n")
    accounts = Accounts(tmp_path / "passwords")
    accounts.set("llm", "new")
    more = f"password_file {accounts.file}"
    with Mosquitto(tmp_path, {"allow_anonymous": "false"}, more) as mosquitto:
        settings = mosquitto.broker().settings(username="llm", password_file=file)
        with capture_logs() as logs:
            async with MqttConnection(settings, "ours", []) as connection:
                await eventually(lambda: logged(logs, "mqtt.refused"))
                file.write_bytes(b"")  # as it is for a moment when it is replaced
                await eventually(lambda: connection._link._backoff._failures > 2)
                assert not connection.is_connected
                file.write_bytes(b"new\n")
                await eventually(lambda: connection.is_connected)
    assert "old" not in str(logs)


async def test_a_missing_file_ends_the_start(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    settings = MqttSettings(host=HOST, port=1, username="llm", password_file=missing)
    with pytest.raises(ConfigurationError, match=str(missing)):
        async with MqttConnection(settings, "ours", []):
            pass
    openai = OpenAISettings(base_url="http://127.0.0.1:1/v1", api_key_file=missing)
    with pytest.raises(ConfigurationError, match=str(missing)):
        async with open_upstream(EngineSettings(kind="openai", openai=openai)):
            pass


KEYS = [{"name": "lamp", "sha256": HASH}]
TLS = {"enabled": True}


@pytest.mark.parametrize(
    ("mqtt", "http", "found"),
    [
        ({}, {}, []),
        ({"host": "localhost"}, {}, []),
        ({"host": "::1"}, {}, []),
        ({"host": "broker.local"}, {}, ["not encrypted", "without a password"]),
        ({"host": "10.0.0.2", "tls": TLS}, {}, ["without a password"]),
        ({"host": "10.0.0.2", "tls": TLS, "username": "llm"}, {}, ["without a password"]),
        ({"host": "10.0.0.2", "tls": TLS, "password": "x"}, {}, ["without a password"]),
        ({"host": "10.0.0.2", "username": "llm", "password": "x"}, {}, ["not encrypted"]),
        ({"host": "10.0.0.2", "tls": TLS, "username": "llm", "password": "x"}, {}, []),
        ({"host": "10.0.0.2", "tls": TLS | {"cert_file": "/x.pem"}}, {}, []),
        ({"host": "10.0.0.2", "tls": {"cert_file": "/x.pem"}}, {}, ["not encr", "without a pas"]),
        ({"host": "10.0.0.2", "enabled": False}, {}, []),
        ({}, {"host": "0.0.0.0", "key": KEYS}, []),
        ({}, {"host": "0.0.0.0", "allow_anonymous_on": "0.0.0.0"}, ["0.0.0.0 may use the model"]),
        ({}, {"host": "", "allow_anonymous_on": ""}, ["this machine may use the model"]),
        ({}, {"host": "0.0.0.0", "allow_anonymous_on": "0.0.0.0", "enabled": False}, []),
    ],
)
def test_what_is_left_open(mqtt: dict[str, Any], http: dict[str, Any], found: list[str]) -> None:
    exposures = find_exposures(Settings.model_validate({"mqtt": mqtt, "http": http}))
    assert len(exposures) == len(found)
    for exposure, words in zip(exposures, found, strict=True):
        assert words in exposure.reason
        assert exposure.do


def test_a_credential_of_systemd_is_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mqtt-password", b"x")
    mqtt = {"host": "10.0.0.2", "tls": TLS, "username": "llm"}
    assert find_exposures(Settings.model_validate({"mqtt": mqtt}))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert not find_exposures(Settings.model_validate({"mqtt": mqtt}))


def test_a_file_that_everybody_can_read_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "secret", b"x")
    settings = Settings.model_validate({"mqtt": {"username": "llm", "password_file": file}})
    assert not find_exposures(settings)
    file.chmod(0o644)
    [exposure] = find_exposures(settings)
    assert exposure.event == "secret.exposed"
    assert str(file) in exposure.do
    file.unlink()
    assert not find_exposures(settings)


async def test_a_node_says_it_at_its_start_and_the_doctor_too() -> None:
    values = {
        "mqtt": {"host": "127.0.0.1", "port": free_port()},
        "engine": {"kind": "paced"},
        "http": {"host": "0.0.0.0", "port": 0, "allow_anonymous_on": "0.0.0.0"},
    }
    settings = Settings.model_validate(values)
    with capture_logs() as logs:
        async with open_node(settings):
            pass
    [said] = [entry for entry in logs if entry["event"] == "http.unprotected"]
    assert said["log_level"] == "warning"
    assert "api-key" in said["do"]
    found = [finding async for finding in diagnose(Case(settings), ("settings.exposed",))]
    assert len(found) == 1
