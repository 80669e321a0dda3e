/* The lists of planted mistakes, and what makes them short. */
#ifndef FB_TESTS_PLANTED_H
#define FB_TESTS_PLANTED_H

#include "tests/planted_kernel.h"

#include <stddef.h>

typedef struct planted_list {
    const planted *mistakes;
    size_t count;
} planted_list;

extern const planted_list planted_keys, planted_scores, planted_merges, planted_passes;

/* A plan of rows, where a condition holds. */
#define PLAN(name, condition, body)                                                                \
    static void name(row_plan *p) {                                                                \
        if (condition) {                                                                           \
            body                                                                                   \
        }                                                                                          \
    }

/* A change of the rows of a part, where a condition holds; and of lanes in it. */
#define PART(name, condition, body)                                                                \
    static void name(const scene *s, bool external, part *p) {                                     \
        (void)external;                                                                            \
        for (size_t row = 0; row < rows_of(s); row++)                                              \
            if (condition) {                                                                       \
                body                                                                               \
            }                                                                                      \
    }
#define EACH_LANE(from, to, expression)                                                            \
    for (size_t d = (from); d < (to); d++) {                                                       \
        float *x = p->out + row * s->dim + d;                                                      \
        *x = (expression);                                                                         \
    }

#endif
