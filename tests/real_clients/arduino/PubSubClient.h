// Stands in for PubSubClient 2.8, of which it has the interface as far as examples/arduino uses it,
// and the rules that a sketch must know: one buffer for both directions, of 256 bytes unless it
// is set; what would not fit on the way out is refused, and what does not fit on the way in is
// read and thrown away; everything is sent at QoS 0.
#pragma once
#include <string>
#include <vector>

#include "WiFi.h"

class PubSubClient {
 public:
  typedef void (*Callback)(char *topic, uint8_t *payload, unsigned int length);

  explicit PubSubClient(WiFiClient &client) : client_(client), buffer_(256) {}
  void setServer(const char *host, uint16_t port);
  void setCallback(Callback callback) { callback_ = callback; }
  bool setBufferSize(uint16_t size);
  void setKeepAlive(uint16_t seconds) { keep_alive_s_ = seconds; }
  void setSocketTimeout(uint16_t seconds) { timeout_s_ = seconds; }
  bool connect(const char *id, const char *user, const char *password);
  void disconnect();
  bool subscribe(const char *topic);
  bool publish(const char *topic, const char *payload);
  bool loop();
  bool connected() { return is_connected_ && client_.connected(); }
  int state() { return state_; }

 private:
  size_t read_packet();
  int read_byte();
  bool send(uint8_t kind, const std::string &body);

  WiFiClient &client_;
  std::vector<uint8_t> buffer_;
  std::string host_;
  uint16_t port_ = 0;
  Callback callback_ = nullptr;
  uint16_t keep_alive_s_ = 15;
  uint16_t timeout_s_ = 15;
  bool is_connected_ = false;
  bool is_ping_open_ = false;
  int state_ = -1;
  unsigned long heard_at_ = 0;
};
