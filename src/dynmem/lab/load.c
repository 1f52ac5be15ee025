// The load: a process that holds a given amount of anonymous memory, like any program that needs memory.
//
// It allocates memory in blocks and fills every whole page with a pattern made from the page's number and the
// block's generation. It checks every whole page before it frees it, and some held pages all the time.
// When the kernel is short of memory it does nothing special: it touches its pages, and may be killed for that.

#include "load.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_PAGES 256u // 1 MiB: small beside any guest, large enough that system calls do not matter
#define BLOCKS_MAX 65536u
#define PAGE_WORDS (PAGE_BYTES / 8u)
#define IDLE_NS 10000000L
#define ROUNDS_PER_SAMPLE 10u

struct block {
    uint64_t *memory;
    uint64_t generation;
};

static struct block held[BLOCKS_MAX];
static unsigned held_blocks;
static uint64_t generation;

// splitmix64's finaliser: neighbouring pages and generations must not look alike.
static uint64_t mix(uint64_t page, uint64_t age)
{
    uint64_t x = page * 0x9E3779B97F4A7C15u + age;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static uint64_t first_page(const struct block *block)
{
    return (uint64_t)(uintptr_t)block->memory / PAGE_BYTES;
}

static void fill_page(uint64_t *words, uint64_t seed)
{
    for (unsigned i = 0; i < PAGE_WORDS; i++)
        words[i] = seed + i;
}

static void fill(const struct block *block)
{
    for (unsigned page = 0; page < BLOCK_PAGES; page++)
        fill_page(block->memory + page * PAGE_WORDS, mix(first_page(block) + page, block->generation));
}

static unsigned wrong_bytes_of(const uint64_t *words, uint64_t seed)
{
    unsigned wrong = 0;
    for (unsigned i = 0; i < PAGE_WORDS; i++)
        for (uint64_t differs = words[i] ^ (seed + i); differs; differs >>= 8)
            wrong += (differs & 0xff) != 0;
    return wrong;
}

// A wrong page is counted and corrected, so that no byte is counted twice.
static void verify(const struct block *block, struct counters *counters)
{
    for (unsigned page = 0; page < BLOCK_PAGES; page++) {
        uint64_t *words = block->memory + page * PAGE_WORDS;
        uint64_t seed = mix(first_page(block) + page, block->generation);
        unsigned wrong = wrong_bytes_of(words, seed);
        if (!wrong)
            continue;
        counters->wrong_bytes += wrong;
        counters->wrong_pages++;
        fill_page(words, seed);
    }
    counters->verified_pages += BLOCK_PAGES;
}

static int grow(struct counters *counters)
{
    void *memory;
    if (counters->reserve_pages && meminfo_pages("MemAvailable:") <= counters->reserve_pages + BLOCK_PAGES)
        return 0;
    memory = mmap(NULL, BLOCK_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 0;
    held[held_blocks] = (struct block){memory, ++generation};
    fill(&held[held_blocks++]);
    counters->held_pages = (uint64_t)held_blocks * BLOCK_PAGES;
    return 1;
}

// Any block may be freed: a program does not free in the order in which it allocated.
static void shrink(struct counters *counters)
{
    struct block *block = &held[(unsigned)random() % held_blocks];
    verify(block, counters);
    munmap(block->memory, BLOCK_PAGES * PAGE_BYTES);
    *block = held[--held_blocks];
    counters->held_pages = (uint64_t)held_blocks * BLOCK_PAGES;
}

uint64_t meminfo_pages(const char *key)
{
    static int fd = -1;
    char text[4096];
    ssize_t length;
    const char *line;
    if (fd < 0)
        fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    length = pread(fd, text, sizeof text - 1, 0);
    if (length <= 0)
        return 0;
    text[length] = 0;
    line = strstr(text, key);
    return line ? strtoull(line + strlen(key), NULL, 10) / (PAGE_BYTES / 1024) : 0;
}

void load_run(struct counters *counters)
{
    const struct timespec idle = {0, IDLE_NS};
    unsigned round = 0, sample = 0;
    for (;;) {
        uint64_t blocks = counters->wanted_pages / BLOCK_PAGES;
        if (blocks > BLOCKS_MAX)
            blocks = BLOCKS_MAX;
        if (held_blocks > blocks) {
            shrink(counters);
            continue;
        }
        if (held_blocks < blocks && grow(counters))
            continue;
        if (held_blocks && ++round % ROUNDS_PER_SAMPLE == 0)
            verify(&held[sample++ % held_blocks], counters);
        nanosleep(&idle, NULL);
    }
}
