"""Settings, one frozen section per part: defaults < TOML file < environment.

``EDGE_LLM_MQTT__HOST=broker.local`` sets ``host`` of section ``[mqtt]``. A key that does not exist
is refused by name, in the file and in the environment.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from edge_llm.errors import ConfigurationError
from edge_llm.preset import Preset
from edge_llm.protocol import MAX_PAYLOAD_BYTES
from edge_llm.route import Route, find_conflict
from edge_llm.section import Section, TopicFilter, TopicLevel, TopicPrefix
from edge_llm.topics import Topics

__all__ = [
    "ApiKeySettings",
    "ClientSettings",
    "EngineSettings",
    "HttpSettings",
    "LogSettings",
    "MqttSettings",
    "OpenAISettings",
    "PacedSettings",
    "QueueSettings",
    "SessionSettings",
    "Settings",
    "StoreSettings",
    "TlsSettings",
    "WorkerSettings",
    "describe",
    "load_settings",
]

ENV_PREFIX = "EDGE_LLM_"


def _default_node() -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64] or "edge-llm"


class TlsSettings(Section):
    """Encryption of the connection to the broker."""

    enabled: bool = False
    """Speak TLS; brokers do on a port of its own, often 8883."""
    ca_file: Path | None = None
    """Certificate of the CA that signed the broker's, PEM; the system's CAs if not given."""
    cert_file: Path | None = None
    """Our own certificate, PEM, for brokers that ask for one."""
    key_file: Path | None = None
    """Its key, PEM, without a passphrase; looked for in ``cert_file`` if not given."""


class ClientSettings(Section):
    """What holds for the devices whose requests have certain ids."""

    match: Annotated[str, Field(min_length=1)]
    """The first level of the request id, with wildcards: ``esp*`` is for ``esp1/42``. MQTT does not
    tell who published a message, so the id is all there is to go by."""
    max_bytes: Annotated[int, Field(ge=16, le=MAX_PAYLOAD_BYTES)]
    """Most bytes of a reply, if the request does not say; smaller than the device's buffer, which
    holds the topic too: 200 for a buffer of 256."""


class MqttSettings(Section):
    """The broker, and how requests come from it."""

    enabled: bool = True
    """Take requests over MQTT."""
    host: str = "127.0.0.1"
    """The broker's name or address."""
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    """The broker's TCP port."""
    username: str | None = None
    """User name at the broker."""
    password: SecretStr | None = None
    """Password at the broker."""
    tls: TlsSettings = TlsSettings()
    prefix: TopicPrefix = "llm"
    """First level or levels of all topics."""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    """MQTT version; auto tries 5, and goes back to 3.1.1 where the broker refuses it."""
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30
    """Seconds of silence after which either side checks that the other is there."""
    session_expiry_s: Annotated[int, Field(ge=0, le=0xFFFFFFFE)] = 3600
    """How long the broker keeps requests for a node that is away, in seconds."""
    ack: Literal["response", "receipt"] = "response"
    """Acknowledge a request after its response, so that the broker keeps it until then; or at
    once, for brokers that forget what is not acknowledged within seconds (amqtt)."""
    max_age_s: Annotated[float, Field(ge=0, le=86_400)] = 120.0
    """How long a request that does not say may wait for its turn, counted from when it first came
    in, in seconds; then it is answered ``expired``, and not spoken late. 0 is for ever."""
    repeat_window_s: Annotated[float, Field(ge=0, le=3600)] = 15.0
    """After a broken connection, how long the same request under the same id is taken for a
    repetition by its sender, and given the same answer, in seconds."""
    response_topics: tuple[TopicFilter, ...] | None = None
    """Where MQTT 5 requesters may have their replies sent; ``<prefix>/response/#`` and
    ``+/reply/#`` if not given."""
    client: tuple[ClientSettings, ...] = ()
    """Limits by device, the first that matches counts: ``[[mqtt.client]]``."""
    stop_timeout_s: Annotated[float, Field(ge=0)] = 10.0
    """How long an answer that has begun may take to end when the node is stopped, in seconds."""


