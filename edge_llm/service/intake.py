"""From a message to what is asked: read, filled in by preset and limits, with an address to answer.

Whatever is wrong with a message, the refusal knows where its sender listens and what it can read.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import paho.mqtt.client as paho

from edge_llm.errors import ForbiddenTopicError, InvalidRequestError
from edge_llm.mqtt import Publication
from edge_llm.outgoing import ReplyTo
from edge_llm.preset import Preset, Presets
from edge_llm.protocol import MqttRequest, is_json, parse_mqtt_request
from edge_llm.route import Route
from edge_llm.service.reply import Reply
from edge_llm.service.requests import Asked
from edge_llm.settings import ClientSettings, MqttSettings
from edge_llm.store import make_key
from edge_llm.topics import Topics, explain_bad_topic

__all__ = ["Intake", "Refused", "Rules"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What may change while a node runs: personas, buttons, and limits by device."""

    presets: Presets = field(default_factory=Presets)
    routes: Sequence[Route] = ()
    clients: Sequence[ClientSettings] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that asks nothing that can be answered."""

    error: InvalidRequestError
    reply: Reply


class Intake:
    """Reads messages.

    Args:
        topics: the node's.
        settings: where replies may go, and how old requests may become.
        rules: personas and limits.
    """

    def __init__(self, topics: Topics, settings: MqttSettings, rules: Rules) -> None:
        self._topics = topics
        self._rules = rules
        self._max_age_s = settings.max_age_s or None
        allowed = settings.response_topics
        self._allowed = (topics.response("#"), "+/reply/#") if allowed is None else allowed

    def read_request(
        self, publication: Publication, request_id: str, *, may_be_old: bool
    ) -> Asked | Refused | None:
        """Read a message on a request topic, which an earlier life may have read before.

        None is one for another node, that may have other presets.
        """
        limit = self._limit(request_id)
        # A small device may send JSON, but what is wrong with it must fit into its buffer.
        as_json = is_json(publication.payload) and not limit
        to, error = self._address(publication, request_id)
        request = MqttRequest(max_bytes=limit)
        preset = Preset()
        try:
            if error:
                raise error
            asked = parse_mqtt_request(publication.payload)
            if asked.node not in (None, self._topics.node):
                return None
            as_json = is_json(publication.payload) and asked.format != "text"
            preset = self._rules.presets.find(asked.preset)
            request = _limited(preset.complete(asked), asked, limit)
            as_json = request.format == "json" if request.format else as_json
            _check(request)
        except InvalidRequestError as exc:
            as_json = as_json and not _wants_text(publication.payload)
            return Refused(exc, self._reply(to, request_id, request, preset, as_json=as_json))
        reply = self._reply(to, request_id, request, preset, as_json=as_json)
        return self._asked(publication, request_id, request, reply, may_be_old=may_be_old)

    def read_press(self, publication: Publication, route: Route) -> Asked | Refused:
        """Read a message on the topic of a route."""
        qos = min(publication.qos, route.qos)
        to = ReplyTo(self._topics.response(route.id), qos=qos, retain=route.retain)
        as_json = route.format == "json"
        preset = Preset()
        try:
            preset = self._rules.presets.find(route.preset)
            pressed = route.press(publication.topic, publication.payload, self._topics)
            to = ReplyTo(pressed.respond_to, pressed.deltas_to, qos, route.retain)
            payload = publication.payload.decode().strip() or None
            said = {
                "prompt": pressed.prompt or preset.prompt or payload,
                "stream": (route.stream or preset.stream or "sentence") if to.deltas else False,
                "session": pressed.session,
            }
            asked = MqttRequest.model_validate({k: v for k, v in said.items() if v is not None})
            request = preset.complete(asked)
            _check(request)
        except InvalidRequestError as exc:
            return Refused(exc, self._reply(to, route.id, MqttRequest(), preset, as_json=as_json))
        reply = self._reply(to, route.id, request, preset, as_json=as_json, is_press=True)
        return self._asked(publication, route.id, request, reply, may_be_old=publication.dup)

    def _asked(
        self,
        publication: Publication,
        request_id: str,
        request: MqttRequest,
        reply: Reply,
        *,
        may_be_old: bool,
    ) -> Asked:
        limits = [request.ttl_s or self._max_age_s, publication.expiry_s]
        ttl_s = min((float(limit) for limit in limits if limit), default=None)
        # Parts hold the whole text; else the engine need not go on after what fits.
        max_bytes = None if request.parts else request.max_bytes
        update = {"ttl_s": ttl_s, "max_bytes": max_bytes}
        return Asked(
            id=request_id,
            key=key_of(publication, request_id),
            publication=publication,
            request=request.model_copy(update=update),
            reply=reply,
            may_be_old=may_be_old,
        )

    def _reply(
        self,
        to: ReplyTo,
        request_id: str,
        request: MqttRequest,
        preset: Preset,
        *,
        as_json: bool,
        is_press: bool = False,
    ) -> Reply:
        return Reply(
            to,
            request_id,
            self._topics.node,
            as_json=as_json,
            request=request,
            language=preset.language,
            fallback=preset.fallback,
            is_press=is_press,
        )

    def _address(
        self, publication: Publication, request_id: str
    ) -> tuple[ReplyTo, ForbiddenTopicError | None]:
        """Return where the reply goes; a topic that is not allowed is not answered there."""
        default = ReplyTo(
            self._topics.response(request_id),
            qos=publication.qos,
            correlation=publication.correlation,
        )
        topic = publication.response_topic
        if topic is None:
            return default, None
        if reason := explain_bad_topic(topic):
            return default, ForbiddenTopicError(f"the response topic can't be used: {reason}")
        if not any(paho.topic_matches_sub(allowed, topic) for allowed in self._allowed):
            return default, ForbiddenTopicError(
                f"replies may not go to {topic!r}; allowed are {', '.join(self._allowed)} "
                "(mqtt.response_topics)"
            )
        # A broker lets a device ask below its own name only; nor may we speak below another's.
        device = request_id.partition("/")[0]
        if self._is_of_another(topic, device):
            return default, ForbiddenTopicError(
                f"replies to {device!r} may not go to {topic!r}, which is for another's"
            )
        return ReplyTo(topic, qos=publication.qos, correlation=publication.correlation), None

    def _is_of_another(self, topic: str, device: str) -> bool:
        """Tell whether a topic is for replies to other ids than those that begin with this name."""
        ours, topic = self._topics.response(""), f"{topic}/"
        return topic.startswith(ours) and topic.removeprefix(ours).partition("/")[0] != device

    def _limit(self, request_id: str) -> int | None:
        device = request_id.partition("/")[0]
        return next(
            (c.max_bytes for c in self._rules.clients if fnmatchcase(device, c.match)), None
        )


def _wants_text(payload: bytes) -> bool:
    """Tell whether a request that can't be taken asks for text; it may say so all the same."""
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.get("format") == "text"


def key_of(publication: Publication, request_id: str) -> bytes:
    """Return what repetitions of a message have in common."""
    return make_key(
        request_id,
        publication.topic,
        publication.payload,
        publication.response_topic,
        publication.correlation,
    )


def _limited(request: MqttRequest, asked: MqttRequest, limit: int | None) -> MqttRequest:
    """Keep what a preset says within the limits of the device, unless the request knows better."""
    if limit is None or asked.max_bytes is not None:
        return request
    return request.model_copy(update={"max_bytes": min(request.max_bytes or limit, limit)})


def _check(request: MqttRequest) -> None:
    if request.parts and request.max_bytes is None:
        raise InvalidRequestError("parts: say how long they may be: max_bytes", param="parts")
