"""Open Sound Control: for the sound and light software that installations are made with.

A message to ``/llm/request`` with an id and a text (and, if wanted, the name of a preset) is
answered by ``/llm/delta`` for each sentence and exactly one ``/llm/response`` or ``/llm/error``.
OSC goes by UDP: what gets lost on the way is lost, nobody proves who they are, and so only
addresses that the settings name are listened to.
"""

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, cast

import structlog
from pydantic import Field, StringConstraints, ValidationError, model_validator
from structlog.contextvars import bind_contextvars

from edge_llm.errors import (
    ConfigurationError,
    EdgeLLMError,
    InvalidIdError,
    InvalidRequestError,
    QueueFullError,
    ReplacedError,
    ShuttingDownError,
)
from edge_llm.plugin import BridgeContext, BridgePlugin, BridgeSection
from edge_llm.preset import Preset
from edge_llm.protocol import Delta, Done, MqttRequest, Queued, Started, translate
from edge_llm.section import is_loopback
from edge_llm.text.fitting import cut_to_bytes
from edge_llm.text.sentences import SentenceSplitter

__all__ = ["PLUGIN", "OscBridge", "OscServer", "OscSettings", "open_osc"]

log = structlog.get_logger()

MAX_TEXT_BYTES = 8000
"""Of one message's text: macOS sends no datagram above 9,216 bytes if it isn't told to."""
MAX_ID_CHARS = 64
BUNDLE = b"#bundle\x00"
TIME_BYTES = 8
MAX_BUNDLE_DEPTH = 4
MAX_IN_HAND = 256
"""More requests at a time, from all senders, are refused; the queue refuses them long before."""

Address = tuple[str, int]
Argument = str | int | float | bytes | bool | None
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class OscSettings(BridgeSection):
    """Where requests come from, and where answers go."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all. Others than loopback need ``allow_from``."""
    port: Annotated[int, Field(ge=0, le=65535)] = 9000
    """UDP port; 0 takes a free one."""
    reply_host: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    """The address that answers go to; whoever asked if not given."""
    reply_port: Annotated[int, Field(ge=0, le=65535)] = 9001
    """UDP port there; 0 is the one that the request came from."""
    prefix: Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9_.-]+)+$")] = "/llm"
    """Before the addresses of all messages."""
    allow_from: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    """Networks that may ask: ``["192.168.1.0/24"]``. Only this machine if none is given."""
    preset: str | None = None
    """The persona of requests that name none; the node's default preset if not given."""
    stream: Literal["token", "sentence"] = "sentence"
    """What a delta is."""

    @model_validator(mode="after")
    def _says_who_may_ask(self) -> Self:
        if not (is_loopback(self.host) or self.allow_from):
            raise ValueError(
                f"whoever reaches {self.host} could use the model, as OSC knows no passwords: say "
                'who may, as in allow_from = ["192.168.1.0/24"]'
            )
        return self

    def allows(self, host: str) -> bool:
        """Tell whether this address may ask."""
        address = ipaddress.ip_address(host.partition("%")[0])
        networks: Sequence[Network] = self.allow_from
        return address.is_loopback or any(address in network for network in networks)


@dataclass(frozen=True, slots=True)
class OscServer:
    """Where the bridge listens."""

    host: str
    """The IP address."""
    port: int
    """The UDP port, also where the settings left the choice to the system."""


@asynccontextmanager
async def open_osc(settings: OscSettings, context: BridgeContext) -> AsyncGenerator[OscServer]:
    """Answer OSC messages until the context is left.

    Raises:
        ConfigurationError: python-osc is missing, or the address can't be listened on.
    """
    try:
        import pythonosc.osc_packet  # noqa: F401 - said here, and not with the first message
    except ImportError as exc:
        raise ConfigurationError(
            "bridge.osc needs python-osc: pip install 'edge-llm[osc]'", param="bridge.osc"
        ) from exc
    bridge = OscBridge(settings, context)
    where = (settings.host, settings.port)
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: bridge, local_addr=where
        )
    except OSError as exc:
        raise ConfigurationError(
            f"bridge.osc can't listen on {settings.host}:{settings.port} ({exc.strerror}): set "
            "host to an address of this machine, and port to a free one",
            param="bridge.osc",
        ) from exc
    host, port = transport.get_extra_info("sockname")[:2]
    log.info("osc.started", address=host, port=port)
    if not is_loopback(settings.host):
        log.warning(
            "osc.unprotected",
            networks=[str(network) for network in settings.allow_from],
            reason="whoever is there, or makes up an address of theirs, may use the model",
            do="keep bridge.osc.allow_from as narrow as it can be",
        )
    try:
        yield OscServer(host, port)
    finally:
        await bridge.stop()
        transport.close()
        log.info("osc.stopped", address=host, port=port)


