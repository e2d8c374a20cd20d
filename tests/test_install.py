"""systemd/install.sh, run as it is meant to be: as root, in a Debian that has its own systemd."""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.debian_root import (
    INSTALL,
    DebianMachine,
    fresh_machine,
    installed_machine,
    require_installation,
)
from tests.programs import require_program

# Whoever comes first makes Debian, and installs: a minute, or two where others work, too.
pytestmark = pytest.mark.timeout(500)

SETTINGS = "/etc/edge-llm/edge-llm.toml"
SNIPPET = "/etc/mosquitto/conf.d/edge-llm.conf"
TREE = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp "
    "-o -path /var/log -o -path /var/lib/mosquitto -o -path /var/lib/systemd "
    "-o -path '/var/lib/edge-llm/*.sqlite3*' -o -path /var/tmp -o -path /root/.cache \\) -prune "
    "-o -printf '%p %M %u:%g %T@ %s %l\\n' | sort"
)
"""All files that nothing but installing changes."""
UNIT = "/etc/systemd/system/edge-llm.service"
BREAK = """sed -i 's/^    settings = load()/    raise SystemExit("broken")/'"""
PID = "systemctl show -P MainPID edge-llm"
TWO_QUICK_ATTEMPTS = (
    "mkdir -p /etc/systemd/system/edge-llm.service.d; "
    "printf '[Service]\\nRestartSec=1\\n' >/etc/systemd/system/edge-llm.service.d/quick.conf; "
    "systemctl daemon-reload"
)


def tree(machine: DebianMachine) -> set[str]:
    return set(machine.run(TREE).stdout.splitlines())


def what(machine: DebianMachine, format: str, *paths: str) -> list[str]:
    return machine.run(f"stat -c '{format}' {' '.join(paths)}").stdout.splitlines()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianMachine]:
    """For tests that leave it as it was."""
    with installed_machine(tmp_path_factory.mktemp("shared") / "machine") as machine:
        yield machine


@contextmanager
def installed(tmp_path: Path) -> Iterator[DebianMachine]:
    with installed_machine(tmp_path / "machine") as machine:
        yield machine


def test_a_fresh_debian_gives_its_first_answer_in_five_minutes() -> None:
    installation = require_installation()
    print(f"from install.sh to the answer: {installation.seconds:.0f} s")
    assert installation.seconds < 300
    assert len(installation.answer.split()) > 3
    assert "edge-llm: ready after" in installation.output
    assert "mosquitto_pub -t llm/request/button7" in installation.output


def test_it_says_what_it_would_do_and_does_nothing(tmp_path: Path) -> None:
    with fresh_machine(tmp_path / "machine") as machine:
        before = tree(machine)
        said = machine.run(f"{INSTALL} --dry-run").stdout
        assert "would install Debian's python3-venv mosquitto mosquitto-clients" in said
        assert "would make /opt/edge-llm-" in said
        assert tree(machine) == before


def test_a_second_run_changes_nothing(machine: DebianMachine) -> None:
    before, pid = tree(machine), machine.run(PID).stdout
    said = machine.run(INSTALL).stdout
    assert "nothing to do: it runs" in said
    assert tree(machine) == before
    assert "write" not in machine.run(f"{INSTALL} --dry-run").stdout
    assert "would remove /opt/edge-llm" in machine.run(f"{INSTALL} --uninstall --dry-run").stdout
    assert tree(machine) == before
    assert machine.run(PID).stdout == pid


