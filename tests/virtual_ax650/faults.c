/* Faults on demand: "function:nth[+]:action[,action]", separated by ';' or line ends.
 *
 * The n-th matching call from now on, or each from the n-th with '+'; '*' is any function. Actions:
 * hang (until released) or hang=seconds, then code=0x80300105 (what the call returns instead of
 * being done) or die (the card is dead from then on); once empties the control file, so that the
 * next process does not meet the same. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "card.h"

#define MAX_FAULTS 64
#define POLL_S 0.02

pthread_cond_t card_changed = PTHREAD_COND_INITIALIZER;

static struct fault faults[MAX_FAULTS];
static int num_faults;
static uint64_t releases;
static struct timespec control_time;
static off_t control_size; /* a file that is only half written has the same time, but not size */

static bool parse_actions(struct fault *fault, char *actions) {
    char *rest;
    for (char *word = strtok_r(actions, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        if (strncmp(word, "hang=", 5) == 0) fault->hang = true, fault->seconds = atof(word + 5);
        else if (strcmp(word, "hang") == 0) fault->hang = true;
        else if (strcmp(word, "die") == 0) fault->die = true;
        else if (strcmp(word, "once") == 0) fault->once = true;
        else if (strncmp(word, "code=", 5) == 0)
            fault->has_code = true, fault->code = (axclError)strtoul(word + 5, NULL, 0);
        else return false;
    }
    return true;
}

static bool parse_fault(struct fault *fault, char *text) {
    char *rest, *name = strtok_r(text, ":", &rest), *nth = strtok_r(NULL, ":", &rest);
    memset(fault, 0, sizeof *fault);
    fault->function = strcmp(name, "*") == 0 ? -1 : FUNCTION_COUNT;
    for (int i = 0; i < FUNCTION_COUNT; i++)
        if (strcmp(name, virtual_axcl_function((uint32_t)i)) == 0) fault->function = i;
    if (fault->function == FUNCTION_COUNT || !nth || !rest) return false;
    char *end;
    unsigned long count = strtoul(nth, &end, 10);
    fault->repeat = *end == '+';
    fault->skip = count - 1;
    return count > 0 && parse_actions(fault, rest);
}

/* Needs the lock, as all above virtual_axcl_add_faults do. */
void release_hangs(void) {
    releases++;
    pthread_cond_broadcast(&card_changed);
}

static void add(const char *text) {
    char copy[4096], *rest;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *part = strtok_r(copy, ";\n", &rest); part; part = strtok_r(NULL, ";\n", &rest)) {
        char shown[128];
        snprintf(shown, sizeof shown, "%s", part);
        if (strcmp(part, "release") == 0) release_hangs();
        else if (strcmp(part, "die") == 0) kill_card();
        else if (num_faults == MAX_FAULTS || !parse_fault(&faults[num_faults], part)) {
            fprintf(stderr, "virtual ax650: no fault: %s\n", shown);
            abort();
        } else num_faults++;
    }
}

/* Replace the faults by those of the control file, if it was written since. Needs the lock. */
static void read_control(void) {
    struct stat status;
    char text[4096];
    if (!card.control_path[0] || stat(card.control_path, &status) != 0) return;
    if (memcmp(&status.st_mtim, &control_time, sizeof control_time) == 0 &&
        status.st_size == control_size)
        return;
    control_time = status.st_mtim;
    control_size = status.st_size;
    FILE *file = fopen(card.control_path, "r");
    if (!file) return;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    num_faults = 0;
    add(text);
}

void faults_from_environment(void) {
    const char *text = getenv("VIRTUAL_AXCL_FAULTS");
    num_faults = 0;
    memset(&control_time, 0, sizeof control_time);
    if (text) add(text);
}

void virtual_axcl_add_faults(const char *text) {
    pthread_mutex_lock(&card_lock);
    add(text);
    pthread_mutex_unlock(&card_lock);
}

void virtual_axcl_clear_faults(void) {
    pthread_mutex_lock(&card_lock);
    num_faults = 0;
    pthread_mutex_unlock(&card_lock);
}

void virtual_axcl_release(void) {
    pthread_mutex_lock(&card_lock);
    release_hangs();
    pthread_mutex_unlock(&card_lock);
}

bool match_fault(enum function function, struct fault *fault) {
    look_outside();
    read_control();
    for (int i = 0; i < num_faults; i++) {
        if (faults[i].function != -1 && faults[i].function != (int)function) continue;
        if (faults[i].skip) {
            faults[i].skip--;
            continue;
        }
        *fault = faults[i];
        if (!fault->repeat) faults[i] = faults[--num_faults];
        if (fault->once && card.control_path[0] && truncate(card.control_path, 0) == 0)
            read_control();
        return true;
    }
    return false;
}

/* No clock that somebody may set: a card does not hang for an hour because of that. */
struct timespec later(double seconds) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += (time_t)seconds;
    time.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (time.tv_nsec >= 1000000000) time.tv_sec++, time.tv_nsec -= 1000000000;
    return time;
}

static bool past(const struct timespec *time) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec != time->tv_sec) return now.tv_sec > time->tv_sec;
    return now.tv_nsec >= time->tv_nsec;
}

/* Block the call as a hung card would, but for others' sake without the lock. */
static void hang(double seconds) {
    struct timespec end = later(seconds > 0 ? seconds : 1e9);
    pthread_mutex_lock(&card_lock);
    shared_running(1);
    for (uint64_t seen = releases; seen == releases && !past(&end); read_control()) {
        struct timespec poll = later(POLL_S);
        if (past(&end)) break;
        pthread_cond_clockwait(&card_changed, &card_lock, CLOCK_MONOTONIC, &poll);
        look_outside();
    }
    shared_running(-1);
    pthread_mutex_unlock(&card_lock);
}

axclError run_fault(const struct fault *fault) {
    if (fault->hang) hang(fault->seconds);
    pthread_mutex_lock(&card_lock);
    axclError code = AXCL_SUCC;
    if (fault->die) kill_card(), code = DEVICE_NO_CONNECT;
    if (fault->has_code) code = fault->code;
    if (code != AXCL_SUCC) complain(code, "a fault that was asked for");
    return finish(code);
}

double monotonic_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void sleep_s(double seconds) {
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&time, &time) != 0) {}
}
