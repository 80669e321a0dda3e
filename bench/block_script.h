/* The passes of one block as a benchmark scripts them: denoising steps, each of which accepts the
 * same number of tokens, give or take one, from the first one on, and the commit. What a pass does
 * is decided by the library's rule. */
#ifndef FB_BENCH_BLOCK_SCRIPT_H
#define FB_BENCH_BLOCK_SCRIPT_H

#include <flashblock/reuse.h>

#include <stdbool.h>
#include <stddef.h>

typedef struct fb_block_script {
    size_t tokens, steps, tau;    /* 1 <= steps <= tokens */
    bool rows;                    /* refresh by rows */
    size_t step, accepted, dirty; /* so far; zero at first */
    size_t first_row, num_rows;   /* FB_REFRESH_ROWS: those that the pass computes */
} fb_block_script;

/* The pass that comes next; false when there is none. Its number is script->step - 1 afterwards;
 * number `steps` is the commit. */
bool fb_block_script_next(fb_block_script *script, fb_reuse_action *action);

/* How many of a block's steps + 1 passes reuse. */
size_t fb_block_script_reuses(size_t tokens, size_t steps, size_t tau);

#endif
