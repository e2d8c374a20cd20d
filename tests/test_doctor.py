"""The doctor names what is wrong with each of these installations, and its cure."""

import asyncio
import os
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_llm.doctor import Case, Finding, Machine, diagnose, open_case
from edge_llm.doctor import disk as disk_checks
from edge_llm.fleet import FleetNames
from edge_llm.fleet.connection import connect_fleet
from edge_llm.fleet.setup import set_up
from edge_llm.settings import FleetSettings, Settings
from tests.accounts import Accounts
from tests.ailing import CARD, KERNEL, Pi
from tests.brokers import Mosquitto, open_amqtt
from tests.card_tools import SEEN
from tests.clients import RawClient
from tests.fleet_stage import fleet_node
from tests.hardware import card, shared, smi
from tests.nats import NatsServer, nats_servers
from tests.programs import HOST, accepts, free_port, require_program, wait_until

__all__ = ["card", "shared", "smi"]

ROOT = Path(__file__).parents[1]
BUS = f"sys/bus/pci/devices/{CARD}"


@dataclass
class Ward:
    """An installation that a test makes ill.

    Attributes:
        settings: of the node.
        config: the text of a settings file, in place of these.
        machine: the machine, if not the Pi.
    """

    folder: Path
    pi: Pi
    model: Path
    stack: AsyncExitStack
    patch: pytest.MonkeyPatch
    settings: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    machine: Machine | None = None

    async def case(self) -> Case:
        machine = self.machine or Machine(self.pi.root)
        if self.config is not None:
            file = self.folder / "edge-llm.toml"
            file.write_text(self.config)
            return await open_case(file, machine)
        return Case(Settings.model_validate({"node": "stage", **self.settings}), machine=machine)

    def mosquitto(
        self, changes: dict[str, str | None] | None = None, *more: str, **mqtt: object
    ) -> Mosquitto:
        """Start a broker, which the node is set to."""
        broker = self.stack.enter_context(Mosquitto(self.folder, changes, *more))
        self.settings["mqtt"] = {"host": HOST, "port": broker.port, **mqtt}
        return broker

    def nats(self, *more: str) -> NatsServer:
        """Start a server, which the node is set to."""
        [server] = self.stack.enter_context(nats_servers(self.folder, 1, *more))
        self.settings["mqtt"] = {"host": HOST, "port": server.mqtt_port, "protocol": "3.1.1"}
        self.settings["fleet"] = {"servers": [server.url]}
        return server

    def nats_without_jetstream(self) -> str:
        """Start a server without a configuration; return its address."""
        port, log = free_port(), self.folder / "nats.log"
        command = [require_program("nats-server", "nats-server"), "-a", HOST, "-p", str(port)]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        self.stack.callback(process.wait)
        self.stack.callback(process.terminate)
        wait_until(lambda: accepts(port), process, log)
        return f"nats://{HOST}:{port}"

    def accounts(self, acl: str, password: str = "password of edge-llm") -> None:
        """Start a broker that lets one account in, with rights of its own."""
        Accounts(self.folder / "accounts", "edge-llm")
        (self.folder / "acl").write_text(f"user edge-llm\n{acl}")
        (self.folder / "acl").chmod(0o600)
        changes: dict[str, str | None] = {"allow_anonymous": "false"}
        more = (f"password_file {self.folder}/accounts", f"acl_file {self.folder}/acl")
        self.mosquitto(changes, *more, username="edge-llm", password=password)

    def serve_card_model(self) -> None:
        """Have the node run a model that is for the card."""
        self.settings["engine"] = {"worker": {"model": self.model}}


Break = Callable[[Ward], Awaitable[None]]


@dataclass(frozen=True)
class Ailment:
    """What is wrong, and what the doctor is to say of it."""

    cause: Break
    check: str
    status: str
    found: str
    cure: str
    only: tuple[str, ...]
    too: frozenset[str]


AILMENTS: dict[str, Ailment] = {}


def ailment(
    check: str,
    status: str,
    found: str,
    cure: str,
    *,
    only: str | None = None,
    too: tuple[str, ...] = (),
) -> Callable[[Break], Break]:
    """Add an installation to the list.

    Args:
        check: that finds it.
        status: of the finding.
        found: words of what is said.
        cure: words of the cure.
        only: which checks are run; all of the same heading if not given.
        too: other checks that rightly say something of it.
    """

    def add(cause: Break) -> Break:
        checks = (only or f"{check.partition('.')[0]}.",)
        name = cause.__name__.replace("_", " ").strip()
        AILMENTS[name] = Ailment(cause, check, status, found, cure, checks, frozenset(too))
        return cause

    return add


