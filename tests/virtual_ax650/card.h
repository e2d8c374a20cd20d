/* What the sources of the virtual card share. One lock guards all of it; computing, sleeping and
 * hanging happen outside of the lock. */
#ifndef VIRTUAL_AX650_CARD_H
#define VIRTUAL_AX650_CARD_H

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "axcl.h"

#define DEVICE_ID 1 /* an id, not an index: GetDeviceList says it */
#define MAX_GROUPS 32
#define MAX_TENSORS 8
#define PAGE 4096u

/* The functions that are counted and that can be told to fail, in the order of axcl.h. */
#define SYNC_FUNCTIONS(X) \
    X(axclInit) X(axclFinalize) X(axclrtGetVersion) X(axclrtGetSocName) X(axclrtGetDeviceList) \
    X(axclrtGetDeviceCount) X(axclrtSetDevice) X(axclrtResetDevice) X(axclrtGetDevice) \
    X(axclrtGetDeviceProperties) X(axclrtRebootDevice) X(axclrtCreateContext) \
    X(axclrtDestroyContext) X(axclrtSetCurrentContext) X(axclrtGetCurrentContext) \
    X(axclrtGetDefaultContext) X(axclrtMalloc) X(axclrtMallocCached) X(axclrtFree) \
    X(axclrtMallocHost) X(axclrtFreeHost) X(axclrtMemcpy) X(axclrtMemset) X(axclrtMemcmp) \
    X(axclrtMemFlush) X(axclrtMemInvalidate) X(axclrtEngineInit) X(axclrtEngineGetVNpuKind) \
    X(axclrtEngineFinalize) X(axclrtEngineLoadFromFile) X(axclrtEngineLoadFromMem) \
    X(axclrtEngineGetModelCompilerVersion) X(axclrtEngineUnload) X(axclrtEngineGetUsage) \
    X(axclrtEngineGetUsageFromModelId) X(axclrtEngineGetIOInfo) X(axclrtEngineDestroyIOInfo) \
    X(axclrtEngineGetShapeGroupsCount) X(axclrtEngineGetNumInputs) X(axclrtEngineGetNumOutputs) \
    X(axclrtEngineGetInputSizeByIndex) X(axclrtEngineGetOutputSizeByIndex) \
    X(axclrtEngineGetInputDims) X(axclrtEngineGetOutputDims) X(axclrtEngineGetInputNameByIndex) \
    X(axclrtEngineGetOutputNameByIndex) X(axclrtEngineGetInputIndexByName) \
    X(axclrtEngineGetOutputIndexByName) X(axclrtEngineGetInputDataType) \
    X(axclrtEngineGetOutputDataType) X(axclrtEngineGetInputDataLayout) \
    X(axclrtEngineGetOutputDataLayout) X(axclrtEngineCreateIO) X(axclrtEngineDestroyIO) \
    X(axclrtEngineSetInputBufferByIndex) X(axclrtEngineSetOutputBufferByIndex) \
    X(axclrtEngineSetInputBufferByName) X(axclrtEngineSetOutputBufferByName) \
    X(axclrtEngineGetInputBufferByIndex) X(axclrtEngineGetOutputBufferByIndex) \
    X(axclrtEngineGetInputBufferByName) X(axclrtEngineGetOutputBufferByName) \
    X(axclrtEngineCreateContext) X(axclrtEngineExecute)
#define ASYNC_FUNCTIONS(X) \
    X(axclrtCreateStream) X(axclrtDestroyStream) X(axclrtDestroyStreamForce) \
    X(axclrtSynchronizeStream) X(axclrtSynchronizeStreamWithTimeout) X(axclrtMemcpyAsync) \
    X(axclrtMemsetAsync) X(axclrtEngineExecuteAsync) \
    X(virtual_axcl_task) /* a queued task, when its turn comes */
#define FUNCTIONS(X) SYNC_FUNCTIONS(X) ASYNC_FUNCTIONS(X)

#define FUNCTION_ID(name) FN_##name,
enum function { FUNCTIONS(FUNCTION_ID) FUNCTION_COUNT };

#define COUNTERS(X) \
    X(h2d_bytes) X(d2h_bytes) X(d2d_bytes) X(h2d_copies) X(d2h_copies) X(d2d_copies) X(memsets) \
    X(memset_bytes) X(load_bytes) X(allocations) X(frees) X(live_allocations) X(live_bytes) \
    X(peak_bytes) X(cmm_used) X(host_allocations) X(models) X(ios) X(io_infos) X(contexts) \
    X(streams) X(layer_executes) X(post_executes) X(async_tasks) X(refusals) X(leaked_at_reset)
#define COUNTER_FIELD(name) uint64_t name;
struct counters {
    COUNTERS(COUNTER_FIELD)
    uint64_t executes[MAX_GROUPS];
    uint64_t calls[FUNCTION_COUNT];
};

struct card {
    bool initialised, finalised, dead, rebooted, engine_on;
    int vnpu, activations, devices;
    uint64_t cmm_total, cmm_idle;
    int32_t temperature;
    void *default_context;
    /* switches of the environment, see README.md */
    bool late, loose_io, kv_in_place, async_d2d, reinit, verbose, wedge, has_state;
    char state_path[512], control_path[512], stats_path[512];
};

extern pthread_mutex_t card_lock;
extern pthread_cond_t card_changed;
extern struct card card;
extern struct counters counters;

