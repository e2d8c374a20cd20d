// What stands in for PubSubClient 2.8: see PubSubClient.h.
#include "PubSubClient.h"

static const uint8_t CONNECT = 0x10, CONNACK = 0x20, PUBLISH = 0x30, SUBSCRIBE = 0x82;
static const uint8_t PINGREQ = 0xC0, PINGRESP = 0xD0, DISCONNECT = 0xE0;
static const size_t MAX_HEADER_BYTES = 5;

static std::string with_length(const std::string &text) {
  std::string result;
  result += static_cast<char>(text.size() >> 8);
  result += static_cast<char>(text.size() & 0xFF);
  return result + text;
}

void PubSubClient::setServer(const char *host, uint16_t port) {
  host_ = host;
  port_ = port;
}

bool PubSubClient::setBufferSize(uint16_t size) {
  buffer_.resize(size);
  return size > 0;
}

bool PubSubClient::connect(const char *id, const char *user, const char *password) {
  is_connected_ = is_ping_open_ = false;
  if (!client_.connect(host_.c_str(), port_)) {
    state_ = -2;
    return false;
  }
  std::string body("\x00\x04MQTT\x04", 7);
  body += static_cast<char>(user ? 0xC2 : 0x02);  // clean session
  body += static_cast<char>(keep_alive_s_ >> 8);
  body += static_cast<char>(keep_alive_s_ & 0xFF);
  body += with_length(id);
  if (user) body += with_length(user) + with_length(password);
  heard_at_ = millis();
  if (!send(CONNECT, body) || read_packet() != 4 || buffer_[0] != CONNACK || buffer_[3] != 0) {
    client_.stop();
    state_ = -4;
    return false;
  }
  is_connected_ = true;
  state_ = 0;
  return true;
}

void PubSubClient::disconnect() {
  send(DISCONNECT, "");
  client_.stop();
  is_connected_ = false;
  state_ = -1;
}

bool PubSubClient::subscribe(const char *topic) {
  return connected() && send(SUBSCRIBE, std::string("\x00\x01", 2) + with_length(topic) + '\0');
}

bool PubSubClient::publish(const char *topic, const char *payload) {
  std::string body = with_length(topic) + payload;
  return connected() && MAX_HEADER_BYTES + body.size() <= buffer_.size() && send(PUBLISH, body);
}

bool PubSubClient::loop() {
  if (!connected()) {
    is_connected_ = false;
    return false;
  }
  if (millis() - heard_at_ > keep_alive_s_ * 1000UL) {
    if (is_ping_open_) {
      client_.stop();
      return false;
    }
    send(PINGREQ, "");
    is_ping_open_ = true;
    heard_at_ = millis();
  }
  if (!client_.available()) return true;
  size_t length = read_packet();
  heard_at_ = millis();
  if (length && buffer_[0] == PINGRESP) is_ping_open_ = false;
  if (length && (buffer_[0] & 0xF0) == PUBLISH) {
    size_t begin = 2;  // the byte of the type, and one or more of length
    while (buffer_[begin - 1] & 0x80) ++begin;
    size_t topic_length = buffer_[begin] << 8 | buffer_[begin + 1];
    std::string topic(buffer_.begin() + begin + 2, buffer_.begin() + begin + 2 + topic_length);
    size_t payload = begin + 2 + topic_length;  // no packet id: all is subscribed to at QoS 0
    callback_(&topic[0], buffer_.data() + payload, length - payload);
  }
  return true;
}

// Return the length of the packet that is in the buffer then, or 0 if it did not fit or none came.
size_t PubSubClient::read_packet() {
  size_t num_read = 0, length = 0, shift = 0;
  auto keep = [&](int byte) {
    if (num_read < buffer_.size()) buffer_[num_read] = static_cast<uint8_t>(byte);
    ++num_read;
  };
  int byte = read_byte();
  if (byte < 0) return 0;
  keep(byte);
  do {
    if ((byte = read_byte()) < 0) return 0;
    keep(byte);
    length |= static_cast<size_t>(byte & 0x7F) << shift;
    shift += 7;
  } while (byte & 0x80);
  for (; length; --length) {
    if ((byte = read_byte()) < 0) return 0;
    keep(byte);
  }
  return num_read <= buffer_.size() ? num_read : 0;
}

int PubSubClient::read_byte() {
  unsigned long since = millis();
  while (!client_.available()) {
    if (!client_.connected() || millis() - since > timeout_s_ * 1000UL) return -1;
  }
  return client_.read();
}

bool PubSubClient::send(uint8_t kind, const std::string &body) {
  std::string packet(1, static_cast<char>(kind));
  size_t length = body.size();
  do {
    packet += static_cast<char>((length & 0x7F) | (length > 0x7F ? 0x80 : 0));
    length >>= 7;
  } while (length);
  packet += body;
  return client_.write(reinterpret_cast<const uint8_t *>(packet.data()), packet.size()) ==
         packet.size();
}
