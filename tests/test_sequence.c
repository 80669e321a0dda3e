/* Scripted denoising sequences: their script, their truth, their files, and verifying these. */
#include "base/exp.h"
#include "oracle/truth.h"
#include "tests/sequence_case.h"
#include "tests/temporary.h"

#include <flashblock/runtime.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const fb_script_config small = {
    .preset = "test",
    .num_heads = 4,
    .num_kv_heads = 2,
    .head_dim = 16,
    .block_size = 6,
    .context_length = 70,
    .tau = 3,
    .steps = 5,
    .seed = 3,
};

static const char *write_file(const fb_script_config *config, const char *name) {
    fb_script *s = generated(config);
    const char *path = temporary_path(name);
    OK(fb_script_write(s, path));
    fb_script_free(s);
    return path;
}

/* --- exp, log, attention ---------------------------------------------------------------------- */

static double relative(double value, double truth) {
    return value == truth ? 0.0 : fabs(value - truth) / fabs(truth);
}

Test(truth, exp_and_log) {
    double worst_exp = 0.0, worst_log = 0.0;
    for (int i = 0; i <= 2000000; i++) {
        double x = -700.0 + 1400.0 * (double)i / 2000000.0;
        worst_exp = fmax(worst_exp, relative(fb_exp_double(x), exp(x)));
        double y = exp(x), near = 0.5 + (double)i / 1000000.0;
        worst_log = fmax(worst_log, relative(fb_truth_log(y), log(y)));
        worst_log = fmax(worst_log, relative(fb_truth_log(near), log(near)));
    }
    cr_log_info("exp is within %.2e of libm's, log within %.2e", worst_exp, worst_log);
    cr_expect_leq(worst_exp, 1e-14, "exp: %g", worst_exp);
    cr_expect_leq(worst_log, 1e-14, "log: %g", worst_log);
    cr_expect_eq(fb_exp_double(0.0), 1.0);
    cr_expect_eq(fb_exp_double(-(double)INFINITY), 0.0);
    cr_expect_eq(fb_exp_double(-746.0), 0.0);
    cr_expect_eq(fb_exp_double((double)INFINITY), (double)INFINITY);
    cr_expect(isnan(fb_exp_double((double)NAN)));
    cr_expect_leq(relative(fb_exp_double(-740.0), exp(-740.0)), 0.5); /* subnormal: an ulp */
    cr_expect_eq(fb_truth_log(1.0), 0.0);
    cr_expect_eq(fb_truth_log((double)INFINITY), (double)INFINITY);
    cr_expect(isnan(fb_truth_log((double)NAN)));
}

static void expect_close(const char *what, const double *values, const double *truth, size_t count,
                         double tolerance) {
    for (size_t i = 0; i < count; i++)
        cr_assert(values[i] == truth[i] || fabs(values[i] - truth[i]) <= tolerance,
                  "%s[%zu] is %.17g, expected %.17g", what, i, values[i], truth[i]);
}

/* The portable truth equals the readable one, for any number of keys and threads. */
Test(truth, attention_is_the_reference) {
    static const size_t sizes[] = {0, 1, 63, 64, 65, 500};
    for (size_t n = 0; n < sizeof sizes / sizeof sizes[0]; n++) {
        fb_script_config config = small;
        config.context_length = sizes[n];
        config.block_size = 11; /* 22 rows a KV head: more than a task's 16 */
        fb_script *s = generated(&config);
        size_t values = fb_script_values(s), rows = fb_script_rows(s);
        double *out = malloc((values + rows) * sizeof *out), *lse = out + values;
        const fb_script_pass *pass = &s->passes[0];
        fb_queries queries = fb_queries_rows(pass->q, 11, 4, 16);
        fb_kv kv = fb_kv_rows(FB_F32, s->k_context, s->v_context, sizes[n], 2, 16);
        fb_range all = {0, sizes[n]};
        fb_view view = {&kv, &all, 1};
        OK(fb_attend_reference(&queries, &view, NULL, 0.0, out, lse));
        expect_close("external out", pass->true_external_out, out, values, 1e-13);
        expect_close("external lse", pass->true_external_lse, lse, rows, 1e-13);
        double *again = malloc((values + rows) * sizeof *again);
        fb_truth_problem problem = {pass->q, s->k_context, s->v_context, 11, sizes[n], 4,
                                    2,       16,           0.25};
        OK(fb_set_num_threads(3));
        OK(fb_truth_attend(&problem, again, again + values));
        cr_expect_eq(memcmp(again, pass->true_external_out, values * sizeof *again), 0);
        cr_expect_eq(memcmp(again + values, pass->true_external_lse, rows * sizeof *again), 0);
        OK(fb_set_num_threads(1));
        free(out);
        free(again);
        fb_script_free(s);
    }
}

