/* Models: the files of pack.py, loaded, and what their tensors are. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "card.h"

#define MAGIC "VIRTUAL-AXMODEL1"
#define MAGIC_BYTES 16
#define ALIGNMENT 64
#define COMPILER "virtual-ax650 1"

struct model *model_of(uint64_t id) { return handle_get(KIND_MODEL, (void *)(uintptr_t)id); }

void release_shapes(struct shapes *shapes) {
    if (shapes && --shapes->refs == 0) free(shapes);
}

void free_model(struct model *model) {
    release_cmm(model->cmm_bytes);
    counters.models--;
    release_shapes(model->shapes);
    free(model->weights);
    free(model->frequencies);
    free(model);
}

static void add_tensor(struct tensor *tensors, int *count, const char *name, int type, int rows,
                       int columns) {
    bool flat = type == TYPE_UINT32;
    struct tensor *tensor = &tensors[(*count)++];
    tensor->name = name;
    tensor->type = type;
    tensor->dims[0] = 1, tensor->dims[1] = rows, tensor->dims[2] = flat ? 0 : columns;
    tensor->size = (uint64_t)rows * (flat ? 4 : 2 * (uint64_t)columns);
}

static void describe(struct shapes *shapes, const struct model *model) {
    int kv_dim = model->kv_heads * model->head_dim;
    for (int group = 0; group < shapes->num_groups; group++) {
        struct tensor *inputs = shapes->inputs[group], *outputs = shapes->outputs[group];
        int chunk = model->chunk[group], history = model->history[group];
        shapes->num_inputs = shapes->num_outputs = 0;
        if (model->is_post) {
            add_tensor(inputs, &shapes->num_inputs, "input", TYPE_BF16, 1, model->hidden);
            add_tensor(outputs, &shapes->num_outputs, "output", TYPE_BF16, 1, model->vocab);
            continue;
        }
        int rows = history ? history : 1; /* without a history there is a dummy row */
        add_tensor(inputs, &shapes->num_inputs, "K_cache", TYPE_BF16, rows, kv_dim);
        add_tensor(inputs, &shapes->num_inputs, "V_cache", TYPE_BF16, rows, kv_dim);
        add_tensor(inputs, &shapes->num_inputs, "indices", TYPE_UINT32, chunk, 1);
        add_tensor(inputs, &shapes->num_inputs, "input", TYPE_BF16, chunk, model->hidden);
        add_tensor(inputs, &shapes->num_inputs, "mask", TYPE_BF16, chunk, history + chunk);
        for (int i = 0; i < shapes->num_inputs; i++) /* (1, n) and (1, n, m) */
            if (inputs[i].type == TYPE_UINT32) inputs[i].dims[2] = 0;
        add_tensor(outputs, &shapes->num_outputs, "K_cache_out", TYPE_BF16, chunk, kv_dim);
        add_tensor(outputs, &shapes->num_outputs, "V_cache_out", TYPE_BF16, chunk, kv_dim);
        add_tensor(outputs, &shapes->num_outputs, "output", TYPE_BF16, chunk, model->hidden);
    }
}

/* How many bf16 weights follow the header; the order is pack.py's. */
static uint64_t count_weights(const struct model *model) {
    uint64_t hidden = (uint64_t)model->hidden, inner = (uint64_t)model->inner;
    uint64_t q = (uint64_t)model->heads * (uint64_t)model->head_dim;
    uint64_t kv = (uint64_t)model->kv_heads * (uint64_t)model->head_dim;
    if (model->is_post) return hidden + (uint64_t)model->vocab * hidden;
    return 2 * hidden + 2 * (q + kv) * hidden + (model->qkv_bias ? q + 2 * kv : 0) +
           (model->qk_norm ? 2 * (uint64_t)model->head_dim : 0) + 3 * hidden * inner;
}

static bool read_int(const char *text, const char *key, int *value) {
    double number;
    if (!json_number(text, key, &number) || number < 0 || number > 1 << 28) return false;
    *value = (int)number;
    return true;
}

static bool read_groups(const char *text, struct model *model, int *num_groups) {
    double chunk[MAX_GROUPS], history[MAX_GROUPS], seconds[MAX_GROUPS];
    int count = json_numbers(text, "chunk_lens", chunk, MAX_GROUPS);
    if (count < 1 || json_numbers(text, "history_lens", history, MAX_GROUPS) != count ||
        json_numbers(text, "device_ms", seconds, MAX_GROUPS) != count)
        return false;
    for (int i = 0; i < count; i++) {
        model->chunk[i] = (int)chunk[i], model->history[i] = (int)history[i];
        model->device_s[i] = seconds[i] / 1000;
        if (model->chunk[i] < 1 || model->history[i] < 0) return false;
    }
    *num_groups = count;
    return true;
}