class OscBridge(asyncio.DatagramProtocol):
    """Takes messages, and sends answers.

    Args:
        settings: where from and where to.
        context: the node.
    """

    def __init__(self, settings: OscSettings, context: BridgeContext) -> None:
        self._settings, self._context = settings, context
        self._in_hand: dict[tuple[Address, str], asyncio.Task[None]] = {}
        self._why: dict[asyncio.Task[None], EdgeLLMError | None] = {}
        self._handlers: dict[str, Callable[[Address, Sequence[object]], None]] = {
            f"{settings.prefix}/request": self._request,
            f"{settings.prefix}/cancel": self._cancel,
        }

    @property
    def num_in_hand(self) -> int:
        """How many requests have not ended."""
        return len(self._in_hand)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send through this from now on."""
        # Not all of asyncio's are subclasses of what they are.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Take a datagram: one message, or a bundle of them, which are done at once."""
        from pythonosc.osc_packet import OscPacket, ParseError

        sender = (str(addr[0]), int(addr[1]))
        if not self._settings.allows(sender[0]):
            log.debug("osc.refused", sender=sender[0], do="add its network to allow_from")
            return
        try:
            check_bundle(data)
            messages = [timed.message for timed in OscPacket(data).messages]
        except (ParseError, ValueError, IndexError) as exc:
            self._fail(sender, "", InvalidRequestError(f"not Open Sound Control: {exc}"[:200]))
            return
        for message in messages:
            if handler := self._handlers.get(message.address):
                handler(sender, message.params)
            elif message.address.startswith(f"{self._settings.prefix}/"):
                known = " and ".join(self._handlers)
                error = InvalidRequestError(f"there is no {message.address[:64]} (but {known})")
                self._fail(sender, "", error)

    async def stop(self) -> None:
        """End what is in hand; each request hears of it."""
        tasks = [*self._in_hand.values()]
        for task in tasks:
            self._end(task, ShuttingDownError("the node is stopping"))
        await asyncio.gather(*tasks, return_exceptions=True)

    def _request(self, sender: Address, arguments: Sequence[object]) -> None:
        try:
            request_id = _read_id(arguments)
        except InvalidIdError as error:
            self._fail(sender, "", error)
            return
        key = (sender, request_id)
        if len(self._in_hand) >= MAX_IN_HAND and key not in self._in_hand:
            self._fail(sender, request_id, QueueFullError("too many requests at a time"))
            return
        if before := self._in_hand.pop(key, None):  # who asks again wants the latest answer
            self._end(before, ReplacedError("the same id asked again"))
        task = asyncio.create_task(self._answer(sender, request_id, arguments[1:]))
        self._in_hand[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))

    def _forget(self, key: tuple[Address, str], done: asyncio.Task[None]) -> None:
        """Tell of an early end: here, as a task that is ended before it has begun can't."""
        why = self._why.pop(done, None)
        if self._in_hand.get(key) is done:
            del self._in_hand[key]
        if not done.cancelled():
            return
        if why:
            self._fail(*key, why)
        else:
            self._send(key[0], "error", key[1], "cancelled", "it was cancelled")

    def _cancel(self, sender: Address, arguments: Sequence[object]) -> None:
        try:
            task = self._in_hand.get((sender, _read_id(arguments)))
        except InvalidIdError as error:
            self._fail(sender, "", error)
            return
        if task:
            self._end(task, None)

    def _end(self, task: asyncio.Task[None], why: EdgeLLMError | None) -> None:
        """End a request early; its sender wants it if there is no error to tell."""
        self._why[task] = why
        task.cancel()

    async def _answer(self, to: Address, request_id: str, arguments: Sequence[object]) -> None:
        """Answer a request; exactly one response or error ends it."""
        preset = Preset()
        try:
            asked = _read_request(arguments, self._settings.preset)
            preset = self._context.presets().find(asked.preset)
            await self._generate(to, request_id, preset.complete(asked), preset)
        except Exception as exc:  # noqa: BLE001 - every request has an end
            error = exc if isinstance(exc, EdgeLLMError) else _crashed(exc)
            if preset.fallback:
                self._send(to, "response", request_id, preset.fallback, error.code)
            else:
                self._fail(to, request_id, error)

    async def _generate(
        self, to: Address, request_id: str, request: MqttRequest, preset: Preset
    ) -> None:
        bind_contextvars(via="osc", request_id=request_id)  # of this task
        splitter = SentenceSplitter(language=preset.language)
        by_sentence = self._settings.stream == "sentence"
        said: list[str] = []
        seq = 0
        async with aclosing(self._context.engine.generate(request)) as events:
            async for event in events:
                pieces: Sequence[str] = ()
                match event:
                    case Queued():
                        self._send(to, "event", request_id, "queued", event.position)
                    case Started():
                        self._send(to, "event", request_id, "started", 0)
                    case Delta(text=text):
                        said.append(text)
                        pieces = splitter.add(text) if by_sentence else [text]
                    case Done():
                        pieces = splitter.finish() if by_sentence else ()
                        done = event
                for piece in filter(None, pieces):
                    self._send(to, "delta", request_id, seq, piece)
                    seq += 1
        text = "".join(said)
        fitting = cut_to_bytes(text, MAX_TEXT_BYTES)
        reason = done.finish_reason if fitting == text else "length"
        self._send(to, "response", request_id, fitting, reason)

    def _fail(self, to: Address, request_id: str, error: EdgeLLMError) -> None:
        log.info("osc.error", code=error.code)
        self._send(to, "error", request_id, error.code, error.message)

    def _send(self, to: Address, name: str, *arguments: Argument) -> None:
        from pythonosc.osc_message_builder import OscMessageBuilder

        builder = OscMessageBuilder(f"{self._settings.prefix}/{name}")
        for argument in arguments:
            builder.add_arg(argument)
        where = (str(self._settings.reply_host or to[0]), self._settings.reply_port or to[1])
        self._transport.sendto(builder.build().dgram, where)


