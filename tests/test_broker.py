"""The broker inside the process."""

import logging
import socket

import pytest

from edge_llm.broker import find_free_port, open_broker
from edge_llm.errors import ConfigurationError
from tests import programs
from tests.brokers import open_amqtt
from tests.clients import RawClient
from tests.programs import HOST, accepts, free_port, require_program


async def test_it_passes_messages_on() -> None:
    async with open_broker(HOST, free_port()) as port, RawClient(port) as client:
        await client.subscribe("a/+")
        client.publish("a/b", "hello")
        assert await client.wait_for("a/b") == [b"hello"]


async def test_it_takes_the_next_free_port() -> None:
    async with open_broker(HOST, free_port()) as first, open_broker(HOST, first) as second:
        assert first < second < first + 20


async def test_it_listens_on_loopback_only() -> None:
    async with open_broker(port=free_port()) as port:
        with socket.socket() as sock:
            sock.bind(("127.0.0.2", port))  # would be taken by a listener on all addresses


async def test_its_port_is_free_again_afterwards() -> None:
    async with open_amqtt() as port:
        assert accepts(port)
    assert not accepts(port)


async def test_a_client_that_leaves_without_a_word_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_amqtt() as port:
        async with RawClient(port) as client:
            sock = client.paho.socket()
            assert isinstance(sock, socket.socket)
            sock.shutdown(socket.SHUT_RDWR)
        async with RawClient(port):
            pass
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize(("ci", "outcome"), [("true", "Failed"), ("", "Skipped")])
def test_tests_may_go_without_a_program_but_not_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: str
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(programs, "_install", lambda _package: False)
    with pytest.raises(BaseException, match="apt-get install no-such-broker") as caught:
        require_program("no-such-broker", "no-such-broker")
    assert type(caught.value).__name__ == outcome


def test_twenty_taken_ports_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(_sock: socket.socket, _address: object) -> None:
        raise OSError

    monkeypatch.setattr(socket.socket, "bind", taken)
    with pytest.raises(ConfigurationError, match="from 1883 to 1902"):
        find_free_port(HOST, 1883)
