/* The inside of a fb_calibration, for the code that reads and writes its files. */
#ifndef FB_CACHE_CALIBRATION_STATE_H
#define FB_CACHE_CALIBRATION_STATE_H

#include <flashblock/experimental/calibration.h>

#include <stdbool.h>

typedef struct fb_head_numbers {
    double similarity, lse_change, internal_similarity;
} fb_head_numbers;

/* The parts that a layer's later steps are compared with. One allocation, which `out` begins.
 * Rows are [num_heads, samples, rows]. */
typedef struct fb_remembered {
    float *out, *internal, *lse;
    size_t samples, rows, head_dim;
    bool filled;
} fb_remembered;

struct fb_calibration {
    fb_calibration_config config;
    fb_head_numbers *sums;     /* [num_steps, num_layers, num_heads], over blocks */
    size_t *counts;            /* [num_steps, num_layers], blocks */
    bool means_are_given;      /* `sums` are means: read from a file */
    bool *refresh;             /* [num_steps, num_layers, num_heads] */
    fb_remembered *remembered; /* [num_layers] */
};

#endif