# -- Settings


@ailment("settings.file", "fail", "mqtt.hots: there is no such setting", "sudo nano")
async def a_mistyped_setting(ward: Ward) -> None:
    ward.config = '[mqtt]\nhots = "broker.local"\npassword = "hush"\n'


@ailment("settings.file", "fail", "line 2", "sudo nano")
async def a_settings_file_that_is_no_toml(ward: Ward) -> None:
    ward.config = "[mqtt]\nhost = broker.local\n"


@ailment("settings.bridges", "fail", "bridge.dmx: no package offers", "install the one that does")
async def a_bridge_that_is_not_installed(ward: Ward) -> None:
    ward.settings["bridge"] = {"dmx": {}}


@ailment("settings.secrets", "fail", "No such file or directory", "owner and mode")
async def a_password_file_that_is_missing(ward: Ward) -> None:
    ward.settings["mqtt"] = {"username": "edge-llm", "password_file": ward.folder / "nothing"}


@ailment("settings.exposed", "warn", "broker.local lets us in without", "mqtt.password_file")
async def a_broker_that_is_open_to_all(ward: Ward) -> None:
    ward.settings["mqtt"] = {"host": "broker.local"}


# -- Broker


@ailment("broker.reachable", "fail", "connection refused", "mosquitto")
async def a_broker_that_does_not_run(ward: Ward) -> None:
    ward.settings["mqtt"] = {"port": free_port()}


@ailment(
    "broker.reachable",
    "fail",
    "Not authorized",
    "set mqtt.username and mqtt.password",
    only="broker.reach",
)
async def a_wrong_password(ward: Ward) -> None:
    ward.accounts("topic readwrite llm/#\n", password="hush")


@ailment(
    "broker.acl",
    "fail",
    "hears no requests (llm/request/+)",
    "mosquitto/edge-llm.acl",
    only="broker.acl",
)
async def an_account_that_may_not_hear_requests(ward: Ward) -> None:
    ward.accounts("topic readwrite llm/node/#\ntopic write llm/request/#\ntopic write llm/#\n")


@ailment(
    "broker.acl",
    "fail",
    "may not publish answers (llm/response/#)",
    "mosquitto/edge-llm.acl",
    only="broker.acl",
)
async def an_account_that_may_not_answer(ward: Ward) -> None:
    ward.accounts("topic readwrite llm/node/#\ntopic readwrite llm/request/#\n")


@ailment(
    "broker.nodelay",
    "warn",
    "waits for delayed acknowledgements",
    "set_tcp_nodelay true",
    only="broker.nodelay",
)
async def a_broker_that_waits_40_ms(ward: Ward) -> None:
    ward.mosquitto({"set_tcp_nodelay": None})


@ailment(
    "broker.persistence",
    "warn",
    "is lost when it is restarted",
    "put 'persistence true'",
    only="broker.persistence",
)
async def a_broker_that_forgets(ward: Ward) -> None:
    ward.mosquitto({"persistence": None})
    ward.machine = Machine()  # where it really runs


@ailment(
    "broker.persistence",
    "warn",
    "every 30 minutes only: a power cut",
    "put 'autosave_interval 30'",
    only="broker.persistence",
)
async def a_broker_that_seldom_writes(ward: Ward) -> None:
    ward.mosquitto({"autosave_interval": None})
    ward.machine = Machine()


@ailment(
    "broker.inflight",
    "warn",
    "it hands out 3 requests at once",
    "max_inflight_messages 17",
    only="broker.inflight",
)
async def a_broker_with_a_small_window(ward: Ward) -> None:
    ward.mosquitto({"max_inflight_messages": "3"}, protocol="3.1.1")


@ailment("broker.session", "warn", "it kept 5;", "max_queued_messages 1000", only="broker.session")
async def a_broker_with_a_small_queue(ward: Ward) -> None:
    ward.mosquitto({"max_queued_messages": "5"})


@ailment(
    "broker.session",
    "fail",
    "it forgets a client that is away",
    "sudo apt install mosquitto",
    only="broker.session",
)
async def a_broker_that_is_for_trials(ward: Ward) -> None:
    port = await ward.stack.enter_async_context(open_amqtt())
    ward.settings["mqtt"] = {"host": HOST, "port": port}


