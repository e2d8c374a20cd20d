/* The runtime's life, the device and the contexts of threads. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "card.h"

#define MIB (1024u * 1024u)
#define CMM_TOTAL_MIB 7040u
#define CMM_IDLE_KIB 18876u /* what the idle card uses itself (axcl-smi, M5 page) */
#define CONFIG_LIMIT 65536
#define DMA_BUFFER_MIN 0x100000 /* of "dma buf size" in axcl.json */

struct card card;

static _Thread_local void *current; /* handle of the thread's context */

static const char *environment(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

static bool flag(const char *name, bool otherwise) {
    return *environment(name, otherwise ? "1" : "0") != '0';
}

static void path_from(const char *name, char *path, size_t size) {
    snprintf(path, size, "%s", environment(name, ""));
}

/* The state of a process that has just begun, with a card that is well unless the state file says
 * otherwise. Needs the lock. */
static void configure(void) {
    memset(&card, 0, sizeof card);
    memset(&counters, 0, sizeof counters);
    card.vnpu = -1;
    card.devices = atoi(environment("VIRTUAL_AXCL_DEVICES", "1"));
    card.temperature = 45000;
    const char *mib = getenv("VIRTUAL_AXCL_CMM_MIB");
    card.cmm_total = (mib ? strtoull(mib, NULL, 10) : CMM_TOTAL_MIB) * MIB;
    card.cmm_idle = CMM_IDLE_KIB * 1024ull;
    card.late = strcmp(environment("VIRTUAL_AXCL_ASYNC", "eager"), "late") == 0;
    card.loose_io = strcmp(environment("VIRTUAL_AXCL_IO", "exact"), "loose") == 0;
    card.kv_in_place = flag("VIRTUAL_AXCL_KV_IN_PLACE", true);
    card.async_d2d = flag("VIRTUAL_AXCL_ASYNC_D2D", false);
    card.reinit = flag("VIRTUAL_AXCL_REINIT", false);
    card.verbose = flag("VIRTUAL_AXCL_VERBOSE", false);
    path_from("VIRTUAL_AXCL_STATE", card.state_path, sizeof card.state_path);
    path_from("VIRTUAL_AXCL_CONTROL", card.control_path, sizeof card.control_path);
    path_from("VIRTUAL_AXCL_STATS", card.stats_path, sizeof card.stats_path);
    card.wedge = flag("VIRTUAL_AXCL_WEDGE", false);
    card.dead = card.has_state = card.state_path[0] && access(card.state_path, F_OK) == 0;
    shared_from_environment();
    cost_from_environment();
    faults_from_environment();
}

__attribute__((constructor)) static void start(void) { configure(); }

__attribute__((destructor)) static void end(void) {
    if (card.initialised) write_stats(); /* the process left without axclFinalize */
}

void virtual_axcl_power_cycle(void) {
    virtual_axcl_release();
    pthread_mutex_lock(&card_lock);
    release_device();
    void *handle;
    while ((handle = handle_any(KIND_IO))) free_io(handle_take(KIND_IO, handle));
    while ((handle = handle_any(KIND_INFO))) release_shapes(handle_take(KIND_INFO, handle));
    configure();
    pthread_mutex_unlock(&card_lock);
}

void virtual_axcl_set_cmm(uint64_t total_bytes) {
    pthread_mutex_lock(&card_lock);
    card.cmm_total = total_bytes;
    pthread_mutex_unlock(&card_lock);
}

void virtual_axcl_set_temperature(int32_t millidegrees) {
    pthread_mutex_lock(&card_lock);
    card.temperature = millidegrees;
    pthread_mutex_unlock(&card_lock);
}

/* The card stops answering, also for processes to come if there is a state file. Needs the lock. */
void kill_card(void) {
    card.dead = true;
    if (card.state_path[0]) {
        FILE *file = fopen(card.state_path, "w");
        card.has_state = file != NULL;
        if (file) fclose(file);
    }
    pthread_cond_broadcast(&card_changed);
}

void virtual_axcl_die(void) {
    pthread_mutex_lock(&card_lock);
    kill_card();
    pthread_mutex_unlock(&card_lock);
}

/* Does this process hold anything that a reboot takes from it? Needs the lock. */
static bool holds_anything(void) { return card.default_context || handle_any(KIND_CONTEXT); }

/* See what others did to the card: it died, came back, or was rebooted. Needs the lock. */
void look_outside(void) {
    if (shared_was_rebooted()) {
        card.rebooted = holds_anything();
        release_hangs();
    }
    if (!card.state_path[0]) return;
    bool is_dead = access(card.state_path, F_OK) == 0;
    if (is_dead && !card.dead) {
        card.dead = card.has_state = true;
        pthread_cond_broadcast(&card_changed);
    } else if (!is_dead && card.dead && card.has_state) {
        card.dead = card.has_state = false;
        card.rebooted = holds_anything();
    }
}

/* Does the card work for this process? Needs the lock. */
axclError check_alive(void) {
    if (card.dead) return complain(DEVICE_NO_CONNECT, "the card is dead");
    if (card.rebooted) return complain(DEVICE_NOT_ACTIVE, "the card was rebooted by somebody else");
    return AXCL_SUCC;
}

/* Forget what a reboot took. Needs the lock; lets it go meanwhile. */
static bool drop_rebooted(void) {
    if (!card.rebooted) return false;
    release_device();
    card.rebooted = false;
    return true;
}

/* May this thread use the device? Needs the lock. */
axclError gate(void) {
    axclError code = check_alive();
    if (code != AXCL_SUCC) return code;
    if (!current_context())
        return complain(CONTEXT_NO_BIND, "this thread has no current context%s",
                        card.initialised ? "" : ", and axclInit was not called");
    return AXCL_SUCC;
}

struct context *current_context(void) { return handle_get(KIND_CONTEXT, current); }

void *current_context_handle(void) { return current; }

/* Everything of this process on the card goes. Needs the lock; lets it go meanwhile. */
void release_device(void) {
    void *handle;
    stop_streams(NULL);
    wait_for_idle();
    while ((handle = handle_any(KIND_ENGINE_CONTEXT)))
        free(handle_take(KIND_ENGINE_CONTEXT, handle));
    while ((handle = handle_any(KIND_MODEL))) free_model(handle_take(KIND_MODEL, handle));
    while ((handle = handle_any(KIND_CONTEXT))) free(handle_take(KIND_CONTEXT, handle));
    free_all_memory();
    counters.contexts = 0;
    card.activations = 0;
    card.default_context = NULL;
    card.engine_on = false;
}

static axclError check_config(const char *path) {
    static char text[CONFIG_LIMIT];
    FILE *file = fopen(path, "r");
    if (!file) return complain(CONFIG_OPEN, "can't open %s", path);
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    char size[32];
    if (!json_valid(text)) return complain(CONFIG_ILLEGAL, "%s is not JSON", path);
    if (json_string(text, "dma buf size", size, sizeof size) &&
        strtol(size, NULL, 0) < DMA_BUFFER_MIN)
        return complain(CONFIG_ILLEGAL, "%s: dma buf size %s is below 0x100000", path, size);
    return AXCL_SUCC;
}

axclError axclInit(const char *config) {
    ENTER(axclInit);
    pthread_mutex_lock(&card_lock);
    if (card.initialised) return finish(complain(DEVICE_BUSY, "axclInit was called already"));
    if (card.finalised && !card.reinit)
        return finish(complain(DEVICE_BUSY, "axclInit after axclFinalize in one process"));
    axclError code = config && *config ? check_config(config) : AXCL_SUCC;
    card.initialised = code == AXCL_SUCC;
    return finish(code);
}

axclError axclFinalize(void) {
    ENTER(axclFinalize);
    pthread_mutex_lock(&card_lock);
    if (!card.initialised) return finish(complain(DEVICE_NO_ACTIVE, "axclInit was not called"));
    if (!drop_rebooted()) {
        counters.leaked_at_reset += counters.live_allocations + counters.models;
        release_device();
    }
    card.initialised = false;
    card.finalised = true;
    write_stats();
    return finish(AXCL_SUCC);
}

axclError axclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch) {
    ENTER(axclrtGetVersion);
    if (!major || !minor || !patch) return DEVICE_NULL;
    *major = 3, *minor = 10, *patch = 2;
    return AXCL_SUCC;
}

