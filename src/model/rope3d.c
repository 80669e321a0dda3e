#include "model/rope3d.h"

#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"

#include <math.h>

/* Pairs that turn with the frame, and with each of row and column. */
static size_t axis_pairs(size_t head_dim, size_t axis) {
    size_t pairs = head_dim / 2, third = pairs / 3;
    return axis == 0 ? pairs - 2 * third : third;
}

void fb_rope3d_turn(size_t head_dim, size_t pair, size_t position, double *cosine, double *sine) {
    size_t axis = 0;
    while (pair >= axis_pairs(head_dim, axis))
        pair -= axis_pairs(head_dim, axis++);
    double exponent = (double)pair / (double)axis_pairs(head_dim, axis);
    double angle = (double)position * (1.0 / pow(10000.0, exponent));
    *cosine = cos(angle);
    *sine = sin(angle);
}

/* Cosines and sines of all positions of the grid's axes: [positions of the axis][pairs of the
 * axis][2], one axis after the other. */
typedef struct rope_tables {
    const double *axis[3];
} rope_tables;

static size_t table_doubles(const size_t *positions, size_t head_dim) {
    size_t doubles = 0;
    for (size_t axis = 0; axis < 3; axis++)
        doubles += 2 * positions[axis] * axis_pairs(head_dim, axis);
    return doubles;
}

static rope_tables fill_tables(const size_t *positions, size_t first_frame, size_t head_dim,
                               double *to) {
    rope_tables tables;
    size_t first_pair = 0;
    for (size_t axis = 0; axis < 3; axis++) {
        size_t pairs = axis_pairs(head_dim, axis);
        tables.axis[axis] = to;
        for (size_t p = 0; p < positions[axis]; p++)
            for (size_t i = 0; i < pairs; i++, to += 2)
                fb_rope3d_turn(head_dim, first_pair + i, p + (axis == 0 ? first_frame : 0), to,
                               to + 1);
        first_pair += pairs;
    }
    return tables;
}

/* One token's heads, x [num_heads, head_dim], at the positions `at` of the tables. */
static void rotate_token(const rope_tables *tables, const size_t *at, size_t num_heads,
                         size_t head_dim, float *x) {
    for (size_t head = 0; head < num_heads; head++)
        for (size_t axis = 0; axis < 3; axis++) {
            size_t pairs = axis_pairs(head_dim, axis);
            const double *turn = tables->axis[axis] + 2 * at[axis] * pairs;
            for (size_t i = 0; i < pairs; i++, x += 2, turn += 2) {
                double re = (double)x[0], im = (double)x[1];
                x[0] = (float)(re * turn[0] - im * turn[1]);
                x[1] = (float)(re * turn[1] + im * turn[0]);
            }
        }
}

typedef struct rotate_call {
    const fb_video_grid *grid;
    const rope_tables *tables;
    size_t num_heads, head_dim;
    float *x;
} rotate_call;

static void rotate_tokens(void *context, size_t first, size_t end, size_t worker) {
    const rotate_call *c = context;
    const fb_video_grid *grid = c->grid;
    (void)worker;
    for (size_t token = first; token < end; token++) {
        size_t row = token / grid->columns;
        size_t at[3] = {row / grid->rows, row % grid->rows, token % grid->columns};
        rotate_token(c->tables, at, c->num_heads, c->head_dim,
                     c->x + token * c->num_heads * c->head_dim);
    }
}

fb_status fb_rope3d_rotate(const fb_video_grid *grid, size_t first_frame, size_t num_heads,
                           size_t head_dim, float *x) {
    const size_t positions[3] = {grid->frames, grid->rows, grid->columns};
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire(table_doubles(positions, head_dim) * sizeof(double), &memory));
    rope_tables tables = fill_tables(positions, first_frame, head_dim, memory);
    size_t tokens = grid->frames * grid->rows * grid->columns;
    rotate_call call = {grid, &tables, num_heads, head_dim, x};
    fb_parallel_for(tokens, 0, tokens < 1024 ? 1 : fb_parallel_threads(), rotate_tokens, &call);
    fb_scratch_release(memory);
    return FB_OK;
}
