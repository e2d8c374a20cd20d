/* Virtual time by the cost model of the facts (5.4); off unless asked for.
 *
 * A call costs the time that the graph's file names for its shape group, 0.3 ms for each
 * synchronous Execute or synchronization of a stream, 0.135 ms for each synchronous copy, and its
 * bytes over the bus. 350 MB/s is the middle of the 325-370 that the facts infer. Asynchronous
 * calls cost only the device's or the bus's time. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "card.h"

#define EXECUTE_S 0.3e-3
#define COPY_S 0.135e-3
#define BYTES_PER_S 350e6

static pthread_mutex_t cost_lock = PTHREAD_MUTEX_INITIALIZER;
static bool counting, sleeping;
static double execute_s, copy_s, bytes_per_s, total_s;

void cost_from_environment(void) {
    const char *mode = getenv("VIRTUAL_AXCL_COST");
    pthread_mutex_lock(&cost_lock);
    sleeping = mode && strcmp(mode, "sleep") == 0;
    counting = sleeping || (mode && strcmp(mode, "on") == 0);
    execute_s = EXECUTE_S, copy_s = COPY_S, bytes_per_s = BYTES_PER_S, total_s = 0;
    pthread_mutex_unlock(&cost_lock);
}

/* Turn the model on with other constants; a rate of 0 turns it off. */
void virtual_axcl_set_cost(double execute, double copy, double rate, int sleep) {
    pthread_mutex_lock(&cost_lock);
    counting = rate > 0, sleeping = sleep != 0;
    execute_s = execute, copy_s = copy, bytes_per_s = rate > 0 ? rate : 1;
    pthread_mutex_unlock(&cost_lock);
}

double virtual_axcl_seconds(void) {
    pthread_mutex_lock(&cost_lock);
    double seconds = total_s;
    pthread_mutex_unlock(&cost_lock);
    return seconds;
}

double cost_of_copy(uint64_t bytes, bool over_bus, bool async) {
    return (async ? 0 : copy_s) + (over_bus ? (double)bytes / bytes_per_s : 0);
}

double cost_of_execute(double device_s, bool async) { return device_s + (async ? 0 : execute_s); }

/* The device's time as far as it is charged, in seconds. */
double cost_charged(double seconds) {
    pthread_mutex_lock(&cost_lock);
    double charged = counting ? seconds : 0;
    pthread_mutex_unlock(&cost_lock);
    return charged;
}

double cost_of_synchronization(void) { return execute_s; }

void spend(double seconds) {
    pthread_mutex_lock(&cost_lock);
    bool sleep = counting && sleeping;
    if (counting) total_s += seconds;
    pthread_mutex_unlock(&cost_lock);
    if (sleep) sleep_s(seconds);
}

void reset_seconds(void) {
    pthread_mutex_lock(&cost_lock);
    total_s = 0;
    pthread_mutex_unlock(&cost_lock);
}
