// What stands in for a board: see Arduino.h and WiFi.h.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "WiFi.h"

static const unsigned long SPEED = 10;

SerialLine Serial;
Station WiFi;

unsigned long millis() {
  using namespace std::chrono;
  static const auto begin = steady_clock::now();
  return SPEED * duration_cast<milliseconds>(steady_clock::now() - begin).count();
}

void pinMode(int, int mode) {
  if (mode != INPUT_PULLUP) abort();
}

int digitalRead(int) {
  static std::string levels = "1";
  if (levels.size() > 1) {
    levels.erase(0, 1);
  } else if (FILE *file = fopen("button", "r")) {
    char text[64] = "";
    if (fgets(text, sizeof text, file)) levels = text;
    fclose(file);
    unlink("button");
  }
  return levels[0] - '0';
}

void SerialLine::begin(unsigned long) { setvbuf(stdout, nullptr, _IONBF, 0); }
size_t SerialLine::write(const uint8_t *data, size_t length) {
  return fwrite(data, 1, length, stdout);
}
size_t SerialLine::print(const char *text) { return printf("%s", text); }
size_t SerialLine::println(const char *text) { return printf("%s\n", text); }
size_t SerialLine::println(int number) { return printf("%d\n", number); }

int WiFiClient::connect(const char *, uint16_t) {
  stop();
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(atoi(getenv("MQTT_PORT"))));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socket_ = socket(AF_INET, SOCK_STREAM, 0);
  if (::connect(socket_, reinterpret_cast<sockaddr *>(&address), sizeof address)) stop();
  return socket_ >= 0;
}

size_t WiFiClient::write(const uint8_t *data, size_t length) {
  ssize_t num_written = send(socket_, data, length, MSG_NOSIGNAL);
  return num_written < 0 ? 0 : static_cast<size_t>(num_written);
}

int WiFiClient::available() {
  int num_bytes = 0;
  return socket_ >= 0 && !ioctl(socket_, FIONREAD, &num_bytes) ? num_bytes : 0;
}

int WiFiClient::read() {
  uint8_t byte;
  return recv(socket_, &byte, 1, 0) == 1 ? byte : -1;
}

bool WiFiClient::connected() {
  uint8_t byte;
  if (socket_ < 0) return false;
  ssize_t num_read = recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (num_read == 0 || (num_read < 0 && errno != EAGAIN)) stop();
  return socket_ >= 0;
}

void WiFiClient::stop() {
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
}

bool Station::mode(int mode) { return mode == WIFI_STA; }
bool Station::setAutoReconnect(bool is_on) { return is_on; }
int Station::begin(const char *, const char *) {
  was_asked_ = true;
  return status();
}
int Station::status() {
  return was_asked_ && access("no-wifi", F_OK) ? WL_CONNECTED : WL_DISCONNECTED;
}

int main() {
  setup();
  for (;;) {
    loop();
    usleep(500);
  }
}
