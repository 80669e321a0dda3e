/* flashblock quantize: a model's directory with weights of 8 or 4 bits. */
#include "base/error.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/options/common_options.h"
#include "cli/options/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "io/file.h"
#include "model/quantize_model.h"

#include <flashblock/runtime.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LAYERS = 1024 };

/* Which decoder layers: all, unless some are named. */
typedef struct layer_choice {
    bool chosen[MAX_LAYERS];
    size_t count; /* up to the last one that is named; 0: all */
} layer_choice;

typedef struct settings {
    const char *model, *output, *json;
    size_t bits, group_size, embedding_bits, head_bits, threads;
    bool group_size_given, asymmetric;
    fb_quantize_method method;
    layer_choice layers;
} settings;

static fb_status read_bits(const char *text, size_t *bits, bool as_stored) {
    *bits = (size_t)strtoul(text, NULL, 10);
    bool known = *bits == 8 || *bits == 4 || (as_stored && *bits == FB_BITS_AS_STORED);
    if (known && strlen(text) <= 2)
        return FB_OK;
    return fb_fail(FB_ERROR_ARGUMENT, "'%s' is not 8%s", text, as_stored ? ", 4 or 16" : " or 4");
}

static fb_status parse_bits(const char *text, void *target) {
    return read_bits(text, target, false);
}

static fb_status parse_other_bits(const char *text, void *target) {
    return read_bits(text, target, true);
}

static fb_status parse_method(const char *text, void *target) {
    fb_quantize_method *method = target;
    *method = strcmp(text, "mse") == 0 ? FB_QUANTIZE_MSE : FB_QUANTIZE_NEAREST;
    if (*method == FB_QUANTIZE_MSE || strcmp(text, "nearest") == 0)
        return FB_OK;
    return fb_fail(FB_ERROR_ARGUMENT, "'%s' is not nearest or mse", text);
}

/* "0-5,7" */
static fb_status parse_layers(const char *text, void *target) {
    layer_choice *layers = target;
    *layers = (layer_choice){0};
    for (const char *at = text;; at++) {
        char *end = NULL;
        unsigned long first = strtoul(at, &end, 10), last = first;
        bool good = end != at && at[0] >= '0' && at[0] <= '9';
        if (good && *end == '-') {
            at = end + 1;
            last = strtoul(at, &end, 10);
            good = end != at && at[0] >= '0' && at[0] <= '9';
        }
        if (!good || last < first || last >= MAX_LAYERS || (*end != ',' && *end != '\0'))
            return fb_fail(FB_ERROR_ARGUMENT, "'%s' is not a list of layers, such as 0-5,7", text);
        for (size_t i = first; i <= last; i++)
            layers->chosen[i] = true;
        layers->count = last + 1 > layers->count ? last + 1 : layers->count;
        if (*end == '\0')
            return FB_OK;
        at = end;
    }
}

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option options[] = {
    FB_MODEL_OPTION(settings, model, "the model's directory, not quantised"),
    {.kind = FB_OPTION_STRING,
     .name = "output",
     .letter = 'o',
     .argument = "DIR",
     TARGET(output),
     .required = true,
     .help = "the directory to make; it appears whole or not at all"},
    {.kind = FB_OPTION_PARSED,
     .name = "bits",
     .argument = "BITS",
     TARGET(bits),
     .parse = parse_bits,
     .otherwise = "8",
     .help = "of the weights of linear layers: 8 or 4"},
    {.kind = FB_OPTION_SIZE,
     .name = "group-size",
     .argument = "N",
     TARGET(group_size),
     .given = offsetof(settings, group_size_given),
     .max = 1 << 20,
     .help = "columns that share a scale; 0: all of a row (default: 0 for 8 bits, 128 for 4)"},
    {.kind = FB_OPTION_FLAG,
     .name = "asymmetric",
     TARGET(asymmetric),
     .needs = "bits=4",
     .help = "a zero point for each scale"},
    {.kind = FB_OPTION_PARSED,
     .name = "method",
     .argument = "NAME",
     TARGET(method),
     .parse = parse_method,
     .otherwise = "nearest",
     .help =
         "nearest: the scale takes the largest weight of a group; mse: the scale, of 56 that are "
         "tried, with the least squared error"},
    {.kind = FB_OPTION_PARSED,
     .name = "layers",
     .argument = "LIST",
     TARGET(layers),
     .parse = parse_layers,
     .help = "only these decoder layers, such as 0-5,7; the others stay as they are"},
    {.kind = FB_OPTION_PARSED,
     .name = "embedding-bits",
     .argument = "BITS",
     TARGET(embedding_bits),
     .parse = parse_other_bits,
     .otherwise = "8",
     .help = "of the embedding: 8, 4, or 16 for as it is stored"},
    {.kind = FB_OPTION_PARSED,
     .name = "head-bits",
     .argument = "BITS",
     TARGET(head_bits),
     .parse = parse_other_bits,
     .otherwise = "8",
     .help = "of the head: 8, 4, or 16 for as it is stored"},
    FB_THREADS_OPTION(settings, threads, "threads; they change nothing of the result"),
    FB_JSON_OPTION(settings, json, "write the summary as JSON to FILE, or to standard output"),
};

