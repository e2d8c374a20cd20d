"""Defaults < file < environment < command line; and what is mistyped is refused by its name."""

import os
import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from edge_llm.errors import ConfigurationError
from edge_llm.settings import Settings, load_settings
from edge_llm.settings.root import ENV_PREFIX


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def write(path: Path, text: str) -> Path:
    file = path / "edge-llm.toml"
    file.write_text(text)
    return file


def test_without_anything_the_defaults_hold() -> None:
    settings = load_settings()
    assert (settings.mqtt.host, settings.mqtt.port) == ("127.0.0.1", 1883)
    assert settings.http.host == "127.0.0.1"
    assert settings.engine.kind == "worker"
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", settings.node)


def test_each_source_wins_over_the_one_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, '[mqtt]\nhost = "file"\nport = 1\nprefix = "file"\nusername = "file"')
    monkeypatch.setenv("EDGE_LLM_MQTT__PORT", "2")
    monkeypatch.setenv("EDGE_LLM_MQTT__PREFIX", "env")
    settings = load_settings(file, mqtt={"prefix": "line"})
    mqtt = settings.mqtt
    assert (mqtt.host, mqtt.port, mqtt.prefix, mqtt.keepalive_s) == ("file", 2, "line", 30)


def test_sections_within_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, '[engine]\nmax_tokens = 9\n[engine.worker]\nmodel = "/models/x"')
    monkeypatch.setenv("EDGE_LLM_ENGINE__QUEUE__LIMIT", "3")
    engine = load_settings(file).engine
    assert (engine.max_tokens, engine.worker.model, engine.queue.limit) == (9, Path("/models/x"), 3)


def test_names_of_variables_may_be_written_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("edge_llm_node", "stage")
    assert load_settings().node == "stage"


def test_lists_are_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LLM_HTTP__MODEL_ALIASES", '["gpt-*"]')
    assert load_settings().http.model_aliases == ("gpt-*",)


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, '[mqtt]\npassword = "hunter2"'))
    assert isinstance(settings.mqtt.password, SecretStr)
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('nod = "x"', "nod: there is no such setting"),
        ("[mqt]\nport = 1", "mqt: there is no such setting"),
        ("[mqtt]\nhostt = 'x'", "mqtt.hostt: there is no such setting"),
        ("[engine.queue]\nlimits = 1", "engine.queue.limits: there is no such setting"),
        ("[mqtt]\nhostt = 1\nporrt = 1", "mqtt.porrt"),
        ("[mqtt]\nport = 'many'", "mqtt.port"),
        ("[mqtt]\nport = 0", "mqtt.port"),
        ("[mqtt]\nprefix = 'a/+'", "mqtt.prefix: use 1 to 64 letters"),
        (f"[mqtt]\nprefix = '{'a/' * 600}a'", "mqtt.prefix: use at most 128"),
        ("a = " + "[" * 1000, "nested too deeply"),
        ("node = 'a/b'", "node: use 1 to 64 letters"),
        ("mqtt = 'broker'", "mqtt"),
        ("[engine]\ntemperature = 3", "engine.temperature"),
        ("[engine]\nkind = 'gpu'", "engine.kind"),
        ("[engine.paced]\ntext = ''", "engine.paced.text"),
        ("[http]\nmodel_aliases = 'gpt'", "http.model_aliases"),
        ("[mqtt", "edge-llm.toml"),
        ("[mqtt]\nhost = 'x\n", "edge-llm.toml"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, names: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(names)):
        load_settings(write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "value", "names"),
    [
        ("EDGE_LLM_TYPO", "1", "EDGE_LLM_TYPO: there is no such setting"),
        ("EDGE_LLM_", "1", "EDGE_LLM_: there is no such setting"),
        ("EDGE_LLM_MQTT_HOST", "x", "EDGE_LLM_MQTT_HOST: there is no such setting"),
        ("EDGE_LLM_MQTTT__HOST", "x", "EDGE_LLM_MQTTT__HOST: there is no such setting"),
        ("edge_llm_typo", "1", "edge_llm_typo: there is no such setting"),
        ("EDGE_LLM_MQTT__HOSTT", "x", "mqtt.hostt: there is no such setting"),
        ("EDGE_LLM_ENGINE__QUEUE__LIMITS", "1", "engine.queue.limits: there is no such setting"),
        ("EDGE_LLM_ENGINE__QUEUE_LIMIT", "1", "engine.queue_limit: there is no such setting"),
        ("EDGE_LLM_NODE__NAME", "x", "EDGE_LLM_NODE__NAME: there is no such setting"),
        ("EDGE_LLM_MQTT__PORT", "many", "mqtt.port"),
        ("EDGE_LLM_MQTT__ENABLED", "perhaps", "mqtt.enabled"),
        ("EDGE_LLM_MQTT", "{", "EDGE_LLM_MQTT: a list or a whole section must be JSON"),
        ("EDGE_LLM_MQTT", "7", "mqtt"),
        ("EDGE_LLM_HTTP__MODEL_ALIASES", "gpt-*", "EDGE_LLM_HTTP__MODEL_ALIASES: a list"),
        ("EDGE_LLM_ENGINE__QUEUE", "many", "EDGE_LLM_ENGINE__QUEUE: a list"),
    ],
)
def test_mistakes_in_the_environment_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, names: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=re.escape(names)) as error:
        load_settings()
    assert "None" not in error.value.message


