"""The MQTT front end: requests in, exactly one final message out for each.

A request is one task, and when that ends, however it ends, its final message goes out.
Cancelling that task is the only way to stop it: ``llm/cancel/<id>`` does so, and so does the end
of the service. The broker is told that it may forget a request when it has confirmed the final
message, so what is in hand when the service dies is delivered again.
"""

import asyncio
import functools
from contextlib import aclosing, suppress

import structlog

from edge_llm.engine.interface import Engine
from edge_llm.errors import (
    DuplicateIdError,
    EdgeLLMError,
    InvalidIdError,
    InvalidRequestError,
    RetainedRequestError,
    ShuttingDownError,
)
from edge_llm.mqtt import MqttConnection, Publication, Subscription, Will
from edge_llm.protocol import (
    Delta,
    Done,
    ErrorBody,
    MqttRequest,
    NodeInfo,
    Topics,
    is_json,
    parse_mqtt_request,
)
from edge_llm.reply import Outgoing, Reply
from edge_llm.settings import MqttSettings

__all__ = ["Service"]

log = structlog.get_logger()

_Copy = tuple[int, int, str, int]  # what is the same in each copy of a message

MORE_COPIES = 64  # remembered beyond what may be unacknowledged at once
ACTIVITY_EVERY_S = 0.2
ONLINE, OFFLINE = b"online", b"offline"  # Home Assistant's default availability payloads


