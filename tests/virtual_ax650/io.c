/* What a model's tensors are, and which buffers are bound to them: the host's own objects. */
#include <stdlib.h>
#include <string.h>

#include "card.h"

enum side { INPUTS, OUTPUTS };

void free_io(struct io *io) {
    release_shapes(io->shapes);
    free(io);
    counters.ios--;
}

static int count_of(const struct shapes *shapes, enum side side) {
    return side == INPUTS ? shapes->num_inputs : shapes->num_outputs;
}

static const struct tensor *tensors_of(const struct shapes *shapes, enum side side,
                                       uint32_t group) {
    return side == INPUTS ? shapes->inputs[group] : shapes->outputs[group];
}

static int index_of(const struct shapes *shapes, enum side side, const char *name) {
    for (int i = 0; name && i < count_of(shapes, side); i++)
        if (strcmp(tensors_of(shapes, side, 0)[i].name, name) == 0) return i;
    return -1;
}

/* Enter a question about an info object: with the lock, or NULL without it. */
static const struct shapes *info_of(enum function function, axclrtEngineIOInfo info,
                                    axclError *code) {
    *code = enter(function);
    if (*code != AXCL_SUCC) return NULL;
    pthread_mutex_lock(&card_lock);
    const struct shapes *shapes = handle_get(KIND_INFO, info);
    if (shapes) return shapes;
    *code = finish(complain(info ? ENGINE_ILLEGAL : ENGINE_NULL, "no such IO info"));
    return NULL;
}

static const struct tensor *tensor_of(enum function function, axclrtEngineIOInfo info,
                                      enum side side, uint32_t group, uint32_t index,
                                      axclError *code) {
    const struct shapes *shapes = info_of(function, info, code);
    if (!shapes) return NULL;
    const struct tensor *tensor = NULL;
    if (group >= (uint32_t)shapes->num_groups || index >= (uint32_t)count_of(shapes, side))
        *code = complain(ENGINE_INVALID_INDEX, "no tensor %u in group %u", index, group);
    else tensor = &tensors_of(shapes, side, group)[index];
    pthread_mutex_unlock(&card_lock);
    return tensor; /* lives as long as the info object */
}

axclError axclrtEngineGetIOInfo(uint64_t id, axclrtEngineIOInfo *info) {
    if (!id) return ENGINE_ILLEGAL;
    if (!info) return ENGINE_NULL;
    BEGIN(axclrtEngineGetIOInfo);
    struct model *model = model_of(id);
    if (!model) return finish(complain(ENGINE_ILLEGAL, "no such model"));
    model->shapes->refs++;
    counters.io_infos++;
    *info = handle_new(KIND_INFO, model->shapes);
    return finish(AXCL_SUCC);
}

axclError axclrtEngineDestroyIOInfo(axclrtEngineIOInfo info) {
    axclError code;
    if (!info_of(FN_axclrtEngineDestroyIOInfo, info, &code)) return code;
    release_shapes(handle_take(KIND_INFO, info));
    counters.io_infos--;
    return finish(AXCL_SUCC);
}

axclError axclrtEngineGetShapeGroupsCount(axclrtEngineIOInfo info, int32_t *count) {
    axclError code;
    if (!count) return ENGINE_NULL;
    const struct shapes *shapes = info_of(FN_axclrtEngineGetShapeGroupsCount, info, &code);
    if (!shapes) return code;
    *count = shapes->num_groups;
    return finish(AXCL_SUCC);
}

static uint32_t number_of(enum function function, axclrtEngineIOInfo info, enum side side) {
    axclError code;
    const struct shapes *shapes = info_of(function, info, &code);
    if (!shapes) return (uint32_t)code;
    uint32_t count = (uint32_t)count_of(shapes, side);
    finish(AXCL_SUCC);
    return count;
}

static uint64_t size_of(enum function function, axclrtEngineIOInfo info, enum side side,
                        uint32_t group, uint32_t index) {
    axclError code;
    const struct tensor *tensor = tensor_of(function, info, side, group, index, &code);
    return tensor ? tensor->size : (uint32_t)code;
}

