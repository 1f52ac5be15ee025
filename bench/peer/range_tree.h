/*
 * The field's way to keep the pages that a guest has given up: a balanced tree of ranges, neighbours merged.
 *
 * glib's GTree, one node for each run of pages. Nodes and ranges come from glib's slices. Two ways to insert:
 * "insert, then merge" and "look the neighbours up, extend one in place"; the benchmark keeps the faster.
 */
#pragma once
#include <glib.h>
#include <stdint.h>

#define START_MASK ((UINT64_C(1) << 40) - 1)
#define COUNT_MAX ((UINT64_C(1) << 24) - 1)

typedef struct {
    uint64_t start, end;
} Range;

typedef struct {
    GTree *tree;
    uint64_t guest_pages, pages;
} RangeTree;

typedef struct {
    uint64_t fresh, duplicates, rejected;
} Added;

static gint compare_starts(gconstpointer one, gconstpointer other)
{
    uint64_t a = ((const Range *)one)->start, b = ((const Range *)other)->start;
    return (a > b) - (a < b);
}

static void range_tree_init(RangeTree *set, uint64_t guest_pages)
{
    set->tree = g_tree_new(compare_starts);
    set->guest_pages = guest_pages;
    set->pages = 0;
}

static inline Range *range_of(GTreeNode *node)
{
    return g_tree_node_key(node);
}

static void drop(RangeTree *set, Range *range)
{
    g_tree_remove(set->tree, range);
    g_slice_free(Range, range);
}

/* Swallow what follows `node` and touches it; how many pages of [start, end) that had already. */
static uint64_t swallow_followers(RangeTree *set, GTreeNode *node, uint64_t end)
{
    Range *range = range_of(node);
    uint64_t had = 0;
    for (GTreeNode *next; (next = g_tree_node_next(node));) {
        Range *other = range_of(next);
        if (other->start > range->end)
            break;
        if (other->start < end)
            had += MIN(other->end, end) - other->start;
        range->end = MAX(range->end, other->end);
        drop(set, other);
    }
    return had;
}

/* Insert first, then merge: how many pages were there already. */
static uint64_t insert_then_merge(RangeTree *set, uint64_t start, uint64_t end)
{
    Range *range = g_slice_new(Range);
    *range = (Range){start, end};
    GTreeNode *node = g_tree_insert_node(set->tree, range, NULL);
    uint64_t had = 0;
    if (range_of(node) != range) { /* one that starts here was there */
        Range *old = range_of(node);
        g_slice_free(Range, range);
        had = MIN(old->end, end) - start;
        if (old->end >= end)
            return had;
        old->end = end;
    } else {
        GTreeNode *before = g_tree_node_previous(node);
        if (before && range_of(before)->end >= start) {
            Range *old = range_of(before);
            had = MIN(old->end, end) - start;
            uint64_t from = old->start;
            range->end = MAX(end, old->end);
            drop(set, old);
            range->start = from;
        }
    }
    return had + swallow_followers(set, node, end);
}

/* Look the neighbours up, extend one of them in place: how many pages were there already. */
static uint64_t look_then_extend(RangeTree *set, uint64_t start, uint64_t end)
{
    Range wanted = {start, end};
    GTreeNode *after = g_tree_upper_bound(set->tree, &wanted);
    GTreeNode *before = after ? g_tree_node_previous(after) : g_tree_node_last(set->tree);
    if (before && range_of(before)->end >= start) {
        Range *range = range_of(before);
        uint64_t had = MIN(range->end, end) - start;
        if (range->end >= end)
            return had;
        range->end = end;
        return had + swallow_followers(set, before, end);
    }
    if (after && range_of(after)->start <= end) {
        Range *range = range_of(after);
        uint64_t had = MIN(range->end, end) - MIN(range->start, end);
        range->start = start;
        if (range->end >= end)
            return had;
        range->end = end;
        return had + swallow_followers(set, after, end);
    }
    Range *range = g_slice_new(Range);
    *range = wanted;
    g_tree_insert(set->tree, range, NULL);
    return 0;
}

/* One message of packed ranges; an empty one, or one that leaves the guest, is refused whole. */
static Added range_tree_add(RangeTree *set, const uint64_t *words, size_t count, int looks_first)
{
    Added added = {0, 0, 0};
    for (size_t i = 0; i < count; i++) {
        uint64_t start = words[i] & START_MASK, pages = words[i] >> 40, end = start + pages;
        if (pages == 0 || end > set->guest_pages) {
            added.rejected += pages;
            continue;
        }
        uint64_t had = looks_first ? look_then_extend(set, start, end) : insert_then_merge(set, start, end);
        added.duplicates += had;
        added.fresh += pages - had;
    }
    set->pages += added.fresh;
    return added;
}

/* Take the lowest pages out, packed into at most `max_ranges` words: how many words. */
static inline size_t range_tree_take(RangeTree *set, uint64_t max_pages, size_t max_ranges, uint64_t *words)
{
    size_t taken = 0;
    while (max_pages && taken < max_ranges) {
        GTreeNode *node = g_tree_node_first(set->tree);
        if (!node)
            break;
        Range *range = range_of(node);
        uint64_t pages = MIN(MIN(range->end - range->start, max_pages), COUNT_MAX);
        words[taken++] = range->start | pages << 40;
        max_pages -= pages;
        set->pages -= pages;
        if (range->start + pages == range->end)
            drop(set, range);
        else
            range->start += pages;
    }
    return taken;
}
