/* The card's memory. Addresses lie in a reservation that nobody may touch; the bytes are elsewhere,
 * are bf16 NaN until written, and take host memory only as far as they were used. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "card.h"

#define MOST_RESERVED (64ull << 30) /* less where a checker such as valgrind forbids it */
#define LEAST_RESERVED (8ull << 30)
#define TOUCH_BYTES 65536u
#define NAN_BF16 0x7FC0u

static uint64_t base, reserved, cursor;
static struct block **blocks; /* by address */
static size_t num_blocks, capacity;
static void **host_blocks;
static size_t num_host_blocks;

static uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

bool is_device_address(const void *pointer) {
    uint64_t address = (uint64_t)(uintptr_t)pointer;
    return base && address >= base && address < base + reserved;
}

bool reserve_cmm(uint64_t size) {
    uint64_t rounded = round_up(size, PAGE);
    uint64_t used = card.cmm_idle + counters.cmm_used + shared_leaked();
    if (rounded < size || used > card.cmm_total || rounded > card.cmm_total - used) return false;
    counters.cmm_used += rounded;
    shared_cmm();
    return true;
}

void release_cmm(uint64_t size) {
    counters.cmm_used -= round_up(size, PAGE);
    shared_cmm();
}

/* The first of the blocks that end after an address. */
static size_t position_of(uint64_t address) {
    size_t low = 0, high = num_blocks;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (blocks[middle]->address + blocks[middle]->size <= address) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* A range between blocks with a page that is nobody's on either side. New ranges come after the
 * latest one, so that a freed address stays free for long. */
static uint64_t find_gap(uint64_t size) {
    for (int turn = 0; turn < 2; turn++, cursor = base + PAGE) {
        uint64_t start = cursor;
        for (size_t i = position_of(cursor - PAGE); i < num_blocks; i++) {
            if (start + size + PAGE <= blocks[i]->address) break;
            start = round_up(blocks[i]->address + blocks[i]->size, PAGE) + PAGE;
        }
        if (start + size + PAGE <= base + reserved) return start;
    }
    return 0;
}

static void fill_nan(unsigned char *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)(i % 2 ? NAN_BF16 >> 8 : NAN_BF16);
}

/* Give the bytes that were never written what they are: NaN. */
static void touch(struct block *block, uint64_t start, uint64_t size) {
    if (!block->touched || !size) return;
    for (uint64_t i = start / TOUCH_BYTES; i <= (start + size - 1) / TOUCH_BYTES; i++) {
        if (block->touched[i]) continue;
        uint64_t first = i * TOUCH_BYTES, left = block->size - first;
        fill_nan(block->bytes + first, left < TOUCH_BYTES ? left : TOUCH_BYTES);
        block->touched[i] = 1;
    }
}

axclError find_range(const void *pointer, uint64_t size, struct block **found, unsigned char **at) {
    uint64_t address = (uint64_t)(uintptr_t)pointer;
    size_t i = position_of(address);
    if (!is_device_address(pointer) || i == num_blocks || blocks[i]->address > address)
        return complain(MEMORY_NOT_DEVICE, "%p is no memory of the card", pointer);
    struct block *block = blocks[i];
    uint64_t offset = address - block->address;
    if (size > block->size - offset)
        return complain(MEMORY_NOT_DEVICE, "%llu bytes from %p end %llu behind the allocation",
                        (unsigned long long)size, pointer,
                        (unsigned long long)(size - (block->size - offset)));
    touch(block, offset, size);
    *found = block;
    *at = block->bytes + offset;
    return AXCL_SUCC;
}

static void reserve_addresses(void) {
    void *start = MAP_FAILED;
    for (reserved = MOST_RESERVED; start == MAP_FAILED; reserved /= 2) {
        if (reserved < LEAST_RESERVED) abort();
        start = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (start != MAP_FAILED) break;
    }
    base = (uint64_t)(uintptr_t)start;
    cursor = base + PAGE;
}

