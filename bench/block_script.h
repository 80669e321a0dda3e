/* The passes of one block in a benchmark: denoising steps and the commit. The steps accept the
 * tokens from the first one on; their numbers of tokens differ by at most one. The library's rule
 * decides which passes refresh and which reuse. */
#ifndef FB_BENCH_BLOCK_SCRIPT_H
#define FB_BENCH_BLOCK_SCRIPT_H

#include <flashblock/reuse.h>

#include <stdbool.h>
#include <stddef.h>

typedef struct fb_block_script {
    size_t tokens, steps, tau;    /* 1 <= steps <= tokens */
    bool rows;                    /* refresh by rows */
    size_t step, accepted, dirty; /* so far; zero at first */
    size_t first_row, num_rows;   /* FB_REFRESH_ROWS: the rows that the pass computes */
} fb_block_script;

/* Takes the next pass; false when there is none. Its number is then script->step - 1, and the pass
 * with the number `steps` is the commit. */
bool fb_block_script_next(fb_block_script *script, fb_reuse_action *action);

/* How many of a block's steps + 1 passes reuse. */
size_t fb_block_script_reuses(size_t tokens, size_t steps, size_t tau);

#endif
