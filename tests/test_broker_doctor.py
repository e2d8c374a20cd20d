"""What the doctor says of a broker."""

from pathlib import Path

from edge_llm.broker_doctor import examine_broker
from edge_llm.settings import load_settings
from tests.brokers import Broker, Mosquitto
from tests.programs import HOST, free_port


async def findings(broker: Broker | None = None, **engine: object) -> dict[str, str]:
    port = broker.port if broker else free_port()
    protocol = broker.settings().protocol if broker else "auto"
    mqtt = {"host": HOST, "port": port, "protocol": protocol}
    settings = load_settings(node="stage", mqtt=mqtt, engine=engine)
    return {heading: text async for heading, text in examine_broker(settings)}


async def test_the_window_of_mqtt_3_1_1_is_measured(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto:
        said = await findings(mosquitto.broker("5"))
        assert said["broker"] == f"{HOST}:{mosquitto.port} speaks MQTT 5"
        assert "at most 17 unacknowledged" in said["MQTT 5"]
        assert said["MQTT 3.1.1"].startswith("it hands out 20 requests to a node that speaks it")
        assert "set max_inflight" not in said["MQTT 3.1.1"]
        said = await findings(mosquitto.broker("3.1.1"), queue={"limit": 40})
        assert said["broker"].endswith("speaks MQTT 3.1.1")
        assert "MQTT 5" not in said
        assert "hands out 20 requests to this node at once" in said["MQTT 3.1.1"]
        assert "set max_inflight_messages 41" in said["MQTT 3.1.1"]


async def test_the_brokers_own_setting_is_seen(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, {"max_inflight_messages": "7"}) as mosquitto:
        assert "hands out 7 requests" in (await findings(mosquitto.broker("5")))["MQTT 3.1.1"]


async def test_a_broker_that_is_not_there_is_said() -> None:
    said = await findings()
    assert list(said) == ["broker"]
    assert "does not let us in" in said["broker"]