static const fb_option_table table = {
    .usage = "quantize --model DIR [OPTION]... -o DIR",
    .summary = "Writes a model's directory with weights of 8 or 4 bits, in the layout of\n"
               "compressed-tensors, which vLLM and SGLang read, too.",
    FB_TABLE_OPTIONS(options),
};

static void show(void *user, size_t done, size_t count, const char *name) {
    (void)user;
    fb_progress_often("quantize: %zu of %zu: %s", done + 1, count, name);
}

static const char *method_name(fb_quantize_method method) {
    return method == FB_QUANTIZE_MSE ? "mse" : "nearest";
}

static void print(const settings *given, const fb_quantize_result *r) {
    printf("%s: %zu matrices in %zu bits", given->output, r->num_quantized, given->bits);
    if (given->group_size)
        printf(", groups of %zu", given->group_size);
    printf(", %s%s\n", given->asymmetric ? "with zero points, " : "", method_name(given->method));
    printf("%.1f MB, before %.1f MB\n", (double)r->bytes_after / 1e6,
           (double)r->bytes_before / 1e6);
    printf("error of the weights %.3g %%, at most %.3g %% (%s)\n", 100.0 * r->error,
           100.0 * r->worst_error, r->worst);
}

static fb_status write_json(const settings *given, const fb_quantize_result *r) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    fb_json_put_text(&w, "model", given->model);
    fb_json_put_text(&w, "output", given->output);
    fb_json_put_size(&w, "bits", given->bits);
    fb_json_put_size(&w, "group_size", given->group_size);
    fb_json_put_bool(&w, "symmetric", !given->asymmetric);
    fb_json_put_string(&w, "method", method_name(given->method));
    fb_json_put_size(&w, "embedding_bits", given->embedding_bits);
    fb_json_put_size(&w, "head_bits", given->head_bits);
    fb_json_put_size(&w, "matrices", r->num_quantized);
    fb_json_put_size(&w, "bytes_before", r->bytes_before);
    fb_json_put_size(&w, "bytes_after", r->bytes_after);
    fb_json_put_double(&w, "error", r->error);
    fb_json_put_double(&w, "worst_error", r->worst_error);
    fb_json_put_string(&w, "worst", r->worst);
    fb_json_close_object(&w);
    return fb_write_json(&w, given->json);
}

static fb_status quantize(settings *given) {
    fb_quantize_result result;
    fb_warnings warnings = {0};
    enum { USUAL_GROUP = 128 };
    if (!given->group_size_given)
        given->group_size = given->bits == 4 ? USUAL_GROUP : 0;
    if (given->threads)
        FB_TRY(fb_set_num_threads((int)given->threads));
    fb_quantize_options how = {.bits = given->bits,
                               .group_size = given->group_size,
                               .symmetric = !given->asymmetric,
                               .method = given->method,
                               .embedding_bits = given->embedding_bits,
                               .head_bits = given->head_bits,
                               .layers = given->layers.count ? given->layers.chosen : NULL,
                               .num_layers = given->layers.count,
                               .on_tensor = show};
    fb_status status = fb_quantize_model(given->model, given->output, &how, &result, &warnings);
    fb_progress_end();
    for (size_t i = 0; status == FB_OK && i < warnings.count; i++)
        fb_print_error("warning: %s", warnings.texts[i]);
    fb_warnings_free(&warnings);
    FB_TRY(status);
    if (!fb_is_stdout(given->json))
        print(given, &result);
    return given->json ? write_json(given, &result) : FB_OK;
}

int fb_command_quantize(int argc, char **argv) {
    settings given = {0};
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &given, &exit_status))
        return exit_status;
    return fb_report_status(quantize(&given));
}
