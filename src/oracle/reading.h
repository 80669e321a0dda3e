/* What the kernel computes in, and how it reads its inputs. docs/judge.md, section 1. */
#ifndef FB_ORACLE_READING_H
#define FB_ORACLE_READING_H

#include "oracle/filter.h"

/* What the kernel may compute in, the finest first: said, or found from what results and keys are
 * stored in. */
size_t fb_find_arithmetics(const fb_trial *trial, fb_arithmetic said, fb_arithmetic *list);

/* The sum over given tensors of the logarithm of the typical error; what LSEs and outputs count in
 * it. */
double fb_typical_error(const fb_trial *trial, double *scratch, double *weight);

/* The reading that fits the first tokens clearly better than those before it. If none fits, there
 * is a mistake, and the first one is taken. Prepares the trial with it. LSEs say how keys are read,
 * not values. */
fb_status fb_find_reading(fb_trial *trial, fb_arithmetic arithmetic, double *scratch);

/* Another reading that makes the trial pass the size test, if there is one. Where all rows have
 * nearly the same weights, rounded values change all rows alike: that looks like a mistake, and a
 * few rows do not tell the readings apart. Prepares the trial with it, or leaves it as it is. */
fb_status fb_find_passing(fb_trial *trial, fb_arithmetic arithmetic, fb_size_test *size);

#endif
