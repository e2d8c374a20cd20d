"""What the documentation says is what the code does: names are compared, commands are checked."""

import json
import re
from pathlib import Path
from typing import get_args

from bridges.http.errors import error_response
from edge_llm.cli import make_parser
from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import (
    ACTIVITIES,
    CardHealth,
    Counts,
    ErrorBody,
    EventPayload,
    FaultReport,
    FleetHealth,
    FunctionCall,
    HostHealth,
    MqttRequest,
    NodeHealth,
    QueueHealth,
    RecoveryReport,
    Response,
    Timing,
    TokenLogprob,
    ToolCall,
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
    assert first_column(section("A JSON response")) == set(Response.model_fields)
    models = (Usage, Timing, ErrorBody, ToolCall, FunctionCall, TokenLogprob)
    fields = {name for model in models for name in model.model_fields}
    assert first_column(section("Parts of a response")) == fields


def test_the_examples_are_what_goes_over_the_wire() -> None:
    for title, model in (("A request", MqttRequest), ("A JSON response", Response)):
        [example] = re.findall(r"```json\n(.*?)```", section(title), re.DOTALL)
        read = model.model_validate_json(example)
        assert read.model_dump(mode="json", exclude_unset=True) == json.loads(example)


def test_every_field_of_the_health_is_documented_and_no_other() -> None:
    text = (ROOT / "docs" / "health.md").read_text()
    table = text.split("## What it says\n")[1].split("\n## ")[0]
    assert first_column(table) == set(NodeHealth.model_fields)
    rows = {row.split("|")[1].strip().strip("`"): row for row in table.splitlines() if "|" in row}
    for name, model in (
        ("card", CardHealth),
        ("host", HostHealth),
        ("queue", QueueHealth),
        ("fleet", FleetHealth),
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


def test_the_http_status_of_each_error_is_documented() -> None:
    """Where the page has none there is no way to that error over HTTP."""
    told: dict[str, str] = {}
    for line in section("Errors").splitlines():
        if line.startswith("| `"):
            codes, status = line.split("|")[1:3]
            told |= dict.fromkeys(re.findall(r"`(\w+)`", codes), status.strip())
    assert len(told) > 20
    for cls in EdgeLLMError.tree():
        if told[cls.code]:
            assert int(told[cls.code]) == error_response(cls("")).status, cls.code


def test_the_readme_and_the_help_know_every_command() -> None:
    [commands] = (action for action in make_parser()._actions if action.choices)
    text, help_text = (ROOT / "README.md").read_text(), make_parser().format_help()
    assert commands.choices
    for command in commands.choices:
        assert f"`edge-llm {command}" in text or f".venv/bin/edge-llm {command}" in text, command
        assert f"edge-llm {command}" in help_text, command


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


def test_every_trouble_with_a_broker_is_documented() -> None:
    told = first_column((ROOT / "docs" / "broker.md").read_text())
    source = "".join(file.read_text() for file in (ROOT / "edge_llm" / "mqtt").glob("*.py"))
    events = set(re.findall(r'"(mqtt\.[a-z_]+)"', source))
    assert told == events - {"mqtt.connected", "mqtt.disconnected", "mqtt.change"}


def test_every_event_is_documented_and_no_other() -> None:
    events = get_args(EventPayload.model_fields["event"].annotation)
    told = section("Events").split("<!-- end -->")[1]
    assert first_column(told) - {"event"} == set(events)
