/* Remasking: the positions that keep their proposed token. They are compared with the choices of
 * torch.topk among ties, and with results by hand for the rules of the engine. (test_golden.c
 * compares with selections of the training code.) */
#include "base/memory.h"
#include "decode/remask.h"
#include "decode/sampler.h"
#include "decode/torch_topk.h"
#include "tests/golden_case.h"
#include "tests/golden_list.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BLOCK = 64 };

/* --- torch.topk ------------------------------------------------------------------------------- */

/* Chosen by torch.topk of PyTorch 1.13 on a CPU from confidences 0.5, 0.501, ... of the masked
 * positions ('1') and -inf of the others: the set, as a bit mask. */
typedef struct topk_choice {
    const char *masked;
    size_t count;
    unsigned chosen;
} topk_choice;

static const topk_choice topk_choices[] = {
    {"0000", 3, 0x000d},
    {"0000", 1, 0x0004},
    {"0010", 2, 0x000c},
    {"0110", 4, 0x000f},
    {"1001", 3, 0x000d},
    {"1011", 4, 0x000f},
    {"1100", 4, 0x000f},
    {"1100", 3, 0x000b},
    {"0000", 2, 0x000c},
    {"10011000", 6, 0x00f9},
    {"11001001", 5, 0x00b3},
    {"00000000", 3, 0x0070},
    {"10100010", 6, 0x00f5},
    {"10000100", 3, 0x0061},
    {"10010011", 5, 0x00d9},
    {"00010010", 4, 0x0078},
    {"10110100", 6, 0x00bd},
    {"11001001", 6, 0x00f3},
    {"1010000000010100", 5, 0xa805},
    {"0011100000000001", 6, 0x8c1c},
    {"1000110001110001", 9, 0xaf31},
    {"0000000000100000", 4, 0x1e00},
    {"0000010010100101", 8, 0xbd22},
    {"1011111110000101", 12, 0xe1ff},
    {"0000000110010100", 7, 0xbd80},
    {"0100000001100100", 6, 0xae02},
    {"0000000100111010", 6, 0x5e80},
};

Test(select, topk_breaks_ties_as_torch_does) {
    for (size_t n = 0; n < sizeof topk_choices / sizeof *topk_choices; n++) {
        const topk_choice *choice = &topk_choices[n];
        size_t size = strlen(choice->masked), order[MAX_BLOCK];
        float value[MAX_BLOCK];
        bool masked[MAX_BLOCK];
        for (size_t i = 0; i < size; i++) {
            value[i] = 0.5f + 0.001f * (float)i;
            masked[i] = choice->masked[i] == '1';
        }
        fb_torch_topk(value, masked, size, choice->count, order);
        unsigned chosen = 0;
        for (size_t i = 0; i < choice->count; i++)
            chosen |= 1u << order[i];
        cr_assert_eq(chosen, choice->chosen, "topk %zu of %s chose %#x, torch %#x", choice->count,
                     choice->masked, chosen, choice->chosen);
    }
}

/* --- the engine's rules, by hand
 * ----------------------------------------------------------- */

static const float confidence_8[8] = {0.2f, 0.9f, 0.5f, 0.95f, 0.5f, 0.1f, 0.7f, 0.5f};
static const float entropy_8[8] = {0.3f, 0.05f, 0.2f, 0.0f, 0.1f, 0.9f, 0.15f, 0.1f};

/* `masked` as a string of 0 and 1; `expected` as the accepted positions in order. */
static void expect_accepted(fb_remasking strategy, fb_budget_rule rule, const char *masked,
                            size_t budget, double bound, const char *expected) {
    bool flags[8];
    for (size_t i = 0; i < 8; i++)
        flags[i] = masked[i] == '1';
    fb_remask_step step = {.strategy = strategy,
                           .rule = rule,
                           .block_size = 8,
                           .budget = budget,
                           .masked = flags,
                           .confidence = confidence_8,
                           .entropy = entropy_8,
                           .confidence_threshold = bound,
                           .entropy_bound = bound};
    size_t accepted[8];
    char found[9] = {0};
    size_t count = fb_remask(&step, accepted);
    for (size_t i = 0; i < count; i++)
        found[i] = (char)('0' + accepted[i]);
    cr_assert_str_eq(found, expected, "%s, masked %s, budget %zu, bound %g: accepted %s, not %s",
                     fb_remasking_name(strategy), masked, budget, bound, found, expected);
}

Test(select, dynamic_budget_is_a_floor) {
    fb_remasking dynamic = FB_LOW_CONFIDENCE_DYNAMIC;
    expect_accepted(dynamic, FB_BUDGET_FLOOR, "11111111", 1, 0.6, "136");
    expect_accepted(dynamic, FB_BUDGET_FLOOR, "11111111", 3, 0.6, "136");
    expect_accepted(dynamic, FB_BUDGET_FLOOR, "11111111", 4, 0.6, "3162");
    expect_accepted(dynamic, FB_BUDGET_FLOOR, "11111111", 6, 0.6, "316247");
    expect_accepted(dynamic, FB_BUDGET_FLOOR, "10001100", 5, 0.6, "405");
    expect_accepted(dynamic, FB_BUDGET_FLOOR, "11111111", 0, 0.99, "");
    expect_accepted(dynamic, FB_BUDGET_FLOOR, "00101001", 1, 0.5, "2"); /* not above 0.5 */
    expect_accepted(dynamic, FB_BUDGET_FLOOR, "11111111", 1, 0.99, "3");
}

