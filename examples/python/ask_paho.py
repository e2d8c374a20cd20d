"""Ask edge-llm over MQTT with paho-mqtt alone: for programs that should not depend on edge-llm.

What it shows: MQTT 5's Response Topic and Correlation Data, sentences as they are generated, and
errors. Whoever has MQTT 3.1.1 only publishes to llm/request/<id> and listens to llm/response/<id>.

What to change: nothing; MQTT_HOST and MQTT_PORT say where the broker is (localhost, 1883).

How to run: pip install paho-mqtt, then
    MQTT_HOST=broker.local python ask_paho.py "Tell me a story."
"""

import json
import os
import queue
import sys
import threading
import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

HOST = os.environ.get("MQTT_HOST", "localhost")
PORT = int(os.environ.get("MQTT_PORT", "1883"))
TIMEOUT_S = 60


def ask(question: str) -> int:
    """Ask, print what comes, and return the exit code."""
    me = uuid.uuid4().hex[:8]
    reply_to = f"python-{me}/reply"  # any first level, then "reply": what nodes answer to
    inbox: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
    subscribed = threading.Event()

    def on_connect(client, userdata, flags, reason, properties):
        # Each time that it connects: a broker that was restarted may have forgotten it.
        client.subscribe(f"{reply_to}/#", qos=1)

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_connect = on_connect
    client.on_message = lambda client, userdata, message: inbox.put(message)
    client.on_subscribe = lambda *args: subscribed.set()
    client.connect(HOST, PORT)
    client.loop_start()
    try:
        subscribed.wait(TIMEOUT_S)  # else the answer might come before anybody hears it
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = reply_to
        properties.CorrelationData = me.encode()  # whoever asks more than once tells answers by it
        properties.MessageExpiryInterval = TIMEOUT_S  # then nobody waits for it any more
        request = json.dumps({"prompt": question, "stream": "sentence"})
        client.publish(f"llm/request/python/{me}", request, qos=1, properties=properties)
        while True:
            message = inbox.get(timeout=TIMEOUT_S)
            body = json.loads(message.payload)
            if message.topic == f"{reply_to}/delta":
                print(f"> {body['text'].strip()}", flush=True)
            elif error := body.get("error"):
                print(f"no answer: {error['code']}: {error['message']}", file=sys.stderr)
                return 1
            else:
                print(body["text"])
                return 0
    except queue.Empty:
        print(f"no answer within {TIMEOUT_S} s", file=sys.stderr)
        return 1
    finally:
        client.disconnect()
        client.loop_stop()


if __name__ == "__main__":
    sys.exit(ask(sys.argv[1] if len(sys.argv) > 1 else "Who are you?"))
