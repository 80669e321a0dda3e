#include "base/scratch.h"

#include "base/error.h"
#include "base/memory.h"

#include <pthread.h>

/* The header of a block fills FB_ALIGNMENT bytes. The memory that is handed out follows it. */
typedef struct block {
    struct block *next;
    size_t bytes;
} block;

enum { MAX_IDLE_BLOCKS = 8 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block *idle; /* most recently released first: its pages are warm */

/* Takes the first idle block that is large enough out of the list. */
static block *take_idle(size_t bytes) {
    pthread_mutex_lock(&lock);
    block **link = &idle;
    while (*link && (*link)->bytes < bytes)
        link = &(*link)->next;
    block *found = *link;
    if (found)
        *link = found->next;
    pthread_mutex_unlock(&lock);
    return found;
}

fb_status fb_scratch_acquire(size_t bytes, void **memory) {
    block *taken = take_idle(bytes);
    if (!taken) {
        size_t total = 0;
        if (!fb_size_add(bytes, FB_ALIGNMENT, &total))
            return fb_fail(FB_ERROR_MEMORY, "scratch: %zu bytes do not fit the address space",
                           bytes);
        FB_TRY(fb_alloc(total, 1, "scratch", &taken));
        taken->bytes = bytes;
    }
    *memory = (char *)taken + FB_ALIGNMENT;
    return FB_OK;
}

void fb_scratch_release(void *memory) {
    if (!memory)
        return;
    block *released = (block *)(void *)((char *)memory - FB_ALIGNMENT);
    block *evicted = NULL;
    pthread_mutex_lock(&lock);
    released->next = idle;
    idle = released;
    block *last_kept = idle;
    for (int kept = 1; last_kept && kept < MAX_IDLE_BLOCKS; kept++)
        last_kept = last_kept->next;
    if (last_kept) {
        evicted = last_kept->next;
        last_kept->next = NULL;
    }
    pthread_mutex_unlock(&lock);
    while (evicted) {
        block *next = evicted->next;
        fb_free(evicted);
        evicted = next;
    }
}
