/*
 * The books of pages in C: free_lists PAGES BATCH ROUNDS FILE
 *
 * Chunks of 512 pages. A chunk's free pages are a stack linked by index; chunks with free pages are on 33 lists by
 * how many they have, and the fullest gives first. PAGES are allocated in batches; then each round frees BATCH of
 * them and allocates as many. FILE says which: BATCH positions a round (u32) among the pages that are held, each
 * filled by the page that is allocated for it. Prints one line of JSON: seconds of filling and of the rounds, how
 * many different pages are held at the end, and in how many chunks.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CHUNK_PAGES = 512, LISTS = 33, LIST_SHIFT = 4, NIL = 0xffff, OWNER = 7, FREE_STATE = 3 };

typedef struct Chunk {
    struct Chunk *next, *previous;
    uint32_t id;
    uint16_t free, head;
    int list;
    uint64_t pages[CHUNK_PAGES]; /* private: frame, owner, state; free: next index, state */
} Chunk;

static Chunk *lists[LISTS], **chunks;
static uint32_t chunk_count;
static uint64_t allocated, limit;

/* Processor time: what else runs on the machine counts less. */
static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void relink(Chunk *chunk)
{
    int list = chunk->free ? chunk->free >> LIST_SHIFT : -1;
    if (list == chunk->list)
        return;
    if (chunk->list >= 0) {
        if (chunk->next)
            chunk->next->previous = chunk->previous;
        if (chunk->previous)
            chunk->previous->next = chunk->next;
        else
            lists[chunk->list] = chunk->next;
    }
    chunk->list = list;
    if (list < 0)
        return;
    chunk->previous = NULL;
    chunk->next = lists[list];
    if (chunk->next)
        chunk->next->previous = chunk;
    lists[list] = chunk;
}

static Chunk *new_chunk(void)
{
    Chunk *chunk = malloc(sizeof *chunk);
    if (!chunk)
        exit(1);
    chunk->next = chunk->previous = NULL;
    chunk->id = ++chunk_count;
    chunk->free = CHUNK_PAGES, chunk->head = 0, chunk->list = -1;
    for (int i = 0; i < CHUNK_PAGES; i++)
        chunk->pages[i] = (uint64_t)FREE_STATE << 62 | (i + 1 < CHUNK_PAGES ? i + 1 : NIL);
    chunks[chunk->id] = chunk;
    relink(chunk);
    return chunk;
}

static int allocate(uint32_t *ids, size_t count)
{
    if (allocated + count > limit)
        return -1;
    for (size_t done = 0; done < count;) {
        int list = 0;
        while (list < LISTS && !lists[list])
            list++;
        Chunk *chunk = list < LISTS ? lists[list] : new_chunk();
        for (; chunk->free && done < count; chunk->free--, done++) {
            uint16_t index = chunk->head;
            chunk->head = chunk->pages[index] & 0xffff;
            chunk->pages[index] = (uint64_t)OWNER << 32 | 0xfffffff1;
            ids[done] = chunk->id << 9 | index;
        }
        relink(chunk);
    }
    allocated += count;
    return 0;
}

static int release(const uint32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t id = ids[i] >> 9, index = ids[i] & (CHUNK_PAGES - 1);
        if (!id || id > chunk_count)
            return -1;
        Chunk *chunk = chunks[id];
        uint64_t page = chunk->pages[index];
        if (page >> 62 || (page >> 32 & 0xffff) != OWNER)
            return -1;
        chunk->pages[index] = (uint64_t)FREE_STATE << 62 | chunk->head;
        chunk->head = index;
        chunk->free++;
        relink(chunk);
    }
    allocated -= count;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    size_t pages = strtoull(argv[1], NULL, 10), batch = strtoull(argv[2], NULL, 10);
    size_t rounds = strtoull(argv[3], NULL, 10), count = rounds * batch;
    uint32_t *held = malloc(pages * sizeof *held), *victims = malloc(count * sizeof *victims);
    uint32_t *ids = malloc(batch * sizeof *ids);
    FILE *file = fopen(argv[4], "r");
    limit = pages;
    chunks = calloc(pages / CHUNK_PAGES + 2, sizeof *chunks);
    if (!held || !victims || !ids || !chunks || !file || fread(victims, sizeof *victims, count, file) != count)
        return 1;

    double begin = now();
    for (size_t at = 0; at < pages; at += batch)
        if (allocate(held + at, batch))
            return 1;
    double filled = now() - begin;
    begin = now();
    for (size_t round = 0; round < rounds; round++) {
        const uint32_t *at = victims + round * batch;
        for (size_t i = 0; i < batch; i++)
            ids[i] = held[at[i]];
        if (release(ids, batch) || allocate(ids, batch))
            return 1;
        for (size_t i = 0; i < batch; i++)
            held[at[i]] = ids[i];
    }
    double moved = now() - begin;
    uint64_t distinct = 0;
    unsigned char *seen = calloc((size_t)(chunk_count + 1) * CHUNK_PAGES, 1);
    if (!seen)
        return 1;
    for (size_t i = 0; i < pages; i++)
        distinct += !seen[held[i]]++;
    printf("{\"fill_s\": %.9f, \"rounds_s\": %.9f, \"distinct\": %lu, \"chunks\": %u}\n", filled, moved, distinct,
           chunk_count);
    return 0;
}