class Service:
    """Answers what comes in over MQTT.

    Args:
        engine: generates; it has its own queue.
        settings: the broker.
        info: what the node says of itself; the models are filled in when they are known.
    """

    def __init__(self, engine: Engine, settings: MqttSettings, info: NodeInfo) -> None:
        self._engine = engine
        self._settings = settings
        self._info = info
        self._topics = Topics(settings.prefix, info.node)
        self._requests: dict[str, tuple[Publication, asyncio.Task[Done | EdgeLLMError]]] = {}
        # Final messages that the broker may not have yet.
        self._unconfirmed: dict[str, tuple[Publication, asyncio.Future[None]]] = {}
        self._cancelled: set[str] = set()
        self._announced = ""
        self._cleared: set[str] = set()  # retained messages whose clearing we will hear of
        # What was acknowledged last, and whether the connection broke before.
        self._acknowledged: dict[_Copy, bool] = {}

    async def run(self) -> None:
        """Serve until cancelled; then say ``shutting_down`` to what is in hand, and ``offline``."""
        topics = self._topics
        self._mqtt = MqttConnection(
            self._settings,
            f"edge-llm-{self._info.node}",
            [
                # Not at QoS 2: paho forgets such a message, half delivered, when it is restarted.
                *(Subscription(topic_filter, 1) for topic_filter in topics.request_filters),
                # At QoS 0, as a QoS 1 cancel would queue behind the requests that it is about.
                *(Subscription(topic_filter, 0) for topic_filter in topics.cancel_filters),
            ],
            will=Will(topics.status, OFFLINE),
            # What our queue can't hold waits at the broker.
            receive_maximum=self._info.queue_limit + 1,
            on_connected=self._announce,
        )
        async with self._mqtt:
            try:
                async with asyncio.TaskGroup() as self._tasks:
                    self._tasks.create_task(self._announce_models(), name="mqtt.models")
                    self._tasks.create_task(self._announce_activity(), name="mqtt.activity")
                    async with aclosing(self._mqtt.messages()) as messages:
                        async for publication in messages:
                            self._take(publication)
            finally:
                self._mqtt.publish(topics.activity, OFFLINE, 1, retain=True)
                self._mqtt.publish(topics.status, OFFLINE, 1, retain=True)

    def _announce(self) -> None:
        self._announced = ""  # a broker that was restarted may have lost it
        self._mqtt.publish(self._topics.status, ONLINE, 1, retain=True)
        info = self._info.model_dump_json(exclude_none=True)
        self._mqtt.publish(self._topics.info, info, 1, retain=True, content_type="application/json")

    async def _announce_models(self) -> None:
        with suppress(EdgeLLMError):  # whoever opened the engine is told of a broken model
            models = await self._engine.ready()
            self._info = self._info.model_copy(update={"models": models})
            await self._mqtt.wait_until_connected()
            self._announce()

    async def _announce_activity(self) -> None:
        """Publish what the engine does, each time that it is something else."""
        while True:
            await self._mqtt.wait_until_connected()
            if (activity := self._engine.activity) != self._announced:
                self._announced = activity
                self._mqtt.publish(self._topics.activity, activity, 1, retain=True)
            await asyncio.sleep(ACTIVITY_EVERY_S)

    def _take(self, publication: Publication) -> None:
        if self._is_no_business(publication) or self._was_acknowledged(publication):
            self._mqtt.ack(publication)
            return
        if self._settings.ack == "receipt":
            self._ack(publication)
        if publication.retain:
            self._clear(publication.topic)
        try:
            request_id = self._topics.request_id(publication.topic)
        except InvalidIdError as exc:
            log.warning("request.rejected", code=exc.code, reason=exc.message)
            body = ErrorBody.from_error(exc).model_dump_json(exclude_none=True).encode()
            self._send(Outgoing(self._topics.error, body, "application/json"), publication)
            return
        if self._topics.is_cancel(publication.topic):
            self._cancel(request_id)
        elif publication.retain:
            self._reject(
                RetainedRequestError(
                    "requests must not be retained, or they would run again at every reconnect; "
                    "it was cleared: send it without the retain flag"
                ),
                publication,
                request_id,
            )
        elif self._is_copy(publication, request_id):
            # The packet id is the same, so the acknowledgement that is to come is for both.
            return
        elif self._is_in_hand(request_id):
            error = DuplicateIdError(f"request {request_id!r} is still being answered")
            self._reject(error, publication, request_id, id_is_taken=True)
        else:
            self._accept(publication, request_id)

    def _cancel(self, request_id: str) -> None:
        if running := self._requests.get(request_id):
            self._cancelled.add(request_id)
            running[1].cancel()

    def _is_copy(self, publication: Publication, request_id: str) -> bool:
        """Tell whether the broker repeats, after a broken connection, what we are answering."""
        in_hand = self._requests.get(request_id) or self._unconfirmed.get(request_id)
        if in_hand is None or _copy_of(in_hand[0]) != _copy_of(publication):
            return False
        # Not every broker that was restarted in between sets the flag.
        return publication.dup or publication.connection != in_hand[0].connection

    def _is_in_hand(self, request_id: str) -> bool:
        if request_id in self._requests:
            return True
        # The entry goes a moment after it is done, and a new request with this id may be sooner.
        ending = self._unconfirmed.get(request_id)
        return ending is not None and not ending[1].done()

    def _is_no_business(self, publication: Publication) -> bool:
        """Tell what we did not ask for: amqtt sends what is retained for others, also."""
        asked_for = (self._topics.request(""), self._topics.cancel(""))
        return self._is_echo(publication) or not publication.topic.startswith(asked_for)

    def _clear(self, topic: str) -> None:
        self._cleared.add(topic)
        self._mqtt.publish(topic, b"", 1, retain=True)

    def _is_echo(self, publication: Publication) -> bool:
        """Tell whether this is the empty message by which a retained one was cleared."""
        if publication.payload:
            return False
        if publication.topic in self._cleared:
            self._cleared.remove(publication.topic)
            return True
        return publication.retain and not self._topics.is_cancel(publication.topic)

    def _was_acknowledged(self, publication: Publication) -> bool:
        """Tell whether the broker repeats itself because an acknowledgement of ours got lost."""
        copy = _copy_of(publication)
        broke_before = self._acknowledged.get(copy)
        if broke_before is None or not (publication.dup or broke_before):
            return False
        del self._acknowledged[copy]
        return True

    def _reject(
        self,
        error: InvalidRequestError,
        publication: Publication,
        request_id: str,
        *,
        id_is_taken: bool = False,
    ) -> None:
        log.warning("request.rejected", request_id=request_id, code=error.code, param=error.param)
        reply = Reply(self._topics, request_id, as_json=is_json(publication.payload))
        self._send(reply.refuse(error) if id_is_taken else reply.fail(error), publication)

    def _accept(self, publication: Publication, request_id: str) -> None:
        try:
            request = _with_expiry(parse_mqtt_request(publication.payload), publication)
        except InvalidRequestError as exc:
            self._reject(exc, publication, request_id)
            return
        reply = Reply(self._topics, request_id, as_json=request.format == "json", request=request)
        task = self._tasks.create_task(
            self._answer(request, request_id, reply), name=f"request.{request_id}"
        )
        self._requests[request_id] = publication, task
        # In a callback and not in the task, as a task may be cancelled before it has begun.
        task.add_done_callback(functools.partial(self._finish, publication, request_id, reply))

    async def _answer(
        self, request: MqttRequest, request_id: str, reply: Reply
    ) -> Done | EdgeLLMError:
        with structlog.contextvars.bound_contextvars(request_id=request_id, via="mqtt"):
            try:
                async with aclosing(self._engine.generate(request)) as events:
                    async for event in events:
                        if isinstance(event, Delta):
                            for delta in reply.add(event):
                                self._publish(delta, qos=0)
                        elif isinstance(event, Done):
                            return event
                return EdgeLLMError("the engine ended without a reason")
            except EdgeLLMError as exc:
                return exc
            except Exception:
                log.exception("request.crashed")
                return EdgeLLMError("the node failed on this request; its log says why")

    def _finish(
        self,
        publication: Publication,
        request_id: str,
        reply: Reply,
        task: asyncio.Task[Done | EdgeLLMError],
    ) -> None:
        """Send the final message; runs exactly once for each task, however it ended."""
        del self._requests[request_id]
        if models := self._engine.models:
            reply.name_model(models[0].id)
        outcome: Done | EdgeLLMError | None
        if not task.cancelled():
            outcome = task.result()
        elif request_id in self._cancelled:
            outcome = None
        else:
            outcome = ShuttingDownError("the node is stopping; send it again")
        self._cancelled.discard(request_id)
        if isinstance(outcome, EdgeLLMError):
            final = [reply.fail(outcome)]
        else:
            final = list(reply.finish(outcome))
        *deltas, last = final
        for delta in deltas:
            self._publish(delta, qos=0)
        confirmed = self._send(last, publication)
        self._unconfirmed[request_id] = publication, confirmed
        confirmed.add_done_callback(functools.partial(self._forget, request_id))

    def _forget(self, request_id: str, confirmed: asyncio.Future[None]) -> None:
        ending = self._unconfirmed.get(request_id)
        if ending and ending[1] is confirmed:  # and not the next one's
            del self._unconfirmed[request_id]

    def _send(self, outgoing: Outgoing, publication: Publication) -> asyncio.Future[None]:
        """Publish the answer to a message, and acknowledge that once the broker has the answer."""
        confirmed = self._publish(outgoing, publication.qos)
        if self._settings.ack == "response":
            confirmed.add_done_callback(functools.partial(self._ack_answered, publication))
        return confirmed

    def _ack_answered(self, publication: Publication, confirmed: asyncio.Future[None]) -> None:
        if not confirmed.cancelled() and not confirmed.exception():
            self._ack(publication)

    def _ack(self, publication: Publication) -> None:
        self._mqtt.ack(publication)
        if publication.qos > 0:
            broke_before = publication.connection != self._mqtt.connection
            self._acknowledged[_copy_of(publication)] = broke_before
            if len(self._acknowledged) > self._info.queue_limit + MORE_COPIES:
                del self._acknowledged[next(iter(self._acknowledged))]

    def _publish(self, outgoing: Outgoing, qos: int) -> asyncio.Future[None]:
        return self._mqtt.publish(
            outgoing.topic, outgoing.payload, qos, content_type=outgoing.content_type
        )


def _copy_of(publication: Publication) -> _Copy:
    session_and_id = (publication.session, publication.packet_id)
    return *session_and_id, publication.topic, hash(publication.payload)


def _with_expiry(request: MqttRequest, publication: Publication) -> MqttRequest:
    """Take MQTT 5's message expiry as a time to live, unless the request has a shorter one."""
    if not publication.expiry_s or (request.ttl_s and request.ttl_s <= publication.expiry_s):
        return request
    return request.model_copy(update={"ttl_s": float(publication.expiry_s)})
