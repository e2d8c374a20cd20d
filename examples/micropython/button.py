"""A button that asks edge-llm, and a display of two lines that shows the answer.

For MicroPython on an ESP32 or a Pico W.

What to change: the settings below, and `show`, which prints to the serial line as it stands: put
your display's driver there.

How to run: copy umqtt to the board (`mpremote mip install umqtt.simple`), and this file as main.py
(`mpremote cp button.py :main.py`, then `mpremote reset`). Nothing but a button from
BUTTON_PIN to ground is needed to see it work.
"""

import json
import socket
import time

import machine
import network
from umqtt.simple import MQTTClient

WIFI = "my-network"
WIFI_PASSWORD = "my-password"
BROKER = "192.168.1.10"
PORT = 1883
DEVICE = "button1"  # of its own for each device: whoever else has it is sent away
PASSWORD = None  # at a broker with accounts: `edge-llm mqtt-user add button1` prints one
BUTTON_PIN = 0  # from this pin to ground

REQUEST = "llm/request/" + DEVICE
RESPONSE = "llm/response/" + DEVICE
# No question: the node's default preset has one. The answer comes as plain text, and as whole
# messages of at most 200 bytes: this device never needs memory for more, however long the answer.
QUESTION = json.dumps({"format": "text", "max_bytes": 200, "parts": True})

DEBOUNCE_MS = 30
PAGE_MS = 2500  # as long as two lines are shown
ANSWER_TIMEOUT_MS = 60_000
KEEPALIVE_S = 60
PING_MS = 20_000
CONNECT_TIMEOUT_S = 4  # less than the watchdog's 8 s, which are the most that a Pico has
WATCHDOG_MS = 8000
RETRY_MS = (1000, 60_000)  # the first pause before trying again, and the longest
COLUMNS = 16


def show(upper, lower):
    """Show two lines: lcd.move_to(0, 0), lcd.putstr(upper) and so on, with your driver."""
    # By hand: MicroPython's format counts the bytes of "ä", which are two.
    print("|" + "|".join(line + " " * (COLUMNS - len(line)) for line in (upper, lower)) + "|")


class Button:
    """A button without bounce: pressed is what stays pressed for 30 ms."""

    def __init__(self, pin):
        self._pin = machine.Pin(pin, machine.Pin.IN, machine.Pin.PULL_UP)
        self._is_down = self._was_down = False
        self._since = time.ticks_ms()

    def is_pressed(self):
        """Tell once for each press."""
        is_down = self._pin.value() == 0
        now = time.ticks_ms()
        if is_down != self._was_down:
            self._was_down, self._since = is_down, now
        elif is_down != self._is_down and time.ticks_diff(now, self._since) >= DEBOUNCE_MS:
            self._is_down = is_down
            return is_down
        return False


class Pages:
    """Text that goes over a small display, two lines at a time."""

    def __init__(self):
        self._lines = []
        self._next_at = time.ticks_ms()

    def begin(self, text=""):
        """Forget what was to come, and show this at once."""
        self._lines = []
        self._next_at = time.ticks_ms()
        self.add(text)

    def add(self, text):
        """Show this after all that is to come already."""
        line = ""
        for word in text.split():
            if line and len(line) + 1 + len(word) > COLUMNS:
                self._lines.append(line)
                line = ""
            line = line + " " + word if line else word
            while len(line) > COLUMNS:  # a word that is longer than the display
                self._lines.append(line[:COLUMNS])
                line = line[COLUMNS:]
        if line:
            self._lines.append(line)

    def turn(self):
        """Show the next two lines when it is time."""
        if self._lines and time.ticks_diff(time.ticks_ms(), self._next_at) >= 0:
            upper = self._lines.pop(0)
            lower = self._lines.pop(0) if self._lines else ""
            self._next_at = time.ticks_add(time.ticks_ms(), PAGE_MS)
            show(upper, lower)