class ApiKeySettings(Section):
    """Who may ask over HTTP; ``edge-llm api-key NAME`` makes one."""

    name: Annotated[str, Field(min_length=1)]
    """Whose it is, for the log."""
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    """Of the key, in hexadecimal; the key itself is kept nowhere."""
    requests_per_min: Annotated[float, Field(gt=0)] | None = None
    """Most requests in a minute, up to that many at once; any number if not given."""


class HttpSettings(Section):
    """The HTTP bridge."""

    enabled: bool = True
    """Serve HTTP."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 takes a free one."""
    ollama_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """A second port for programs that know no other than Ollama's, 11434; all paths are on both."""
    model_aliases: tuple[str, ...] = ()
    """Further names that clients may ask for, with wildcards: ``["gpt-*"]``."""
    key: tuple[ApiKeySettings, ...] = ()
    """Keys, one of which each request must have: ``[[http.key]]``. Without any, everyone may ask
    who reaches the address."""
    allow_anonymous_on: str | None = None
    """To go without keys on an address that is not loopback, say that address a second time."""
    cors_origins: tuple[str, ...] = ()
    """Web pages that may ask from a browser: ``["https://example.org"]``, or ``["*"]``."""
    stop_timeout_s: Annotated[float, Field(ge=0)] = 10.0
    """How long an answer that has begun may take to end when the node is stopped, in seconds."""
    max_concurrent: Annotated[int, Field(ge=1, le=10_000)] = 256
    """Most requests in hand at a time; more are refused with 503."""
    overflow: Literal["error", "drop_oldest"] = "error"
    """What to do with a conversation that is longer than the context, if the request does not say:
    refuse it, or leave out its oldest turns, which the header ``X-Dropped-Messages`` counts."""

    @model_validator(mode="after")
    def _is_closed_or_meant_to_be_open(self) -> Self:
        if self.key or not self.enabled or _is_loopback(self.host):
            return self
        if self.allow_anonymous_on != self.host:
            raise ValueError(
                f"whoever reaches {self.host or 'this machine'} could use the model: add a key "
                "('edge-llm api-key NAME' makes one), or, if that is what you want, say the "
                f'address once more: http.allow_anonymous_on = "{self.host}"'
            )
        return self


def _base_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^/?#\s]+[^?#\s]*", url):
        raise ValueError('use a URL such as "http://localhost:8080/v1"')
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class QueueSettings(Section):
    """Requests that wait."""

    limit: Annotated[int, Field(ge=0, le=10_000)] = 16
    """Most requests that may wait; more are refused with ``queue_full``."""


class WorkerSettings(Section):
    """The process that owns the device."""

    model: Path | None = None
    """Model directory; the built-in model if none is given."""
    runtime: Literal["auto", "axcl", "axengine", "onnx"] = "auto"
    """What runs the graphs; auto goes by the files, and by what is installed."""
    axcl_library: Path | None = None
    """The card's ``libaxcl_rt.so``; found where the vendor's package puts it if not given."""
    device: Annotated[int, Field(ge=0, le=255)] = 0
    """Which card, counted from 0."""
    kv_slots: Annotated[int, Field(ge=1, le=64)] = 4
    """Most conversations whose prefix is kept at a time; fewer if memory is short."""
    self_test: bool = True
    """Find out at load which fast ways of driving the card are right; else take the safe way."""
    hang_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """How long a step may take before the worker is taken for hung, in seconds."""
    threads: Annotated[int, Field(ge=1, le=64)] | None = None
    """CPU threads of the ONNX Runtime; chosen by the size of the model if not given."""
    stop_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    """How long a worker may take to end by itself before it is killed, in seconds."""
    max_attempts: Annotated[int, Field(ge=1)] = 3
    """How often one request is begun before it is given up as ``engine_failed``."""
    restart_delay_s: Annotated[float, Field(ge=0)] = 0.5
    """Pause before a dead worker is replaced, in seconds; doubles up to 30 s."""


