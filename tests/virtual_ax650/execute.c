/* Executing: every binding is checked, then the graph is computed. The NPU does one at a time. */
#include <string.h>

#include "card.h"

enum { KEYS, VALUES, INDICES, INPUT, MASK };
enum { KEYS_OUT, VALUES_OUT, OUTPUT };

struct place { /* a tensor on the card */
    struct block *block;
    unsigned char *at;
    uint64_t size;
};

struct run {
    struct model *model;
    uint32_t group;
    struct place inputs[MAX_TENSORS], outputs[MAX_TENSORS];
};

static pthread_mutex_t npu_lock = PTHREAD_MUTEX_INITIALIZER;
static int num_running;

void wait_for_idle(void) {
    while (num_running) pthread_cond_wait(&card_changed, &card_lock);
}

/* Rows of K and V may go to their place in the cache in decode, and only there. */
static bool may_be_inside(const struct run *run, bool is_input, int index) {
    return !is_input && !run->model->is_post && index != OUTPUT && card.kv_in_place &&
           run->model->chunk[run->group] == 1;
}

static axclError place(const struct run *run, const struct binding *binding,
                       const struct tensor *tensor, bool is_input, int index, struct place *place) {
    if (!binding->memory) return complain(ENGINE_NULL, "%s has no buffer", tensor->name);
    if (binding->size != tensor->size && !(card.loose_io && binding->size > tensor->size))
        return complain(ENGINE_ILLEGAL, "%s takes %llu bytes in group %u, its buffer has %llu",
                        tensor->name, (unsigned long long)tensor->size, run->group,
                        (unsigned long long)binding->size);
    place->size = tensor->size;
    axclError code = find_range(binding->memory, run->model->hollow ? 0 : tensor->size,
                                &place->block, &place->at);
    if (code != AXCL_SUCC) return code;
    uint64_t offset = (uint64_t)(uintptr_t)binding->memory - place->block->address;
    if (binding->size > place->block->size - offset)
        return complain(MEMORY_NOT_DEVICE, "the buffer of %s ends behind its allocation",
                        tensor->name);
    if (offset && !card.loose_io && !may_be_inside(run, is_input, index))
        return complain(ENGINE_ILLEGAL, "%s is bound %llu bytes inside an allocation", tensor->name,
                        (unsigned long long)offset);
    return AXCL_SUCC;
}

static bool overlap(const struct place *left, const struct place *right) {
    return left->block == right->block && left->at < right->at + right->size &&
           right->at < left->at + left->size;
}

/* No output may lie where an input or another output is; but a new row may lie in its own cache. */
static axclError check_overlaps(const struct run *run) {
    const struct shapes *shapes = run->model->shapes;
    for (int i = 0; i < shapes->num_outputs; i++) {
        for (int j = 0; j < shapes->num_inputs; j++) {
            bool own_cache = i == j && may_be_inside(run, false, i);
            if (!own_cache && overlap(&run->outputs[i], &run->inputs[j]))
                return complain(ENGINE_ILLEGAL, "%s is bound to the memory of %s",
                                shapes->outputs[0][i].name, shapes->inputs[0][j].name);
        }
        for (int j = 0; j < i; j++)
            if (overlap(&run->outputs[i], &run->outputs[j]))
                return complain(ENGINE_ILLEGAL, "%s and %s are bound to the same memory",
                                shapes->outputs[0][i].name, shapes->outputs[0][j].name);
    }
    return AXCL_SUCC;
}

static void pin(struct run *run, int by) {
    num_running += by;
    run->model->running += by;
    for (int i = 0; i < run->model->shapes->num_inputs; i++) run->inputs[i].block->pins += by;
    for (int i = 0; i < run->model->shapes->num_outputs; i++) run->outputs[i].block->pins += by;
}

