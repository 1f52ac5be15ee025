// The first process of a laboratory guest: loads the drivers, starts load and reader, reports to the console.
//
// One JSON object per line, several a second, on the first serial port; dynmem.lab.workload documents the keys.
// Orders arrive on the same port, or on the kernel's command line as dynmem.load=: key=value pairs with commas.
// The demand is decided here, so that a load that was killed or is stuck still has a visible demand.

#include "load.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define TICK_MS 50
#define TICKS_PER_REPORT 3
#define KMSG_RECORDS_PER_REPORT 512 // an OOM kill writes about a hundred
#define MIB_PAGES 256.0

enum curve { STEADY, SINE, STEPS, BURST, CURVES };
static const char *const curve_names[CURVES] = {"steady", "sine", "steps", "burst"};

struct order {
    int curve;
    double low, high;        // MiB
    double period, phase;    // seconds, and a fraction of the period
    double rate;             // the most that the demand changes, MiB/s
    double reserve;          // MiB of MemAvailable that a polite load leaves alone; 0: not polite
    double cache;            // MiB of the disk to read, at the same rate; less than before: to be read again
    double revive;           // 1: if the load has been killed, this order starts another
};

static const struct { const char *name; size_t offset; double least, most; } fields[] = {
    {"low", offsetof(struct order, low), 0, 65536},
    {"high", offsetof(struct order, high), 0, 65536},
    {"period", offsetof(struct order, period), 0.1, 86400},
    {"phase", offsetof(struct order, phase), 0, 1},
    {"rate", offsetof(struct order, rate), 1, 65536},
    {"reserve", offsetof(struct order, reserve), 0, 65536},
    {"cache", offsetof(struct order, cache), 0, 65536},
    {"revive", offsetof(struct order, revive), 0, 1},
};

static struct counters *counters;
static struct order order = {STEADY, 0, 0, 30, 0, 64, 0, 0, 0};
static double order_began, wanted_mib, cache_mib;
static unsigned orders, refused_orders, oom_messages;
static uint64_t boot_pages;
static const char *load_state = "running";
static pid_t load_pid;
static int console_fd, kmsg_fd;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void start_load(void)
{
    load_state = "running";
    load_pid = fork();
    if (load_pid == 0) {
        close(console_fd);
        close(kmsg_fd);
        load_run(counters);
    }
    if (load_pid < 0)
        load_state = "exited";
}

static void start_reader(void)
{
    if (fork() == 0) {
        close(console_fd);
        close(kmsg_fd);
        reader_run(counters);
    }
}

static int set_field(struct order *target, const char *name, const char *value)
{
    char *end;
    double number;
    if (!strcmp(name, "curve")) {
        for (int i = 0; i < CURVES; i++)
            if (!strcmp(value, curve_names[i])) {
                target->curve = i;
                return 1;
            }
        return 0;
    }
    number = strtod(value, &end);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!strcmp(name, fields[i].name) && end != value && !*end && number >= fields[i].least && number <= fields[i].most) {
            *(double *)((char *)target + fields[i].offset) = number;
            return 1;
        }
    return 0;
}

// An order is accepted as a whole or not at all. Fields that it does not name stay as they are.
static void obey(char *text)
{
    struct order next = order;
    char *rest = NULL;
    for (char *pair = strtok_r(text, ",", &rest); pair; pair = strtok_r(NULL, ",", &rest)) {
        char *value = strchr(pair, '=');
        if (!value) {
            refused_orders++;
            return;
        }
        *value++ = 0;
        if (!set_field(&next, pair, value)) {
            refused_orders++;
            return;
        }
    }
    order = next;
    order_began = seconds();
    counters->reserve_pages = (uint64_t)(order.reserve * MIB_PAGES);
    if (order.revive > 0 && load_pid && strcmp(load_state, "running")) {
        wanted_mib = fmin(wanted_mib, order.high); // it does not begin with what the last one wanted
        start_load();
    }
    orders++;
}

static double curve_mib(double now)
{
    double turns = (now - order_began) / order.period + order.phase;
    double within = turns - floor(turns);
    switch (order.curve) {
    case SINE:
        return order.low + (order.high - order.low) * (1 - cos(2 * M_PI * within)) / 2;
    case STEPS:
        return within < 0.5 ? order.low : order.high;
    case BURST:
        return within < 0.8 ? order.low : order.high;
    default:
        return order.high;
    }
}

static void move_demand(double now, double elapsed)
{
    double goal = curve_mib(now), most = order.rate * elapsed;
    wanted_mib += fmax(-most, fmin(most, goal - wanted_mib));
    counters->wanted_pages = (uint64_t)wanted_mib * (uint64_t)MIB_PAGES; // whole MiB, as the load takes it
    cache_mib = fmin(order.cache, cache_mib + most);
    counters->cache_pages = (uint64_t)cache_mib * (uint64_t)MIB_PAGES;
}

