"""Settings, one frozen section per part: defaults < TOML file < environment.

``EDGE_LLM_MQTT__HOST=broker.local`` sets ``host`` of section ``[mqtt]``. A key that does not exist
is refused by name, in the file and in the environment.
"""

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
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

__all__ = [
    "EngineSettings",
    "HttpSettings",
    "LogSettings",
    "MqttSettings",
    "PacedSettings",
    "QueueSettings",
    "Settings",
    "WorkerSettings",
    "load_settings",
]

ENV_PREFIX = "EDGE_LLM_"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _topic_level(name: str) -> str:
    """Names stand in topics and client ids, so they must be one plain level."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise ValueError("use 1 to 64 letters, digits, '-', '_' or '.'")
    return name


def _topic_prefix(prefix: str) -> str:
    for level in prefix.split("/"):
        _topic_level(level)
    return prefix


def _default_node() -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64] or "edge-llm"


class MqttSettings(_Section):
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
    prefix: Annotated[str, AfterValidator(_topic_prefix)] = "llm"
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


class HttpSettings(_Section):
    """The HTTP bridge."""

    enabled: bool = True
    """Serve HTTP."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 takes a free one."""
    model_aliases: tuple[str, ...] = ()
    """Further names that clients may ask for, with wildcards: ``["gpt-*"]``."""


class QueueSettings(_Section):
    """Requests that wait."""

    limit: Annotated[int, Field(ge=0, le=10_000)] = 16
    """Most requests that may wait; more are refused with ``queue_full``."""


class WorkerSettings(_Section):
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


class PacedSettings(_Section):
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


class EngineSettings(_Section):
    """What generates, and what it does where a request says nothing."""

    kind: Literal["worker", "paced"] = "worker"
    """``worker`` runs the model; ``paced`` says a fixed text at a set speed."""
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
    repeat_penalty: Annotated[float, Field(gt=0, le=4)] = 1.0
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


class LogSettings(_Section):
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

    node: Annotated[str, AfterValidator(_topic_level)] = Field(default_factory=_default_node)
    """This node's name, in its topics and its MQTT client id; the host's name by default."""
    mqtt: MqttSettings = MqttSettings()
    http: HttpSettings = HttpSettings()
    engine: EngineSettings = EngineSettings()
    log: LogSettings = LogSettings()

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
    return isinstance(annotation, type) and issubclass(annotation, _Section)


def _describe_variables(exc: SettingsError) -> str:
    """Name the variables of the section in which pydantic-settings met something else than JSON."""
    section = re.search(r'field "(\w+)"', str(exc))
    prefix = ENV_PREFIX + (section[1].upper() if section else "")
    names = ", ".join(name for name in os.environ if name.upper().startswith(prefix))
    return f"{names}: a list or a whole section must be JSON in the environment, as in '[\"a\"]'"
