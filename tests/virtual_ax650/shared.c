/* The page through which processes see one card: VIRTUAL_AXCL_SHARED names the file.
 *
 * The layout is that of shared.py, which makes the file; all fields have 8 bytes and are read and
 * written whole. The process that activated the device last owns the page: it alone writes what it
 * uses. A count of reboots that changes is how a process learns that somebody rebooted the card. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "card.h"

#define MAGIC "VIRTUAL-AX650-S1" /* its last character changes with the layout */
#define MAGIC_BYTES 16

struct page {
    char magic[MAGIC_BYTES];
    int64_t owner; /* process id; 0 is nobody */
    uint64_t busy_ns, running, cmm_total, cmm_idle, cmm_used, cmm_leaked;
    int64_t millidegrees;
    uint64_t reboots;
};

static struct page *page;
static uint64_t seen_reboots;

#define STORE(field, value) __atomic_store_n(&page->field, (value), __ATOMIC_SEQ_CST)
#define LOAD(field) __atomic_load_n(&page->field, __ATOMIC_SEQ_CST)

static void refuse(const char *path, const char *why) {
    fprintf(stderr, "virtual ax650: %s: %s\n", path, why);
    abort();
}

void shared_from_environment(void) {
    const char *path = getenv("VIRTUAL_AXCL_SHARED");
    struct stat status;
    if (page) munmap(page, PAGE);
    page = NULL;
    if (!path || !*path) return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) != 0) refuse(path, "the shared page can't be opened");
    if (status.st_size != PAGE) refuse(path, "the shared page has another size");
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (page == MAP_FAILED) refuse(path, "the shared page can't be mapped");
    if (memcmp(page->magic, MAGIC, MAGIC_BYTES) != 0)
        refuse(path, "the shared page is of another layout; make a new one");
    seen_reboots = LOAD(reboots);
}

static bool is_owner(void) { return page && LOAD(owner) == getpid(); }

/* A process that nobody has waited for yet is as good as gone. */
static bool is_alive(int64_t pid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    FILE *file = fopen(path, "r");
    if (!file) return false;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    const char *state = strrchr(text, ')');
    return state && state[1] && state[2] != 'Z' && state[2] != 'X';
}

/* Did the owner before us leave without a word, and in the middle of something? */
bool shared_was_abandoned(void) {
    int64_t owner = page ? LOAD(owner) : 0;
    return owner && owner != getpid() && LOAD(running) && !is_alive(owner);
}

void shared_claim(void) {
    if (!page) return;
    STORE(cmm_leaked, 0);
    STORE(running, 0);
    STORE(cmm_total, card.cmm_total);
    STORE(cmm_idle, card.cmm_idle);
    STORE(owner, getpid());
    shared_cmm();
}

/* Publish what this process uses. */
void shared_cmm(void) {
    if (is_owner()) STORE(cmm_used, counters.cmm_used);
}

uint64_t shared_leaked(void) { return is_owner() ? LOAD(cmm_leaked) : 0; }

int32_t shared_temperature(int32_t otherwise) {
    return page ? (int32_t)LOAD(millidegrees) : otherwise;
}

void shared_busy(double seconds) {
    if (page) __atomic_add_fetch(&page->busy_ns, (uint64_t)(seconds * 1e9), __ATOMIC_SEQ_CST);
}

/* A call at the device begins (1) or ends (-1). */
void shared_running(int by) {
    if (is_owner()) __atomic_add_fetch(&page->running, (uint64_t)(int64_t)by, __ATOMIC_SEQ_CST);
}

/* We rebooted the card. */
void shared_reboot(void) {
    if (!page) return;
    STORE(owner, 0);
    STORE(cmm_used, 0);
    STORE(cmm_leaked, 0);
    STORE(running, 0);
    seen_reboots = __atomic_add_fetch(&page->reboots, 1, __ATOMIC_SEQ_CST);
}

/* Was it rebooted by somebody else since this was asked? */
bool shared_was_rebooted(void) {
    if (!page || LOAD(reboots) == seen_reboots) return false;
    seen_reboots = LOAD(reboots);
    return true;
}