static uint64_t oom_kills(void)
{
    char text[16384];
    const char *line;
    ssize_t length;
    int fd = open("/proc/vmstat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    length = read(fd, text, sizeof text - 1);
    close(fd);
    text[length > 0 ? length : 0] = 0;
    line = strstr(text, "\noom_kill ");
    return line ? strtoull(line + 10, NULL, 10) : 0;
}

// The kernel's own log, for what its counter does not show: a kill inside a group, or an allocation that failed.
static void read_kernel_log(void)
{
    char record[8192];
    for (int i = 0; i < KMSG_RECORDS_PER_REPORT; i++) {
        ssize_t length = read(kmsg_fd, record, sizeof record - 1);
        if (length < 0 && errno == EPIPE)
            continue; // overwritten before it was read: the next read continues after it
        if (length <= 0)
            return;
        record[length] = 0;
        if (strstr(record, "Out of memory"))
            oom_messages++;
    }
}

static void write_report(double now)
{
    static char line[1024];
    static size_t length, written;
    if (written == length) {
        uint64_t total = meminfo_pages("MemTotal:");
        uint64_t ballooned = boot_pages > total ? boot_pages - total : 0;
        length = (size_t)snprintf(line, sizeof line,
            "{\"t\":%.3f,\"load\":\"%s\",\"total_pages\":%lu,\"ballooned_pages\":%lu,\"free_pages\":%lu,\"available_pages\":%lu,"
            "\"committed_pages\":%lu,\"wanted_pages\":%lu,\"held_pages\":%lu,\"verified_pages\":%lu,\"wrong_bytes\":%lu,"
            "\"wrong_pages\":%lu,\"oom_kills\":%lu,\"oom_messages\":%u,\"orders\":%u,\"refused_orders\":%u,\"read_pages\":%lu}\n",
            now, load_state, boot_pages, ballooned, meminfo_pages("MemFree:"), meminfo_pages("MemAvailable:"),
            meminfo_pages("Committed_AS:"), counters->wanted_pages, counters->held_pages, counters->verified_pages,
            counters->wrong_bytes, counters->wrong_pages, oom_kills(), oom_messages, orders, refused_orders,
            counters->read_pages);
        written = 0;
    }
    ssize_t taken = write(console_fd, line + written, length - written); // never waits: the rest is written next time
    if (taken > 0)
        written += (size_t)taken;
}

static void read_orders(void)
{
    static char text[512];
    static size_t used;
    char byte;
    while (read(console_fd, &byte, 1) == 1) {
        if (byte == '\n') {
            text[used] = 0;
            if (used)
                obey(text);
            used = 0;
        } else if (used < sizeof text - 1) {
            text[used++] = byte;
        }
    }
}

static void watch_load(void)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == load_pid) {
            load_state = WIFSIGNALED(status) ? "killed" : "exited";
            counters->held_pages = 0;
        }
}

static void open_console(void)
{
    struct termios raw;
    console_fd = open("/dev/ttyS0", O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (console_fd < 0)
        console_fd = STDOUT_FILENO;
    if (!tcgetattr(console_fd, &raw)) {
        cfmakeraw(&raw);
        tcsetattr(console_fd, TCSANOW, &raw);
    }
}

static void load_modules(void)
{
    struct dirent **names;
    int count = scandir("/modules", &names, NULL, alphasort); // names begin with their position in the order
    for (int i = 0; i < count; i++) {
        char path[300];
        int fd;
        if (names[i]->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
            dprintf(console_fd, "init: %s: %s\n", path, strerror(errno));
        close(fd);
    }
}

static void obey_command_line(void)
{
    static const char key[] = "dynmem.load=";
    char text[4096], *start;
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    text[length > 0 ? length : 0] = 0;
    start = strstr(text, key);
    if (start) {
        start += sizeof key - 1;
        start[strcspn(start, " \n")] = 0;
        obey(start);
    }
}

int main(void)
{
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    open_console();
    boot_pages = meminfo_pages("MemTotal:");
    kmsg_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    lseek(kmsg_fd, 0, SEEK_END);
    counters = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    load_modules();
    obey_command_line();
    start_load();
    start_reader();
    double last = seconds();
    for (unsigned tick = 0;; tick++) {
        struct pollfd input = {console_fd, POLLIN, 0};
        double now = seconds();
        watch_load();
        if (tick % TICKS_PER_REPORT == 0) { // before the demand changes: the load has had a tick to follow it
            read_kernel_log();
            write_report(now);
        }
        move_demand(now, now - last);
        last = now;
        poll(&input, 1, TICK_MS);
        if (input.revents)
            read_orders();
    }
}
