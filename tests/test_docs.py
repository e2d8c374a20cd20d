"""What the documentation says is what the code does: names are compared, commands are checked."""

import re
from pathlib import Path
from typing import get_args

from edge_llm.cli import make_parser
from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import (
    ACTIVITIES,
    CardHealth,
    Counts,
    EventPayload,
    FaultReport,
    HostHealth,
    MqttRequest,
    NodeHealth,
    QueueHealth,
    RecoveryReport,
    Response,
    Timing,
    Usage,
)
from edge_llm.settings import Command, RecoverySettings, ThermalSettings, load_settings

TOML = r"```toml\n(.*?)```"
ROOT = Path(__file__).parents[1]


def section(title: str) -> str:
    text = (ROOT / "docs" / "protocol.md").read_text()
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def first_column(table: str) -> set[str]:
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_request_field_is_documented_and_no_other() -> None:
    assert first_column(section("A request")) == set(MqttRequest.model_fields)


def test_every_response_field_is_documented_and_no_other() -> None:
    text = section("A JSON response")
    assert first_column(text) == set(Response.model_fields)
    for name in (*Usage.model_fields, *Timing.model_fields):
        assert f"`{name}`" in text


def test_every_field_of_the_health_is_documented_and_no_other() -> None:
    text = (ROOT / "docs" / "health.md").read_text()
    table = text.split("## What it says\n")[1].split("\n## ")[0]
    assert first_column(table) == set(NodeHealth.model_fields)
    rows = {row.split("|")[1].strip().strip("`"): row for row in table.splitlines() if "|" in row}
    for name, model in (
        ("card", CardHealth),
        ("host", HostHealth),
        ("queue", QueueHealth),
        ("counts", Counts),
        ("last_fault", FaultReport),
        ("recovery", RecoveryReport),
    ):
        named = set(re.findall(r"`([a-z_]+)`", rows[name])) - {name}
        assert named == set(model.model_fields)


def test_every_activity_is_documented_and_no_other() -> None:
    for page in ("health.md", "protocol.md"):
        text = (ROOT / "docs" / page).read_text()
        words = re.search(r"for lights: ([^|]*?)[.|]", text.replace("\n", " "))
        assert words, page
        named = {word.split()[0] for word in re.findall(r"`([^`]+)`", words[1])}
        assert named == set(ACTIVITIES), page


def test_the_thresholds_of_the_documentation_are_the_defaults() -> None:
    text = (ROOT / "docs" / "health.md").read_text()
    thermal = ThermalSettings()
    for heat in ("warn", "hot", "critical", "emergency"):
        celsius = getattr(thermal, f"{heat}_celsius")
        assert f"| {celsius:g} °C | `{heat}` |" in text
    assert f"at most {thermal.hot_max_tokens} tokens" in text
    assert f"below {thermal.resume_celsius:g} °C" in text
    recovery = RecoverySettings()
    assert (
        f"at most {recovery.max_per_hour} attempts and {recovery.max_resets_per_hour} resets"
        in text
    )


def test_every_command_is_documented_and_no_other() -> None:
    text = (ROOT / "docs" / "health.md").read_text().split("## Commands\n")[1].split("\n## ")[0]
    assert first_column(text) - {"command"} == set(get_args(Command))


def test_every_error_code_is_documented_and_no_other() -> None:
    assert first_column(section("Errors")) == {cls.code for cls in EdgeLLMError.tree()}


def test_every_command_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    commands = set(
        re.findall(
            r"edge-llm (serve|demo|ask|watch|http|api-key|doctor|export|home-assistant)\b", text
        )
    )
    assert commands == {
        "serve",
        "demo",
        "ask",
        "watch",
        "http",
        "api-key",
        "doctor",
        "export",
        "home-assistant",
    }
    help_text = make_parser().format_help()
    assert all(f"edge-llm {command}" in help_text for command in commands)


def test_the_two_commands_are_one_line_each() -> None:
    text = (ROOT / "README.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("python3 -m venv")]
    assert [line.rsplit(" && ", 1)[1] for line in lines] == [
        ".venv/bin/edge-llm demo",
        ".venv/bin/python -m pytest",
    ]


def test_the_settings_of_the_documentation_are_settings(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "buttons.md").read_text()
    blocks = re.findall(TOML, text, re.DOTALL)
    assert len(blocks) == 4
    file = tmp_path / "edge-llm.toml"
    file.write_text("\n".join(blocks))
    settings = load_settings(file)
    assert set(settings.preset) == {"oracle", "robot"}
    assert [route.id for route in settings.route] == ["button", "weather"]
    assert settings.mqtt.client[0].match == "esp*"


def test_the_settings_of_the_broker_page_are_settings(tmp_path: Path) -> None:
    [block] = re.findall(TOML, (ROOT / "docs" / "broker.md").read_text(), re.DOTALL)
    file = tmp_path / "edge-llm.toml"
    file.write_text(block)
    assert load_settings(file).mqtt.tls.enabled


def test_every_trouble_with_a_broker_is_documented() -> None:
    told = first_column((ROOT / "docs" / "broker.md").read_text())
    source = "".join(file.read_text() for file in (ROOT / "edge_llm" / "mqtt").glob("*.py"))
    events = set(re.findall(r'"(mqtt\.[a-z_]+)"', source))
    assert told == events - {"mqtt.connected", "mqtt.disconnected", "mqtt.change"}


def test_the_settings_of_the_readme_are_settings(tmp_path: Path) -> None:
    [block] = re.findall(TOML, (ROOT / "README.md").read_text(), re.DOTALL)
    file = tmp_path / "edge-llm.toml"
    file.write_text(block)
    assert load_settings(file).route[0].while_busy == "replace"


def test_every_event_is_documented_and_no_other() -> None:
    events = get_args(EventPayload.model_fields["event"].annotation)
    assert first_column(section("Events")) - {"event"} == set(events)
