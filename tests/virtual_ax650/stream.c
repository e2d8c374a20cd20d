/* Streams: one worker thread each does what was submitted, in order, when its turn comes.
 *
 * What a task points to is looked up only then, as the card does: host memory that was overwritten
 * and card memory that was freed meanwhile show. An Execute keeps the bindings that its IO had when
 * it was submitted. With VIRTUAL_AXCL_ASYNC=late nothing runs before somebody synchronizes, and the
 * host's side of a copy from the card is spoilt until then. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "card.h"

#ifdef WITHOUT_ASYNC

void stop_streams(struct context *context) { (void)context; }
void drain_default_stream(void) {}

#else

#define SPOILT 0xFF

struct task {
    enum { COPY, SET, EXECUTE } what;
    void *to;
    const void *from;
    size_t count;
    int kind;
    uint8_t value;
    uint64_t model, context;
    uint32_t group;
    struct io io;
    struct task *next;
};

struct stream {
    struct context *context;
    struct task *first, *last;
    uint64_t submitted, allowed, done;
    axclError error;
    bool stop;
    pthread_t worker;
};

static axclError run_task(struct task *task) {
    axclError code = enter(FN_virtual_axcl_task);
    if (code != AXCL_SUCC) return code;
    if (task->what == EXECUTE)
        return execute_now(task->model, task->context, task->group, &task->io, true);
    pthread_mutex_lock(&card_lock);
    code = check_alive();
    if (code != AXCL_SUCC) return finish(code);
    if (task->what == COPY)
        code = copy_now(task->to, task->from, task->count, task->kind, true);
    else code = set_now(task->to, task->value, task->count, true);
    return finish(code);
}

static void free_task(struct task *task) {
    release_shapes(task->what == EXECUTE ? task->io.shapes : NULL);
    free(task);
}

static void *work(void *argument) {
    struct stream *stream = argument;
    pthread_mutex_lock(&card_lock);
    while (!stream->stop) {
        struct task *task = stream->first;
        if (!task || stream->done >= stream->allowed) {
            pthread_cond_wait(&card_changed, &card_lock);
            continue;
        }
        stream->first = task->next;
        if (!stream->first) stream->last = NULL;
        pthread_mutex_unlock(&card_lock);
        axclError code = run_task(task);
        pthread_mutex_lock(&card_lock);
        free_task(task);
        if (stream->error == AXCL_SUCC) stream->error = code;
        stream->done++;
        counters.async_tasks++;
        pthread_cond_broadcast(&card_changed);
    }
    pthread_mutex_unlock(&card_lock);
    return NULL;
}

static void *new_stream(struct context *context) {
    struct stream *stream = zeroed(sizeof *stream);
    stream->context = context;
    if (pthread_create(&stream->worker, NULL, work, stream) != 0) {
        free(stream);
        return NULL;
    }
    counters.streams++;
    return handle_new(KIND_STREAM, stream);
}

/* Wait for what was submitted so far. Needs the lock; lets it go meanwhile. */
static axclError drain(void *handle, int32_t timeout_ms) {
    struct stream *stream = handle_get(KIND_STREAM, handle);
    if (!stream) return complain(DEVICE_NO_CONNECT, "the stream went away with its device");
    uint64_t goal = stream->submitted;
    struct timespec end = later(timeout_ms < 0 ? 0 : timeout_ms / 1000.0);
    stream->allowed = goal;
    pthread_cond_broadcast(&card_changed);
    while (stream->done < goal) {
        int late = timeout_ms < 0 ? pthread_cond_wait(&card_changed, &card_lock)
                                  : pthread_cond_clockwait(&card_changed, &card_lock,
                                                           CLOCK_MONOTONIC, &end);
        if (handle_get(KIND_STREAM, handle) != stream)
            return complain(DEVICE_NO_CONNECT, "the stream went away with its device");
        if (late && stream->done < goal)
            return complain(STREAM_SYNC_TIMEOUT, "the stream is not done after %d ms", timeout_ms);
    }
    return AXCL_SUCC;
}

/* End a worker; what still waits is dropped. Needs the lock; lets it go meanwhile. */
static void end_stream(void *handle) {
    struct stream *stream = handle_take(KIND_STREAM, handle);
    if (!stream) return;
    stream->stop = true;
    pthread_cond_broadcast(&card_changed);
    pthread_mutex_unlock(&card_lock);
    pthread_join(stream->worker, NULL);
    pthread_mutex_lock(&card_lock);
    for (struct task *task = stream->first, *next; task; task = next) {
        next = task->next;
        free_task(task);
    }
    counters.streams--;
    free(stream);
}

void stop_streams(struct context *context) {
    void *handle, *after = NULL;
    while ((handle = handle_next(KIND_STREAM, after))) {
        struct stream *stream = handle_get(KIND_STREAM, handle);
        if (!context || stream->context == context) end_stream(handle);
        after = handle;
    }
}

/* A synchronous call comes after the default stream, and knows nothing of the others. */
void drain_default_stream(void) {
    struct context *context = current_context();
    if (context->default_stream) drain(context->default_stream, -1);
}

