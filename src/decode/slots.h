/* The batch: max_active slots, each with the caches of one sequence at a time. Active sequences are
 * in the first `num_active` slots, and waiting prompts take the free ones in order.
 *
 * When sequences finish, their slots move after all others, caches included, as in the engine
 * (LLMEngine.generate_streaming, move_to_end_torch): which slot a later sequence takes decides,
 * with FB_COMPAT_RELEASED, whose block-external part it finds there. */
#ifndef FB_DECODE_SLOTS_H
#define FB_DECODE_SLOTS_H

#include "decode/schedule.h"

#include <flashblock/experimental/sparse.h>
#include <flashblock/generate.h>
#include <flashblock/kv_cache.h>
#include <flashblock/reuse.h>

#include <stddef.h>

typedef struct fb_slot {
    fb_sequence *sequence; /* NULL: free */
    size_t prompt;         /* index of the sequence's prompt */
    fb_kv_cache *kv;       /* of the sequence: own_kv, or one that its owner wants back */
    fb_kv_cache *own_kv;   /* owned; NULL until the caller makes one */
    fb_part_cache *parts;  /* owned; NULL until the caller makes one */
    fb_sparse *sparse;     /* owned; NULL until the caller makes one */
} fb_slot;

typedef struct fb_slots {
    fb_slot *slots; /* [num_slots] */
    size_t num_slots, num_active;
    size_t next_prompt; /* the first that has not had a slot */
} fb_slots;

fb_status fb_slots_create(size_t num_slots, fb_slots *slots);

/* Destroys sequences and caches too. {0} is allowed. */
void fb_slots_destroy(fb_slots *slots);

/* Starts sequences for prompts[next_prompt ...] while there are free slots. */
fb_status fb_slots_admit(fb_slots *slots, const fb_schedule *schedule, const fb_prompt *prompts,
                         size_t num_prompts);

/* Destroys finished sequences and moves their slots to the end. */
void fb_slots_retire(fb_slots *slots);

#endif