@ailment(
    "broker.name",
    "warn",
    "a node called 'stage' is online, and it does not run on this machine",
    'node = "stage-2"',
    only="broker.name",
)
async def another_node_of_the_same_name(ward: Ward) -> None:
    client = RawClient(ward.mosquitto().port)
    async with client:
        client.publish("llm/node/stage/status", "online", retain=True)
        await asyncio.sleep(0.05)


@ailment(
    "broker.name",
    "fail",
    "two nodes are called 'stage', and throw each other out",
    'node = "stage-2"',
    only="broker.name",
)
async def two_nodes_of_one_name(ward: Ward) -> None:
    client = await ward.stack.enter_async_context(RawClient(ward.mosquitto().port))

    async def take_turns() -> None:
        while True:
            for status in ("online", "offline"):
                client.publish("llm/node/stage/status", status, retain=True)
                await asyncio.sleep(0.1)

    task = asyncio.create_task(take_turns())
    ward.stack.callback(task.cancel)


# -- Fleet


@ailment("fleet.servers", "fail", "connection refused", "systemctl start nats-server")
async def a_fleet_without_servers(ward: Ward) -> None:
    ward.settings["fleet"] = {"servers": [f"nats://{HOST}:{free_port()}"]}


@ailment("fleet.servers", "warn", "connection refused", "systemctl start nats-server")
async def a_fleet_with_a_server_away(ward: Ward) -> None:
    server = ward.nats()
    ward.settings["fleet"] = {"servers": [server.url, f"nats://{HOST}:{free_port()}"]}


@ailment("fleet.servers", "fail", "Authorization Violation", "edge-llm nats-user add --node")
async def a_fleet_that_does_not_know_us(ward: Ward) -> None:
    server = ward.nats('authorization { user: "edge-llm", password: "another" }')
    account = {"username": "edge-llm", "password": "hush"}
    ward.settings["fleet"] = {"servers": [server.url], **account}


@ailment("fleet.streams", "fail", "without JetStream", "jetstream {}")
async def servers_as_debian_starts_them(ward: Ward) -> None:
    ward.settings["fleet"] = {"servers": [ward.nats_without_jetstream()]}


@ailment("fleet.streams", "fail", "do not say what they keep", "the rights of a node")
async def a_fleet_that_lets_us_do_little(ward: Ward) -> None:
    account = {"username": "edge-llm", "password": "hush"}
    user = 'user: edge-llm, password: hush, permissions: { publish: "llm.>", subscribe: ">" }'
    server = ward.nats(f"authorization {{ users: [ {{ {user} }} ] }}")
    ward.settings["fleet"] = {"servers": [server.url], **account}


@ailment("fleet.streams", "fail", "LOCKS has max_age 30", "as the others are")
async def a_fleet_with_other_settings(ward: Ward) -> None:
    await set_up_fleet(ward.nats().url, lease_s=30)


@ailment("fleet.copies", "warn", "1 copy is kept where 3 could be", "--replicas 3")
async def a_fleet_that_grew(ward: Ward) -> None:
    server = ward.nats()
    await set_up_fleet(server.url)
    ward.settings["fleet"] = {"servers": [server.url] * 3}


async def set_up_fleet(url: str, **settings: Any) -> None:
    fleet = FleetSettings(servers=(url,), **settings)
    async with connect_fleet(fleet, "test") as client:
        await set_up(client, FleetNames("llm"), fleet)


# -- Card


@ailment("card.present", "fail", "no AX650 is on the PCI bus", "dtparam=pciex1", only="card.link")
async def a_card_that_is_not_on_the_bus(ward: Ward) -> None:
    ward.pi.path(BUS).unlink()
    ward.pi.edit("boot/firmware/config.txt", "dtparam=pciex1\n", "")


@ailment("card.link", "warn", "x1 at 2.5 GT/s", "reseat the ribbon cable")
async def a_slow_link(ward: Ward) -> None:
    ward.pi.write(f"{BUS}/current_link_speed", "2.5 GT/s PCIe\n")


@ailment("card.link", "warn", "x1 at 5 GT/s, where card and slot have x2", "clean its contacts")
async def a_narrow_link(ward: Ward) -> None:
    ward.pi.write(f"{BUS}/../max_link_width", "4\n")


@ailment("card.driver", "fail", "axcl_host not loaded", "sudo modprobe axcl_host")
async def a_driver_that_is_not_loaded(ward: Ward) -> None:
    ward.pi.write("proc/modules", "brcmfmac 344064 0 - Live 0x0000000000000000\n")