static axclError prepare(uint64_t model_id, uint64_t context_id, const struct io *io,
                         struct run *run) {
    const struct engine_context *engine =
        handle_get(KIND_ENGINE_CONTEXT, (void *)(uintptr_t)context_id);
    run->model = model_of(model_id);
    axclError code = check_alive();
    if (code != AXCL_SUCC) return code;
    if (!run->model) return complain(ENGINE_ILLEGAL, "no such model");
    if (!engine || engine->model != model_id)
        return complain(ENGINE_ILLEGAL, "the model has no such context");
    const struct shapes *shapes = run->model->shapes;
    if (io->shapes != shapes) return complain(ENGINE_ILLEGAL, "the IO is another model's");
    if (run->group >= (uint32_t)shapes->num_groups)
        return complain(ENGINE_ILLEGAL, "there are %d shape groups, so none is %u",
                        shapes->num_groups, run->group);
    const struct tensor *inputs = shapes->inputs[run->group];
    const struct tensor *outputs = shapes->outputs[run->group];
    for (int i = 0; code == AXCL_SUCC && i < shapes->num_inputs; i++)
        code = place(run, &io->inputs[i], &inputs[i], true, i, &run->inputs[i]);
    for (int i = 0; code == AXCL_SUCC && i < shapes->num_outputs; i++)
        code = place(run, &io->outputs[i], &outputs[i], false, i, &run->outputs[i]);
    return code == AXCL_SUCC ? check_overlaps(run) : code;
}

/* A hollow model's results are as good as any: a pattern that changes from run to run. */
static void pretend(const struct run *run) {
    for (int i = 0; i < run->model->shapes->num_outputs; i++) {
        uint16_t *values = (uint16_t *)(void *)run->outputs[i].at;
        uint16_t first = (uint16_t)(0x3C00 + (run->model->runs + (uint64_t)i) % 64);
        for (uint64_t j = 0; j < run->outputs[i].size / 2; j++)
            values[j] = (uint16_t)(first + j % 16);
    }
}

static void compute(const struct run *run) {
    const struct model *model = run->model;
    if (model->hollow) {
        pretend(run);
        return;
    }
    if (model->is_post) {
        run_post(model, (const uint16_t *)(void *)run->inputs[0].at,
                 (uint16_t *)(void *)run->outputs[0].at);
        return;
    }
    struct layer_io io = {
        .keys = (const uint16_t *)(void *)run->inputs[KEYS].at,
        .values = (const uint16_t *)(void *)run->inputs[VALUES].at,
        .indices = (const uint32_t *)(void *)run->inputs[INDICES].at,
        .input = (const uint16_t *)(void *)run->inputs[INPUT].at,
        .mask = (const uint16_t *)(void *)run->inputs[MASK].at,
        .keys_out = (uint16_t *)(void *)run->outputs[KEYS_OUT].at,
        .values_out = (uint16_t *)(void *)run->outputs[VALUES_OUT].at,
        .output = (uint16_t *)(void *)run->outputs[OUTPUT].at,
    };
    run_layer(model, model->chunk[run->group], model->history[run->group], &io);
}

axclError execute_now(uint64_t model_id, uint64_t context_id, uint32_t group, const struct io *io,
                      bool async) {
    struct run run = {.group = group};
    pthread_mutex_lock(&card_lock);
    axclError code = prepare(model_id, context_id, io, &run);
    if (code != AXCL_SUCC) return finish(code);
    /* A hollow run writes its outputs, but reads nothing. */
    for (int i = 0; i < run.model->shapes->num_outputs; i++) {
        struct block *block;
        find_range((void *)(uintptr_t)(run.outputs[i].block->address +
                                       (uint64_t)(run.outputs[i].at - run.outputs[i].block->bytes)),
                   run.outputs[i].size, &block, &run.outputs[i].at);
    }
    pin(&run, 1);
    double device_s = run.model->device_s[group];
    shared_running(1);
    pthread_mutex_unlock(&card_lock);

    pthread_mutex_lock(&npu_lock);
    double began_s = monotonic_s();
    compute(&run);
    shared_busy(monotonic_s() - began_s + cost_charged(device_s));
    pthread_mutex_unlock(&npu_lock);
    spend(cost_of_execute(device_s, async));

    pthread_mutex_lock(&card_lock);
    pin(&run, -1);
    shared_running(-1);
    pthread_cond_broadcast(&card_changed);
    run.model->runs++;
    counters.executes[group]++;
    if (run.model->is_post) counters.post_executes++;
    else counters.layer_executes++;
    return finish(check_alive());
}

axclError axclrtEngineExecute(uint64_t model, uint64_t context, uint32_t group,
                              axclrtEngineIO handle) {
    if (!model || !context) return ENGINE_ILLEGAL;
    if (!handle) return ENGINE_NULL;
    BEGIN(axclrtEngineExecute);
    struct io *io = handle_get(KIND_IO, handle);
    if (!io) return finish(complain(ENGINE_ILLEGAL, "no such IO"));
    struct io bindings = *io;
    pthread_mutex_unlock(&card_lock);
    return execute_now(model, context, group, &bindings, false);
}
