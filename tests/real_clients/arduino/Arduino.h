// Stands in for the core of an Arduino board where a sketch runs on Linux: what examples/arduino
// uses of it. Time runs ten times as fast. The button is a file: what stands in `button` are the
// levels that the pin has, one for each time that it is read; the last one stays.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#define HIGH 1
#define LOW 0
#define INPUT_PULLUP 5

template <class T> T min(T a, T b) { return a < b ? a : b; }

unsigned long millis();
void pinMode(int pin, int mode);
int digitalRead(int pin);

struct SerialLine {
  void begin(unsigned long baud);
  size_t write(const uint8_t *data, size_t length);
  size_t print(const char *text);
  size_t println(const char *text = "");
  size_t println(int number);
};
extern SerialLine Serial;

void setup();
void loop();
