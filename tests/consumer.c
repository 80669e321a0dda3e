/* A program of somebody else, against the installed headers and libraries (test_install.sh).
 * Attention in parts, and the one error message that both libraries share. With CORE_ONLY it needs
 * libflashblock alone. */
#include <flashblock/attention.h>
#include <flashblock/runtime.h>
#include <flashblock/version.h>
#ifndef CORE_ONLY
#include <flashblock/flashblock.h>
#endif

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { QUERIES = 4, KEYS = 40, HEADS = 2, HEAD_DIM = 8 };

/* Attention over keys 0-29 merged with attention over keys 30-39 is attention over all. */
static int attend_in_parts(void) {
    static float q[QUERIES * HEADS * HEAD_DIM], k[KEYS * HEAD_DIM], v[KEYS * HEAD_DIM];
    for (int i = 0; i < QUERIES * HEADS * HEAD_DIM; i++)
        q[i] = sinf((float)i);
    for (int i = 0; i < KEYS * HEAD_DIM; i++) {
        k[i] = cosf((float)i);
        v[i] = sinf(0.5f * (float)i);
    }
    fb_kv kv = fb_kv_rows(FB_F32, k, v, KEYS, 1, HEAD_DIM);
    fb_queries queries = fb_queries_rows(q, QUERIES, HEADS, HEAD_DIM);
    fb_range ranges[3] = {{0, KEYS}, {0, 30}, {30, KEYS}};
    static float out[3][QUERIES * HEADS * HEAD_DIM], lse[3][QUERIES * HEADS];
    fb_part parts[3];
    for (int i = 0; i < 3; i++) {
        fb_view view = {&kv, &ranges[i], 1};
        parts[i] = fb_part_rows(out[i], lse[i], HEADS, HEAD_DIM);
        if (fb_attend(&queries, &view, NULL, 0, &parts[i]) != FB_OK)
            return 0;
    }
    if (fb_merge(&parts[1], &parts[2], QUERIES, HEADS, HEAD_DIM, &parts[1]) != FB_OK)
        return 0;
    for (int i = 0; i < QUERIES * HEADS * HEAD_DIM; i++)
        if (!(fabsf(out[0][i] - out[1][i]) < 1e-6f))
            return 0;
    return 1;
}

static int core_error(void) {
    fb_isa isa;
    return fb_isa_parse("no-such-set", &isa) == FB_ERROR_ARGUMENT &&
           strstr(fb_error_message(), "no-such-set") != NULL;
}

#ifndef CORE_ONLY
static int model_error(void) {
    fb_model *model = NULL;
    return fb_model_load("/no/such/model", &model) == FB_ERROR_IO && !model &&
           strstr(fb_error_message(), "/no/such/model") != NULL;
}
#endif

int main(void) {
    if (!attend_in_parts() || !core_error()) {
        fprintf(stderr, "consumer: %s\n", fb_error_message());
        return 1;
    }
#ifndef CORE_ONLY
    if (!model_error()) {
        fprintf(stderr, "consumer: model error is '%s'\n", fb_error_message());
        return 1;
    }
#endif
    printf("flashblock %s\n", fb_version());
    return 0;
}