Test(select, dynamic_budget_is_a_cap_in_training) {
    fb_remasking dynamic = FB_LOW_CONFIDENCE_DYNAMIC;
    expect_accepted(dynamic, FB_BUDGET_CAP, "11111111", 4, 0.6, "136");
    expect_accepted(dynamic, FB_BUDGET_CAP, "11111111", 1, 0.6, "3");
    expect_accepted(dynamic, FB_BUDGET_CAP, "11111111", 4, 0.99, "3");
    expect_accepted(dynamic, FB_BUDGET_CAP, "11111111", 0, 0.6, "");
}

/* 0.6 is between two floats: the engine's lists hold doubles, its tensors floats. */
Test(select, threshold_is_compared_in_the_precision_of_the_path) {
    float confidence[1] = {0.6f};
    bool masked[1] = {true};
    size_t accepted[1];
    fb_remask_step step = {.strategy = FB_LOW_CONFIDENCE_DYNAMIC,
                           .block_size = 1,
                           .masked = masked,
                           .confidence = confidence,
                           .confidence_threshold = 0.6};
    cr_assert_eq(fb_remask(&step, accepted), 1);
    step.rule = FB_BUDGET_FLOOR_TENSOR;
    cr_assert_eq(fb_remask(&step, accepted), 0);
}

Test(select, static_takes_the_budget_highest) {
    fb_remasking fixed = FB_LOW_CONFIDENCE_STATIC;
    expect_accepted(fixed, FB_BUDGET_FLOOR, "11111111", 2, 0.0, "31");
    expect_accepted(fixed, FB_BUDGET_FLOOR, "00101001", 2, 0.0, "24");
    expect_accepted(fixed, FB_BUDGET_FLOOR, "00000100", 4, 0.0, "5");
    expect_accepted(fixed, FB_BUDGET_FLOOR, "11111111", 0, 0.0, "");
}

Test(select, sequential_takes_a_range_from_the_first_mask) {
    expect_accepted(FB_SEQUENTIAL, FB_BUDGET_FLOOR, "00111111", 3, 0.0, "234");
    expect_accepted(FB_SEQUENTIAL, FB_BUDGET_FLOOR, "00101111", 3, 0.0, "234");
    expect_accepted(FB_SEQUENTIAL, FB_BUDGET_FLOOR, "00000011", 3, 0.0, "67");
}

Test(select, entropy_bounded_sums_the_lowest) {
    fb_remasking entropy = FB_ENTROPY_BOUNDED;
    expect_accepted(entropy, FB_BUDGET_FLOOR_TENSOR, "11111111", 1, 0.2, "314");
    expect_accepted(entropy, FB_BUDGET_FLOOR_TENSOR, "11111111", 7, 0.01, "3");
    expect_accepted(entropy, FB_BUDGET_FLOOR, "11111111", 2, 0.01, "31");
    expect_accepted(entropy, FB_BUDGET_FLOOR_TENSOR, "00001001", 1, 99.0, "47");
    expect_accepted(entropy, FB_BUDGET_FLOOR_TENSOR, "00000100", 1, 0.5, "5");
    expect_accepted(entropy, FB_BUDGET_FLOOR_TENSOR, "11111111", 1, (double)0.05f, "3");
}

/* With one mask left and a budget of three, the tensor path rewrites two decided positions. */
Test(select, tensor_path_overwrites_decided_positions) {
    bool masked[8] = {false, false, false, false, false, true, false, false};
    fb_remask_step step = {.strategy = FB_LOW_CONFIDENCE_STATIC,
                           .rule = FB_BUDGET_FLOOR_TENSOR,
                           .block_size = 8,
                           .budget = 3,
                           .masked = masked,
                           .confidence = confidence_8};
    size_t accepted[8];
    cr_assert_eq(fb_remask(&step, accepted), 3);
    step.rule = FB_BUDGET_FLOOR;
    cr_assert_eq(fb_remask(&step, accepted), 1);
    cr_assert_eq(accepted[0], 5);
}

Test(select, budgets_add_up_to_the_block) {
    for (size_t block = 1; block <= 32; block++) {
        for (size_t steps = 1; steps <= 40; steps++) {
            size_t sum = 0;
            for (size_t i = 0; i < steps; i++)
                sum += fb_remask_budget(block, steps, i);
            cr_assert_eq(sum, block, "block %zu, %zu steps: budgets add up to %zu", block, steps,
                         sum);
        }
    }
    cr_assert_eq(fb_remask_budget(4, 4, 4), 1);
}

Test(select, names) {
    fb_remasking remasking = FB_LOW_CONFIDENCE_DYNAMIC;
    cr_assert_eq(fb_remasking_parse("entropy_bounded", &remasking), FB_OK);
    cr_assert_eq(remasking, FB_ENTROPY_BOUNDED);
    cr_assert_eq(fb_remasking_parse("greedy", &remasking), FB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(fb_error_message(), "greedy"));
    cr_assert_eq(remasking, FB_ENTROPY_BOUNDED);
    cr_assert_str_eq(fb_remasking_name((fb_remasking)77), "unknown");
}
