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
        self._requests: dict[str, asyncio.Task[Done | EdgeLLMError]] = {}
        self._unconfirmed: set[str] = set()  # final messages that the broker does not have yet
        self._cancelled: set[str] = set()
        self._cleared: set[str] = set()  # retained requests whose clearing we will hear of

    async def run(self) -> None:
        """Serve until cancelled; then say ``shutting_down`` to what is in hand, and ``offline``."""
        topics = self._topics
        self._mqtt = MqttConnection(
            self._settings,
            f"edge-llm-{self._info.node}",
            [
                *(Subscription(topic_filter, 2) for topic_filter in topics.request_filters),
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
                    async with aclosing(self._mqtt.messages()) as messages:
                        async for publication in messages:
                            self._take(publication)
            finally:
                self._mqtt.publish(topics.status, OFFLINE, 1, retain=True)

    def _announce(self) -> None:
        self._mqtt.publish(self._topics.status, ONLINE, 1, retain=True)
        info = self._info.model_dump_json(exclude_none=True)
        self._mqtt.publish(self._topics.info, info, 1, retain=True, content_type="application/json")

    async def _announce_models(self) -> None:
        with suppress(EdgeLLMError):  # whoever opened the engine is told of a broken model
            models = await self._engine.ready()
            self._info = self._info.model_copy(update={"models": models})
            await self._mqtt.wait_until_connected()
            self._announce()

    def _take(self, publication: Publication) -> None:
        if self._settings.ack == "receipt":
            self._mqtt.ack(publication)
        try:
            request_id = self._topics.request_id(publication.topic)
        except InvalidIdError as exc:
            log.warning("request.rejected", code=exc.code, reason=exc.message)
            body = ErrorBody.from_error(exc).model_dump_json(exclude_none=True).encode()
            self._send(Outgoing(self._topics.error, body, "application/json"), publication)
            return
        if self._topics.is_cancel(publication.topic):
            self._cancel(request_id)
        elif self._is_echo(publication):
            self._mqtt.ack(publication)
        elif publication.retain:
            self._clear(publication, request_id)
        elif request_id in self._requests or request_id in self._unconfirmed:
            self._take_again(publication, request_id)
        else:
            self._accept(publication, request_id)

    def _cancel(self, request_id: str) -> None:
        if task := self._requests.get(request_id):
            self._cancelled.add(request_id)
            task.cancel()

    def _is_echo(self, publication: Publication) -> bool:
        """Tell whether this is the empty message by which we cleared a retained request."""
        if publication.payload:
            return False
        if publication.topic in self._cleared:
            self._cleared.remove(publication.topic)
            return True
        return publication.retain

    def _clear(self, publication: Publication, request_id: str) -> None:
        self._cleared.add(publication.topic)
        self._mqtt.publish(publication.topic, b"", 1, retain=True)
        self._reject(
            RetainedRequestError(
                "requests must not be retained, or they would run again at every reconnect; "
                "it was cleared: send it without the retain flag"
            ),
            publication,
            request_id,
        )

    def _take_again(self, publication: Publication, request_id: str) -> None:
        if publication.dup:
            # The broker repeats itself after a broken connection. The packet id is the same, so
            # the acknowledgement that is to come is for both.
            return
        error = DuplicateIdError(f"request {request_id!r} is still being answered")
        self._reject(error, publication, request_id, id_is_taken=True)

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
        self._requests[request_id] = task
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
        self._unconfirmed.add(request_id)
        self._send(last, publication).add_done_callback(
            lambda _: self._unconfirmed.discard(request_id)
        )

    def _send(self, outgoing: Outgoing, publication: Publication) -> asyncio.Future[None]:
        """Publish the answer to a message, and acknowledge that once the broker has the answer."""
        confirmed = self._publish(outgoing, publication.qos)
        if self._settings.ack == "response":
            confirmed.add_done_callback(functools.partial(self._ack, publication))
        return confirmed

    def _ack(self, publication: Publication, confirmed: asyncio.Future[None]) -> None:
        if not confirmed.cancelled() and not confirmed.exception():
            self._mqtt.ack(publication)

    def _publish(self, outgoing: Outgoing, qos: int) -> asyncio.Future[None]:
        return self._mqtt.publish(
            outgoing.topic, outgoing.payload, qos, content_type=outgoing.content_type
        )


def _with_expiry(request: MqttRequest, publication: Publication) -> MqttRequest:
    """Take MQTT 5's message expiry as a time to live, unless the request has a shorter one."""
    if not publication.expiry_s or (request.ttl_s and request.ttl_s <= publication.expiry_s):
        return request
    return request.model_copy(update={"ttl_s": float(publication.expiry_s)})