Test(truth, merge_is_the_reference) {
    const double minus = -(double)INFINITY;
    double out_a[] = {1, 2, 3, 4, 5, 6}, lse_a[] = {0.5, minus, minus};
    double out_b[] = {-1, 0, 7, 8, 9, 9}, lse_b[] = {3.0, 1.0, minus};
    double out[6], lse[3], expected_out[6], expected_lse[3];
    fb_truth_merge(out_a, lse_a, out_b, lse_b, 3, 2, out, lse);
    fb_merge_reference(out_a, lse_a, out_b, lse_b, 3, 2, expected_out, expected_lse);
    expect_close("out", out, expected_out, 6, 1e-14);
    expect_close("lse", lse, expected_lse, 3, 1e-14);
}

/* --- the script ------------------------------------------------------------------------------- */

/* Every step accepts at least one position. Each position is accepted once, and all are in the end.
 * Dirty positions follow the rule of the engine. */
static void check_script(const fb_script_config *config) {
    fb_script *s = generated(config);
    size_t total = 0;
    int32_t dirty = 0, *times = calloc(config->block_size, sizeof *times);
    for (size_t i = 0; i < s->num_passes; i++) {
        const fb_script_pass *pass = &s->passes[i];
        int32_t count = 0;
        for (size_t token = 0; token < config->block_size; token++) {
            count += pass->accepted[token];
            times[token] += pass->accepted[token];
        }
        bool commit = i == config->steps;
        cr_expect_eq(count > 0, !commit, "pass %zu accepts %d", i, (int)count);
        cr_expect_eq(pass->dirty, dirty, "pass %zu", i);
        bool reuses = i > 0 && !commit && (size_t)dirty < config->tau;
        cr_expect_eq(pass->action == FB_REUSE, reuses, "pass %zu", i);
        cr_expect_eq(pass->source == i, !reuses, "pass %zu", i);
        dirty = (reuses ? dirty : 0) + count;
        total += (size_t)count;
    }
    cr_expect_eq(total, config->block_size);
    for (size_t token = 0; token < config->block_size; token++)
        cr_expect_eq(times[token], 1, "token %zu", token);
    free(times);
    fb_script_free(s);
}

Test(script, accepts_each_position_once) {
    fb_script_config config = small;
    for (config.seed = 0; config.seed < 20; config.seed++)
        for (config.steps = 1; config.steps <= config.block_size; config.steps++)
            for (config.tau = 0; config.tau < 8; config.tau += 3)
                check_script(&config);
}

Test(script, presets) {
    fb_script_config config;
    for (size_t i = 0; i < fb_num_script_presets; i++) {
        OK(fb_script_preset(fb_script_presets[i].preset, &config));
        config.block_size = 4;
        config.context_length = 20;
        check_script(&config);
    }
    cr_expect_eq(fb_script_preset("gpt-2", &config), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "'gpt-2'"), "%s", fb_error_message());
}

Test(script, wrong_configurations) {
    fb_script *s = NULL;
    fb_script_config config = small;
    config.steps = 7;
    cr_expect_eq(fb_script_create(&config, &s), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "steps is 7"), "%s", fb_error_message());
    config.steps = 0;
    cr_expect_eq(fb_script_create(&config, &s), FB_ERROR_ARGUMENT);
    config = small;
    config.num_heads = 3;
    cr_expect_eq(fb_script_create(&config, &s), FB_ERROR_ARGUMENT);
    config = small;
    config.context_length = SIZE_MAX / 4;
    cr_expect_eq(fb_script_create(&config, &s), FB_ERROR_ARGUMENT);
    config = small;
    config.scale = (double)NAN;
    cr_expect_eq(fb_script_create(&config, &s), FB_ERROR_ARGUMENT);
    cr_expect_null(s);
}

