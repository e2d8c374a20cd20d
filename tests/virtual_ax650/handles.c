/* Handles: numbers that no object ever shares and that fault when taken for addresses. */
#include <stdio.h>
#include <stdlib.h>

#include "card.h"

#define HANDLE_BASE 0x7A00000000000000u /* not an address that a CPU accepts */
#define KIND_SHIFT 48

static struct {
    enum kind kind;
    void *object;
} *slots;
static size_t num_slots, capacity;

static void *checked(void *memory) {
    if (memory) return memory;
    fputs("virtual ax650: the host is out of memory\n", stderr);
    abort();
}

void *zeroed(size_t size) { return checked(calloc(1, size)); }

void *grown(void *memory, size_t size) { return checked(realloc(memory, size)); }

void *handle_new(enum kind kind, void *object) {
    if (num_slots == capacity) {
        capacity = capacity ? 2 * capacity : 256;
        slots = grown(slots, capacity * sizeof *slots);
    }
    slots[num_slots].kind = kind;
    slots[num_slots].object = object;
    return (void *)(uintptr_t)(HANDLE_BASE | (uint64_t)kind << KIND_SHIFT | num_slots++);
}

static size_t slot_of(enum kind kind, const void *handle) {
    uint64_t index = (uint64_t)(uintptr_t)handle ^ (HANDLE_BASE | (uint64_t)kind << KIND_SHIFT);
    return index < num_slots && slots[index].kind == kind ? (size_t)index : num_slots;
}

void *handle_get(enum kind kind, const void *handle) {
    size_t slot = slot_of(kind, handle);
    return slot < num_slots ? slots[slot].object : NULL;
}

void *handle_take(enum kind kind, const void *handle) {
    size_t slot = slot_of(kind, handle);
    if (slot == num_slots) return NULL;
    void *object = slots[slot].object;
    slots[slot].object = NULL;
    return object;
}

void *handle_next(enum kind kind, const void *after) {
    size_t first = after ? slot_of(kind, after) + 1 : 0;
    for (size_t i = first; i < num_slots; i++)
        if (slots[i].kind == kind && slots[i].object)
            return (void *)(uintptr_t)(HANDLE_BASE | (uint64_t)kind << KIND_SHIFT | i);
    return NULL;
}

void *handle_any(enum kind kind) { return handle_next(kind, NULL); }
