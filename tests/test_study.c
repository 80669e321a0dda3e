/* Measures and tables of src/study, by numbers that can be computed by hand. */
#include "study/measures.h"
#include "study/reuse_trial.h"
#include "study/trace_tables.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>

enum { LAYERS = 2, HEADS = 2, BLOCK = 4 };

static void expect_near(double found, double expected, const char *what) {
    cr_expect(fabs(found - expected) <= 1e-12 * fmax(1.0, fabs(expected)),
              "%s: %.17g, expected %.17g", what, found, expected);
}

Test(study, ratios) {
    expect_near(fb_measure_ratio(3, 4), 0.75, "3 / 4");
    expect_near(fb_measure_ratio(3, 0), 0, "3 / 0");
}

Test(study, divergence_of_two_tokens) {
    const float p[] = {0.0f, 0.0f}, q[] = {1.0f, 0.0f}; /* 1/2, 1/2 against e/(1 + e), 1/(1 + e) */
    double e = exp(1.0);
    double expected = 0.5 * log(0.5 * (1 + e) / e) + 0.5 * log(0.5 * (1 + e));
    expect_near(fb_measure_divergence(p, q, 2, SIZE_MAX), expected, "KL");
    expect_near(fb_measure_divergence(p, p, 2, SIZE_MAX), 0, "KL of equal distributions");
}

Test(study, divergence_without_one_token) {
    const float p[] = {0.0f, 7.0f, 0.0f}, q[] = {1.0f, -3.0f, 0.0f};
    const float short_p[] = {0.0f, 0.0f}, short_q[] = {1.0f, 0.0f};
    expect_near(fb_measure_divergence(p, q, 3, 1),
                fb_measure_divergence(short_p, short_q, 2, SIZE_MAX), "KL");
}

Test(study, psnr_of_a_constant_difference) {
    const float a[] = {0.5f, -0.25f}, b[] = {0.25f, 0.0f}; /* 1/4 everywhere, of 2 */
    expect_near(fb_measure_psnr(a, b, 2), 20 * log10(8), "PSNR");
    cr_expect(isinf(fb_measure_psnr(a, a, 2)));
}

Test(study, results_of_trials) {
    fb_reuse_trial_score sum = {0};
    const fb_reuse_trial_score dense = {
        .trials = 1, .tokens = 4, .external_rows = 8, .kv_bytes = 100, .attention_seconds = 2};
    const fb_reuse_trial_score one = {.trials = 1,
                                      .tokens = 4,
                                      .equal = 3,
                                      .correct = 2,
                                      .kl = 4,
                                      .kl_tokens = 2,
                                      .mean_kl = 2,
                                      .mean_kl_squared = 4,
                                      .external_rows = 2,
                                      .kv_bytes = 25,
                                      .attention_seconds = 1};
    fb_reuse_trial_score other = one;
    other.kl = 8;
    other.mean_kl = 4;
    other.mean_kl_squared = 16;
    fb_reuse_trial_score_add(&sum, &one);
    fb_reuse_trial_score_add(&sum, &other);
    fb_reuse_trial_result result = fb_reuse_trial_result_of(&sum, &dense);
    expect_near(result.agreement, 0.75, "agreement");
    expect_near(result.accuracy, 0.5, "accuracy");
    expect_near(result.kl, 3, "KL");
    expect_near(result.kl_error, 1, "standard error of the means 2 and 4");
    expect_near(result.rows, 0.5, "rows");
    expect_near(result.bytes, 0.5, "bytes");
    expect_near(result.attention, 1, "attention");
}

/* --- tables of a trace ------------------------------------------------------------------------ */

/* Two blocks of two steps. Values of step `i`, layer and head are 0.1 i + 0.01 layer + 0.001 head;
 * the last step reuses. */