@ailment("card.driver", "fail", "not built for this kernel (7.0.1)", "sudo dkms autoinstall")
async def a_kernel_that_was_upgraded(ward: Ward) -> None:
    ward.pi.write("proc/modules", "")
    ward.pi.write("proc/sys/kernel/osrelease", "7.0.1\n")


@ailment("card.device", "fail", "may not use /dev/axcl_host", "systemd/edge-llm.udev")
async def a_device_that_is_closed(ward: Ward) -> None:
    ward.pi.path("dev/axcl_host").chmod(0o000)


@ailment("card.firmware", "fail", "ax650_card.pac", "reinstall axclhost")
async def a_firmware_that_is_missing(ward: Ward) -> None:
    ward.pi.path("lib/firmware/axcl/ax650_card.pac").unlink()


@ailment("card.answers", "fail", "is there and does not answer", "axcl-smi reboot")
async def a_card_that_does_not_answer(ward: Ward) -> None:
    ward.pi.program("usr/bin/axcl/axcl-smi", f"cat {SEEN}/table_shell_fails_80300181.stdout.txt")


@ailment("card.log", "fail", "the card is dead: [ 9800.1] axcl_host: device 1: dead!", "wait 10 s")
async def a_card_that_died(ward: Ward) -> None:
    ward.pi.log("[ 9800.1] axcl_host: device 1: dead!\n")


@ailment("card.log", "warn", "the card died, and came back", "power supply")
async def a_card_that_came_back(ward: Ward) -> None:
    ward.pi.log(
        "[ 9700.1] [axcl]: recv dma size 0 is not equal to 524288\n"
        "[ 9800.1] axcl_host: device 1: dead!\n[ 9900.1] axcl_host: device 1: alive!\n"
    )


@ailment("card.log", "fail", "broke off in mid-transfer", "axcl-smi reboot")
async def a_process_that_was_killed(ward: Ward) -> None:
    ward.pi.log("[ 9800.1] [axcl]: recv dma size 0 is not equal to 524288\n")


@ailment("card.log", "fail", "contiguous memory (CMA) ran out", "reboot", too=("machine.cma",))
async def a_host_without_contiguous_memory(ward: Ward) -> None:
    ward.pi.log("[ 9800.1] ax_sglist_alloc_mem size 4194304 failed\n")


@ailment("machine.cma", "warn", "0 of 64 MiB of contiguous memory are free", "sudo reboot")
async def contiguous_memory_that_is_used_up(ward: Ward) -> None:
    ward.pi.edit("proc/meminfo", "CmaFree:           60000", "CmaFree:               0")


@ailment("card.versions", "warn", "firmware V3.6.5", "one release of axclhost")
async def a_firmware_of_another_release(ward: Ward) -> None:
    ward.pi.card(used_mib=18, firmware="V3.6.5")


@ailment("card.memory", "warn", "no process uses the rest", "axcl-smi reboot")
async def memory_that_a_dead_process_left(ward: Ward) -> None:
    ward.pi.card(used_mib=3000)


@ailment("card.temperature", "fail", "81 °C: the node pauses from 80 °C on", "see the fan")
async def a_card_that_is_too_hot(ward: Ward) -> None:
    ward.pi.card(used_mib=18, celsius=81)


@ailment("card.library", "fail", "libaxcl_rt.so is not there", "axclhost")
async def a_runtime_that_is_not_installed(ward: Ward) -> None:
    ward.serve_card_model()
    ward.pi.path("usr/lib/axcl/libaxcl_rt.so").unlink()


# -- Model


@ailment("model.memory", "fail", "only 40 of the card's 7040 are free", "stop what else uses")
async def a_model_that_does_not_fit(ward: Ward) -> None:
    ward.serve_card_model()
    ward.pi.card(used_mib=7000)


@ailment("model.directory", "fail", "is a Git LFS pointer", "git lfs pull")
async def a_model_of_lfs_pointers(ward: Ward) -> None:
    copy = ward.folder / "model"
    shutil.copytree(ward.model, copy)
    [post] = copy.glob("*_post.axmodel")
    post.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 424609063\n")
    ward.settings["engine"] = {"worker": {"model": copy}}


