// Stands in for the Wi-Fi of an ESP32. There is Wi-Fi unless a file `no-wifi` says that there is
// none. Whatever address is asked for, the broker at port MQTT_PORT of this machine answers.
#pragma once
#include "Arduino.h"

#define WIFI_STA 1
#define WL_CONNECTED 3
#define WL_DISCONNECTED 6

class WiFiClient {
 public:
  int connect(const char *host, uint16_t port);
  size_t write(const uint8_t *data, size_t length);
  int available();
  int read();
  bool connected();
  void stop();

 private:
  int socket_ = -1;
};

struct Station {
  bool mode(int mode);
  bool setAutoReconnect(bool is_on);
  int begin(const char *name, const char *password);
  int status();

 private:
  bool was_asked_ = false;
};
extern Station WiFi;