const char *axclrtGetSocName(void) {
    return enter(FN_axclrtGetSocName) == AXCL_SUCC ? "AX650N" : NULL;
}

/* Is the runtime up and this device there? Needs the lock. */
static axclError check_device(int32_t device) {
    if (!card.initialised) return complain(DEVICE_NO_ACTIVE, "axclInit was not called");
    if (card.dead || card.devices < 1) return complain(DEVICE_NO_CONNECT, "no card answers");
    if (device != DEVICE_ID)
        return complain(DEVICE_INVALID_ID, "device %d: ids come from axclrtGetDeviceList", device);
    return AXCL_SUCC;
}

axclError axclrtGetDeviceList(axclrtDeviceList *list) {
    ENTER(axclrtGetDeviceList);
    if (!list) return DEVICE_NULL;
    memset(list, 0, sizeof *list);
    pthread_mutex_lock(&card_lock);
    axclError code = check_device(DEVICE_ID);
    if (code == AXCL_SUCC) list->num = 1, list->devices[0] = DEVICE_ID;
    return finish(code);
}

axclError axclrtGetDeviceCount(uint32_t *count) {
    ENTER(axclrtGetDeviceCount);
    if (!count) return DEVICE_NULL;
    pthread_mutex_lock(&card_lock);
    axclError code = check_device(DEVICE_ID);
    *count = code == AXCL_SUCC;
    return finish(code);
}

