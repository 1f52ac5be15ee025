/*
 * Giving memory back without Python: discard WAY BACKING BYTES FILE [PATH]
 *
 * FILE holds messages: a count, then so many packed ranges. BACKING is "memfd", "file" (made at PATH, shared),
 * "anon" (4 KiB pages) or "anon-thp". All of it is written first. WAY says what is timed:
 *   punch            fallocate() a hole for each range
 *   remove           process_madvise(MADV_REMOVE), a message a call
 *   unmap-punch      process_madvise(MADV_DONTNEED), a message a call, then a hole for each range
 *   unmap-remove     process_madvise(MADV_DONTNEED), then process_madvise(MADV_REMOVE), a message a call
 *   madvise          madvise(MADV_DONTNEED) for each range
 *   process-madvise  process_madvise(MADV_DONTNEED), a message a call
 *   split            the same, but each huge page that loses a part is split before, by madvise(MADV_COLD)
 *   tree             each range into a tree of ranges, then punch or madvise, neighbours in arrival order joined
 * Prints one line of JSON: the seconds, and the bytes that were resident before and after. Exit status 3: this
 * kernel does not have that way.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "range_tree.h"

#define PAGE 4096
#define MESSAGE_MAX 1024

static char *memory;
static int descriptor = -1, self = -1;
static size_t bytes;

static void fail(const char *what)
{
    perror(what);
    exit(errno == EINVAL || errno == ENOSYS || errno == EPERM ? 3 : 1);
}

/* Processor time: what else runs on the machine counts less. */
static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void map(const char *backing, const char *path)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (strncmp(backing, "anon", 4)) {
        flags = MAP_SHARED;
        descriptor = path ? open(path, O_RDWR | O_CREAT | O_EXCL, 0600) : memfd_create("peer", MFD_CLOEXEC);
        if (descriptor < 0 || ftruncate(descriptor, bytes))
            fail("memory file");
        if (path)
            unlink(path);
    }
    size_t room = bytes + (2 << 20);
    char *space = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (space == MAP_FAILED)
        fail("address space");
    space += -(uintptr_t)space & ((2 << 20) - 1);
    memory = mmap(space, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, descriptor, 0);
    if (memory == MAP_FAILED)
        fail("memory");
    if (!strcmp(backing, "anon"))
        madvise(memory, bytes, MADV_NOHUGEPAGE);
    if (!strcmp(backing, "anon-thp"))
        madvise(memory, bytes, MADV_HUGEPAGE);
    for (size_t at = 0; at < bytes; at += PAGE)
        memory[at] = 1;
}

static long resident(void)
{
    struct stat about;
    if (descriptor >= 0)
        return fstat(descriptor, &about) ? 0 : about.st_blocks * 512L;
    long all = 0, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld %ld", &all, &pages) != 2)
        exit(1);
    fclose(file);
    return pages * PAGE;
}

static void give_back(uint64_t start, uint64_t pages)
{
    if (descriptor >= 0) {
        if (fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start * PAGE, pages * PAGE))
            fail("fallocate");
    } else if (madvise(memory + start * PAGE, pages * PAGE, MADV_DONTNEED)) {
        fail("madvise");
    }
}

static void advise_message(const uint64_t *words, size_t count, int advice)
{
    static struct iovec parts[MESSAGE_MAX];
    for (size_t i = 0; i < count; i++)
        parts[i] = (struct iovec){memory + (words[i] & START_MASK) * PAGE, (words[i] >> 40) * PAGE};
    for (size_t i = 0; i < count;) { /* stops short after two gigabytes */
        ssize_t done = syscall(SYS_process_madvise, self, parts + i, count - i, advice, 0);
        if (done <= 0)
            fail("process_madvise");
        while (i < count && (size_t)done >= parts[i].iov_len)
            done -= parts[i++].iov_len;
        if (i < count && done) {
            parts[i].iov_base = (char *)parts[i].iov_base + done;
            parts[i].iov_len -= done;
        }
    }
}

/* Split the huge pages that lose a part: without that their parts are dropped, but free no memory. */
static void split_message(const uint64_t *words, size_t count)
{
    uint64_t done = UINT64_MAX;
    for (size_t i = 0; i < count; i++) {
        uint64_t start = words[i] & START_MASK, end = start + (words[i] >> 40);
        uint64_t cut[2] = {start, end - 1};
        int is_cut[2] = {start % 512 != 0 || end - start < 512, end % 512 != 0};
        for (int side = 0; side < 2; side++) {
            if (!is_cut[side] || cut[side] / 512 == done)
                continue;
            done = cut[side] / 512;
            madvise(memory + cut[side] * PAGE, PAGE, MADV_COLD);
        }
    }
}

static void tree_message(RangeTree *set, const uint64_t *words, size_t count)
{
    range_tree_add(set, words, count, 1);
    uint64_t start = 0, pages = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t at = words[i] & START_MASK, more = words[i] >> 40;
        if (pages && at == start + pages) {
            pages += more;
            continue;
        }
        if (pages)
            give_back(start, pages);
        start = at, pages = more;
    }
    if (pages)
        give_back(start, pages);
}

int main(int argc, char **argv)
{
    if (argc != 5 && argc != 6)
        return 2;
    const char *way = argv[1];
    bytes = strtoull(argv[3], NULL, 10);
    FILE *file = fopen(argv[4], "r");
    if (!file || fseek(file, 0, SEEK_END))
        return 1;
    size_t count = ftell(file) / sizeof(uint64_t);
    rewind(file);
    uint64_t *words = malloc(count * sizeof *words + 1);
    if (!words || fread(words, sizeof *words, count, file) != count)
        return 1;
    map(argv[2], argc == 6 ? argv[5] : NULL);
    self = syscall(SYS_pidfd_open, getpid(), 0);
    RangeTree set;
    range_tree_init(&set, bytes / PAGE);

    long before = resident();
    double begin = now();
    for (size_t at = 0; at < count; at += words[at] + 1) {
        const uint64_t *message = words + at + 1;
        size_t ranges = words[at];
        if (!strcmp(way, "tree")) {
            tree_message(&set, message, ranges);
            continue;
        }
        if (!strcmp(way, "split"))
            split_message(message, ranges);
        if (!strncmp(way, "unmap-", 6) || !strcmp(way, "split") || !strcmp(way, "process-madvise"))
            advise_message(message, ranges, MADV_DONTNEED);
        if (!strcmp(way, "remove") || !strcmp(way, "unmap-remove"))
            advise_message(message, ranges, MADV_REMOVE);
        if (!strcmp(way, "punch") || !strcmp(way, "unmap-punch") || !strcmp(way, "madvise"))
            for (size_t i = 0; i < ranges; i++)
                give_back(message[i] & START_MASK, message[i] >> 40);
    }
    double taken = now() - begin;
    printf("{\"seconds\": %.9f, \"before\": %ld, \"after\": %ld}\n", taken, before, resident());
    return 0;
}
