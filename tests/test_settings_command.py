"""``edge-llm settings``: a file with every setting, what is wrong with one, and the page of all."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from bridges.osc import OscSettings
from edge_llm.cli.program import run
from edge_llm.section import Section
from edge_llm.settings import Settings, load_settings
from edge_llm.settings.reference import settings_file, settings_page, settings_tables
from edge_llm.settings.root import ENV_PREFIX

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"
REGENERATE = "edge-llm settings --markdown >docs/configuration.md"
MASK = "********"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def switched_on(text: str) -> Iterator[str]:
    """Yield the lines of a printed file, each default switched on, and no table that is an example.

    Settings that have no default stay as they are.
    """
    is_example = False
    for line in text.splitlines():
        if re.match(r"#?\[", line):
            is_example = line.startswith("#")
        is_default = re.match(r"#[a-z0-9_]+ = ", line) and not is_example
        yield line[1:] if is_default else line


def fields(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yield the path of each setting below a model, read from its types, not from its schema."""
    for name, field in model.model_fields.items():
        inner = f"{path}.{name}" if path else name
        # Optional, tuple[...] and dict[...] say what they hold in the end.
        held = re.findall(r"edge_llm\.[a-z_.]+\.([A-Z]\w+)", str(field.annotation))
        sections = [cls for cls in Section.__subclasses__() if cls.__name__ in held]
        if sections:
            named = "dict" in str(field.annotation)
            yield from fields(sections[0], f"{inner}.NAME" if named else inner)
        elif inner != "bridge":
            yield inner


def printed_keys(text: str) -> list[str]:
    table, keys = "", []
    for line in text.splitlines():
        if header := re.match(r"#?\[+([\w.]+)\]+$", line):
            table = header[1] + "."
        elif key := re.match(r"#([a-z0-9_]+) =", line):
            keys.append(table + key[1])
    return keys


def test_the_printed_file_is_right_as_it_stands_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "edge-llm.toml"
    file.write_text(settings_file({"osc": OscSettings}))
    assert load_settings(file).model_dump() == load_settings().model_dump()


def test_its_default_lines_switched_on_are_the_defaults(tmp_path: Path) -> None:
    text = "\n".join(switched_on(settings_file()))
    values = tomllib.loads(text)
    assert values["mqtt"]["port"] == 1883
    assert values["device"]["thermal"]["hot_duty"] == 0.5
    file = tmp_path / "edge-llm.toml"
    file.write_text(text)
    assert load_settings(file).model_dump() == load_settings().model_dump()
    assert sum(line.startswith("#") and " = " in line for line in text.splitlines()) < 100


def test_every_default_has_a_line_that_can_be_switched_on() -> None:
    """So that the test above can't pass because nothing was switched on."""
    values = tomllib.loads("\n".join(switched_on(settings_file())))

    def compare(model: BaseModel, table: dict[str, object]) -> None:
        for name, value in model:
            if isinstance(value, Section):
                inner = table[name]
                assert isinstance(inner, dict)
                compare(value, inner)
            elif value not in (None, (), {}) and name != "node":
                assert name in table, name

    compare(Settings.model_construct(), values)


def test_every_setting_is_there_once_and_no_other() -> None:
    keys = printed_keys(settings_file())
    expected = list(fields(Settings))
    assert len(expected) > 120
    assert sorted(keys) == sorted(expected)


def test_the_settings_of_a_bridge_are_there_too() -> None:
    keys = printed_keys(settings_file({"osc": OscSettings}))
    named = {key.removeprefix("bridge.osc.") for key in keys if key.startswith("bridge.osc.")}
    assert named == set(OscSettings.model_fields)


def test_every_setting_is_explained() -> None:
    for table in settings_tables():
        assert table.words or not table.path, table.path
        for key in table.keys:
            assert key.words, f"{table.path}.{key.name}"
            assert key.form, f"{table.path}.{key.name}"


def test_choices_and_ranges_are_told() -> None:
    text = settings_file()
    assert '# "auto", "5" or "3.1.1".\n#protocol = "auto"' in text
    assert "# Whole number, 1 to 65535.\n#port = 1883" in text
    assert "# Number, over 0 and at most 1.\n#hot_duty = 0.5" in text
    assert "# Secret text. Not set.\n#password =\n" in text


def test_the_page_of_the_documentation_is_what_is_generated() -> None:
    command = [sys.executable, "-m", "edge_llm", "settings", "--markdown"]
    generated = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert PAGE.read_text() == generated, f"to bring it up to date: {REGENERATE}"
    assert settings_page({"osc": OscSettings}) == generated


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(["settings", "--check", *arguments])
    out, err = capsys.readouterr()
    return code, out + err


def test_a_right_file_is_told_with_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_LLM_MQTT__PORT", "1884")
    file = tmp_path / "edge-llm.toml"
    file.write_text(
        '[mqtt]\nhost = "127.0.0.1"\npassword = "hunter2"\nprotocol = "5"\n'
        '[engine.openai]\nbase_url = "http://me:hunter2@host/v1"\n'
        '[preset.oracle]\nprompt = "What do you see?"\n'
        '[bridge.osc]\nport = 9100\n[bridge.other]\nenabled = true\npassword = "hunter2"\n'
    )
    code, said = check(capsys, str(file))
    assert code == 1  # no package offers it
    assert "bridge.other" in said
    assert "hunter2" not in said
    file.write_text(file.read_text().split("[bridge.other]")[0])
    code, said = check(capsys, str(file))
    assert code == 0
    first, _, *changes = said.splitlines()
    assert first == f"{file} is right."
    assert [line.strip() for line in changes] == [
        "mqtt.port = 1884  (EDGE_LLM_MQTT__PORT)",
        f"mqtt.password = {MASK}",
        'mqtt.protocol = "5"',
        f'engine.openai.base_url = "http://{MASK}@host/v1"',
        "bridge.osc.port = 9100",
        'preset.oracle.prompt = "What do you see?"',
    ]


def test_what_a_bridge_that_is_switched_off_is_set_to_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "edge-llm.toml"
    file.write_text('[bridge.osc]\nenabled = false\npreset = "hunter2"\n')
    assert check(capsys, str(file)) == (
        0,
        f"{file} is right.\nOther than by default:\n  bridge.osc.enabled = false\n",
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[mqtt]\nhostt = 1", "mqtt.hostt: there is no such setting"),
        ("[mqtt]\nport = 'x'", "mqtt.port"),
        ("[mqtt]\nusername =\n", "line 2"),
        ("[bridge.osc]\nport = 70000", "bridge.osc.port"),
    ],
)
def test_a_wrong_file_is_told_with_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, names: str
) -> None:
    file = tmp_path / "edge-llm.toml"
    file.write_text(text)
    code, said = check(capsys, str(file))
    assert code == 1
    assert names in said


def test_a_file_that_is_not_ours_to_read_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = tmp_path / "loop.toml"
    loop.symlink_to(loop)  # root may read everything else
    assert check(capsys, str(loop))[0] == 1
    code, said = check(capsys, str(tmp_path / "none.toml"))
    assert (code, said) == (1, f"edge-llm: there is no settings file {tmp_path}/none.toml\n")