static bool read_header(const char *text, struct model *model, int *num_groups) {
    int post, hollow, qk_norm, qkv_bias;
    double eps, cmm_bytes;
    bool complete = json_valid(text) && read_int(text, "post", &post) &&
                    read_int(text, "hollow", &hollow) && read_int(text, "qk_norm", &qk_norm) &&
                    read_int(text, "qkv_bias", &qkv_bias) &&
                    read_int(text, "hidden_size", &model->hidden) &&
                    read_int(text, "num_heads", &model->heads) &&
                    read_int(text, "num_kv_heads", &model->kv_heads) &&
                    read_int(text, "head_dim", &model->head_dim) &&
                    read_int(text, "intermediate_size", &model->inner) &&
                    read_int(text, "vocab_size", &model->vocab) &&
                    json_number(text, "rms_norm_eps", &eps) &&
                    json_number(text, "cmm_bytes", &cmm_bytes) &&
                    read_groups(text, model, num_groups);
    if (!complete || model->kv_heads < 1 || model->heads % model->kv_heads || model->head_dim % 2)
        return false;
    model->is_post = post, model->hollow = hollow;
    model->qk_norm = qk_norm, model->qkv_bias = qkv_bias;
    model->eps = (float)eps;
    model->cmm_bytes = (uint64_t)cmm_bytes;
    return true;
}

/* Read a model, without regard for the card's memory; NULL if it is none. */
static struct model *parse(const unsigned char *bytes, uint64_t size) {
    uint64_t header_bytes, offset;
    int num_groups = 0;
    if (size < MAGIC_BYTES + 8 || memcmp(bytes, MAGIC, MAGIC_BYTES) != 0) return NULL;
    memcpy(&header_bytes, bytes + MAGIC_BYTES, 8);
    offset = MAGIC_BYTES + 8 + header_bytes;
    if (header_bytes > size || offset > size || offset % ALIGNMENT) return NULL;
    char *text = zeroed(header_bytes + 1);
    memcpy(text, bytes + MAGIC_BYTES + 8, header_bytes);
    struct model *model = zeroed(sizeof *model);
    bool good = read_header(text, model, &num_groups);
    free(text);
    uint64_t weights = good && !model->hollow ? 2 * count_weights(model) : 0;
    uint64_t rope = good && !model->hollow && !model->is_post ? 2 * (uint64_t)model->head_dim : 0;
    if (!good || size != offset + weights + rope) {
        free(model);
        return NULL;
    }
    if (weights) memcpy(model->weights = zeroed(weights), bytes + offset, weights);
    if (rope) memcpy(model->frequencies = zeroed(rope), bytes + offset + weights, rope);
    if (model->cmm_bytes < size) model->cmm_bytes = size;
    model->shapes = zeroed(sizeof *model->shapes);
    model->shapes->refs = 1;
    model->shapes->num_groups = num_groups;
    describe(model->shapes, model);
    return model;
}

static axclError load(const unsigned char *bytes, uint64_t size, uint64_t *id, bool over_bus) {
    if (!card.engine_on) return complain(ENGINE_EXECUTE_FAIL, "axclrtEngineInit was not called");
    struct model *model = parse(bytes, size);
    if (!model) return complain(ENGINE_EXECUTE_FAIL, "that is no model of pack.py, or is cut off");
    counters.models++;
    if (!reserve_cmm(model->cmm_bytes)) {
        uint64_t wanted = model->cmm_bytes;
        model->cmm_bytes = 0;
        free_model(model);
        return complain(MEMORY_EXECUTE_FAIL, "no CMM for a model of %llu bytes",
                        (unsigned long long)wanted);
    }
    double seconds = over_bus ? cost_of_copy(model->cmm_bytes, true, false) : 0;
    if (over_bus) counters.load_bytes += model->cmm_bytes;
    *id = (uint64_t)(uintptr_t)handle_new(KIND_MODEL, model);
    pthread_mutex_unlock(&card_lock);
    spend(seconds);
    pthread_mutex_lock(&card_lock);
    return AXCL_SUCC;
}

static unsigned char *read_file(const char *path, uint64_t *size) {
    FILE *file = fopen(path, "rb");
    unsigned char *bytes = NULL;
    if (!file) return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (*size = (uint64_t)ftell(file)) < (1ull << 40)) {
        rewind(file);
        bytes = zeroed(*size + 1);
        if (fread(bytes, 1, *size, file) != *size) free(bytes), bytes = NULL;
    }
    fclose(file);
    return bytes;
}

axclError axclrtEngineInit(axclrtEngineVNpuKind kind) {
    BEGIN(axclrtEngineInit);
    if (kind < 0 || kind > 3) return finish(complain(ENGINE_ILLEGAL, "no vNPU kind %d", kind));
    if (card.engine_on && card.vnpu != kind)
        return finish(complain(ENGINE_EXECUTE_FAIL, "the engine runs as kind %d", card.vnpu));
    card.engine_on = true;
    card.vnpu = kind;
    return finish(AXCL_SUCC);
}