/* counters.c: entering a call */
axclError complain(axclError code, const char *format, ...) __attribute__((format(printf, 2, 3)));
axclError enter(enum function function); /* counts, and runs the faults; unlocked */
axclError begin(enum function function); /* and takes the lock, in a thread with a context */
axclError finish(axclError code);        /* unlocks */
void write_stats(void);
#define ENTER(name) \
    do { \
        axclError entered = enter(FN_##name); \
        if (entered != AXCL_SUCC) return entered; \
    } while (0)
#define BEGIN(name) \
    do { \
        axclError begun = begin(FN_##name); \
        if (begun != AXCL_SUCC) return begun; \
    } while (0)

/* handles.c: handles that are never reused, so that a stale one is known */
enum kind { KIND_CONTEXT = 1, KIND_STREAM, KIND_MODEL, KIND_ENGINE_CONTEXT, KIND_INFO, KIND_IO };
void *handle_new(enum kind kind, void *object);
void *handle_get(enum kind kind, const void *handle);
void *handle_take(enum kind kind, const void *handle);
void *handle_any(enum kind kind); /* some live handle, or NULL */
void *handle_next(enum kind kind, const void *after); /* the next live one */
void *zeroed(size_t size);
void *grown(void *memory, size_t size);

/* device.c */
struct context {
    int32_t device;
    bool is_default;
    void *default_stream;
};
struct context *current_context(void);
void *current_context_handle(void);
axclError gate(void);
axclError check_alive(void);
void look_outside(void);
void release_device(void);

/* memory.c */
struct block {
    uint64_t address;
    size_t size;
    unsigned char *bytes;
    unsigned char *touched; /* one flag for each TOUCH_BYTES; NULL if all is */
    bool mapped;
    int pins;
};
bool is_device_address(const void *pointer);
axclError find_range(const void *pointer, uint64_t size, struct block **block, unsigned char **at);
axclError copy_now(void *to, const void *from, size_t count, int kind, bool async);
axclError set_now(void *memory, uint8_t value, size_t count, bool async);
bool reserve_cmm(uint64_t size);
void release_cmm(uint64_t size);
void free_all_memory(void);

/* json.c */
bool json_valid(const char *text);
bool json_number(const char *text, const char *key, double *value);
int json_numbers(const char *text, const char *key, double *values, int capacity);
bool json_string(const char *text, const char *key, char *value, size_t size);

/* models.c */
struct tensor {
    const char *name;
    int type, dims[3];
    uint64_t size;
};
struct shapes { /* outlives its model: the vendor's info objects are the host's */
    int refs, num_groups, num_inputs, num_outputs;
    struct tensor inputs[MAX_GROUPS][MAX_TENSORS], outputs[MAX_GROUPS][MAX_TENSORS];
};
struct model {
    struct shapes *shapes;
    bool is_post, hollow, qk_norm, qkv_bias;
    int hidden, heads, kv_heads, head_dim, inner, vocab;
    float eps;
    int chunk[MAX_GROUPS], history[MAX_GROUPS];
    double device_s[MAX_GROUPS];
    uint64_t cmm_bytes;
    uint16_t *weights;
    float *frequencies;
    int running;
    uint64_t runs;
};
struct engine_context {
    uint64_t model;
};
struct model *model_of(uint64_t id);
void free_model(struct model *model);
void release_shapes(struct shapes *shapes);

/* io.c */
struct binding {
    const void *memory;
    uint64_t size;
};
struct io {
    struct shapes *shapes;
    struct binding inputs[MAX_TENSORS], outputs[MAX_TENSORS];
};
void free_io(struct io *io);

/* execute.c */
void wait_for_idle(void); /* lets the lock go meanwhile */
axclError execute_now(uint64_t model, uint64_t context, uint32_t group, const struct io *io,
                      bool async);

/* stream.c */
void stop_streams(struct context *context); /* of a context, or all; the lock is let go meanwhile */
void drain_default_stream(void);

/* transformer.c: bf16 in and out; nothing may overlap but as execute.c allows */
struct layer_io {
    const uint16_t *keys, *values, *input, *mask;
    const uint32_t *indices;
    uint16_t *keys_out, *values_out, *output;
};
void run_layer(const struct model *model, int chunk, int history, const struct layer_io *io);
void run_post(const struct model *model, const uint16_t *input, uint16_t *logits);

/* faults.c */
struct fault {
    int function; /* -1: any */
    uint64_t skip; /* matching calls to let pass */
    bool repeat, die, hang, once;
    double seconds; /* of the hang; 0 is until released */
    axclError code;
    bool has_code;
};
void faults_from_environment(void);
bool match_fault(enum function function, struct fault *fault);
axclError run_fault(const struct fault *fault);
void release_hangs(void);
void kill_card(void);
void sleep_s(double seconds);
struct timespec later(double seconds); /* on the monotonic clock */
double monotonic_s(void);

/* cost.c: virtual time */
void cost_from_environment(void);
double cost_of_copy(uint64_t bytes, bool over_bus, bool async);
double cost_of_execute(double device_s, bool async);
double cost_of_synchronization(void);
void spend(double seconds); /* unlocked */
void reset_seconds(void);
double cost_charged(double seconds);

/* shared.c: what other processes see of the card, if there is a page for it */
void shared_from_environment(void);
bool shared_was_abandoned(void);
void shared_claim(void);
void shared_cmm(void);
uint64_t shared_leaked(void);
int32_t shared_temperature(int32_t otherwise);
void shared_busy(double seconds);
void shared_running(int by);
void shared_reboot(void);
bool shared_was_rebooted(void);

#endif
