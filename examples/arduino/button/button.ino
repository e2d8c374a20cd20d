/*
A button that asks edge-llm, and prints the answer sentence by sentence while it is generated.

For an ESP32 or an ESP8266 with the library PubSubClient (2.8).

What to change: the settings below; and printText, which prints to the serial line as it stands:
put your display or printer there.

How to run: open this folder in the Arduino IDE, install PubSubClient with its library manager,
choose your board, upload, and open the serial monitor at 115200 baud. Nothing but a button from
BUTTON_PIN to ground is needed; on most boards pin 0 has one already, called BOOT or FLASH.
*/
#if defined(ESP8266)
#include <ESP8266WiFi.h>
#else
#include <WiFi.h>
#endif
#include <PubSubClient.h>

#define WIFI_NAME "my-network"
#define WIFI_PASSWORD "my-password"
#define BROKER "192.168.1.10"
#define PORT 1883
#define DEVICE "button2"  // of its own for each device: whoever else has it is sent away
#define PASSWORD ""  // at a broker with accounts: `edge-llm mqtt-user add button2` prints one
#define BUTTON_PIN 0

// PubSubClient throws away, without a word, what is longer than its buffer. So the node is told how
// much text may come at once, and the buffer has room for that, its topic and its header.
#define BUFFER_BYTES 256
#define MAX_BYTES 200

#define REQUEST "llm/request/" DEVICE
#define RESPONSE "llm/response/" DEVICE  // the end
#define DELTA RESPONSE "/delta"          // the answer as it grows
#define FAILURE RESPONSE "/error"        // "code: message": why there is none

#define AS_TEXT_OF(number) #number
#define AS_TEXT(number) AS_TEXT_OF(number)
// No question: the node's default preset has one. Without "parts" the answer would end after
// MAX_BYTES; with it all of it comes, in sentences of at most so many bytes.
#define QUESTION                                                  \
  "{\"stream\":\"sentence\",\"format\":\"text\",\"parts\":true,"       \
  "\"max_bytes\":" AS_TEXT(MAX_BYTES) "}"

// An incoming message: 1 byte of type, 2 of length, 2 of the topic's length, 2 more at QoS 1. An
// outgoing one: PubSubClient always keeps 5 bytes for type and length.
static_assert(BUFFER_BYTES >= 7 + sizeof(DELTA) - 1 + MAX_BYTES, "an answer would not fit");
static_assert(BUFFER_BYTES >= 7 + sizeof(REQUEST) - 1 + sizeof(QUESTION) - 1, "nor a question");

const unsigned long DEBOUNCE_MS = 30;
const unsigned long ANSWER_TIMEOUT_MS = 60000;
const unsigned long FIRST_PAUSE_MS = 1000;  // before trying to connect again; each time twice that
const unsigned long LAST_PAUSE_MS = 60000;

WiFiClient wifiClient;
PubSubClient mqtt(wifiClient);

bool isWaiting = false;  // for an answer
unsigned long askedAt = 0;
unsigned long triedAt = 0;
unsigned long pauseMs = 0;

void printText(const uint8_t *text, size_t length) {
  Serial.write(text, length);  // UTF-8, whole characters, no zero at the end
}

// Called by mqtt.loop(). Topic and payload lie in the buffer that mqtt.publish() uses as well: do
// not ask from here before they have been read.
void onMessage(char *topic, uint8_t *payload, unsigned int length) {
  if (strcmp(topic, DELTA) == 0) {
    printText(payload, length);
    return;
  }
  if (strcmp(topic, FAILURE) == 0) {
    Serial.print("\nno answer: ");  // for you, not for the audience
    Serial.write(payload, length);
  }
  Serial.println();
  isWaiting = false;
}

bool isPressed() {  // true once for each press
  static bool isDown = false, wasDown = false;
  static unsigned long since = 0;
  bool now = digitalRead(BUTTON_PIN) == LOW;
  if (now != wasDown) {
    wasDown = now;
    since = millis();
  } else if (now != isDown && millis() - since >= DEBOUNCE_MS) {
    isDown = now;
    return isDown;
  }
  return false;
}

// A try takes some seconds where nothing answers at all; between two tries the loop goes on.
void connectIfTime() {
  if (millis() - triedAt < pauseMs) return;
  triedAt = millis();
  if (WiFi.status() != WL_CONNECTED) {  // it reconnects by itself
    pauseMs = FIRST_PAUSE_MS;
    return;
  }
  bool hasAccount = sizeof(PASSWORD) > 1;
  if (mqtt.connect(DEVICE, hasAccount ? DEVICE : nullptr, hasAccount ? PASSWORD : nullptr)) {
    mqtt.subscribe(RESPONSE);
    mqtt.subscribe(DELTA);
    mqtt.subscribe(FAILURE);
    pauseMs = FIRST_PAUSE_MS;
    Serial.println("connected");
  } else {
    pauseMs = pauseMs ? min(2 * pauseMs, LAST_PAUSE_MS) : FIRST_PAUSE_MS;
    Serial.print("no broker: ");
    Serial.println(mqtt.state());
  }
}

void setup() {
  Serial.begin(115200);
  pinMode(BUTTON_PIN, INPUT_PULLUP);
  WiFi.mode(WIFI_STA);
  WiFi.setAutoReconnect(true);
  WiFi.begin(WIFI_NAME, WIFI_PASSWORD);
  mqtt.setServer(BROKER, PORT);
  mqtt.setBufferSize(BUFFER_BYTES);
  mqtt.setSocketTimeout(3);  // seconds; its own 15 would be a long time without a button
  mqtt.setKeepAlive(30);
  mqtt.setCallback(onMessage);
}

void loop() {
  if (!mqtt.loop()) connectIfTime();
  if (isPressed()) {
    if (mqtt.publish(REQUEST, QUESTION)) {
      isWaiting = true;
      askedAt = millis();
    } else {
      Serial.println("no connection");
    }
  }
  if (isWaiting && millis() - askedAt > ANSWER_TIMEOUT_MS) {
    isWaiting = false;
    Serial.println("no answer");
    mqtt.disconnect();  // it may be a connection that nobody is at the other end of
  }
}