class Line:
    """The line to the broker: made again when it breaks, ever more patiently."""

    def __init__(self, on_message):
        self._on_message = on_message
        self._wlan = network.WLAN(network.STA_IF)
        self._client = None
        self._pause_ms = RETRY_MS[0]
        self._next_at = time.ticks_ms()

    def poll(self):
        """Read what has come, and make the line anew if it is broken; tell whether it is there."""
        now = time.ticks_ms()
        try:
            if self._client:
                self._client.check_msg()
                if time.ticks_diff(now, self._next_at) >= 0:
                    self._client.ping()
                    self._next_at = time.ticks_add(now, PING_MS)
            elif time.ticks_diff(now, self._next_at) >= 0:
                self._connect()
        except Exception as exc:  # noqa: BLE001 (umqtt has many ways to say that the line is gone)
            self.drop(exc)
        return self._client is not None

    def publish(self, topic, payload):
        """Send a message; tell whether there was a line to send it on."""
        try:
            self._client.publish(topic, payload)
        except Exception as exc:  # noqa: BLE001 (as above)
            self.drop(exc)
        return self._client is not None

    def drop(self, why):
        """Give the line up; the next one is made after a pause."""
        print("no line:", repr(why))
        if self._client and self._client.sock:
            self._client.sock.close()
        self._client = None
        self._next_at = time.ticks_add(time.ticks_ms(), self._pause_ms)
        self._pause_ms = min(2 * self._pause_ms, RETRY_MS[1])

    def _connect(self):
        if not self._wlan.isconnected():
            self._wlan.active(True)
            self._wlan.connect(WIFI, WIFI_PASSWORD)
            raise OSError("no Wi-Fi yet")
        reach(BROKER, PORT)
        client = MQTTClient(DEVICE, BROKER, PORT)
        # Not in the call above: the oldest umqtt has no arguments for them.
        client.user, client.pswd, client.keepalive = PASSWORD and DEVICE, PASSWORD, KEEPALIVE_S
        client.set_callback(self._on_message)
        self._client = client  # already: a board has few sockets, and it is closed if this fails
        client.connect()
        for topic in (RESPONSE, RESPONSE + "/part/+", RESPONSE + "/error"):
            client.subscribe(topic)
        self._pause_ms = RETRY_MS[0]
        self._next_at = time.ticks_add(time.ticks_ms(), PING_MS)
        print("connected")


def reach(host, port):
    """Raise OSError if nobody listens there; umqtt itself would wait for minutes."""
    sock = socket.socket()
    try:
        sock.settimeout(CONNECT_TIMEOUT_S)
        sock.connect(socket.getaddrinfo(host, port)[0][-1])
    finally:
        sock.close()


def main():
    """Ask at each press, and show what comes."""
    watchdog = machine.WDT(timeout=WATCHDOG_MS)  # resets the board if the loop below stands still
    button, pages = Button(BUTTON_PIN), Pages()
    asked_at = None  # while there is no answer
    num_parts = 0

    def on_message(topic, payload):
        nonlocal asked_at, num_parts
        kind, text = topic.decode()[len(RESPONSE) :], payload.decode()
        if kind.startswith("/part/"):
            if num_parts == 0:
                pages.begin()
            num_parts += 1
            pages.add(text)
        elif kind == "/error":  # "code: message", not for the audience
            print(text)
            pages.begin("Not now.")
            asked_at, num_parts = None, 0
        else:  # the end: what the parts said, cut to fit; or the fallback line, without parts
            if num_parts == 0:
                pages.begin(text)
            asked_at, num_parts = None, 0

    line = Line(on_message)
    pages.begin("Press the button.")
    while True:
        watchdog.feed()
        is_there = line.poll()
        if button.is_pressed():
            if is_there and line.publish(REQUEST, QUESTION):
                asked_at = time.ticks_ms()
                pages.begin("...")
            else:
                pages.begin("No connection.")
        if asked_at is not None and time.ticks_diff(time.ticks_ms(), asked_at) > ANSWER_TIMEOUT_MS:
            asked_at = None
            pages.begin("No answer.")
            line.drop("no answer")  # it may be one that nobody is at the other end of
        pages.turn()
        time.sleep_ms(5)


if __name__ == "__main__":
    main()