/* The difference is a few ulps at most, because the truth is of the same computation. */
Test(script, results_are_near_the_truth) {
    fb_script *s = generated(&small);
    for (size_t i = 0; i < s->num_passes; i++) {
        const fb_script_pass *pass = &s->passes[i];
        for (size_t j = 0; j < fb_script_values(s); j++)
            cr_assert_lt(fabs((double)pass->out[j] - pass->true_out[j]), 1e-6);
        for (size_t j = 0; j < fb_script_rows(s); j++)
            cr_assert_lt(fabs((double)pass->lse[j] - pass->true_lse[j]), 2e-6);
    }
    fb_script_free(s);
}

/* --- files ------------------------------------------------------------------------------------ */

static void expect_same_files(const fb_script_config *config) {
    size_t size = 0, other_size = 0;
    OK(fb_isa_select(FB_ISA_SCALAR));
    OK(fb_set_num_threads(1));
    char *first = read_whole(write_file(config, "first"), &size);
    for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++)
        for (int threads = 1; threads <= 3; threads += 2) {
            if (!fb_isa_built(isa) || !fb_isa_supported(isa))
                continue;
            OK(fb_isa_select(isa));
            OK(fb_set_num_threads(threads));
            char *other = read_whole(write_file(config, "other"), &other_size);
            cr_expect(size == other_size && memcmp(first, other, size) == 0,
                      "%s with %d threads writes another file", fb_isa_name(isa), threads);
            free(other);
        }
    free(first);
}

Test(script_file, same_bytes_everywhere) {
    fb_script_config config;
    temporary_make();
    expect_same_files(&small);
    config = small;
    config.dtype = FB_BF16;
    config.context_length = 0;
    expect_same_files(&config);
    OK(fb_script_preset("trado-8b", &config));
    config.context_length = 1100;
    config.dtype = FB_F16;
    expect_same_files(&config);
    temporary_remove();
}

Test(script_file, tensors_and_metadata) {
    fb_safetensors *file = NULL;
    const fb_tensor_view *tensor = NULL;
    fb_script_config config = small;
    config.dtype = FB_BF16;
    temporary_make();
    OK(fb_safetensors_open(write_file(&config, "case.safetensors"), &file));
    cr_expect_str_eq(fb_safetensors_metadata(file, "kind"), "denoising_sequence");
    cr_expect_str_eq(fb_safetensors_metadata(file, "seed"), "3");
    cr_expect_str_eq(fb_safetensors_metadata(file, "produced_by"), FB_SCRIPT_PRODUCER);
    OK(fb_safetensors_get(file, "k_context", &tensor));
    cr_expect_eq(tensor->dtype, FB_TENSOR_BF16);
    OK(fb_tensor_check_shape(tensor, 3, (size_t[]){70, 2, 16}));
    OK(fb_safetensors_get(file, "step05.v", &tensor));
    cr_expect_eq(tensor->dtype, FB_TENSOR_BF16);
    OK(fb_safetensors_get(file, "step00.external_lse64", &tensor));
    cr_expect_eq(tensor->dtype, FB_TENSOR_F64);
    OK(fb_tensor_check_shape(tensor, 2, (size_t[]){6, 4}));
    OK(fb_safetensors_get(file, "accepted", &tensor));
    cr_expect_eq(tensor->dtype, FB_TENSOR_BOOL);
    OK(fb_tensor_check_shape(tensor, 2, (size_t[]){6, 6}));
    cr_expect_null(fb_safetensors_find(file, "step06.q"));
    const char *data = fb_safetensors_at(file, 0)->data;
    for (size_t i = 0; i < fb_safetensors_count(file); i++) {
        tensor = fb_safetensors_at(file, i);
        size_t element = fb_tensor_dtype_size(tensor->dtype);
        cr_expect_eq(((size_t)((const char *)tensor->data - data)) % element, 0, "%s is misaligned",
                     tensor->name);
    }
    fb_safetensors_close(file);
    temporary_remove();
}

/* --- verifying -------------------------------------------------------------------------------- */