def test_who_may_read_what(machine: DebianMachine) -> None:
    assert what(machine, "%A %U:%G", SETTINGS, "/etc/credstore", "/var/lib/edge-llm/models") == [
        "-rw-r----- root:edge-llm",
        "drwx------ root:root",
        "drwxrwsr-x edge-llm:edge-llm",
    ]
    uid = machine.run("id -u edge-llm").stdout.strip()
    pid = machine.run(PID).stdout.strip()
    assert f"Uid:\t{uid}\t{uid}" in machine.run(f"cat /proc/{pid}/status").stdout
    machine.run("echo s3cret >pw; chmod 644 pw")
    assert "ready after" in machine.run(f"{INSTALL} --credential mqtt-password=pw").stdout
    secret = "/etc/credstore/edge-llm.mqtt-password"
    assert what(machine, "%a %U", secret) == ["600 root"]
    files = machine.run(f"nsenter -m -t $({PID}) cat /run/credentials/edge-llm.service/*")
    assert files.stdout == "s3cret\n"
    journal = machine.run("journalctl -b -u systemd-journald -o cat").stdout
    assert re.search(r"System Journal .* max 200.0M", journal)


def test_the_card_is_for_the_group(machine: DebianMachine) -> None:
    """What udev makes of a device that is here, in a machine with its own nodes."""
    rules = "/etc/udev/rules.d"
    assert what(machine, "%a %U:%G", "/dev/full") == ["666 root:root"]
    machine.run(f"sed -i 's/axcl_host/axcl_host|full/' {rules}/99-edge-llm.rules")
    # The vendor's own rule, which is read later.
    machine.run(f"""echo 'KERNEL=="full", MODE="0666", GROUP="root"' >{rules}/axcl_host.rules""")
    said = machine.run("udevadm test --action=add /sys/class/mem/full").stderr
    assert "Invalid" not in said
    assert what(machine, "%a %U:%G", "/dev/full") == ["660 root:edge-llm"]
    machine.run(f"rm {rules}/axcl_host.rules; sed -i 's/|full//' {rules}/99-edge-llm.rules")


def test_a_broker_that_has_been_set_up_is_left_alone(tmp_path: Path) -> None:
    with installed(tmp_path) as machine:
        machine.run(f"echo '# mine' >>{SNIPPET}")
        assert "has been changed here" in machine.run(INSTALL).stdout
        assert "# mine" in machine.run(f"cat {SNIPPET}").stdout
        machine.run(f"rm {SNIPPET}; echo 'listener 1883' >/etc/mosquitto/conf.d/house.conf")
        assert "/etc/mosquitto/conf.d/house.conf; compare" in machine.run(INSTALL).stdout
        assert machine.run(f"test -e {SNIPPET}", check=False).returncode == 1
        machine.run(
            "rm /etc/mosquitto/conf.d/house.conf; echo rubbish >>/etc/mosquitto/mosquitto.conf"
        )
        outcome = machine.run(INSTALL, check=False)
        assert outcome.returncode == 1
        assert f"mosquitto does not take {SNIPPET}, which is away again" in outcome.stderr


@pytest.mark.soak
def test_a_model_of_ones_own(tmp_path: Path) -> None:
    """A directory at home, which the service can't see, on a machine without settings."""
    with installed(tmp_path) as machine:
        built_in = "/opt/edge-llm/lib/python3*/site-packages/edge_llm/tiny/model"
        machine.run(f"mkdir -p /home/me && cp -r {built_in} /home/me/my-model; rm {SETTINGS}")
        said = machine.run(f"{INSTALL} --model /home/me/my-model").stdout
        assert "copy the model to /var/lib/edge-llm/models/my-model" in said
        assert "edge-llm: ready after" in said
        checked = machine.run("edge-llm settings --check").stdout
        assert 'engine.worker.model = "my-model"' in checked
        assert machine.ask()


