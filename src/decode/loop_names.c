#include "base/error.h"

#include <flashblock/generate.h>

#include <string.h>

static const char *const names[] = {
    [FB_LOOP_MODEL] = "model",   [FB_LOOP_SDAR] = "sdar",
    [FB_LOOP_LLADA2] = "llada2", [FB_LOOP_LLADA2_EDITING] = "llada2.1",
    [FB_LOOP_BD3LM] = "bd3lm",   [FB_LOOP_FAST_DLLM_V2] = "fast-dllm-v2",
};
enum { NUM_LOOPS = sizeof names / sizeof names[0] };

const char *fb_decoding_loop_name(fb_decoding_loop loop) {
    return (unsigned)loop < NUM_LOOPS ? names[loop] : "unknown";
}

fb_status fb_decoding_loop_parse(const char *name, fb_decoding_loop *loop) {
    for (unsigned i = 0; name && i < NUM_LOOPS; i++)
        if (strcmp(name, names[i]) == 0) {
            *loop = (fb_decoding_loop)i;
            return FB_OK;
        }
    return fb_fail(FB_ERROR_ARGUMENT,
                   "the loop is \"%s\", not model, sdar, llada2, llada2.1, bd3lm or fast-dllm-v2",
                   name ? name : "(null)");
}
