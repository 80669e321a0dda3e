/* Sequences that are denoised together, each with its own options. They join and leave between
 * passes
 * ("continuous batching"), and each writes what it would write alone.
 *
 *     fb_batch_join(batch, &request);              while fb_batch_num_free(batch) > 0
 *     fb_batch_prefill(batch, room, &done);        one pass over whole blocks of prompts
 *     fb_batch_decode(batch);                      one pass over the blocks of all that have none
 * left
 *     ... fb_batch_num_active, fb_batch_slot ...   those whose sequence is FB_SEQUENCE_FINISHED
 *     fb_batch_retire(batch);                      they leave
 *
 * One thread at a time; it needs the model to itself. */
#ifndef FB_DECODE_BATCH_H
#define FB_DECODE_BATCH_H

#include "decode/slots.h"

#include <flashblock/generate.h>
#include <flashblock/model.h>
#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fb_batch fb_batch;

/* A sequence that joins. */
typedef struct fb_batch_request {
    fb_prompt prompt;                   /* that fb_generate_prompts accepted; a copy is kept */
    const fb_generate_options *options; /* resolved; a copy is kept, what it points to is borrowed.
                                           max_active, prefill_chunk, seed, seeds, kv_caches and
                                           is_cancelled are not looked at */
    uint64_t seed;
    fb_kv_cache *kv; /* as one of fb_generate_options.kv_caches; NULL: the batch's own */
    size_t number;   /* fb_step_event.sequence, and fb_slot.prompt */
} fb_batch_request;

/* With `together` a sequence whose on_step returns false ends all others, at once; otherwise only
 * itself. The caller owns *batch. */
fb_status fb_batch_create(fb_model *model, size_t num_slots, bool together, fb_batch **batch);

/* NULL is allowed. Sequences that are in it end. */
void fb_batch_destroy(fb_batch *batch);

/* Places for sequences. */
size_t fb_batch_num_free(const fb_batch *batch);
size_t fb_batch_num_active(const fb_batch *batch);

/* Those of sequences, `index` below fb_batch_num_active. */
const fb_slot *fb_batch_slot(const fb_batch *batch, size_t index);

/* There is a free place. Where it fails the batch is as before. */
fb_status fb_batch_join(fb_batch *batch, const fb_batch_request *request);

/* One forward pass over whole blocks of prompts that are not read yet: `room` tokens, but at least
 * one block. *done: there were none, and no pass. */
fb_status fb_batch_prefill(fb_batch *batch, size_t room, bool *done);

/* One forward pass over the blocks of all sequences whose prompts are read, and what follows from
 * it. A sequence that fails ends as cancelled, and fb_slot.failure says why; the others go on. An
 * error of the pass itself is returned. */
fb_status fb_batch_decode(fb_batch *batch);

/* Ends a sequence with what it has; it leaves with the next fb_batch_retire. */
void fb_batch_cancel(fb_batch *batch, size_t index);

/* Whether a sequence of a batch that ends together has ended it. */
bool fb_batch_is_cancelled(const fb_batch *batch);

/* Finished sequences leave. */
void fb_batch_retire(fb_batch *batch);

/* What the passes have cost: forward passes and their seconds, of all sequences that ever were. */
typedef struct fb_batch_times {
    size_t prefill_passes, decode_passes;
    fb_forward_times prefill, decode;
} fb_batch_times;
const fb_batch_times *fb_batch_times_of(const fb_batch *batch);

/* Adds up what sparse attention did in all slots. */
void fb_batch_add_sparse(const fb_batch *batch, fb_sparse_counts *sum);

#endif