static fb_trace made_trace(void) {
    fb_trace trace = {.num_layers = LAYERS,
                      .num_heads = HEADS,
                      .head_dim = 2,
                      .block_size = BLOCK,
                      .num_steps = 4};
    for (size_t i = 0; i < trace.num_steps; i++) {
        fb_trace_step step = {.block = i / 2,
                              .context_length = i / 2 * 100,
                              .denoising_step = i % 2,
                              .action = i == 3 ? FB_REUSE : FB_REFRESH_AND_STORE};
        cr_assert(fb_buffer_append(&trace.steps, &step, sizeof step) == FB_OK);
        for (size_t head = 0; head < LAYERS * HEADS; head++) {
            double value =
                0.1 * (double)i + 0.01 * (double)(head / HEADS) + 0.001 * (double)(head % HEADS);
            double similarity = i % 2 ? value : NAN; /* none at a block's first step */
            fb_trace_head record = {similarity,     2 * similarity, 3 * similarity, 4 * similarity,
                                    5 * similarity, value,          value,          value};
            cr_assert(fb_buffer_append(&trace.heads, &record, sizeof record) == FB_OK);
        }
    }
    return trace;
}

static void expect_row(const fb_trace_table *table, size_t i, const double *expected) {
    for (size_t j = 0; j < table->columns; j++) {
        double found = fb_trace_table_row(table, i)[j];
        cr_expect((isnan(found) && isnan(expected[j])) || fabs(found - expected[j]) < 1e-12,
                  "row %zu, column %zu: %.17g, expected %.17g", i, j, found, expected[j]);
    }
}

Test(study, table_of_steps) {
    fb_trace trace = made_trace();
    fb_trace_table table = {0};
    cr_assert(fb_trace_table_steps(&trace, &table) == FB_OK);
    cr_assert(fb_trace_table_count(&table) == 2);
    /* Means: steps 0 and 2 of the trace, then 1 and 3; over layers and heads 0.0055 is added. */
    expect_row(&table, 0, (const double[]){0, NAN, NAN, NAN, 0.1055, NAN});
    expect_row(&table, 1, (const double[]){1, 0.2055, 0.411, 1.0275, 0.2055, 0.3055});
    fb_trace_table_free(&table);
    fb_trace_free(&trace);
}

Test(study, table_of_stability) {
    fb_trace trace = made_trace();
    fb_trace_table table = {0};
    cr_assert(fb_trace_table_stability(&trace, &table) == FB_OK);
    cr_assert(fb_trace_table_count(&table) == 1);
    /* Of eight values the first is the 10th percentile, the last the 90th. */
    expect_row(&table, 0,
               (const double[]){1, 0.2055, 0.1, 0.311, 0.411, 0.2, 0.622, 0.6165, 0.822});
    fb_trace_table_free(&table);
    fb_trace_free(&trace);
}

Test(study, table_of_heads) {
    fb_trace trace = made_trace();
    fb_trace_table table = {0};
    cr_assert(fb_trace_table_heads(&trace, &table) == FB_OK);
    cr_assert(fb_trace_table_count(&table) == LAYERS * HEADS);
    expect_row(&table, 0, (const double[]){0, 0, 0.2, 0.4});
    expect_row(&table, 3, (const double[]){1, 1, 0.211, 0.422});
    fb_trace_table_free(&table);
    fb_trace_free(&trace);
}

Test(study, table_of_mass) {
    fb_trace trace = made_trace();
    fb_trace_table table = {0};
    cr_assert(fb_trace_table_mass(&trace, 10, &table) == FB_OK); /* ranges of 11 tokens */
    cr_assert(fb_trace_table_count(&table) == 2);
    expect_row(&table, 0, (const double[]){3.5, 0.0555, 0, 0.111, 0.0505, 0.0605});
    expect_row(&table, 1, (const double[]){102.5, 0.2555, 0.2, 0.311, 0.2505, 0.2605});
    fb_trace_table_free(&table);
    fb_trace_free(&trace);
}

Test(study, table_of_taus) {
    const fb_trace_tau taus[] = {{.tau = 0, .steps = 4},
                                 {.tau = 2,
                                  .steps = 4,
                                  .reuses = 1,
                                  .error = {.mean = 0.1, .p10 = 0.2, .median = 0.3, .p90 = 0.4},
                                  .error_all = 0.5}};
    fb_trace_table table = {0};
    cr_assert(fb_trace_table_taus(taus, 2, &table) == FB_OK);
    cr_assert(fb_trace_table_count(&table) == 2);
    expect_row(&table, 0, (const double[]){0, 0, 0, 0, 0, 0, 0});
    expect_row(&table, 1, (const double[]){2, 0.1, 0.2, 0.3, 0.4, 0.5, 25});
    fb_trace_table_free(&table);
}