static axclError dims_of(enum function function, axclrtEngineIOInfo info, enum side side,
                         uint32_t group, uint32_t index, axclrtEngineIODims *dims) {
    axclError code;
    if (!dims) return ENGINE_NULL;
    const struct tensor *tensor = tensor_of(function, info, side, group, index, &code);
    if (!tensor) return code;
    memset(dims, 0, sizeof *dims);
    dims->dimCount = tensor->dims[2] ? 3 : 2;
    for (int i = 0; i < dims->dimCount; i++) dims->dims[i] = tensor->dims[i];
    return AXCL_SUCC;
}

static const char *name_of(enum function function, axclrtEngineIOInfo info, enum side side,
                           uint32_t index) {
    axclError code;
    const struct tensor *tensor = tensor_of(function, info, side, 0, index, &code);
    return tensor ? tensor->name : NULL;
}

static int32_t named(enum function function, axclrtEngineIOInfo info, enum side side,
                     const char *name) {
    axclError code;
    const struct shapes *shapes = info_of(function, info, &code);
    if (!shapes) return code;
    int index = index_of(shapes, side, name);
    if (index < 0) index = complain(ENGINE_INVALID_INDEX, "no tensor %s", name ? name : "");
    return finish(index);
}

static int32_t type_of(enum function function, axclrtEngineIOInfo info, enum side side,
                       uint32_t index, int *type) {
    axclError code;
    if (!type) return ENGINE_NULL;
    const struct tensor *tensor = tensor_of(function, info, side, 0, index, &code);
    if (tensor) *type = tensor->type;
    return tensor ? AXCL_SUCC : code;
}

static int32_t layout_of(enum function function, axclrtEngineIOInfo info, enum side side,
                         uint32_t index, int *layout) {
    axclError code;
    if (!layout) return ENGINE_NULL;
    const struct tensor *tensor = tensor_of(function, info, side, 0, index, &code);
    if (tensor) *layout = 0; /* none */
    return tensor ? AXCL_SUCC : code;
}

axclError axclrtEngineCreateIO(axclrtEngineIOInfo info, axclrtEngineIO *handle) {
    axclError code;
    if (!handle) return ENGINE_NULL;
    if (!info_of(FN_axclrtEngineCreateIO, info, &code)) return code;
    struct io *io = zeroed(sizeof *io);
    io->shapes = handle_get(KIND_INFO, info);
    io->shapes->refs++;
    counters.ios++;
    *handle = handle_new(KIND_IO, io);
    return finish(AXCL_SUCC);
}

static struct io *io_of(enum function function, axclrtEngineIO handle, axclError *code) {
    *code = enter(function);
    if (*code != AXCL_SUCC) return NULL;
    pthread_mutex_lock(&card_lock);
    struct io *io = handle_get(KIND_IO, handle);
    if (io) return io;
    *code = finish(complain(handle ? ENGINE_ILLEGAL : ENGINE_NULL, "no such IO"));
    return NULL;
}

axclError axclrtEngineDestroyIO(axclrtEngineIO handle) {
    axclError code;
    if (!io_of(FN_axclrtEngineDestroyIO, handle, &code)) return code;
    free_io(handle_take(KIND_IO, handle));
    return finish(AXCL_SUCC);
}

/* The slot of a tensor, by index if it has no name. Needs the lock. */
static struct binding *slot_of(struct io *io, enum side side, int64_t index, const char *name) {
    if (name) index = index_of(io->shapes, side, name);
    if (index < 0 || index >= count_of(io->shapes, side)) return NULL;
    return side == INPUTS ? &io->inputs[index] : &io->outputs[index];
}

static axclError bind(enum function function, axclrtEngineIO handle, enum side side, int64_t index,
                      const char *name, const void *memory, uint64_t size) {
    axclError code;
    struct io *io = io_of(function, handle, &code);
    if (!io) return code;
    struct binding *slot = slot_of(io, side, index, name);
    if (!slot) return finish(complain(ENGINE_INVALID_INDEX, "no tensor %lld", (long long)index));
    if (!memory) return finish(complain(ENGINE_NULL, "a binding to nowhere"));
    slot->memory = memory; /* checked by the card, when it executes */
    slot->size = size;
    return finish(AXCL_SUCC);
}

