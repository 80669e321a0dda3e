/* Pages, each protected by itself: guard pages fault, and so does memory that was given back. */
#include "supervisor.h"

#include <asm/errno.h>
#include <linux/mman.h>

enum { PRESENT = 1, WRITABLE = 2, RESERVED = 0x200 /* a bit for software: in use */ };
enum { TABLE_ENTRIES = 512, NUM_PAGES = (int)(MEMORY_END / PAGE_BYTES) };

/* The entry of every page: 512 tables of 512 entries in a row. Their directory comes after them. */
static uint64_t *const pages = (uint64_t *)PAGE_TABLES;
static uint64_t *const directory = (uint64_t *)PAGE_TABLES + NUM_PAGES;

static uint64_t heap_end = HEAP;

static uint64_t failure(int error_number) {
    return (uint64_t)-error_number;
}

static void set_page(uint64_t page, uint64_t bits) {
    pages[page] = page * PAGE_BYTES | bits;
    __asm__ volatile("invlpg (%0)" : : "r"(page * PAGE_BYTES) : "memory");
}

static uint64_t bits_of(uint64_t protection) {
    uint64_t bits = RESERVED;
    if (protection & (PROT_READ | PROT_WRITE | PROT_EXEC))
        bits |= PRESENT;
    if (protection & PROT_WRITE)
        bits |= WRITABLE;
    return bits;
}

/* Fresh pages [begin, end), zero. */
static void give_pages(uint64_t begin, uint64_t end, uint64_t protection) {
    for (uint64_t page = begin; page < end; page++)
        set_page(page, PRESENT | WRITABLE);
    fill_zero((void *)(begin * PAGE_BYTES), (end - begin) * PAGE_BYTES);
    for (uint64_t page = begin; page < end; page++)
        set_page(page, bits_of(protection));
}

static void take_pages(uint64_t begin, uint64_t end) {
    for (uint64_t page = begin; page < end; page++)
        set_page(page, 0);
}

/* boot.S has left the first table, of 512 GiB, at 0x10000, and the table of each GiB after it. */
void memory_begin(void) {
    uint64_t *gibibytes = (uint64_t *)0x11000;
    for (uint64_t page = 0; page < NUM_PAGES; page++) {
        uint64_t address = page * PAGE_BYTES;
        bool there = page && address < HEAP;
        bool stack = address >= STACK + PAGE_BYTES;
        pages[page] = address | (there || stack ? PRESENT | WRITABLE | RESERVED : 0);
    }
    for (uint64_t i = 0; i < TABLE_ENTRIES; i++)
        directory[i] = (uint64_t)(pages + TABLE_ENTRIES * i) | PRESENT | WRITABLE;
    gibibytes[0] = (uint64_t)directory | PRESENT | WRITABLE;
    __asm__ volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" : : : "rax", "memory");
    /* Pages that may be read only are so in ring 0 too. */
    uint64_t cr0;
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0 | 0x10000) : "memory");
}

static uint64_t pages_up_to(uint64_t address) {
    return (address + PAGE_BYTES - 1) / PAGE_BYTES;
}

uint64_t memory_brk(uint64_t end) {
    if (end < HEAP || end > STACK)
        return heap_end;
    uint64_t old = pages_up_to(heap_end), new = pages_up_to(end);
    for (uint64_t page = old; page < new; page++)
        if (pages[page] & RESERVED)
            return heap_end;
    if (new > old)
        give_pages(old, new, PROT_READ | PROT_WRITE);
    else
        take_pages(new, old);
    heap_end = end;
    return heap_end;
}

/* The highest place of `count` free pages in a row; 0: none. */
static uint64_t find_place(uint64_t count) {
    uint64_t found = 0;
    for (uint64_t page = STACK / PAGE_BYTES; page-- > HEAP / PAGE_BYTES;) {
        found = pages[page] & RESERVED ? 0 : found + 1;
        if (found == count)
            return page;
    }
    return 0;
}

uint64_t memory_map(uint64_t bytes, uint64_t protection) {
    if (bytes == 0 || bytes > STACK - HEAP)
        return failure(bytes ? ENOMEM : EINVAL);
    uint64_t count = pages_up_to(bytes), first = find_place(count);
    if (!first)
        return failure(ENOMEM);
    give_pages(first, first + count, protection);
    return first * PAGE_BYTES;
}

/* Whole pages of heap or mappings. */
static bool is_range(uint64_t begin, uint64_t bytes) {
    return begin % PAGE_BYTES == 0 && begin >= HEAP && begin <= STACK && bytes > 0 &&
           bytes <= STACK - begin;
}

uint64_t memory_unmap(uint64_t begin, uint64_t bytes) {
    if (!is_range(begin, bytes))
        return failure(EINVAL);
    take_pages(begin / PAGE_BYTES, pages_up_to(begin + bytes));
    return 0;
}

/* Of the program's own segments, glibc protects what relocation has written: that stays as it is.
 */
uint64_t memory_protect(uint64_t begin, uint64_t bytes, uint64_t protection) {
    if (begin >= PROGRAM && begin < ELF_IMAGE)
        return 0;
    if (!is_range(begin, bytes))
        return failure(EINVAL);
    uint64_t end = pages_up_to(begin + bytes);
    for (uint64_t page = begin / PAGE_BYTES; page < end; page++)
        if (!(pages[page] & RESERVED))
            return failure(ENOMEM);
    for (uint64_t page = begin / PAGE_BYTES; page < end; page++)
        set_page(page, bits_of(protection));
    return 0;
}

uint64_t memory_remap(uint64_t begin, uint64_t old_bytes, uint64_t new_bytes, uint64_t flags) {
    if (!is_range(begin, old_bytes) || !(flags & MREMAP_MAYMOVE) || (flags & MREMAP_FIXED))
        return failure(EINVAL);
    uint64_t moved = memory_map(new_bytes, PROT_READ | PROT_WRITE);
    if (moved > MEMORY_END)
        return moved;
    copy_bytes((void *)moved, (const void *)begin, old_bytes < new_bytes ? old_bytes : new_bytes);
    memory_unmap(begin, old_bytes);
    return moved;
}
