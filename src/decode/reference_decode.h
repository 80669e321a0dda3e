/* Block-diffusion decoding with FlashBlock in double precision, for one layer and as plainly as it
 * can be written. A script stands for the model around the attention: the queries, keys and values
 * of every pass, and how many tokens it accepts. Third of three files to read, see
 * reference_cache.h. */
#ifndef FB_DECODE_REFERENCE_DECODE_H
#define FB_DECODE_REFERENCE_DECODE_H

#include <flashblock/reuse.h>

typedef struct fb_reference_pass {
    const float *q;         /* [block_size, num_heads, head_dim] */
    const float *k, *v;     /* [block_size, num_kv_heads, head_dim] */
    size_t accepted;        /* tokens that the step accepts; 0 of a commit */
    bool ran;               /* result: false where the block was finished before */
    fb_reuse_action action; /* result: the rule's decision */
    double *out, *lse;      /* result, in the caller's memory: [block_size, num_heads, head_dim],
                               [block_size, num_heads] */
} fb_reference_pass;

typedef struct fb_reference_script {
    size_t num_heads, num_kv_heads, head_dim, block_size;
    size_t denoising_steps; /* that a block may take */
    size_t budget;          /* tokens that every step accepts at least */
    size_t tau;
    double scale;                             /* 0 means 1/sqrt(head_dim) */
    size_t prompt_length;                     /* tokens before the first block */
    const float *prompt_keys, *prompt_values; /* [prompt_length, num_kv_heads, head_dim] */
    size_t num_blocks;
    fb_reference_pass *passes; /* [num_blocks][denoising_steps + 1]; the last is the commit */
} fb_reference_script;

fb_status fb_decode_reference(const fb_reference_script *script);

#endif