static axclError allocate(void **memory, size_t size) {
    if (size == 0) return complain(MEMORY_ILLEGAL, "an allocation of 0 bytes");
    if (!base) reserve_addresses();
    if (!reserve_cmm(size))
        return complain(MEMORY_EXECUTE_FAIL, "no CMM for %zu bytes: %llu of %llu are used", size,
                        (unsigned long long)(card.cmm_idle + counters.cmm_used + shared_leaked()),
                        (unsigned long long)card.cmm_total);
    uint64_t address = find_gap(size);
    if (!address) abort();
    struct block *block = zeroed(sizeof *block);
    block->address = address;
    block->size = size;
    block->mapped = size >= TOUCH_BYTES;
    if (block->mapped) {
        block->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (block->bytes == MAP_FAILED) abort();
        block->touched = zeroed(size / TOUCH_BYTES + 1);
    } else {
        block->bytes = zeroed(size);
        fill_nan(block->bytes, size);
    }
    if (num_blocks == capacity) {
        capacity = capacity ? 2 * capacity : 256;
        blocks = grown(blocks, capacity * sizeof *blocks);
    }
    size_t at = position_of(address);
    memmove(blocks + at + 1, blocks + at, (num_blocks - at) * sizeof *blocks);
    blocks[at] = block;
    num_blocks++;
    cursor = round_up(address + size, PAGE) + PAGE;
    counters.allocations++;
    counters.live_allocations++;
    counters.live_bytes += size;
    if (counters.live_bytes > counters.peak_bytes) counters.peak_bytes = counters.live_bytes;
    *memory = (void *)(uintptr_t)address;
    return AXCL_SUCC;
}

static void drop(size_t at) {
    struct block *block = blocks[at];
    num_blocks--;
    memmove(blocks + at, blocks + at + 1, (num_blocks - at) * sizeof *blocks);
    release_cmm(block->size);
    counters.live_allocations--;
    counters.live_bytes -= block->size;
    if (block->mapped) munmap(block->bytes, block->size);
    else free(block->bytes);
    free(block->touched);
    free(block);
}

void free_all_memory(void) {
    while (num_blocks) drop(num_blocks - 1);
}

axclError axclrtMalloc(void **memory, size_t size, axclrtMemMallocPolicy policy) {
    if (!memory) return MEMORY_NULL;
    BEGIN(axclrtMalloc);
    (void)policy; /* ignored, as the vendor's documentation says */
    return finish(allocate(memory, size));
}

axclError axclrtMallocCached(void **memory, size_t size, axclrtMemMallocPolicy policy) {
    if (!memory) return MEMORY_NULL;
    BEGIN(axclrtMallocCached);
    (void)policy;
    return finish(allocate(memory, size));
}

axclError axclrtFree(void *memory) {
    if (!memory) return MEMORY_NULL;
    BEGIN(axclrtFree);
    size_t at = position_of((uint64_t)(uintptr_t)memory);
    if (!is_device_address(memory) || at == num_blocks ||
        blocks[at]->address != (uint64_t)(uintptr_t)memory)
        return finish(complain(MEMORY_NOT_DEVICE, "%p does not begin an allocation", memory));
    if (blocks[at]->pins) return finish(complain(MEMORY_BUSY, "%p is in use", memory));
    drop(at);
    counters.frees++;
    return finish(AXCL_SUCC);
}

axclError axclrtMallocHost(void **memory, size_t size) {
    ENTER(axclrtMallocHost);
    if (!memory) return MEMORY_NULL;
    pthread_mutex_lock(&card_lock);
    host_blocks = grown(host_blocks, (num_host_blocks + 1) * sizeof *host_blocks);
    *memory = host_blocks[num_host_blocks++] = zeroed(size);
    memset(*memory, 0xA5, size);
    counters.host_allocations++;
    return finish(AXCL_SUCC);
}

axclError axclrtFreeHost(void *memory) {
    ENTER(axclrtFreeHost);
    pthread_mutex_lock(&card_lock);
    for (size_t i = 0; i < num_host_blocks; i++) {
        if (host_blocks[i] != memory) continue;
        host_blocks[i] = host_blocks[--num_host_blocks];
        free(memory);
        counters.host_allocations--;
        return finish(AXCL_SUCC);
    }
    return finish(complain(MEMORY_ILLEGAL, "%p is not from axclrtMallocHost", memory));
}