static void *new_context(bool is_default) {
    struct context *context = zeroed(sizeof *context);
    context->device = DEVICE_ID;
    context->is_default = is_default;
    counters.contexts++;
    return handle_new(KIND_CONTEXT, context);
}

axclError axclrtSetDevice(int32_t device) {
    ENTER(axclrtSetDevice);
    pthread_mutex_lock(&card_lock);
    axclError code = check_device(device);
    if (code != AXCL_SUCC) return finish(code);
    drop_rebooted();
    if (card.wedge && shared_was_abandoned()) {
        kill_card();
        return finish(complain(DEVICE_NO_CONNECT, "the process before was killed in mid-execute"));
    }
    if (!card.default_context) {
        card.default_context = new_context(true);
        shared_claim();
    }
    card.activations++;
    current = card.default_context;
    return finish(AXCL_SUCC);
}

axclError axclrtResetDevice(int32_t device) {
    ENTER(axclrtResetDevice);
    pthread_mutex_lock(&card_lock);
    axclError code = check_device(device);
    if (code != AXCL_SUCC) return finish(code);
    if (drop_rebooted())
        return finish(complain(DEVICE_NOT_ACTIVE, "the card was rebooted by somebody else"));
    if (!card.default_context && !handle_any(KIND_CONTEXT))
        return finish(complain(DEVICE_NOT_ACTIVE, "device %d is not active", device));
    if (card.activations > 0) card.activations--;
    if (card.activations == 0) {
        counters.leaked_at_reset += counters.live_allocations + counters.models;
        release_device();
    }
    return finish(AXCL_SUCC);
}

axclError axclrtGetDevice(int32_t *device) {
    if (!device) return DEVICE_NULL;
    BEGIN(axclrtGetDevice);
    *device = current_context()->device;
    return finish(AXCL_SUCC);
}