def test_http_for_a_node_elsewhere(machine: DebianMachine) -> None:
    ask = "python3 -c 'import urllib.request as u; print(u.urlopen(\"{}\").read())'"
    assert "disabled" in machine.run("systemctl is-enabled edge-llm-http", check=False).stdout
    # The node of this very machine stands for the one elsewhere; its own HTTP is off.
    machine.run("systemctl stop edge-llm")
    node = (
        "systemd-run -q -u node --setenv=EDGE_LLM_HTTP__ENABLED=false "
        "/opt/edge-llm/bin/edge-llm serve"
    )
    machine.run(node)
    machine.run("systemctl disable -q edge-llm; systemctl enable -q --now edge-llm-http")
    url = "http://127.0.0.1:8000/v1/models"
    machine.run(f"until {ask.format(url)} | grep edge-llm-tiny; do sleep 0.2; done", timeout_s=60)
    # Whoever chose it keeps it.
    assert "nothing to do: it runs" in machine.run(INSTALL).stdout
    machine.run("systemctl disable -q --now edge-llm-http; systemctl stop node")
    machine.run("systemctl enable -q --now edge-llm")


def test_a_version_that_does_not_get_ready_is_not_kept(tmp_path: Path) -> None:
    """The short form: it is gone back to; the long one is an upgrade."""
    with installed(tmp_path) as machine:
        version = machine.run("readlink /opt/edge-llm").stdout.strip()
        machine.run(f"cp -al /opt/{version} /opt/edge-llm-0.0.1-1")
        machine.run("ln -s edge-llm-0.0.1-1 /opt/edge-llm.previous")
        other = "/opt/edge-llm-0.0.1-1"
        machine.run(f"{BREAK} {other}/lib/python3*/site-packages/edge_llm/cli/serve.py")
        # Its own path is in its programs. (sed writes a new file; the old version keeps its own.)
        files = f"$(grep -lI {version} {other}/bin/*) {other}/pyvenv.cfg"
        machine.run(f"sed -i 's/{version}/edge-llm-0.0.1-1/' {files}")
        unit = f"{other}/share/edge-llm/systemd/edge-llm.service"
        machine.run(f"sed -i '$a # of that version' {unit}")
        machine.run(TWO_QUICK_ATTEMPTS)
        goes_back(machine, f"{INSTALL} --back")


def goes_back(machine: DebianMachine, command: str) -> None:
    state = f"readlink /opt/edge-llm; sha256sum {SETTINGS} {UNIT}"
    before = machine.run(state).stdout
    outcome = machine.run(command, check=False)
    assert outcome.returncode == 1
    assert "broken" in outcome.stderr  # from the journal
    version = before.split()[0]
    assert f"does not get ready, and is removed; {version} runs again" in outcome.stderr
    assert machine.run(state).stdout == before
    assert machine.run("ls -d /opt/edge-llm*").stdout.split() == [
        "/opt/edge-llm",
        f"/opt/{version}",
    ]
    assert machine.ask()


def test_uninstalling_leaves_what_it_says(tmp_path: Path) -> None:
    ours = (
        "find / -xdev \\( -path /root -o -path /proc -o -path /sys -o -path /run -o -path /var/log "
        "-o -path /var/lib/systemd \\) -prune -o -name '*edge-llm*' -print | sort; "
        "getent passwd edge-llm | cut -d: -f1"
    )
    with installed(tmp_path) as machine:
        machine.run("echo s3cret >pw; mkdir /var/lib/edge-llm/models/mine")
        machine.run(f"{INSTALL} --credential mqtt-password=pw --no-start")
        said = machine.run("/opt/edge-llm/share/edge-llm/systemd/install.sh --uninstall").stdout
        assert machine.run(ours).stdout.split() == [
            "/etc/credstore/edge-llm.mqtt-password",
            "/etc/edge-llm",
            SETTINGS,
            "/var/lib/edge-llm",
            "edge-llm",
        ]
        assert "/etc/edge-llm, /etc/credstore/edge-llm.*, /var/lib/edge-llm, the user" in said
        assert machine.run("ls /var/lib/edge-llm/models").stdout == "mine\n"
        machine.run("mosquitto_pub -t x -m y")  # the broker is there, as it came
        machine.run(f"{INSTALL} --uninstall --purge")
        assert machine.run(ours, check=False).stdout == ""
        assert "edge-llm" not in machine.run("systemctl --all --no-legend").stdout