Test(verify_script, own_files_pass) {
    temporary_make();
    for (fb_dtype dtype = FB_F32; dtype <= FB_F16; dtype++)
        for (size_t tau = 0; tau <= 3; tau++) {
            fb_script_config config = small;
            config.dtype = dtype;
            config.tau = tau;
            fb_script *s = generated(&config);
            size_t findings = 2;
            for (size_t i = 0; i < s->num_passes; i++)
                findings += s->passes[i].external_out ? 4 : 2;
            fb_script_free(s);
            fb_report *report = verify(write_file(&config, "case.safetensors"), NULL);
            expect_passed("own file", report, findings);
        }
    temporary_remove();
}

static void flip_lowest_bit(void *data, size_t bytes) {
    (void)bytes;
    *(unsigned char *)data ^= 1;
}

static void add_to_double(void *data, size_t bytes) {
    double value;
    (void)bytes;
    memcpy(&value, data, sizeof value);
    value += 1e-6;
    memcpy(data, &value, sizeof value);
}

static const fb_finding *find(const fb_report *report, const char *tensor) {
    for (size_t i = 0; i < report->num_findings; i++)
        if (strcmp(report->findings[i].tensor, tensor) == 0)
            return &report->findings[i];
    cr_assert_fail("no finding on %s: %s", tensor, report->reason);
    return NULL;
}

/* Refresh by rows: the external part of a row comes from the first pass, and later from the pass
 * after its acceptance. */
static void check_rows(const fb_script *s) {
    const fb_script_config *c = &s->config;
    size_t size = c->num_heads * c->head_dim, refreshed = 0;
    for (size_t token = 0; token < c->block_size; token++) {
        size_t of = 0;
        for (size_t i = 0; i < s->num_passes; i++) {
            const fb_script_pass *pass = &s->passes[i];
            of = i > 0 && s->passes[i - 1].accepted[token] ? i : of;
            cr_expect_eq(memcmp(pass->external_q + token * size, s->passes[of].q + token * size,
                                size * sizeof *pass->q),
                         0, "pass %zu, token %zu: not the queries of pass %zu", i, token, of);
            refreshed += pass->action == FB_REFRESH_ROWS && pass->refresh_rows[token];
        }
    }
    cr_expect_eq(refreshed, c->block_size);
    for (size_t i = 0; i < s->num_passes; i++)
        cr_expect_eq(s->passes[i].action, i == 0 ? FB_REFRESH_AND_STORE : FB_REFRESH_ROWS);
}

/* Files of refresh by rows, with and without the correction, verify to the bit and by the float64
 * truth. The results of one policy are not accepted for another. */
Test(script, refresh_by_rows) {
    const char *paths[4] = {NULL};
    for (int i = 0; i < 4; i++) {
        fb_script_config config = small;
        char name[32];
        config.rows = i < 2;
        config.correction = i % 2;
        config.tau = config.rows ? 1 : 3;
        config.dtype = (fb_dtype)(i % 3);
        config.dtype = i < 2 ? FB_F32 : config.dtype;
        fb_script *s = generated(&config);
        if (config.rows)
            check_rows(s);
        size_t stores = 0;
        for (size_t pass = 0; pass < s->num_passes; pass++)
            stores += fb_script_stores(&s->passes[pass]);
        snprintf(name, sizeof name, "rows%d.safetensors", i);
        paths[i] = strdup(temporary_path(name));
        OK(fb_script_write(s, paths[i]));
        fb_report *report = verify(paths[i], NULL);
        expect_passed(name, report, 2 * s->num_passes + 2 * stores + 2);
        report = verify(paths[i], paths[i]);
        cr_expect_eq(report->outcome, FB_PASSED, "%s as a candidate: %s", name, report->reason);
        fb_report_destroy(report);
        fb_script_free(s);
    }
    for (int i = 0; i < 2; i++) { /* rows, with and without the correction: the same inputs */
        fb_report *report = verify(paths[i], paths[1 - i]);
        cr_expect_eq(report->outcome, FB_FAILED);
        fb_report_destroy(report);
    }
    for (int i = 0; i < 4; i++)
        free((void *)(size_t)paths[i]);
}

/* Exactly one finding fails. */
static void expect_failed_finding(const char *path, const change *c, const char *tensor) {
    const char *changed = temporary_path("changed.safetensors");
    write_changed(path, changed, c);
    fb_report *report = verify(changed, NULL);
    cr_expect_eq(report->outcome, FB_FAILED, "%s", tensor);
    for (size_t i = 0; i < report->num_findings; i++)
        cr_expect_eq(report->findings[i].passed, strcmp(report->findings[i].tensor, tensor) != 0,
                     "%s, where %s was changed", report->findings[i].tensor, tensor);
    cr_expect_neq(find(report, tensor), NULL);
    fb_report_destroy(report);
}