axclError axclrtGetDeviceProperties(int32_t device, axclrtDeviceProperties *properties) {
    ENTER(axclrtGetDeviceProperties);
    if (!properties) return DEVICE_NULL;
    pthread_mutex_lock(&card_lock);
    axclError code = check_device(device);
    if (code != AXCL_SUCC) return finish(code);
    uint64_t used = card.cmm_idle + counters.cmm_used + shared_leaked();
    uint64_t left = used < card.cmm_total ? card.cmm_total - used : 0;
    memset(properties, 0, sizeof *properties);
    snprintf(properties->swVersion, sizeof properties->swVersion, "V3.10.2 virtual");
    properties->uid = 0x56495254;
    properties->pciDomain = 1, properties->pciBusID = 1;
    properties->temperature = shared_temperature(card.temperature);
    properties->totalMemSize = 968356, properties->freeMemSize = 968356 - 148 * 1024;
    properties->totalCmmSize = (uint32_t)(card.cmm_total / 1024);
    properties->freeCmmSize = (uint32_t)(left / 1024);
    properties->cpuLoading = 200; /* 2 %, in hundredths */
    return finish(AXCL_SUCC);
}

axclError axclrtRebootDevice(int32_t device) {
    ENTER(axclrtRebootDevice);
    pthread_mutex_lock(&card_lock);
    if (!card.initialised) return finish(complain(DEVICE_NO_ACTIVE, "axclInit was not called"));
    if (card.devices < 1 || device != DEVICE_ID)
        return finish(complain(DEVICE_INVALID_ID, "there is no device %d", device));
    card.dead = true; /* nothing may start while the streams stop */
    release_hangs();
    release_device();
    shared_reboot();
    if (card.state_path[0]) unlink(card.state_path);
    card.dead = card.has_state = card.rebooted = false;
    return finish(AXCL_SUCC);
}

axclError axclrtCreateContext(axclrtContext *context, int32_t device) {
    ENTER(axclrtCreateContext);
    if (!context) return CONTEXT_NULL;
    pthread_mutex_lock(&card_lock);
    axclError code = check_device(device);
    if (code == AXCL_SUCC) *context = current = new_context(false);
    return finish(code);
}

axclError axclrtDestroyContext(axclrtContext handle) {
    ENTER(axclrtDestroyContext);
    if (!handle) return CONTEXT_NULL;
    pthread_mutex_lock(&card_lock);
    struct context *context = handle_get(KIND_CONTEXT, handle);
    if (!context) return finish(complain(CONTEXT_DESTROY, "no such context"));
    if (context->is_default)
        return finish(complain(CONTEXT_DESTROY, "the default context ends with ResetDevice"));
    stop_streams(context);
    if (handle_take(KIND_CONTEXT, handle)) {
        free(context);
        counters.contexts--;
    }
    return finish(AXCL_SUCC);
}

axclError axclrtSetCurrentContext(axclrtContext context) {
    ENTER(axclrtSetCurrentContext);
    if (!context) return CONTEXT_NULL;
    pthread_mutex_lock(&card_lock);
    if (!handle_get(KIND_CONTEXT, context))
        return finish(complain(CONTEXT_BIND_THREAD, "no such context"));
    current = context;
    return finish(AXCL_SUCC);
}

axclError axclrtGetCurrentContext(axclrtContext *context) {
    ENTER(axclrtGetCurrentContext);
    if (!context) return CONTEXT_NULL;
    pthread_mutex_lock(&card_lock);
    *context = current_context() ? current : NULL;
    return finish(*context ? AXCL_SUCC : complain(CONTEXT_NO_BIND, "no current context"));
}

axclError axclrtGetDefaultContext(axclrtContext *context, int32_t device) {
    ENTER(axclrtGetDefaultContext);
    if (!context) return CONTEXT_NULL;
    pthread_mutex_lock(&card_lock);
    axclError code = check_device(device);
    if (code == AXCL_SUCC && !card.default_context)
        code = complain(DEVICE_NOT_ACTIVE, "device %d is not active", device);
    if (code == AXCL_SUCC) *context = card.default_context;
    return finish(code);
}
