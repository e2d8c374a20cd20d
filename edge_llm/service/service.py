"""The MQTT front end: what comes in on which topic, and what becomes of it.

A message asks (on a request topic, or on the topic of a route), cancels, forgets a conversation,
or commands the node. Each question gets exactly one final message: ``intake`` reads it,
``requests`` has it in hand, ``reply`` says what its sender is told.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

import structlog

from edge_llm.engine.interface import Engine
from edge_llm.errors import (
    DuplicateIdError,
    EdgeLLMError,
    InvalidIdError,
    QueueFullError,
    RetainedRequestError,
)
from edge_llm.mqtt import MqttConnection, Publication, Subscription
from edge_llm.outgoing import Outgoing, ReplyTo
from edge_llm.protocol import (
    ErrorBody,
    MqttRequest,
    NodeHealth,
    NodeInfo,
    is_json,
    parse_mqtt_request,
)
from edge_llm.route import Route
from edge_llm.service.conversations import Conversations
from edge_llm.service.copies import Copies
from edge_llm.service.intake import Intake, Refused, Rules, key_of
from edge_llm.service.origins import Origins
from edge_llm.service.presence import Presence
from edge_llm.service.reply import Reply
from edge_llm.service.requests import Asked, Requests
from edge_llm.service.router import Router
from edge_llm.service.source import RequestSource
from edge_llm.settings import MqttSettings
from edge_llm.store import Store
from edge_llm.topics import Topics

__all__ = ["Service"]

log = structlog.get_logger()

MAX_CLEARED = 1024

REQUESTS, CANCELS, RESETS, STATUS, COMMANDS = range(1, 6)  # identifiers of our subscriptions


class Service:
    """Answers what comes in over MQTT.

    Args:
        engine: generates; it has its own queue.
        settings: the broker.
        info: what the node says of itself; the models are filled in when they are known.
        store: what outlives a restart.
        rules: personas and buttons.
        on_command: called with what was published on the command topic; raises
            InvalidRequestError for a command that there is not.
        report: says how the node is, for its health topic; none is published without.
        source: brings the requests, in place of the broker's request topics.
    """

    def __init__(
        self,
        engine: Engine,
        settings: MqttSettings,
        info: NodeInfo,
        store: Store,
        *,
        rules: Rules,
        on_command: Callable[[str], None],
        report: Callable[[], NodeHealth] | None = None,
        source: RequestSource | None = None,
    ) -> None:
        self._source = source
        self._engine = engine
        self._settings = settings
        self._on_command = on_command
        self._topics = Topics(settings.prefix, info.node)
        self._presence = Presence(engine, self._topics, info, report)
        # What our queue can't hold waits at the broker.
        receive_maximum = info.queue_limit + 1
        self._mqtt = MqttConnection(
            settings,
            f"edge-llm-{info.node}",
            self._own_subscriptions(),
            will=self._presence.will,
            receive_maximum=receive_maximum,
            on_connected=self._presence.announce,
        )
        self._presence.open(self._mqtt, self._publish)
        self._origins = Origins(self._mqtt, settings, source)
        self._copies = Copies(
            self._mqtt, self._origins.ack, settings.ack, settings.repeat_window_s, receive_maximum
        )
        self._conversations = Conversations(store.sessions, info.queue_limit)
        self._requests = Requests(
            engine,
            store,
            self._copies,
            self._conversations,
            publish=self._publish,
            can_go_back=self._origins.can_go_back,
            on_end=self._note_end,
            keep=self._origins.keep,
            give_back=self._origins.give_back,
        )
        self._cleared: dict[str, None] = {}  # retained messages whose clearing we will hear of
        self.follow(rules)

    def follow(self, rules: Rules) -> None:
        """Take other presets, routes and limits; what is in hand ends by the old ones."""
        self._intake = Intake(self._topics, self._settings, rules)
        self._router = Router(rules.routes, self._requests.is_in_hand)
        presses = self._router.subscriptions
        if self._source:
            self._source.follow(rules.routes)
            presses = []
        self._mqtt.resubscribe([*self._own_subscriptions(), *presses])
        # And with the engine's own system prompt, for requests without a persona.
        self._engine.prepare([*rules.presets.openings, ()])
        presets = tuple(rules.presets.by_name)
        self._presence.update(presets=presets, default_preset=rules.presets.default)

    def tell(self) -> None:
        """Publish what the node does and how it is, as that has changed."""
        self._presence.tell()

    @property
    def silent_s(self) -> float:
        """Seconds since the line to the broker showed a sign of life; tries to connect are some."""
        return self._mqtt.silent_s

    @property
    def is_connected(self) -> bool:
        """Whether an answer would reach the broker at once."""
        return self._mqtt.is_connected

    @property
    def num_running(self) -> int:
        """How many requests wait or are being answered."""
        return self._requests.num_running

    def read(self, publication: Publication) -> tuple[str, MqttRequest] | None:
        """Return the id of a request and what it asks; None if something is wrong with it."""
        if publication.route is not None:
            return self._read_press(publication)
        try:
            request_id = self._topics.request_id(publication.topic)
        except InvalidIdError:
            return None
        asked = self._intake.read_request(publication, request_id, may_be_old=False)
        if isinstance(asked, Refused):
            return None
        # One for another node, that may have other presets, is read as it stands.
        request = asked.request if asked else parse_mqtt_request(publication.payload)
        return request_id, request

    def _read_press(self, publication: Publication) -> tuple[str, MqttRequest] | None:
        for route in self._router.find(publication):
            asked = self._intake.read_press(publication, route)
            if isinstance(asked, Refused):
                return None
            return route.id, asked.request
        return None

    def refuse(self, error: EdgeLLMError, publication: Publication) -> None:
        """Refuse a request that nothing else is wrong with."""
        for route in self._router.find(publication) if publication.route is not None else ():
            pressed = self._intake.read_press(publication, route)
            self._refuse(error, pressed.reply, publication)
            return
        request_id = self._topics.request_id(publication.topic)
        asked = self._intake.read_request(publication, request_id, may_be_old=False)
        reply = asked.reply if asked else self._bare_reply(publication, request_id)
        self._refuse(error, reply, publication)

    def cancel(self, request_id: str) -> None:
        """End the requests of an id that are in hand."""
        self._requests.cancel(request_id)

    def replace(self, request_id: str) -> None:
        """End the requests of an id without an answer, as another took their place elsewhere."""
        self._requests.replace(request_id)

    def hand_back(self) -> None:
        """Give the source back what is in hand of it, for another node to answer."""
        self._requests.hand_back(self._origins.is_source)

    def repeat(self, finals: Sequence[Outgoing], publication: Publication) -> None:
        """Say an answer again, whoever gave it."""
        self._requests.refuse(finals, publication)

    async def run(self) -> None:
        """Serve until cancelled.

        Then an answer that has begun may end within ``stop_timeout_s``; the other requests go back
        to the broker, or are told ``shutting_down`` where that can't be. A second cancel ends the
        wait.
        """
        async with self._mqtt:
            try:
                async with asyncio.TaskGroup() as tasks:
                    self._requests.open(tasks)
                    presence = tasks.create_task(self._presence.run(), name="mqtt.presence")
                    pulling = None
                    if self._source:
                        run = self._source.run(self._take_safely)
                        pulling = tasks.create_task(run, name="service.source")
                    try:
                        await self._listen()
                    finally:
                        presence.cancel()
                        try:
                            await self._leave()
                        finally:  # its leases are extended until then
                            if pulling:
                                pulling.cancel()
            finally:
                self._presence.leave()

    async def _listen(self) -> None:
        async with aclosing(self._mqtt.messages()) as messages:
            async for publication in messages:
                self._take_safely(publication)

    def _take_safely(self, publication: Publication) -> None:
        try:
            self._take(publication)
        except Exception:
            # Of one message; it must not take the others with it, nor come for ever.
            log.exception("message.crashed", topic=publication.topic)
            self.complain(EdgeLLMError("the node failed on a message; its log says why"))
            self._copies.ack(publication)

    async def _leave(self) -> None:
        if self._source:
            self._source.stop()
        try:
            await self._requests.drain(self._settings.stop_timeout_s)
        finally:
            self._requests.stop()
            if self._source:  # what has ended is kept, said and acknowledged by then
                await asyncio.sleep(0)  # it says so in callbacks
                await self._source.settle()

    def _own_subscriptions(self) -> list[Subscription]:
        topics = self._topics
        requests = () if self._source else topics.request_filters
        return [
            # Not at QoS 2: paho forgets such a message, half delivered, when it is restarted.
            *(Subscription(name, 1, identifier=REQUESTS) for name in requests),
            # At QoS 0, as a QoS 1 cancel would queue behind the requests that it is about.
            *(Subscription(name, 0, identifier=CANCELS) for name in topics.cancel_filters),
            Subscription(topics.reset_filter, 1, identifier=RESETS),
            # What is retained was said before we came, and is no news.
            Subscription(topics.status, 0, identifier=STATUS, retain_as_published=False),
            Subscription(topics.command, 1, identifier=COMMANDS),
        ]

    def _note_end(self, request_id: str) -> None:
        self._router.note_end(request_id)

    def _take(self, publication: Publication) -> None:
        topics, topic = self._topics, publication.topic
        if topic == topics.status:
            if not publication.retain:
                self._presence.listen(publication.payload)
        elif self._copies.was_acknowledged(publication):
            self._origins.ack(publication)
        elif topics.is_request(topic):
            self._take_request(publication)
        elif topics.is_cancel(topic):
            if not self._is_echo(publication):
                self._take_cancel(publication)
        elif topic == topics.command:
            self._take_command(publication)
        elif session := topics.session(topic):
            self._take_reset(publication, session)
        else:
            self._take_press(publication)

    def _take_request(self, publication: Publication) -> None:
        if self._is_echo(publication):
            self._origins.ack(publication)
            return
        self._copies.receive(publication)
        if publication.retain:
            self._clear(publication.topic)
        if (request_id := self._id(publication)) is None:
            return
        key = key_of(publication, request_id)
        if publication.retain:
            self._refuse_retained(publication, request_id, key)
            return
        again = self._copies.may_be_repeated(publication)
        if self._is_known(request_id, key, publication, again=again):
            return
        if self._requests.is_in_hand(request_id, key):
            error = DuplicateIdError(f"request {request_id!r} is still being answered")
            reply = self._bare_reply(publication, request_id)
            log.warning("request.rejected", request_id=request_id, code=error.code)
            self._requests.refuse([reply.refuse(error)], publication)
            return
        asked = self._intake.read_request(publication, request_id, may_be_old=again)
        if asked is None:
            self._copies.ack(publication)
        elif isinstance(asked, Refused):
            self._refuse(asked.error, asked.reply, publication)
        else:
            self._accept(asked)

    def _accept(self, asked: Asked) -> None:
        """Take a request in hand, which another node of a fleet may have had before."""
        publication = asked.publication
        if publication.dup and self._origins.is_source(publication):
            for outgoing in asked.reply.begin_again():
                self._publish(outgoing)
        self._requests.accept(asked)

    def _refuse_retained(self, publication: Publication, request_id: str, key: bytes) -> None:
        """Refuse what was not refused when it came: brokers of 3.1.1 had no flag on it then."""
        if self._requests.is_in_hand(request_id, key) or self._requests.was_answered(key):
            self._copies.ack(publication)
            return
        error = RetainedRequestError(
            "requests must not be retained, or they would run again at every reconnect; "
            "it was cleared: send it without the retain flag"
        )
        self._refuse(error, self._bare_reply(publication, request_id), publication)

    def _take_press(self, publication: Publication) -> None:
        """Take a message on a topic of somebody else's; several routes may listen to it."""
        routes = [] if publication.retain else self._router.find(publication)
        self._copies.receive(publication)
        if not routes:
            # amqtt also sends what is retained for others.
            self._copies.ack(publication)
        for route in routes:
            self._press(route, publication)

    def _press(self, route: Route, publication: Publication) -> None:
        # Only the broker's word counts: who presses a button twice sends the same, too.
        key = key_of(publication, route.id)
        if self._is_known(route.id, key, publication, again=publication.dup):
            return
        if not self._router.counts(route):
            log.debug("route.ignored", route=route.id)
            self._copies.ack(publication)
            return
        asked = self._intake.read_press(publication, route)
        if isinstance(asked, Refused):
            self._refuse(asked.error, asked.reply, publication)
            return
        if route.while_busy == "replace":
            self._requests.replace(route.id)
        elif self._requests.count(route.id) > route.max_queued:
            full = QueueFullError(f"{route.max_queued} presses are waiting, as many as may")
            self._refuse(full, asked.reply, publication)
            return
        self._requests.accept(asked)

    def _is_known(
        self, request_id: str, key: bytes, publication: Publication, *, again: bool
    ) -> bool:
        """Tell whether a request is one that is in hand, or was answered, and deal with it."""
        if self._requests.join(request_id, key, publication, again=again):
            return True
        return again and self._requests.repeat(key, publication)

    def _take_cancel(self, publication: Publication) -> None:
        if publication.retain and publication.payload:
            self._clear(publication.topic)
        if (request_id := self._id(publication)) is not None:
            self._requests.cancel(request_id)
            if self._source:
                self._source.cancel(request_id)
        self._origins.ack(publication)

    def _take_reset(self, publication: Publication, session: str) -> None:
        if not publication.retain:
            log.info("session.reset", session=session)
            self._conversations.reset(session)
            if self._source:
                self._source.forget(session)
        self._origins.ack(publication)

    def _take_command(self, publication: Publication) -> None:
        if not publication.retain:
            command = publication.payload.decode(errors="replace").strip()
            try:
                self._on_command(command)
            except EdgeLLMError as exc:
                self.complain(exc)
        self._origins.ack(publication)

    def _id(self, publication: Publication) -> str | None:
        """Return the id in a topic; one that can't be answered is told on the node's own topic."""
        try:
            return self._topics.request_id(publication.topic)
        except InvalidIdError as exc:
            self._requests.refuse([self._complaint(exc, publication.qos)], publication)
            return None

    def complain(self, error: EdgeLLMError) -> None:
        """Say on the node's error topic what went wrong without a request to answer."""
        self._publish(self._complaint(error, qos=1))

    def _complaint(self, error: EdgeLLMError, qos: int) -> Outgoing:
        log.warning("request.rejected", code=error.code, reason=error.message)
        body = ErrorBody.from_error(error).model_dump_json(exclude_none=True).encode()
        return Outgoing(self._topics.error, body, "application/json", qos)

    def _bare_reply(self, publication: Publication, request_id: str) -> Reply:
        to = ReplyTo(
            self._topics.response(request_id),
            qos=publication.qos,
            correlation=publication.correlation,
        )
        return Reply(to, request_id, self._topics.node, as_json=is_json(publication.payload))

    def _refuse(self, error: EdgeLLMError, reply: Reply, publication: Publication) -> None:
        log.warning("request.rejected", topic=publication.topic, code=error.code, param=error.param)
        ending = reply.fail(error)
        for outgoing in ending.last:
            self._publish(outgoing)
        self._requests.refuse(ending.finals, publication)

    def _clear(self, topic: str) -> None:
        self._cleared[topic] = None
        if len(self._cleared) > MAX_CLEARED:  # the oldest word of it was lost
            del self._cleared[next(iter(self._cleared))]
        self._publish(Outgoing(topic, b"", "text/plain", qos=1, retain=True))

    def _is_echo(self, publication: Publication) -> bool:
        """Tell whether this is the empty message by which a retained one was cleared."""
        if publication.payload:
            return False
        if publication.topic in self._cleared:
            del self._cleared[publication.topic]
            return True
        return publication.retain and not self._topics.is_cancel(publication.topic)

    def _publish(self, outgoing: Outgoing) -> asyncio.Future[None]:
        return self._mqtt.publish(
            outgoing.topic,
            outgoing.payload,
            outgoing.qos,
            retain=outgoing.retain,
            content_type=outgoing.content_type,
            correlation=outgoing.correlation,
            properties=outgoing.properties,
            keep=outgoing.keep,
            expiry_s=outgoing.expiry_s,
        )
