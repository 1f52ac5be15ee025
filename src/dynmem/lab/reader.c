// The reader: a process that reads a disk, so that the kernel keeps what was read in its page cache.
//
// Page cache is memory that a guest uses and can do without. The disk is the first NVMe drive, whose driver is
// built into the kernel; a guest without one reads nothing. What was read is not dropped here: that is left to
// the kernel, as with any program that has read a file.

#include "load.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#define DISK "/dev/nvme0n1"
#define CHUNK_PAGES 64u
#define IDLE_NS 10000000L

void reader_run(struct counters *counters)
{
    static char chunk[CHUNK_PAGES * PAGE_BYTES];
    const struct timespec idle = {0, IDLE_NS};
    uint64_t position = 0; // pages
    int fd = -1;
    for (;;) {
        uint64_t goal = counters->cache_pages;
        if (position > goal)
            position = goal;
        if (fd < 0 && goal)
            fd = open(DISK, O_RDONLY | O_CLOEXEC);
        while (fd >= 0 && position + CHUNK_PAGES <= goal) {
            if (pread(fd, chunk, sizeof chunk, (off_t)(position * PAGE_BYTES)) != (ssize_t)sizeof chunk)
                break;
            position += CHUNK_PAGES;
        }
        counters->read_pages = position;
        nanosleep(&idle, NULL);
    }
}