static axclError bound(enum function function, axclrtEngineIO handle, enum side side, int64_t index,
                       const char *name, void **memory, uint64_t *size) {
    axclError code;
    if (!memory || !size) return ENGINE_NULL;
    struct io *io = io_of(function, handle, &code);
    if (!io) return code;
    const struct binding *slot = slot_of(io, side, index, name);
    if (!slot) return finish(complain(ENGINE_INVALID_INDEX, "no tensor %lld", (long long)index));
    *memory = (void *)(uintptr_t)slot->memory;
    *size = slot->size;
    return finish(AXCL_SUCC);
}

#define SIDES(define) define(Input, INPUTS) define(Output, OUTPUTS)

#define DEFINE_QUESTIONS(Side, side)                                                              \
    uint32_t axclrtEngineGetNum##Side##s(axclrtEngineIOInfo info) {                               \
        return number_of(FN_axclrtEngineGetNum##Side##s, info, side);                             \
    }                                                                                             \
    uint64_t axclrtEngineGet##Side##SizeByIndex(axclrtEngineIOInfo info, uint32_t group,          \
                                                uint32_t index) {                                 \
        return size_of(FN_axclrtEngineGet##Side##SizeByIndex, info, side, group, index);          \
    }                                                                                             \
    axclError axclrtEngineGet##Side##Dims(axclrtEngineIOInfo info, uint32_t group,                \
                                          uint32_t index, axclrtEngineIODims *dims) {             \
        return dims_of(FN_axclrtEngineGet##Side##Dims, info, side, group, index, dims);           \
    }                                                                                             \
    const char *axclrtEngineGet##Side##NameByIndex(axclrtEngineIOInfo info, uint32_t index) {     \
        return name_of(FN_axclrtEngineGet##Side##NameByIndex, info, side, index);                 \
    }                                                                                             \
    int32_t axclrtEngineGet##Side##IndexByName(axclrtEngineIOInfo info, const char *name) {       \
        return named(FN_axclrtEngineGet##Side##IndexByName, info, side, name);                    \
    }                                                                                             \
    int32_t axclrtEngineGet##Side##DataType(axclrtEngineIOInfo info, uint32_t index,              \
                                            axclrtEngineDataType *type) {                         \
        return type_of(FN_axclrtEngineGet##Side##DataType, info, side, index, type);              \
    }                                                                                             \
    int32_t axclrtEngineGet##Side##DataLayout(axclrtEngineIOInfo info, uint32_t index,            \
                                              axclrtEngineDataLayout *layout) {                   \
        return layout_of(FN_axclrtEngineGet##Side##DataLayout, info, side, index, layout);        \
    }

#define DEFINE_BINDINGS(Side, side)                                                               \
    axclError axclrtEngineSet##Side##BufferByIndex(axclrtEngineIO io, uint32_t index,             \
                                                   const void *memory, uint64_t size) {           \
        return bind(FN_axclrtEngineSet##Side##BufferByIndex, io, side, index, NULL, memory, size); \
    }                                                                                             \
    axclError axclrtEngineSet##Side##BufferByName(axclrtEngineIO io, const char *name,            \
                                                  const void *memory, uint64_t size) {            \
        return bind(FN_axclrtEngineSet##Side##BufferByName, io, side, -1, name, memory, size);    \
    }                                                                                             \
    axclError axclrtEngineGet##Side##BufferByIndex(axclrtEngineIO io, uint32_t index,             \
                                                   void **memory, uint64_t *size) {               \
        return bound(FN_axclrtEngineGet##Side##BufferByIndex, io, side, index, NULL, memory,      \
                     size);                                                                       \
    }                                                                                             \
    axclError axclrtEngineGet##Side##BufferByName(axclrtEngineIO io, const char *name,            \
                                                  void **memory, uint64_t *size) {                \
        return bound(FN_axclrtEngineGet##Side##BufferByName, io, side, -1, name, memory, size);   \
    }

SIDES(DEFINE_QUESTIONS)
SIDES(DEFINE_BINDINGS)