@ailment("model.directory", "fail", "it is cut off", "download it again")
async def a_download_that_broke_off(ward: Ward) -> None:
    copy = ward.folder / "model"
    shutil.copytree(ward.model, copy)
    layer = next(iter(sorted(copy.glob("*_l3_*.axmodel"))))
    os.truncate(layer, layer.stat().st_size // 2)
    ward.settings["engine"] = {"worker": {"model": copy}}


@ailment("model.directory", "fail", "there is no model qwen3-4b", "edge-llm model get qwen3-4b")
async def a_model_that_was_not_downloaded(ward: Ward) -> None:
    ward.settings["engine"] = {"worker": {"model": "qwen3-4b"}}


@ailment("model.server", "fail", "does not answer", "engine.openai.base_url")
async def a_server_that_is_away(ward: Ward) -> None:
    url = f"http://{HOST}:{free_port()}/v1"
    ward.settings["engine"] = {"kind": "openai", "openai": {"base_url": url}}


# -- Machine


@ailment("machine.memory", "fail", "150 of 8062 MiB are available", "take a smaller model")
async def a_machine_without_memory(ward: Ward) -> None:
    ward.pi.edit("proc/meminfo", "MemAvailable:    6256128", "MemAvailable:     153600")


@ailment("machine.clock", "warn", "not synchronised", "timedatectl set-ntp true")
async def a_clock_that_nobody_sets(ward: Ward) -> None:
    ward.pi.program("usr/bin/timedatectl", "echo NTPSynchronized=no")


@ailment("machine.power", "fail", "now: under voltage, throttled", "27 W")
async def a_weak_power_supply(ward: Ward) -> None:
    ward.pi.path(
        "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
    ).unlink()
    ward.pi.program("usr/bin/vcgencmd", "echo throttled=0x50005")


@ailment("machine.log", "fail", "the SD card or disk fails", "replace it")
async def a_dying_sd_card(ward: Ward) -> None:
    ward.pi.log("[ 9800.1] I/O error, dev mmcblk0, sector 1234 op 0x1:(WRITE)\n")


@ailment("disk.system", "fail", "are free", "df -h", too=("disk.store", "disk.models"))
async def a_full_disk(ward: Ward) -> None:
    ward.patch.setattr(disk_checks, "FULL_BYTES", 2**62)
    ward.pi.path("var/lib/mosquitto/.keep").unlink()
    ward.pi.path("var/lib/mosquitto").rmdir()


# -- Ports and services


@ailment("ports.http", "fail", "is taken by", "or set another http.port")
async def a_port_that_is_taken(ward: Ward) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), HOST, 0)
    await ward.stack.enter_async_context(server)
    ward.settings["http"] = {"port": server.sockets[0].getsockname()[1]}


@ailment(
    "services.edge-llm",
    "fail",
    "failed (exit-code)",
    "journalctl -u edge-llm -n 50",
    too=("services.edge-llm-http", "services.mosquitto"),
)
async def a_service_that_failed(ward: Ward) -> None:
    ward.pi.unit(ActiveState="failed", SubState="failed", Result="exit-code")


@ailment("services.nodes", "warn", "2 nodes run on this machine", "stop one")
async def two_nodes_on_one_machine(ward: Ward) -> None:
    for pid in (1200, 1300):
        ward.pi.process(pid, "/opt/edge-llm/bin/python", "/opt/edge-llm/bin/edge-llm", "serve")


@pytest.fixture
async def ward(
    tmp_path: Path,
    card_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Ward]:
    async with AsyncExitStack() as stack:
        yield Ward(tmp_path, Pi(tmp_path / "pi"), card_model_dir, stack, monkeypatch)


async def findings(ward: Ward, *only: str) -> list[Finding]:
    return [finding async for finding in diagnose(await ward.case(), only or ("",))]


def amiss(found: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in found if finding.status in ("warn", "fail")}


def test_there_are_more_than_twenty() -> None:
    assert len(AILMENTS) >= 40


@pytest.mark.parametrize("name", AILMENTS)
async def test_it_names_what_is_wrong_and_the_cure(name: str, ward: Ward) -> None:
    ailment = AILMENTS[name]
    await ailment.cause(ward)
    found = await findings(ward, *ailment.only)
    told = [finding for finding in found if finding.check == ailment.check]
    assert any(
        finding.status == ailment.status
        and ailment.found in finding.found
        and ailment.cure in str(finding.cure)
        for finding in told
    ), found
    assert set(amiss(found)) - ailment.too == {ailment.check}, amiss(found)
    assert "hush" not in repr(found)