class PacedSettings(Section):
    """Rehearsal at the speed of hardware that is still in the post."""

    text: Annotated[str, Field(min_length=1)] = (
        "This is a rehearsal. The words are always the same, but they come at the speed "
        "that you have set, so you can time your lights and your speaker."
    )
    """What every reply says."""
    ttft_s: Annotated[float, Field(ge=0)] = 1.0
    """Time to the first token, in seconds."""
    tokens_per_s: Annotated[float, Field(gt=0)] = 4.0
    """Speed after the first token."""


class OpenAISettings(Section):
    """A server that generates for this node, in OpenAI's dialect: llama-server, Ollama, axllm."""

    base_url: Annotated[str, AfterValidator(_base_url)] | None = None
    """Where its paths begin: ``http://192.168.1.5:8080/v1``, ``http://localhost:11434/v1``."""
    api_key: SecretStr | None = None
    """Sent as ``Authorization: Bearer``, if the server wants a key."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """Which of its models to use; the first that it lists if not given."""
    connect_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """How long it may take to accept a connection, in seconds."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest silence before the first piece of an answer and between two pieces, in seconds."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """How often a request is sent that the server can't be reached for, or has no room for (408,
    429, 5xx); never again after its first token."""


class EngineSettings(Section):
    """What generates, and what it does where a request says nothing."""

    kind: Literal["worker", "paced", "openai"] = "worker"
    """``worker`` runs the model; ``openai`` asks a server that speaks OpenAI's dialect; ``paced``
    says a fixed text at a set speed."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Most tokens of a reply."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """The model's own (its generation_config.json) if not given."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """As for ``temperature``."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """As for ``temperature``."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0 is off."""
    repeat_penalty: Annotated[float, Field(ge=0.01, le=4)] = 1.0
    """1 is off."""
    repeat_last_n: Annotated[int, Field(ge=-1)] = 64
    """Tokens that ``repeat_penalty`` looks back at."""
    enable_thinking: bool = False
    """Let models reason before they answer; a visitor waits for that."""
    system_prompt: str | None = None
    """Put before conversations that have no system turn of their own."""
    queue: QueueSettings = QueueSettings()
    worker: WorkerSettings = WorkerSettings()
    paced: PacedSettings = PacedSettings()
    openai: OpenAISettings = OpenAISettings()

    @model_validator(mode="after")
    def _knows_its_server(self) -> Self:
        if self.kind == "openai" and self.openai.base_url is None:
            raise ValueError(
                'kind "openai" needs the address of a server: set engine.openai.base_url, as in '
                '"http://localhost:8080/v1"'
            )
        return self