def test_mistakes_on_the_command_line_are_refused(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "systemd" / "install.sh"
    for arguments, code in (
        (["--wheel"], 2),
        (["--colour"], 2),
        (["--credential", f"root={script}"], 2),
        (["--wheel", str(tmp_path / "nowhere.whl")], 1),
        (["--purge"], 1),
        (["--help"], 0),
    ):
        outcome = subprocess.run([script, *arguments], check=False, capture_output=True, text=True)
        assert outcome.returncode == code, (arguments, outcome.stderr)
        assert outcome.stderr or outcome.stdout.startswith("Usage: install.sh")


def test_the_scripts_have_no_known_trap() -> None:
    program = require_program("shellcheck", "shellcheck")
    folder = Path(__file__).parents[1] / "systemd"
    scripts = [*folder.glob("*.sh"), *folder.glob("install/*"), *folder.glob("debian/*")]
    assert len(scripts) >= 9
    outcome = subprocess.run(
        [program, "-x", *scripts], check=False, cwd=folder.parent, capture_output=True, text=True
    )
    assert outcome.stdout == ""


# -- The long forms


@pytest.mark.soak
def test_an_upgrade_that_does_not_get_ready_goes_back(tmp_path: Path) -> None:
    with installed(tmp_path) as machine:
        machine.run(f"""sed -i 's/^#node =.*/node = "fountain"/' {SETTINGS}""")
        machine.run("systemctl restart edge-llm")
        machine.run(TWO_QUICK_ATTEMPTS)
        machine.run(f"{BREAK} edge-llm/edge_llm/cli/serve.py")
        machine.run("echo '# of the new version' >>edge-llm/systemd/edge-llm.service")
        goes_back(machine, INSTALL)


@pytest.mark.soak
def test_an_upgrade_keeps_the_settings_and_can_be_taken_back(tmp_path: Path) -> None:
    with installed(tmp_path) as machine:
        machine.run(f"""sed -i 's/^#node =.*/node = "fountain"/' {SETTINGS}""")
        settings = machine.run(f"cat {SETTINGS}").stdout
        first = machine.run("readlink /opt/edge-llm").stdout
        for version in ("8.1.0", "8.2.0"):
            init = "edge-llm/edge_llm/__init__.py"
            machine.run(f"""sed -i 's/^__version__ = .*/__version__ = "{version}"/' {init}""")
            assert "edge-llm: ready after" in machine.run(INSTALL).stdout
            assert version in machine.run("edge-llm --version").stdout
        assert "edge-llm-8.1.0-1" in machine.run("ls /opt").stdout
        assert first.strip() not in machine.run("ls /opt").stdout
        assert machine.run(f"cat {SETTINGS}").stdout == settings
        machine.run("edge-llm/systemd/install.sh --back")
        assert "8.1.0" in machine.run("edge-llm --version").stdout
        machine.run("edge-llm/systemd/install.sh --back")
        assert "8.2.0" in machine.run("edge-llm --version").stdout
        assert machine.ask()


@pytest.mark.soak
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_from_a_fresh_debian_with_what_one_types(tmp_path: Path, suite: str) -> None:
    """As docs/deployment.md says it, but that the clone is of what is here."""
    with fresh_machine(tmp_path / "machine", suite) as machine:
        machine.run("mv edge-llm source; apt-get -q update; apt-get -q clean")
        typed = [
            "apt-get install -y git",
            "git clone source edge-llm",
            INSTALL,
            "mosquitto_sub -R -t llm/response/button7 -C 1 -W 60 & sleep 1; "
            "mosquitto_pub -t llm/request/button7 -m 'Who are you?'; wait",
        ]
        began = time.monotonic()
        machine.run(typed[0])
        seconds = time.monotonic() - began
        machine.run(
            "cd source; git init -q; git add .; "
            "git -c user.name=me -c user.email=me@localhost commit -qm all"
        )
        began = time.monotonic()
        machine.run(typed[1])
        machine.run(typed[2])
        answer = machine.run(typed[3]).stdout
        seconds += time.monotonic() - began
        print(f"{suite}: {len(typed)} commands, {seconds:.0f} s: {answer}")
        assert len(typed) <= 6
        assert seconds < 300
        assert len(answer.split()) > 3
        assert machine.run("systemctl --failed --no-legend").stdout == ""


@pytest.mark.soak
def test_into_an_image(tmp_path: Path) -> None:
    with installed(tmp_path) as machine:
        machine.run(f"DESTDIR=/srv/image {INSTALL}")
        image = machine.run("cd /srv/image; find . ! -path '*/opt/edge-llm-*/*' ! -type d | sort")
        assert image.stdout.split() == [
            "./etc/edge-llm/edge-llm.toml",
            "./etc/mosquitto/conf.d/edge-llm.conf",
            "./etc/systemd/journald.conf.d/edge-llm.conf",
            "./etc/systemd/system/edge-llm-driver.path",
            "./etc/systemd/system/edge-llm-driver.service",
            "./etc/systemd/system/edge-llm-http.service",
            "./etc/systemd/system/edge-llm.service",
            "./etc/systemd/system/multi-user.target.wants/edge-llm-driver.path",
            "./etc/systemd/system/multi-user.target.wants/edge-llm.service",
            "./etc/sysusers.d/edge-llm.conf",
            "./etc/tmpfiles.d/edge-llm.conf",
            "./etc/udev/rules.d/99-edge-llm.rules",
            "./opt/edge-llm",
            "./usr/local/bin/edge-llm",
        ]
        # Booted, it is /; here, the programs take the place of those that are installed.
        machine.run("systemctl stop edge-llm; rm -rf /opt/edge-llm*; cp -a /srv/image/opt/* /opt/")
        machine.run("rm -rf /srv/image; systemctl start edge-llm")
        assert machine.ask()


@pytest.mark.soak
def test_a_debian_package(tmp_path: Path) -> None:
    with installed(tmp_path) as machine:
        began = time.monotonic()
        machine.run("edge-llm/systemd/build-deb.sh")
        print(f"built in {time.monotonic() - began:.0f} s")
        (deb,) = (machine.files / "root/edge-llm/dist").iterdir()
        package = tmp_path / deb.name
        package.write_bytes(deb.read_bytes())
    assert re.fullmatch(r"edge-llm_\d+\.\d+\.\d+_\w+\.deb", package.name)
    with fresh_machine(tmp_path / "fresh") as machine:
        (machine.files / "root" / package.name).write_bytes(package.read_bytes())
        machine.run("apt-get -q update")
        began = time.monotonic()
        machine.run(f"apt-get install -y ./{package.name}")
        assert machine.ask()
        print(f"installed and answered in {time.monotonic() - began:.0f} s")
        conffile = "dpkg-query -W -f '${Conffiles}' edge-llm"
        assert SETTINGS in machine.run(conffile).stdout
        # All is as it was packed, but manuals, which this Debian does without.
        assert machine.run("dpkg -V edge-llm | grep -v ' /usr/share/doc'", check=False).stdout == ""
        machine.run(f"""sed -i 's/^#node =.*/node = "fountain"/' {SETTINGS}""")
        machine.run(f"apt-get install -y --reinstall ./{package.name}")
        assert 'node = "fountain"' in machine.run(f"cat {SETTINGS}").stdout
        machine.run("apt-get remove -y edge-llm")
        assert "edge-llm" not in machine.run("ls /opt /usr/bin").stdout
        assert 'node = "fountain"' in machine.run(f"cat {SETTINGS}").stdout
        machine.run("apt-get purge -y edge-llm")
        left = "find / -xdev \\( -path /root -o -path /var/log -o -path /proc -o -path /sys "
        left += "-o -path /var/lib/systemd -o -path /run \\) -prune -o -name '*edge-llm*' -print"
        assert machine.run(left).stdout == ""
        assert machine.run("getent passwd edge-llm", check=False).stdout == ""