def test_the_page_on_trouble_has_what_it_says() -> None:
    """Each check that can find something is on the page, and the page names no other."""
    words = r"(?:python|settings|broker|fleet|card|model|machine|disk|ports|services)\.[a-z-]+"
    sources = (ROOT / "edge_llm" / "doctor").glob("*.py")
    checks = {name for file in sources for name in re.findall(f'"({words})"', file.read_text())}
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    told = [line.split("|")[2] for line in page.splitlines() if line.startswith("|")]
    named = set(re.findall(f"`({words})`", " ".join(told)))
    assert named <= checks | {"services.edge-llm"}, named - checks
    assert {ailment.check for ailment in AILMENTS.values()} <= named


async def test_a_fleet_that_is_well(ward: Ward) -> None:
    server = ward.nats()
    ward.settings["mqtt"]["protocol"] = "auto"
    found = await findings(ward, "fleet.", "broker.")
    assert not amiss(found)
    async with fleet_node(server, "hall"), fleet_node(server, "foyer"):
        found = await findings(ward, "fleet.", "broker.")
    said = {finding.check: finding.found for finding in found}
    assert not amiss(found)
    assert "lets us in: nats-server 2." in said["fleet.servers"]
    assert "as this node wants them" in said["fleet.streams"]
    assert said["fleet.nodes"] == "there: foyer, hall"
    assert said["broker.protocol"] == "MQTT 3.1.1, as nats-server speaks it"


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_the_rights_that_we_ship_will_do(ward: Ward, protocol: str) -> None:
    Accounts(ward.folder / "accounts", "edge-llm")
    shutil.copy(ROOT / "mosquitto" / "edge-llm.acl", ward.folder / "acl")
    (ward.folder / "acl").chmod(0o600)
    ward.mosquitto(
        {"allow_anonymous": "false"},
        f"password_file {ward.folder}/accounts",
        f"acl_file {ward.folder}/acl",
        protocol=protocol,
        username="edge-llm",
        password="password of edge-llm",
    )
    found = await findings(ward, "broker.")
    assert not amiss(found)
    skipped = {finding.check for finding in found if finding.status == "skip"}
    # What brokers say of themselves is not among the rights, and no mosquitto runs on the Pi.
    assert skipped == {"broker.version", "broker.persistence"}
    told = {finding.check: finding.found for finding in found}
    assert told["broker.acl"] == "hears requests; may publish answers"


async def test_root_tries_the_password_that_systemd_hands_to_the_service(ward: Ward) -> None:
    ward.accounts("topic readwrite llm/#\n")
    del ward.settings["mqtt"]["password"]
    found = await findings(ward, "broker.reach")
    assert amiss(found)["broker.reachable"].found.endswith("Not authorized")
    file = ward.pi.write("etc/credstore/edge-llm.mqtt-password", "password of edge-llm\n")
    assert not amiss(await findings(ward, "broker.reach"))
    file.chmod(0o644)
    found = await findings(ward, "settings.file")
    assert amiss(found)["settings.secrets"].cure == (
        "sudo chmod 600 /etc/credstore/edge-llm.mqtt-password"
    )


async def test_a_healthy_installation_has_nothing_to_cure(
    ward: Ward, smi: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = ward.mosquitto()
    config = ward.folder / "mosquitto.conf"
    ward.pi.process(900, "/usr/sbin/mosquitto", "-c", str(config))
    ward.pi.write(str(config).lstrip("/"), config.read_text())
    ward.settings |= {"device": {"axcl_smi": smi}, "http": {"port": 0}}
    ward.serve_card_model()
    began = time.monotonic()
    found = await findings(ward)
    duration_s = time.monotonic() - began
    assert not amiss(found)
    said = {finding.check: finding.found for finding in found if finding.status == "ok"}
    assert said["broker.reachable"] == f"{HOST}:{broker.port} lets us in"
    assert said["broker.protocol"] == "MQTT 5"
    assert "mosquitto version" in said["broker.version"]
    assert said["broker.persistence"] == "on, written every 30 s"
    assert said["broker.acl"] == "hears requests; may publish answers"
    assert said["broker.session"].startswith("17 of 17 requests")
    assert said["card.link"].startswith("x1 at 5 GT/s")
    assert said["card.memory"].startswith("7022 of 7040 MiB")
    assert "of the card's 7040 are free" in said["model.memory"]
    assert f"Linux {KERNEL}" in said["python.system"]
    # Every check says something: what a helper would ask next is there.
    assert {"card.versions", "machine.clock", "services.edge-llm", "disk.store"} <= set(said)
    with capsys.disabled():
        print(f"\n  the doctor took {duration_s:.1f} s of 5, with nothing that hangs")
    assert duration_s < 15