class StoreSettings(Section):
    """What outlives a restart: answers that may be asked for again, and conversations."""

    directory: Path | None = None
    """Where its file is; if not given systemd's state directory, or ``~/.local/state/edge-llm``."""
    max_age_s: Annotated[float, Field(gt=0)] = 86_400.0
    """How long a finished answer is kept for a request that is delivered again, in seconds."""
    max_answers: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Most finished answers that are kept; the oldest go first."""
    max_mb: Annotated[float, Field(gt=0)] = 64.0
    """Most megabytes of finished answers that are kept."""


class SessionSettings(Section):
    """Conversations that the node remembers for its clients."""

    idle_expiry_s: Annotated[float, Field(gt=0)] = 1800.0
    """How long a conversation is remembered after its last turn, in seconds."""
    max_sessions: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most conversations; that with the oldest last turn goes first."""
    max_chars: Annotated[int, Field(ge=1000)] = 100_000
    """Most characters of one conversation, whatever the context holds; the oldest turns go."""


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Prompts and replies are logged at debug only."""
    format: Literal["auto", "text", "json"] = "auto"
    """Auto: readable on a terminal, JSON otherwise."""


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    node: TopicLevel = Field(default_factory=_default_node)
    """This node's name, in its topics and its MQTT client id; the host's name by default."""
    mqtt: MqttSettings = MqttSettings()
    http: HttpSettings = HttpSettings()
    engine: EngineSettings = EngineSettings()
    log: LogSettings = LogSettings()
    store: StoreSettings = StoreSettings()
    session: SessionSettings = SessionSettings()
    preset: dict[TopicLevel, Preset] = {}
    """Personas: ``[preset.oracle]``."""
    default_preset: str | None = None
    """The persona of requests that name none."""
    route: tuple[Route, ...] = ()
    """Buttons and sensors that ask without code: ``[[route]]``."""

    @model_validator(mode="after")
    def _has_its_presets(self) -> Self:
        known = ", ".join(self.preset) or "none"
        if self.default_preset is not None and self.default_preset not in self.preset:
            raise ValueError(
                f"default_preset: there is no preset {self.default_preset!r} (there are: {known})"
            )
        for route in self.route:
            if route.preset is not None and route.preset not in self.preset:
                raise ValueError(
                    f"route {route.id!r}: there is no preset {route.preset!r} (there are: {known})"
                )
        return self

    @model_validator(mode="after")
    def _has_no_loops(self) -> Self:
        if conflict := find_conflict(self.route, Topics(self.mqtt.prefix, self.node)):
            raise ValueError(conflict)
        return self

    @model_validator(mode="after")
    def _has_a_door(self) -> Self:
        if not (self.mqtt.enabled or self.http.enabled):
            raise ValueError("both mqtt and http are switched off: there is nothing to serve")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: what the command line says, the environment, the file."""
        file = cls.model_config.get("toml_file")
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, file)) if file else sources


def load_settings(path: Path | None = None, **overrides: object) -> Settings:
    """Read the settings once, at the start of the program.

    Args:
        path: a TOML file; must exist if it is given.
        overrides: what the command line says, section by section; wins over all else.

    Raises:
        ConfigurationError: names the file or variable, the key, and what is wrong with it.
    """
    refuse_unknown_variables(os.environ)
    if path is not None and not path.is_file():
        raise ConfigurationError(f"there is no settings file {path}")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        return FromFile(**overrides)  # type: ignore[arg-type]
    except ValidationError as exc:
        raise ConfigurationError(describe(exc)) from exc
    except SettingsError as exc:
        raise ConfigurationError(_describe_variables(exc)) from exc
    except ValueError as exc:  # tomllib's, whose message has line and column
        raise ConfigurationError(f"{path}: {exc}") from exc


def describe(exc: ValidationError) -> str:
    """Say in one line per mistake which key is wrong."""
    lines = []
    for error in exc.errors(include_url=False):
        key = ".".join(str(part) for part in error["loc"])
        text = "there is no such setting" if error["type"] == "extra_forbidden" else error["msg"]
        text = text.removeprefix("Value error, ")
        lines.append(f"{key}: {text}" if key else text)
    return "; ".join(lines)


def refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """Refuse ``EDGE_LLM_TYPO``, which pydantic-settings ignores at the top level.

    Raises:
        ConfigurationError: names the variable.
    """
    for name in environment:
        if name.upper().startswith(ENV_PREFIX):
            section, _, key = name.upper().removeprefix(ENV_PREFIX).partition("__")
            field = Settings.model_fields.get(section.lower())
            if field is None or (key and not _is_section(field.annotation)):
                known = ", ".join(Settings.model_fields)
                raise ConfigurationError(f"{name}: there is no such setting (there are: {known})")


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _describe_variables(exc: SettingsError) -> str:
    """Name the variables of the section in which pydantic-settings met something else than JSON."""
    section = re.search(r'field "(\w+)"', str(exc))
    prefix = ENV_PREFIX + (section[1].upper() if section else "")
    names = ", ".join(name for name in os.environ if name.upper().startswith(prefix))
    return f"{names}: a list or a whole section must be JSON in the environment, as in '[\"a\"]'"