/* One side of a copy. Needs the lock. */
static axclError find_side(const void *pointer, size_t count, bool device, unsigned char **at) {
    struct block *block;
    if (device) return find_range(pointer, count, &block, at);
    if (is_device_address(pointer))
        return complain(MEMORY_NOT_DEVICE, "%p is the card's, but the kind says host", pointer);
    *at = (unsigned char *)(uintptr_t)pointer;
    return AXCL_SUCC;
}

static void count_copy(size_t count, int kind, bool async) {
    static const bool over_bus[] = {false, true, true, false};
    double seconds = kind == HOST_TO_HOST ? 0 : cost_of_copy(count, over_bus[kind], async);
    if (kind == HOST_TO_DEVICE) counters.h2d_copies++, counters.h2d_bytes += count;
    if (kind == DEVICE_TO_HOST) counters.d2h_copies++, counters.d2h_bytes += count;
    if (kind == DEVICE_TO_DEVICE) counters.d2d_copies++, counters.d2d_bytes += count;
    pthread_mutex_unlock(&card_lock);
    spend(seconds);
    pthread_mutex_lock(&card_lock);
}

axclError copy_now(void *to, const void *from, size_t count, int kind, bool async) {
    unsigned char *target, *source;
    if (!to || !from) return complain(MEMORY_NULL, "a copy from or to nowhere");
    if (count == 0) return complain(MEMORY_ILLEGAL, "a copy of 0 bytes");
    if (kind < HOST_TO_HOST || kind > DEVICE_TO_DEVICE)
        return complain(MEMORY_UNSUPPORT, "copies of kind %d", kind);
    axclError code =
        find_side(to, count, kind == HOST_TO_DEVICE || kind == DEVICE_TO_DEVICE, &target);
    if (code != AXCL_SUCC) return code;
    code = find_side(from, count, kind >= DEVICE_TO_HOST, &source);
    if (code != AXCL_SUCC) return code;
    if (target < source + count && source < target + count)
        return complain(MEMORY_ILLEGAL, "a copy onto itself");
    memcpy(target, source, count);
    count_copy(count, kind, async);
    return AXCL_SUCC;
}

axclError set_now(void *memory, uint8_t value, size_t count, bool async) {
    struct block *block;
    unsigned char *at;
    if (count == 0 || count > UINT32_MAX)
        return complain(MEMORY_ILLEGAL, "%zu bytes can't be set", count);
    axclError code = find_range(memory, count, &block, &at);
    if (code != AXCL_SUCC) return code;
    memset(at, value, count);
    counters.memsets++;
    counters.memset_bytes += count;
    pthread_mutex_unlock(&card_lock);
    spend(cost_of_copy(0, false, async));
    pthread_mutex_lock(&card_lock);
    return AXCL_SUCC;
}

axclError axclrtMemcpy(void *to, const void *from, size_t count, axclrtMemcpyKind kind) {
    if (!to || !from) return MEMORY_NULL;
    BEGIN(axclrtMemcpy);
    return finish(copy_now(to, from, count, kind, false));
}

axclError axclrtMemset(void *memory, uint8_t value, size_t count) {
    if (!memory) return MEMORY_NULL;
    BEGIN(axclrtMemset);
    return finish(set_now(memory, value, count, false));
}

axclError axclrtMemcmp(const void *left, const void *right, size_t count) {
    struct block *block;
    unsigned char *a, *b;
    if (!left || !right) return MEMORY_NULL;
    BEGIN(axclrtMemcmp);
    axclError code = find_range(left, count, &block, &a);
    if (code == AXCL_SUCC) code = find_range(right, count, &block, &b);
    if (code == AXCL_SUCC && memcmp(a, b, count) != 0) code = 1; /* the sign is not to be had */
    return finish(code);
}

/* Cached memory is not modelled: both only check the range. */
static axclError check_cached(void *memory, size_t size) {
    struct block *block;
    unsigned char *at;
    return find_range(memory, size, &block, &at);
}

axclError axclrtMemFlush(void *memory, size_t size) {
    if (!memory) return MEMORY_NULL;
    BEGIN(axclrtMemFlush);
    return finish(check_cached(memory, size));
}

axclError axclrtMemInvalidate(void *memory, size_t size) {
    if (!memory) return MEMORY_NULL;
    BEGIN(axclrtMemInvalidate);
    return finish(check_cached(memory, size));
}
