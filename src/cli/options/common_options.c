#include "cli/options/common_options.h"

#include "base/error.h"

#include <flashblock/generate.h>
#include <flashblock/kv_cache.h>
#include <flashblock/types.h>

#include <stdbool.h>
#include <string.h>

fb_status fb_option_parse_dtype(const char *text, void *dtype) {
    return fb_dtype_parse(text, dtype);
}

fb_status fb_option_parse_kv_dtype(const char *text, void *dtype) {
    return fb_kv_dtype_parse(text, dtype);
}

fb_status fb_option_parse_loop(const char *text, void *loop) {
    return fb_decoding_loop_parse(text, loop);
}

fb_status fb_option_parse_activations(const char *text, void *is_float) {
    bool f32 = strcmp(text, "f32") == 0;
    if (!f32 && strcmp(text, "int8") != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "'%s' is neither int8 nor f32", text);
    *(bool *)is_float = f32;
    return FB_OK;
}

fb_status fb_option_parse_compat(const char *text, void *compat) {
    bool released = strcmp(text, "released") == 0;
    if (!released && strcmp(text, "paper") != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "'%s' is neither paper nor released", text);
    *(fb_compat *)compat = released ? FB_COMPAT_RELEASED : FB_COMPAT_PAPER;
    return FB_OK;
}

fb_status fb_option_parse_reuse(const char *text, void *rows) {
    bool is_rows = strcmp(text, "rows") == 0;
    if (!is_rows && strcmp(text, "tau") != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "'%s' is neither tau nor rows", text);
    *(bool *)rows = is_rows;
    return FB_OK;
}

fb_status fb_option_parse_remasking(const char *text, void *remasking) {
    return fb_remasking_parse(text, remasking);
}
