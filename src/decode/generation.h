/* The results of fb_generate. Programs read them through the accessors of generate.h. */
#ifndef FB_DECODE_GENERATION_H
#define FB_DECODE_GENERATION_H

#include <flashblock/experimental/sparse.h>
#include <flashblock/generate.h>

/* result.counts points to counts. */
typedef struct fb_generation_entry {
    fb_generate_result result;
    fb_generate_counts counts;
    int32_t *tokens, *unmask_step; /* result's */
} fb_generation_entry;

struct fb_generation {
    fb_generation_entry *entries; /* [num_results], in the order of the prompts */
    size_t num_results;
    fb_generate_stats stats; /* stats.counts points to counts */
    fb_generate_counts counts;
    fb_sparse_counts sparse;
};

/* Nothing generated yet: every sequence counts as cancelled. */
fb_status fb_generation_create(size_t num_prompts, fb_generation **generation);

/* Copies the completion of a sequence into its result, and adds its counts to the sums. */
fb_status fb_generation_take(fb_generation *generation, size_t prompt, const int32_t *tokens,
                             const int32_t *unmask_step, size_t num_tokens,
                             fb_finish_reason finish_reason, const fb_generate_counts *counts);

void fb_sparse_counts_add(fb_sparse_counts *sum, const fb_sparse_counts *counts);

#endif