static void expect_refused(const char *path, const change *c, const char *word) {
    const char *changed = temporary_path("changed.safetensors");
    write_changed(path, changed, c);
    fb_report *report = verify(changed, NULL);
    cr_expect_eq(report->outcome, FB_FAILED, "accepted where '%s' is expected", word);
    cr_expect(strstr(report->reason, word), "'%s' is not in '%s'", word, report->reason);
    fb_report_destroy(report);
}

Test(verify_script, changed_results_fail) {
    temporary_make();
    char *path = strdup(write_file(&small, "case.safetensors"));
    static const char *const results[] = {
        "step00.out",          "step03.lse", "step00.external_out",
        "step00.external_lse", "action",     "dirty"};
    for (size_t i = 0; i < sizeof results / sizeof results[0]; i++)
        expect_failed_finding(path, &(change){.tensor = results[i], .edit = flip_lowest_bit},
                              results[i]);
    expect_refused(path, &(change){.tensor = "step02.out64", .edit = add_to_double},
                   "step02.out64 is not the truth");
    expect_refused(path, &(change){.tensor = "step00.external_lse64", .edit = add_to_double},
                   "step00.external_lse64 is not the truth");
    free(path);
    temporary_remove();
}

/* Results of another producer need not have our bits, but must be as near to the truth as ours. */
Test(verify_script, files_of_others) {
    temporary_make();
    char *path = strdup(write_file(&small, "case.safetensors"));
    const char *other = temporary_path("other.safetensors");
    write_changed(path, other, &(change){.key = "produced_by", .value = "somebody"});
    const char *changed = temporary_path("nearby.safetensors");
    write_changed(other, changed, &(change){.tensor = "step00.out", .edit = flip_lowest_bit});
    fb_report *report = verify(changed, NULL);
    expect_passed("another's file", report, 2 + 6 * 2 + 2 * 2);
    free(path);
    temporary_remove();
}

#define PARAMS(fields) "{" fields "\"dtype\":\"f32\"}"

Test(verify_script, hostile_files) {
    static const struct {
        const char *params, *word;
    } cases[] = {
        {"[]", "params"},
        {"{}", "num_heads"},
        {PARAMS("\"num_heads\":16777216,\"num_kv_heads\":16777216,\"head_dim\":65536,"
                "\"block_size\":16777216,\"context_length\":16777216,\"tau\":1,\"steps\":99,"),
         "k_context"},
        {PARAMS("\"num_heads\":4,\"num_kv_heads\":2,\"head_dim\":16,\"block_size\":6,"
                "\"context_length\":70,\"tau\":3,\"steps\":100,"),
         "steps"},
        {PARAMS("\"num_heads\":3,\"num_kv_heads\":2,\"head_dim\":16,\"block_size\":6,"
                "\"context_length\":70,\"tau\":3,\"steps\":5,"),
         "step00.q"},
        {PARAMS("\"num_heads\":4,\"num_kv_heads\":2,\"head_dim\":16,\"block_size\":6,"
                "\"context_length\":70,\"tau\":3,\"steps\":4,"),
         "accepted"},
        {PARAMS("\"num_heads\":4,\"num_kv_heads\":2,\"head_dim\":16,\"block_size\":6,"
                "\"context_length\":70,\"tau\":3,\"steps\":5,\"softmax_scale\":0.0,"),
         "softmax_scale"},
        {"{\"num_heads\":4,\"num_kv_heads\":2,\"head_dim\":16,\"block_size\":6,"
         "\"context_length\":70,\"tau\":3,\"steps\":5,\"dtype\":\"f16\"}",
         "params.dtype is f16"},
    };
    temporary_make();
    char *path = strdup(write_file(&small, "case.safetensors"));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_refused(path, &(change){.key = "params", .value = cases[i].params}, cases[i].word);
    expect_refused(path, &(change){.drop = "step03.k"}, "step03.k");
    expect_refused(path, &(change){.drop = "step03.out"}, "step03.out");
    expect_refused(path, &(change){.drop = "accepted"}, "accepted");
    free(path);
    temporary_remove();
}