static axclError submit(struct stream *stream, const struct task *values) {
    struct task *task = zeroed(sizeof *task);
    *task = *values;
    if (stream->last) stream->last->next = task;
    else stream->first = task;
    stream->last = task;
    stream->submitted++;
    if (!card.late) stream->allowed = stream->submitted;
    pthread_cond_broadcast(&card_changed);
    return AXCL_SUCC;
}

axclError axclrtCreateStream(axclrtStream *stream) {
    if (!stream) return STREAM_NULL;
    BEGIN(axclrtCreateStream);
    *stream = new_stream(current_context());
    return finish(*stream ? AXCL_SUCC : complain(STREAM_CREATE, "no thread for a stream"));
}

axclError axclrtDestroyStream(axclrtStream stream) {
    if (!stream) return STREAM_NULL;
    BEGIN(axclrtDestroyStream);
    if (!handle_get(KIND_STREAM, stream))
        return finish(complain(STREAM_DESTROY, "no such stream"));
    axclError code = drain(stream, -1);
    end_stream(stream);
    return finish(code);
}

axclError axclrtDestroyStreamForce(axclrtStream stream) {
    if (!stream) return STREAM_NULL;
    BEGIN(axclrtDestroyStreamForce);
    if (!handle_get(KIND_STREAM, stream))
        return finish(complain(STREAM_DESTROY, "no such stream"));
    end_stream(stream);
    return finish(AXCL_SUCC);
}

static axclError synchronize(axclrtStream handle, int32_t timeout_ms) {
    struct stream *stream = handle_get(KIND_STREAM, handle);
    if (!stream) return finish(complain(STREAM_DESTROY, "no such stream"));
    axclError code = drain(handle, timeout_ms);
    if (code == AXCL_SUCC) {
        code = stream->error;
        stream->error = AXCL_SUCC;
    }
    pthread_mutex_unlock(&card_lock);
    spend(cost_of_synchronization());
    return code;
}

axclError axclrtSynchronizeStream(axclrtStream stream) {
    if (!stream) return STREAM_NULL;
    BEGIN(axclrtSynchronizeStream);
    return synchronize(stream, -1);
}

axclError axclrtSynchronizeStreamWithTimeout(axclrtStream stream, int32_t timeout_ms) {
    if (!stream) return STREAM_NULL;
    BEGIN(axclrtSynchronizeStreamWithTimeout);
    return synchronize(stream, timeout_ms);
}

/* Does a task that waits still need these bytes of the host? */
static bool is_source(const struct stream *stream, const char *start, size_t count) {
    for (const struct task *task = stream->first; task; task = task->next) {
        const char *source = task->from;
        if (task->what == COPY && task->kind == HOST_TO_DEVICE && source < start + count &&
            start < source + task->count)
            return true;
    }
    return false;
}

axclError axclrtMemcpyAsync(void *to, const void *from, size_t count, axclrtMemcpyKind kind,
                            axclrtStream handle) {
    if (!to || !from) return MEMORY_NULL;
    if (!handle) return STREAM_NULL;
    BEGIN(axclrtMemcpyAsync);
    struct stream *stream = handle_get(KIND_STREAM, handle);
    if (!stream) return finish(complain(STREAM_NULL, "no such stream"));
    if (kind == HOST_TO_HOST || (kind == DEVICE_TO_DEVICE && !card.async_d2d))
        return finish(complain(MEMORY_UNSUPPORT, "asynchronous copies of kind %d", kind));
    if (count == 0) return finish(complain(MEMORY_ILLEGAL, "a copy of 0 bytes"));
    if (card.late && kind == DEVICE_TO_HOST && !is_device_address(to) &&
        !is_source(stream, to, count))
        memset(to, SPOILT, count);
    struct task task = {.what = COPY, .to = to, .from = from, .count = count, .kind = kind};
    return finish(submit(stream, &task));
}

axclError axclrtMemsetAsync(void *memory, uint8_t value, size_t count, axclrtStream handle) {
    if (!memory) return MEMORY_NULL;
    if (!handle) return STREAM_NULL;
    BEGIN(axclrtMemsetAsync);
    struct stream *stream = handle_get(KIND_STREAM, handle);
    if (!stream) return finish(complain(STREAM_NULL, "no such stream"));
    struct task task = {.what = SET, .to = memory, .count = count, .value = value};
    return finish(submit(stream, &task));
}

axclError axclrtEngineExecuteAsync(uint64_t model, uint64_t context, uint32_t group,
                                   axclrtEngineIO handle, axclrtStream stream_handle) {
    if (!handle) return ENGINE_NULL;
    BEGIN(axclrtEngineExecuteAsync);
    if (!stream_handle) { /* the default stream of the context, which begins with its first use */
        struct context *runtime = current_context();
        if (!runtime->default_stream) runtime->default_stream = new_stream(runtime);
        stream_handle = runtime->default_stream;
    }
    struct stream *stream = handle_get(KIND_STREAM, stream_handle);
    struct io *io = handle_get(KIND_IO, handle);
    if (!stream) return finish(complain(STREAM_NULL, "no such stream"));
    if (!io) return finish(complain(ENGINE_ILLEGAL, "no such IO"));
    if (!model || !context) return finish(complain(ENGINE_ILLEGAL, "model or context is 0"));
    struct task task = {
        .what = EXECUTE, .model = model, .context = context, .group = group, .io = *io};
    io->shapes->refs++;
    return finish(submit(stream, &task));
}

#endif
