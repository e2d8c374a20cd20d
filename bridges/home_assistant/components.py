"""The components that a node has in Home Assistant: sensors of its health, and buttons."""

from collections.abc import Collection, Mapping
from typing import get_args

from bridges.home_assistant.component import (
    Component,
    attributes,
    counter,
    diagnostic,
    enum,
    measured,
    on_or_off,
    read,
    removed,
    sensor,
)
from edge_llm.protocol import ACTIVITIES, EngineState, Heat
from edge_llm.topics import Topics

__all__ = ["button_components", "card_components", "node_components"]

BUTTONS: Mapping[str, Component] = {
    "pause": {"name": "Pause", "icon": "mdi:pause"},
    "resume": {"name": "Resume", "icon": "mdi:play"},
    "drain": {"name": "Drain", "icon": "mdi:tray-remove"},
    "reload": {"name": "Reload", "icon": "mdi:reload"},
    # Nobody should meet it on a dashboard that Home Assistant made by itself.
    "reboot_card": {"name": "Reboot card", "icon": "mdi:restart", "enabled_by_default": False},
}
OF_CARD = frozenset({"reboot_card"})


def node_components(topics: Topics, *, last_answer: bool) -> dict[str, Component]:
    """Return what each node has.

    Args:
        topics: the node's.
        last_answer: also show the latest answer.
    """
    shown = _last_answer(topics) if last_answer else removed("sensor")
    return {**_doing(topics), "last_answer": shown, **_host(topics), **_counts(topics)}


def _doing(topics: Topics) -> dict[str, Component]:
    activity = enum("Activity", "{{ value.split(' ')[0] }}", ACTIVITIES, "message-processing")
    state = enum("State", f"{{{{ {read('state')} }}}}", get_args(EngineState), "engine")
    # Without ages: each new one would be another row in Home Assistant's database.
    trouble = attributes(
        topics.health,
        attention="attention",
        fault="last_fault.message",
        fault_code="last_fault.code",
        recovery_step="recovery.step",
        recovery_reason="recovery.reason",
        recovery_attempt="recovery.attempt",
        recovery_is_over="recovery.is_over",
    )
    waiting = attributes(
        topics.health, running="queue.running", limit="queue.limit", holds="queue.holds"
    )
    return {
        "activity": {**activity, "state_topic": topics.activity},
        "attention": {**on_or_off("Attention", f"{read('attention')} or ''", "problem"), **trouble},
        "state": diagnostic(state),
        "speed": measured("Speed", "tokens_per_s", "tokens/s", digits=1, icon="speedometer"),
        "queue": {
            **measured("Queue", "queue.waiting", "requests", icon="tray-full"),
            **waiting,
        },
    }


def _last_answer(topics: Topics) -> Component:
    return {
        **sensor("Last answer", "{{ value_json.state }}", "message-text"),
        "state_topic": topics.last_answer,
        "json_attributes_topic": topics.last_answer,
        "force_update": True,  # the same answer twice is two answers
    }


def _host(topics: Topics) -> dict[str, Component]:
    throttled = on_or_off("Host throttled", read("host.throttled"), "problem")
    return {
        "host_temperature": diagnostic(
            _temperature("Host temperature", "host.temperature_celsius")
        ),
        "host_cpu": diagnostic(measured("Host CPU", "host.cpu_percent", "%", icon="chip")),
        "host_memory_available": _size("Host memory available", "host.memory_available_mib"),
        "host_disk_free": _size("Host disk free", "host.disk_free_mib"),
        "host_throttled": diagnostic(
            {**throttled, **attributes(topics.health, reasons="host.throttled")}
        ),
    }


def _counts(topics: Topics) -> dict[str, Component]:
    total = f"({read('counts.requests')} or {{}}).values() | sum"
    requests = counter("Requests", total, "message-reply-text", "requests")
    tokens = read("counts.completion_tokens")
    return {
        "requests": diagnostic(
            {**requests, **attributes(topics.health, by_outcome="counts.requests")}
        ),
        "tokens": diagnostic(counter("Generated tokens", tokens, "format-letter-case", "tokens")),
        "restarts": diagnostic(
            counter("Worker restarts", read("counts.restarts"), "restart-alert")
        ),
        "recoveries": diagnostic(counter("Recoveries", read("counts.recoveries"), "restore-alert")),
    }


def card_components() -> dict[str, Component]:
    """Return what a node with an accelerator has besides."""
    heat = enum("Heat", f"{{{{ {read('heat')} }}}}", get_args(Heat), "thermometer-alert")
    return {
        "temperature": _temperature("Temperature", "card.temperature_celsius"),
        "heat": diagnostic(heat),
        "npu": measured("NPU", "card.npu_percent", "%", icon="chip"),
        "card_cpu": diagnostic(measured("Card CPU", "card.cpu_percent", "%", icon="chip")),
        "cmm_used": _size("CMM used", "card.cmm_used_mib"),
        "cmm_free": _size("CMM free", "card.cmm_free_mib"),
        "cmm_total": _size("CMM total", "card.cmm_total_mib"),
        "card_answers": diagnostic(on_or_off("Card", read("card.answers"), "connectivity")),
    }


def _temperature(name: str, path: str) -> Component:
    return measured(name, path, "°C", digits=1, device_class="temperature")


def _size(name: str, path: str) -> Component:
    return diagnostic(measured(name, path, "MiB", device_class="data_size"))


def button_components(
    topics: Topics, allowed: Collection[str], *, has_card: bool
) -> dict[str, Component]:
    """Return the buttons for the commands that are allowed, and take away the others."""
    button = {
        "platform": "button",
        "command_topic": topics.command,
        "qos": 1,
        "entity_category": "config",
    }
    return {
        f"command_{command}": {**button, "payload_press": command, **shown}
        if command in allowed
        else removed("button")
        for command, shown in BUTTONS.items()
        if has_card or command not in OF_CARD or command not in allowed
    }
