/* Options that several commands have: entries of a table, each for a `member` of the command's
 * `structure`. `text` is the part of --help that only the
 * command can say. */
#ifndef FB_CLI_OPTIONS_COMMON_OPTIONS_H
#define FB_CLI_OPTIONS_COMMON_OPTIONS_H

#include "cli/options/number_list.h"
#include "cli/options/option_table.h"

#include <flashblock/status.h>

/* Members: model, json: const char *, NULL where it is not given; threads: size_t, 0 where it is
 * not given; seed: uint64_t. */
#define FB_JSON_OPTION(structure, member, text)                                                    \
    {                                                                                              \
        .kind = FB_OPTION_FILE, .name = "json", .argument = "FILE",                                \
        .target = offsetof(structure, member), .help = (text)                                      \
    }
#define FB_THREADS_OPTION(structure, member, text)                                                 \
    {                                                                                              \
        .kind = FB_OPTION_SIZE, .name = "threads", .argument = "N",                                \
        .target = offsetof(structure, member), .min = 1, .max = 1024, .help = (text)               \
    }
#define FB_MODEL_OPTION(structure, member, text)                                                   \
    {                                                                                              \
        .kind = FB_OPTION_STRING, .name = "model", .letter = 'm', .argument = "DIR",               \
        .target = offsetof(structure, member), .required = true, .help = (text)                    \
    }
#define FB_NO_MMAP_OPTION(structure, member)                                                       \
    {                                                                                              \
        .kind = FB_OPTION_FLAG, .name = "no-mmap", .target = offsetof(structure, member),          \
        .help = "read the weights into memory instead of mapping their files: what happens to "    \
                "the files later does not matter"                                                  \
    }
/* A number of things, from 1 to `most`. `number`: the default, or NULL. */
#define FB_COUNT_OPTION(structure, member, option, most, number, text)                             \
    {                                                                                              \
        .kind = FB_OPTION_SIZE, .name = option, .argument = "N",                                   \
        .target = offsetof(structure, member), .min = 1, .max = (most), .otherwise = (number),     \
        .help = (text)                                                                             \
    }
#define FB_TOKENS_OPTION(structure, member, number, text)                                          \
    {                                                                                              \
        .kind = FB_OPTION_SIZE, .name = "tokens", .letter = 'n', .argument = "N",                  \
        .target = offsetof(structure, member), .min = 1, .max = 1 << 20, .otherwise = (number),    \
        .help = (text)                                                                             \
    }
/* Values with commas between them, as `parser` reads them. */
#define FB_LIST_OPTION(structure, member, option, parser, values, text)                            \
    {                                                                                              \
        .kind = FB_OPTION_PARSED, .name = option, .argument = "LIST",                              \
        .target = offsetof(structure, member), .parse = (parser), .otherwise = (values),           \
        .help = (text)                                                                             \
    }
/* Of a command that tries several block sizes; `member` is an fb_number_list. */
#define FB_BLOCK_SIZES_OPTION(structure, member)                                                   \
    {                                                                                              \
        .kind = FB_OPTION_PARSED, .name = "block-size", .letter = 'b', .argument = "LIST",         \
        .target = offsetof(structure, member), .parse = fb_number_list_parse,                      \
        .otherwise = "4,8,16,32", .help = "tokens of a block"                                      \
    }
/* A picture; `member` is a const char *. */
#define FB_PLOT_OPTION(structure, member, text)                                                    \
    {                                                                                              \
        .kind = FB_OPTION_OUTPUT, .name = "plot", .argument = "FILE",                              \
        .target = offsetof(structure, member), .help = text " (.png or .svg, by gnuplot)"          \
    }
#define FB_ACTIVATIONS_OPTION(structure, member)                                                   \
    {                                                                                              \
        .kind = FB_OPTION_PARSED, .name = "activations", .argument = "TYPE",                       \
        .target = offsetof(structure, member), .parse = fb_option_parse_activations,               \
        .otherwise = "int8",                                                                       \
        .help = "what quantised layers multiply: int8, or f32 and their weights in float32"        \
    }
#define FB_BLOCK_SIZE_OPTION(structure, member)                                                    \
    {                                                                                              \
        .kind = FB_OPTION_SIZE, .name = "block-size", .letter = 'b', .argument = "B",              \
        .target = offsetof(structure, member), .min = 1, .max = 1 << 16,                           \
        .help = "tokens of a block (default: the model's, 4 if it names none)"                     \
    }
#define FB_DENOISING_STEPS_OPTION(structure, member)                                               \
    {                                                                                              \
        .kind = FB_OPTION_SIZE, .name = "denoising-steps", .letter = 's', .argument = "S",         \
        .target = offsetof(structure, member), .min = 1, .max = 1 << 16,                           \
        .help = "denoising steps of a block (default: one for each of its tokens)"                 \
    }
#define FB_REMASKING_OPTION(structure, member, text)                                               \
    {                                                                                              \
        .kind = FB_OPTION_PARSED, .name = "remasking", .argument = "NAME",                         \
        .target = offsetof(structure, member), .parse = fb_option_parse_remasking,                 \
        .otherwise = "low_confidence_dynamic", .help = (text)                                      \
    }
#define FB_CONFIDENCE_OPTION(structure, member)                                                    \
    {                                                                                              \
        .kind = FB_OPTION_DOUBLE, .name = "confidence-threshold", .argument = "C",                 \
        .target = offsetof(structure, member), .max = 1, .otherwise = "0.9",                       \
        .needs = "remasking=low_confidence_dynamic",                                               \
        .help = "low_confidence_dynamic accepts every token of a higher probability than C"        \
    }
#define FB_COMPAT_OPTION(structure, member, text)                                                  \
    {                                                                                              \
        .kind = FB_OPTION_PARSED, .name = "compat", .argument = "NAME",                            \
        .target = offsetof(structure, member), .parse = fb_option_parse_compat,                    \
        .otherwise = "paper", .help = (text)                                                       \
    }
#define FB_KV_DTYPE_OPTION(structure, member)                                                      \
    {                                                                                              \
        .kind = FB_OPTION_PARSED, .name = "kv-dtype", .argument = "TYPE",                          \
        .target = offsetof(structure, member), .parse = fb_option_parse_kv_dtype,                  \
        .otherwise = "f32", .help = "storage of keys and values: f32, bf16, f16 or int8"           \
    }
#define FB_SEED_OPTION(structure, member, number, text)                                            \
    {                                                                                              \
        .kind = FB_OPTION_UINT64, .name = "seed", .argument = "N",                                 \
        .target = offsetof(structure, member), .otherwise = (number), .help = (text)               \
    }

/* `parse` of an option whose target is an fb_dtype: of elements, or of a KV cache. */
fb_status fb_option_parse_dtype(const char *text, void *dtype);
fb_status fb_option_parse_kv_dtype(const char *text, void *dtype);

/* The same for fb_model_options.float_activations: "int8" is false, "f32" is true. */
fb_status fb_option_parse_activations(const char *text, void *is_float);

/* The same for fb_reuse_policy.rows: "tau" is false, "rows" is true. */
fb_status fb_option_parse_reuse(const char *text, void *rows);

/* The same for an fb_compat: "paper", "released". */
fb_status fb_option_parse_compat(const char *text, void *compat);
fb_status fb_option_parse_loop(const char *text, void *loop);

/* The same for an fb_remasking. */
fb_status fb_option_parse_remasking(const char *text, void *remasking);

#endif
