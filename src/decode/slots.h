/* The places of a batch: slots, each with the caches of one sequence at a time. Active sequences
 * are in the first `num_active` slots, and new ones take the free ones in order.
 *
 * When sequences finish, their slots move after all others, caches included, as in the engine
 * (LLMEngine.generate_streaming, move_to_end_torch): which slot a later sequence takes decides,
 * with FB_COMPAT_RELEASED, whose block-external part it finds there. */
#ifndef FB_DECODE_SLOTS_H
#define FB_DECODE_SLOTS_H

#include "decode/sampler.h"
#include "decode/schedule.h"

#include <flashblock/experimental/sparse.h>
#include <flashblock/generate.h>
#include <flashblock/kv_cache.h>
#include <flashblock/reuse.h>

#include <stddef.h>
#include <stdint.h>

/* What a sequence has of its own options. */
typedef struct fb_slot_settings {
    fb_generate_options options; /* zeros replaced by what they stand for */
    fb_schedule schedule;
    fb_sampler sampler;
    fb_compat compat; /* the paper's, for other models' loops */
    uint64_t seed;
} fb_slot_settings;

/* What decides about a slot's caches for reuse. */
typedef struct fb_slot_shape {
    size_t block_size; /* 0: there are none yet */
    const fb_sparse_options *sparse;
    bool parts, correction;
} fb_slot_shape;

typedef struct fb_slot {
    fb_sequence *sequence;      /* NULL: free */
    fb_slot_settings *settings; /* of the sequence; owned; NULL until the caller sets them */
    size_t prompt;              /* number of the sequence */
    float *logits;              /* [block_size, vocab_size] of the last pass; owned */
    size_t logits_size;         /* bytes that there are */
    fb_kv_cache *kv;            /* of the sequence: own_kv, or one that its owner wants back */
    fb_kv_cache *own_kv;        /* owned; NULL until the caller makes one */
    fb_part_cache *parts;       /* owned; NULL until the caller makes one */
    fb_sparse *sparse;          /* owned; NULL until the caller makes one */
    fb_slot_shape shape;        /* of these two */
    fb_status failure;          /* why the sequence ended, if it failed */
    char message[256];
} fb_slot;

typedef struct fb_slots {
    fb_slot *slots; /* [num_slots] */
    size_t num_slots, num_active;
} fb_slots;

fb_status fb_slots_create(size_t num_slots, fb_slots *slots);

/* Destroys sequences and caches too. {0} is allowed. */
void fb_slots_destroy(fb_slots *slots);

/* Starts a sequence in the first free slot, of which there is one. `schedule` is borrowed. */
fb_status fb_slots_admit(fb_slots *slots, const fb_schedule *schedule, const fb_prompt *prompt,
                         size_t number);

/* Takes back the last fb_slots_admit, settings included. */
void fb_slots_dismiss(fb_slots *slots);

/* Destroys finished sequences and moves their slots to the end. */
void fb_slots_retire(fb_slots *slots);

#endif
