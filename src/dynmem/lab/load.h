// What init, the load and the reader share: one page of counters, mapped by all of them.
#ifndef DYNMEM_LOAD_H
#define DYNMEM_LOAD_H

#include <stdint.h>

#define PAGE_BYTES 4096u

// Each field has one writer. All are whole aligned words, so a reader sees either an old or a new value.
struct counters {
    volatile uint64_t wanted_pages;   // init: what the load should hold now
    volatile uint64_t reserve_pages;  // init: a polite load stops growing when MemAvailable is at or below this; 0: never
    volatile uint64_t held_pages;     // load: filled and not yet freed
    volatile uint64_t verified_pages; // load: checked so far, each whole
    volatile uint64_t wrong_bytes;    // load: bytes that were not what had been written
    volatile uint64_t wrong_pages;    // load: pages with at least one wrong byte
    volatile uint64_t cache_pages;    // init: how much of the disk should have been read by now
    volatile uint64_t read_pages;     // reader: how much of it has been read
};

void load_run(struct counters *counters) __attribute__((noreturn));
void reader_run(struct counters *counters) __attribute__((noreturn));
uint64_t meminfo_pages(const char *key);

#endif