def _crashed(exc: Exception) -> EdgeLLMError:
    log.error("request.crashed", exc_info=exc)
    return EdgeLLMError("the node made a mistake; its log says which")


def check_bundle(data: bytes, depth: int = 0) -> None:
    """Refuse what python-osc (1.10) reads for ever: elements of a bundle with sizes below zero.

    Raises:
        ValueError: says what is wrong.
    """
    if not data.startswith(BUNDLE):
        if not data.startswith(b"/"):  # python-osc leaves it out, and complains on standard error
            raise ValueError("neither a message nor a bundle")
        return
    if depth == MAX_BUNDLE_DEPTH:
        raise ValueError("bundles in bundles, and so on")
    at = len(BUNDLE) + TIME_BYTES
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big", signed=True)
        at += 4
        if not 0 < size <= len(data) - at or size % 4:
            raise ValueError("an element of a bundle has an impossible size")
        check_bundle(data[at : at + size], depth + 1)
        at += size


def _read_id(arguments: Sequence[object]) -> str:
    """Read the id of a request: a text or a number, as its sender likes.

    Raises:
        InvalidIdError: there is none, or it is too long.
    """
    if not arguments or isinstance(arguments[0], bytes | list | None):
        raise InvalidIdError("the first argument must be an id: a text or a number")
    request_id = str(arguments[0])
    if not 0 < len(request_id) <= MAX_ID_CHARS:
        raise InvalidIdError(f"an id has 1 to {MAX_ID_CHARS} characters")
    return request_id


def _read_request(arguments: Sequence[object], preset: str | None) -> MqttRequest:
    """Read what is asked: a text, and the name of a preset; an empty text is the preset's own.

    Raises:
        InvalidRequestError: something else was sent.
    """
    texts = [argument for argument in arguments if isinstance(argument, str)]
    if len(texts) != len(arguments) or len(texts) > 2:
        raise InvalidRequestError("after the id come a text and, if wanted, the name of a preset")
    prompt, named = (*texts, "", "")[:2]
    said = {"prompt": prompt if prompt.strip() else None, "preset": named or preset}
    try:
        return MqttRequest.model_validate({k: v for k, v in said.items() if v is not None})
    except ValidationError as exc:
        raise translate(exc) from exc


PLUGIN = BridgePlugin(OscSettings, open_osc)
