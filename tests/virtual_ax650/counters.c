/* Counting: each call by name, bytes by direction, what lives on the card. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "card.h"

pthread_mutex_t card_lock = PTHREAD_MUTEX_INITIALIZER;
struct counters counters;

#define FUNCTION_NAME(name) #name,
static const char *const function_names[] = {FUNCTIONS(FUNCTION_NAME)};

#define COUNTER_ENTRY(name) {#name, offsetof(struct counters, name)},
static const struct {
    const char *name;
    size_t offset;
} counter_table[] = {COUNTERS(COUNTER_ENTRY)};
#define COUNTER_COUNT (sizeof counter_table / sizeof *counter_table)

static char complaint[512];

/* Remember why a call is refused, for the one who looks for his mistake. Needs the lock. */
axclError complain(axclError code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(complaint, sizeof complaint, format, arguments);
    va_end(arguments);
    counters.refusals++;
    if (card.verbose) fprintf(stderr, "virtual ax650: 0x%08x %s\n", (unsigned)code, complaint);
    return code;
}

axclError enter(enum function function) {
    struct fault fault;
    pthread_mutex_lock(&card_lock);
    counters.calls[function]++;
    bool matched = match_fault(function, &fault);
    pthread_mutex_unlock(&card_lock);
    return matched ? run_fault(&fault) : AXCL_SUCC;
}

axclError begin(enum function function) {
    axclError code = enter(function);
    if (code != AXCL_SUCC) return code;
    pthread_mutex_lock(&card_lock);
    code = gate();
    if (code == AXCL_SUCC) drain_default_stream();
    if (code == AXCL_SUCC) code = gate(); /* the lock was open */
    return code == AXCL_SUCC ? code : finish(code);
}

axclError finish(axclError code) {
    pthread_mutex_unlock(&card_lock);
    return code;
}

static uint64_t read_counter(size_t index) {
    return *(uint64_t *)(void *)((char *)&counters + counter_table[index].offset);
}

const char *virtual_axcl_function(uint32_t index) {
    return index < FUNCTION_COUNT ? function_names[index] : NULL;
}

uint64_t virtual_axcl_calls(const char *function) {
    uint64_t calls = 0;
    pthread_mutex_lock(&card_lock);
    for (int i = 0; i < FUNCTION_COUNT; i++)
        if (strcmp(function, function_names[i]) == 0) calls = counters.calls[i];
    pthread_mutex_unlock(&card_lock);
    return calls;
}

const char *virtual_axcl_counter_name(uint32_t index) {
    return index < COUNTER_COUNT ? counter_table[index].name : NULL;
}

uint64_t virtual_axcl_counter(const char *name) {
    uint64_t value = 0;
    pthread_mutex_lock(&card_lock);
    for (size_t i = 0; i < COUNTER_COUNT; i++)
        if (strcmp(name, counter_table[i].name) == 0) value = read_counter(i);
    pthread_mutex_unlock(&card_lock);
    return value;
}

uint64_t virtual_axcl_executes(uint32_t group) {
    pthread_mutex_lock(&card_lock);
    uint64_t executes = group < MAX_GROUPS ? counters.executes[group] : 0;
    pthread_mutex_unlock(&card_lock);
    return executes;
}

/* Start counting anew; what is alive stays counted. */
void virtual_axcl_reset_counters(void) {
    pthread_mutex_lock(&card_lock);
    struct counters old = counters;
    memset(&counters, 0, sizeof counters);
    counters.live_allocations = old.live_allocations;
    counters.live_bytes = counters.peak_bytes = old.live_bytes;
    counters.cmm_used = old.cmm_used;
    counters.host_allocations = old.host_allocations;
    counters.models = old.models;
    counters.ios = old.ios;
    counters.io_infos = old.io_infos;
    counters.contexts = old.contexts;
    counters.streams = old.streams;
    reset_seconds();
    pthread_mutex_unlock(&card_lock);
}

const char *virtual_axcl_complaint(void) {
    static _Thread_local char copy[sizeof complaint];
    pthread_mutex_lock(&card_lock);
    memcpy(copy, complaint, sizeof copy);
    pthread_mutex_unlock(&card_lock);
    return copy;
}

/* Write "name value" lines to the file of VIRTUAL_AXCL_STATS, for a test in another process. */
void write_stats(void) {
    if (!card.stats_path[0]) return;
    FILE *file = fopen(card.stats_path, "w");
    if (!file) return;
    for (size_t i = 0; i < COUNTER_COUNT; i++)
        fprintf(file, "%s %llu\n", counter_table[i].name, (unsigned long long)read_counter(i));
    for (int i = 0; i < MAX_GROUPS; i++)
        if (counters.executes[i])
            fprintf(file, "executes.%d %llu\n", i, (unsigned long long)counters.executes[i]);
    for (int i = 0; i < FUNCTION_COUNT; i++)
        if (counters.calls[i])
            fprintf(file, "%s %llu\n", function_names[i], (unsigned long long)counters.calls[i]);
    if (complaint[0]) fprintf(file, "# %s\n", complaint);
    fclose(file);
}