def test_mistakes_on_the_command_line_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"mqtt\.hostt"):
        load_settings(mqtt={"hostt": "x"})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(str(tmp_path / "x.toml"))):
        load_settings(tmp_path / "x.toml")
    with pytest.raises(ConfigurationError, match=re.escape(str(tmp_path))):
        load_settings(tmp_path)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"x\.toml"):
        load_settings(tmp_path / "x.toml")


def test_a_node_without_a_door_is_refused(tmp_path: Path) -> None:
    text = "[mqtt]\nenabled = false\n[http]\nenabled = false"
    with pytest.raises(ConfigurationError, match="nothing to serve"):
        load_settings(write(tmp_path, text))
    assert not load_settings(write(tmp_path, "[mqtt]\nenabled = false")).mqtt.enabled


def test_one_file_does_not_reach_the_next_call(tmp_path: Path) -> None:
    load_settings(write(tmp_path, '[mqtt]\nhost = "file"'))
    assert load_settings().mqtt.host == "127.0.0.1"


def test_settings_are_frozen() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.mqtt.port = 1  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    def check(model: type[Settings]) -> None:
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and hasattr(kind, "model_fields"):
                check(kind)
            else:
                assert field.description, name

    check(Settings)


PERSONA = """
default_preset = "oracle"
[preset.oracle]
system_prompt = "An oracle."
stop = ["#"]
[[route]]
topic = "house/+/button"
preset = "oracle"
respond_to = "house/{{ levels[1] }}/speaker"
[[mqtt.client]]
match = "esp*"
max_bytes = 200
"""


def test_personas_and_buttons_come_from_the_file(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, PERSONA))
    assert settings.preset["oracle"].stop == ("#",)
    assert settings.route[0].id == "house-button"
    assert settings.mqtt.client[0].max_bytes == 200


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ('default_preset = "oracle"', 'default_preset = "cat"', "there is no preset 'cat'"),
        ('\npreset = "oracle"', '\npreset = "cat"', "route 'house-button': there is no preset"),
        ("[preset.oracle]", '[preset."a/b"]', "letters, digits"),
        ("stop", "stopp", "preset.oracle.stopp: there is no such setting"),
        ("house/{{ levels[1] }}/speaker", "house/{{ levels[1] }}/button", "would never stop"),
        ("house/+/button", "house/+x/button", "'+' may only stand alone"),
        ("max_bytes = 200", "max_bytes = 2", "mqtt.client.0.max_bytes"),
    ],
)
def test_mistakes_in_personas_and_buttons_are_named(
    tmp_path: Path, old: str, new: str, names: str
) -> None:
    assert old in PERSONA
    with pytest.raises(ConfigurationError, match=re.escape(names)):
        load_settings(write(tmp_path, PERSONA.replace(old, new)))
