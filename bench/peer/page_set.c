/*
 * The tree of ranges on one workload: page_set VARIANT GUEST_PAGES RANGES_A_MESSAGE MAX_PAGES FILE
 *
 * FILE holds packed ranges, one message after the other. Prints one line of JSON: seconds and resident growth of
 * inserting all of it and what became of the pages; seconds, messages and pages of taking it all back.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "range_tree.h"

/* Processor time: what else runs on the machine counts less. */
static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static long resident_bytes(void)
{
    long all = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld %ld", &all, &resident) != 2)
        exit(1);
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    int looks_first = strcmp(argv[1], "look-then-extend") == 0;
    uint64_t guest_pages = strtoull(argv[2], NULL, 10), max_pages = strtoull(argv[4], NULL, 10);
    size_t ranges = strtoull(argv[3], NULL, 10);
    FILE *file = fopen(argv[5], "r");
    if (!file || fseek(file, 0, SEEK_END))
        return 1;
    size_t count = ftell(file) / sizeof(uint64_t);
    rewind(file);
    uint64_t *words = malloc(count * sizeof *words + 1), *back = malloc(ranges * sizeof *back);
    if (!words || !back || fread(words, sizeof *words, count, file) != count)
        return 1;

    RangeTree set;
    range_tree_init(&set, guest_pages);
    Added all = {0, 0, 0};
    long before = resident_bytes();
    double begin = now();
    for (size_t at = 0; at < count; at += ranges) {
        Added added = range_tree_add(&set, words + at, MIN(ranges, count - at), looks_first);
        all.fresh += added.fresh, all.duplicates += added.duplicates, all.rejected += added.rejected;
    }
    double inserted = now() - begin;
    long grown = resident_bytes() - before;
    int fragments = g_tree_nnodes(set.tree);
    uint64_t pages = 0, messages = 0;
    begin = now();
    for (size_t got; (got = range_tree_take(&set, max_pages, ranges, back)); messages++)
        for (size_t i = 0; i < got; i++)
            pages += back[i] >> 40;
    double taken = now() - begin;
    printf("{\"insert_s\": %.9f, \"grown_bytes\": %ld, \"fragments\": %d, \"new\": %lu, \"duplicates\": %lu,"
           " \"rejected\": %lu, \"take_s\": %.9f, \"messages\": %lu, \"taken\": %lu}\n",
           inserted, grown, fragments, all.fresh, all.duplicates, all.rejected, taken, messages, pages);
    return 0;
}