axclError axclrtEngineGetVNpuKind(axclrtEngineVNpuKind *kind) {
    if (!kind) return ENGINE_NULL;
    BEGIN(axclrtEngineGetVNpuKind);
    if (!card.engine_on)
        return finish(complain(ENGINE_EXECUTE_FAIL, "axclrtEngineInit was not called"));
    *kind = card.vnpu;
    return finish(AXCL_SUCC);
}

axclError axclrtEngineFinalize(void) {
    BEGIN(axclrtEngineFinalize);
    if (!card.engine_on)
        return finish(complain(ENGINE_EXECUTE_FAIL, "axclrtEngineInit was not called"));
    if (handle_any(KIND_MODEL))
        return finish(complain(ENGINE_BUSY, "%llu models are still loaded",
                               (unsigned long long)counters.models));
    card.engine_on = false;
    return finish(AXCL_SUCC);
}

axclError axclrtEngineLoadFromFile(const char *path, uint64_t *model) {
    uint64_t size = 0;
    if (!path || !model) return ENGINE_NULL;
    BEGIN(axclrtEngineLoadFromFile);
    unsigned char *bytes = read_file(path, &size);
    if (!bytes) return finish(complain(ENGINE_ILLEGAL, "there is no file %s", path));
    axclError code = load(bytes, size, model, true);
    free(bytes);
    return finish(code);
}

axclError axclrtEngineLoadFromMem(const void *memory, uint64_t size, uint64_t *model) {
    struct block *block;
    unsigned char *bytes;
    if (!model) return ENGINE_NULL;
    if (!memory || !size) return ENGINE_ILLEGAL;
    BEGIN(axclrtEngineLoadFromMem);
    axclError code = find_range(memory, size, &block, &bytes); /* the vendor wants card memory */
    return finish(code == AXCL_SUCC ? load(bytes, size, model, false) : code);
}

const char *axclrtEngineGetModelCompilerVersion(uint64_t id) {
    if (begin(FN_axclrtEngineGetModelCompilerVersion) != AXCL_SUCC) return NULL;
    const char *version = model_of(id) ? COMPILER : NULL;
    if (!version) complain(ENGINE_ILLEGAL, "no such model");
    finish(AXCL_SUCC);
    return version;
}

axclError axclrtEngineUnload(uint64_t id) {
    if (!id) return ENGINE_ILLEGAL;
    BEGIN(axclrtEngineUnload);
    struct model *model = model_of(id);
    if (!model) return finish(complain(ENGINE_ILLEGAL, "no such model"));
    if (model->running) return finish(complain(ENGINE_BUSY, "the model is running"));
    handle_take(KIND_MODEL, (void *)(uintptr_t)id);
    free_model(model);
    return finish(AXCL_SUCC);
}

axclError axclrtEngineGetUsage(const char *path, int64_t *sys, int64_t *cmm) {
    uint64_t size = 0;
    if (!path || !sys || !cmm) return ENGINE_NULL;
    BEGIN(axclrtEngineGetUsage);
    unsigned char *bytes = read_file(path, &size);
    if (!bytes) return finish(complain(ENGINE_ILLEGAL, "there is no file %s", path));
    struct model *model = parse(bytes, size);
    free(bytes);
    if (!model) return finish(complain(ENGINE_EXECUTE_FAIL, "%s is no model of pack.py", path));
    *sys = 0, *cmm = (int64_t)model->cmm_bytes;
    model->cmm_bytes = 0;
    counters.models++;
    free_model(model);
    return finish(AXCL_SUCC);
}

axclError axclrtEngineGetUsageFromModelId(uint64_t id, int64_t *sys, int64_t *cmm) {
    if (!id) return ENGINE_ILLEGAL;
    if (!sys || !cmm) return ENGINE_NULL;
    BEGIN(axclrtEngineGetUsageFromModelId);
    struct model *model = model_of(id);
    if (!model) return finish(complain(ENGINE_ILLEGAL, "no such model"));
    *sys = 0, *cmm = (int64_t)model->cmm_bytes;
    return finish(AXCL_SUCC);
}

axclError axclrtEngineCreateContext(uint64_t id, uint64_t *context) {
    if (!id) return ENGINE_ILLEGAL;
    if (!context) return ENGINE_NULL;
    BEGIN(axclrtEngineCreateContext);
    if (!model_of(id)) return finish(complain(ENGINE_ILLEGAL, "no such model"));
    struct engine_context *engine = zeroed(sizeof *engine);
    engine->model = id;
    *context = (uint64_t)(uintptr_t)handle_new(KIND_ENGINE_CONTEXT, engine);
    return finish(AXCL_SUCC);
}
