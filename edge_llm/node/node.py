"""What is running, and how it is."""

from collections.abc import Callable, Mapping

import structlog

from bridges.http import HttpServer
from edge_llm.engine import OpenEngine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.errors import ConfigurationError
from edge_llm.preset import Presets
from edge_llm.service import Rules, Service
from edge_llm.settings import Settings

__all__ = ["Node", "rules_of"]

log = structlog.get_logger()

SILENCE_S = 300.0
"""Without a sign of life from the line to the broker; it tries to connect once a minute at least,
and says something every 30 s."""


class Node:
    """What is running.

    Args:
        settings: as it was started with.
        load: reads the settings anew.
        opened: the engine.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings],
        opened: OpenEngine,
    ) -> None:
        self.bridges: Mapping[str, object] = {}
        """What each open bridge gave."""
        self.service: Service | None = None
        self._opened = opened
        self._settings = settings
        self._rules = rules_of(settings)
        self._load = load

    @property
    def http(self) -> HttpServer | None:
        """Where HTTP is served, if it is."""
        server = self.bridges.get("http")
        return server if isinstance(server, HttpServer) else None

    @property
    def presets(self) -> Presets:
        """The personas as they are now."""
        return self._rules.presets

    @property
    def engine(self) -> QueuedEngine:
        """What answers."""
        return self._opened.queue

    @property
    def is_ready(self) -> bool:
        """Whether it answers; also when that is an error, as a person is needed."""
        return self.engine.state in ("ready", "failed", "offline")

    @property
    def status(self) -> str:
        """How it is, in a line for ``systemctl status``."""
        queue = self.engine.health()
        attention = self.engine.stats.attention
        names = ", ".join(model.id for model in self.engine.models)
        words = [self.engine.activity, *([names] if names else []), f"{queue.waiting} waiting"]
        return "; ".join([*words, *([attention] if attention else [])])

    @property
    def progress(self) -> object:
        """Changes when the loading of the model goes on."""
        worker = self._opened.worker
        return worker and worker.progress_at

    @property
    def trouble(self) -> str | None:
        """Why the service should be started again; None while it can mend itself what is wrong."""
        if self.service and self.service.silent_s > SILENCE_S:
            return f"the line to the broker has been silent for {self.service.silent_s:.0f} s"
        worker = self._opened.worker
        if worker and worker.overdue_s > 0:
            return f"the worker's supervisor is overdue by {worker.overdue_s:.0f} s"
        return None

    def reload(self) -> None:
        """Take presets, routes and limits from the settings file as it is now.

        A file that is wrong changes nothing; it is logged, and told on the node's error topic.
        """
        try:
            settings = self._load()
        except ConfigurationError as exc:
            log.error("settings.refused", reason=exc.message, do="mend the file and reload again")
            if self.service:
                self.service.complain(exc)
            return
        self._rules = rules_of(settings)
        if self.service:
            self.service.follow(self._rules)
        restart = [
            name
            for name in Settings.model_fields
            if _static(settings, name) != _static(self._settings, name)
        ]
        log.info(
            "settings.reloaded",
            presets=len(settings.preset),
            routes=len(settings.route),
            **({"changed_after_restart_only": restart} if restart else {}),
        )


def rules_of(settings: Settings) -> Rules:
    """Return the part of the settings that may change while a node runs."""
    presets = Presets(settings.preset, settings.default_preset)
    return Rules(presets, settings.route, settings.mqtt.client)


def _static(settings: Settings, name: str) -> object:
    """Return a part of the settings without what a reload changes."""
    if name in ("preset", "default_preset", "route"):
        return None
    value = getattr(settings, name)
    return value.model_copy(update={"client": ()}) if name == "mqtt" else value
