/* A program that has set a locale with a decimal comma gets the same results, files and messages.
 */
#define _POSIX_C_SOURCE 200809L
#include "base/error.h"
#include "io/warnings.h"
#include "tests/temporary.h"

#include <flashblock/experimental/calibration.h>
#include <flashblock/experimental/oracle.h>
#include <flashblock/model.h>

#include <criterion/criterion.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 1 << 16 };

/* Makes the locale, if this machine can, and sets it. */
static bool set_comma(void) {
    char command[512], text[8];
    snprintf(command, sizeof command, "localedef -f UTF-8 -i de_DE %s >/dev/null 2>&1",
             temporary_path("de_DE.UTF-8"));
    if (system(command) != 0 || setenv("LOCPATH", temporary_path(""), 1) != 0 ||
        !setlocale(LC_ALL, "de_DE.UTF-8"))
        return false;
    snprintf(text, sizeof text, "%.1f", 1.5);
    cr_assert_str_eq(text, "1,5");
    return true;
}

static void remove_locale(void) {
    char command[512];
    snprintf(command, sizeof command, "rm -rf %s", temporary_path("de_DE.UTF-8"));
    cr_assert_eq(system(command), 0);
}

static void add(char *all, const char *text) {
    size_t used = strlen(all);
    cr_assert(used + strlen(text) + 2 < SIZE);
    snprintf(all + used, SIZE - used, "%s\n", text);
}

/* Reports of case files, one of which has numbers in the names of its tensors. */
static void verify(char *all) {
    static const char *const names[] = {
        "select/sampler_filters.safetensors",
        "attn/attn_06_normal_q4_k7_h8-2_d80.safetensors",
        "rope/sdar_rope_0_d64_theta1000000.safetensors",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[512];
        fb_verify_options options;
        fb_report *report = NULL;
        const char *text = NULL;
        snprintf(path, sizeof path, "%s/golden/paper/%s", getenv("FLASHBLOCK_SOURCE_ROOT"),
                 names[i]);
        fb_verify_options_init(&options);
        options.details = true;
        cr_assert_eq(fb_verify_file(path, &options, &report), FB_OK, "%s", fb_error_message());
        cr_assert_eq(fb_report_outcome(report), FB_PASSED, "%s", fb_report_reason(report));
        cr_assert_eq(fb_report_text(report, &text), FB_OK);
        add(all, text);
        cr_assert_eq(fb_report_json(report, &text), FB_OK);
        add(all, text);
        fb_report_destroy(report);
    }
}

static void read_files(char *all) {
    fb_calibration *calibration = NULL;
    fb_model *model = NULL;
    const char *path = temporary_write_text(
        "c.json", "{\"format\": \"flashblock-calibration\", \"version\": 1, \"num_layers\": 1,"
                  "\"num_heads\": 1, \"num_steps\": 2, \"compat\": \"paper\","
                  "\"similarity_threshold\": 0.85, \"similarity_threshold_by_step\": [0.5],"
                  "\"lse_threshold\": 5e-2, \"blocks\": 1, \"similarity\": [[[0.25]]],"
                  "\"lse_change\": [[[0.015625]]], \"internal_similarity\": [[[null]]],"
                  "\"refresh\": [[[1]]]}");
    cr_assert_eq(fb_calibration_load(path, &calibration), FB_OK, "%s", fb_error_message());
    cr_assert_eq(fb_calibration_similarity(calibration, 0, 1, 0), 0.25);
    cr_assert_eq(fb_calibration_save(calibration, temporary_path("d.json")), FB_OK);
    fb_calibration_destroy(calibration);
    size_t size = 0;
    char *text = read_whole(temporary_path("d.json"), &size);
    add(all, text);
    free(text);
    temporary_write_text("config.json",
                         "{\"model_type\": \"sdar\", \"hidden_size\": 2, \"intermediate_size\": 2,"
                         "\"num_hidden_layers\": 1, \"num_attention_heads\": 1, \"head_dim\": 2,"
                         "\"num_key_value_heads\": 1, \"vocab_size\": 8, \"rope_theta\": -1.5}");
    cr_assert_eq(fb_model_load(temporary_path(""), &model), FB_ERROR_FORMAT);
    cr_assert(strstr(fb_error_message(), "rope_theta is -1.5"), "%s", fb_error_message());
    fb_warnings warnings = {0};
    cr_assert_eq(fb_warn(&warnings, "%g", 0.5), FB_OK);
    cr_assert_str_eq(warnings.texts[0], "0.5");
    fb_warnings_free(&warnings);
}

Test(locale, a_decimal_comma_changes_nothing) {
    char *point = calloc(SIZE, 1), *comma = calloc(SIZE, 1);
    cr_assert(point && comma);
    temporary_make();
    verify(point);
    read_files(point);
    if (!set_comma()) {
        remove_locale();
        temporary_remove();
        cr_skip_test("localedef cannot make de_DE.UTF-8 here");
    }
    verify(comma);
    read_files(comma);
    cr_expect_str_eq(comma, point);
    char text[8];
    snprintf(text, sizeof text, "%.1f", 1.5);
    cr_expect_str_eq(text, "1,5", "the program's locale is another one afterwards");
    remove_locale();
    temporary_remove();
    free(point);
    free(comma);
}
