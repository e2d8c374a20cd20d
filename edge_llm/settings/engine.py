"""What generates, and what it does where a request says nothing."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from edge_llm.section import Section
from edge_llm.settings.credentials import check_one_secret, read_secret
from edge_llm.settings.models import find_model_directory

__all__ = [
    "BackupSettings",
    "EngineSettings",
    "OpenAISettings",
    "PacedSettings",
    "QueueSettings",
    "WorkerSettings",
]


class QueueSettings(Section):
    """Requests that wait."""

    limit: Annotated[int, Field(ge=0, le=10_000)] = 16
    """Most requests that may wait; more are refused with ``queue_full``."""


class WorkerSettings(Section):
    """The process that owns the device."""

    model: Path | None = None
    """Model directory, or the name of a downloaded model; the built-in one if none is given."""
    models_dir: Path | None = None
    """Where downloaded models are: ``/var/lib/edge-llm/models`` if that exists and can be read,
    else ``~/.local/share/edge-llm/models``."""
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
    hang_timeout_s: Annotated[float, Field(gt=0)] | None = None
    """How long a step may take before the worker is taken for hung, in seconds. Measured if not
    given: 20 times the slowest one so far, from 10 to 60 s; 60 s for the first ones."""
    load_timeout_s: Annotated[float, Field(gt=0)] = 180.0
    """How long a file of the model may take to load before the worker is taken for hung, in
    seconds."""
    threads: Annotated[int, Field(ge=1, le=64)] | None = None
    """CPU threads of the ONNX Runtime; chosen by the size of the model if not given."""
    stop_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    """How long a worker may take to end by itself before it is killed, in seconds."""
    max_attempts: Annotated[int, Field(ge=1)] = 2
    """How often one request is begun before it is given up: once more after a failure."""
    restart_delay_s: Annotated[float, Field(ge=0)] = 0.5
    """Pause before a dead worker is replaced, in seconds. Where there is no card to protect it
    doubles up to a minute; see ``[recovery]``."""

    def model_directory(self) -> Path | None:
        """Return the directory of the model; None for the built-in one.

        Raises:
            ModelError: there is no downloaded model of that name.
        """
        return None if self.model is None else find_model_directory(self.model, self.models_dir)


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


def _base_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^/?#\s]+[^?#\s]*", url):
        raise ValueError('use a URL such as "http://localhost:8080/v1"')
    return url.rstrip("/")


class OpenAISettings(Section):
    """A server that generates for this node, in OpenAI's dialect: llama-server, Ollama, axllm."""

    base_url: Annotated[str, AfterValidator(_base_url)] | None = None
    """Where its paths begin: ``http://192.168.1.5:8080/v1``, ``http://localhost:11434/v1``."""
    api_key: SecretStr | None = None
    """Sent as ``Authorization: Bearer``, if the server wants a key."""
    api_key_file: Path | None = None
    """A file that holds the key and nothing else. If neither is given, the credential
    ``openai-api-key`` of systemd is taken, if there is one."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """Which of its models to use; the first that it lists if not given."""
    connect_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """How long it may take to accept a connection, in seconds."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest silence before the first piece of an answer and between two pieces, in seconds."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """How often a request is sent that the server can't be reached for, or has no room for (408,
    429, 5xx); never again after its first token."""

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        check_one_secret(self, "api_key")
        return self

    def read_api_key(self) -> str | None:
        """Return the key of the server, wherever it is; None if there is none.

        Raises:
            ConfigurationError: its file can't be used.
        """
        name = "engine.openai.api_key"
        return read_secret(name, self.api_key, self.api_key_file, "openai-api-key")


class BackupSettings(Section):
    """What answers while the card needs a person."""

    kind: Literal["none", "worker", "openai"] = "none"
    """``worker`` runs a model on the CPU, which is small or slow; ``openai`` asks a server."""
    model: Path | None = None
    """Model directory with ONNX layers, or the name of such a model among the downloaded ones
    (``[engine.worker] models_dir``); the built-in model if none is given."""
    openai: OpenAISettings = OpenAISettings()


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
    backup: BackupSettings = BackupSettings()

    @model_validator(mode="after")
    def _knows_its_server(self) -> Self:
        for name, section in (("engine", self), ("engine.backup", self.backup)):
            if section.kind == "openai" and section.openai.base_url is None:
                raise ValueError(
                    f'kind "openai" needs the address of a server: set {name}.openai.base_url, as '
                    'in "http://localhost:8080/v1"'
                )
        return self

    def second(self) -> Self | None:
        """Return the settings of the engine that answers while the card needs a person, if any."""
        if self.backup.kind == "none":
            return None
        update = {
            "kind": self.backup.kind,
            "openai": self.backup.openai,
            "worker": self.worker.model_copy(
                update={"model": self.backup.model, "runtime": "onnx", "kv_slots": 1}
            ),
            "backup": BackupSettings(),
        }
        return self.model_copy(update=update)
