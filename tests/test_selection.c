/* Selections: lists of key blocks, budgets, ties, ranges, identity. */
#include "tests/numbers.h"

#include <flashblock/experimental/selector.h>
#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OK(call) cr_assert_eq((call), FB_OK, "%s", fb_error_message())

static void expect_message(const char *part) {
    cr_assert_not_null(strstr(fb_error_message(), part), "\"%s\" does not say \"%s\"",
                       fb_error_message(), part);
}

static void expect_list(const fb_selection *s, size_t list, const size_t *blocks, size_t count) {
    cr_assert_eq(s->counts[list], count, "list %zu has %zu blocks, expected %zu", list,
                 s->counts[list], count);
    for (size_t i = 0; i < count; i++)
        cr_assert_eq(s->blocks[list * s->num_blocks + i], blocks[i],
                     "list %zu, place %zu: block %zu, expected %zu", list, i,
                     s->blocks[list * s->num_blocks + i], blocks[i]);
}

Test(selection, budget_rounds_to_nearest_halves_up) {
    cr_assert_eq(fb_selection_budget(0, 1.0), 0);
    cr_assert_eq(fb_selection_budget(4, 0.1), 0, "0.4");
    cr_assert_eq(fb_selection_budget(5, 0.1), 1, "0.5");
    cr_assert_eq(fb_selection_budget(14, 0.1), 1, "1.4");
    cr_assert_eq(fb_selection_budget(10, 0.25), 3, "2.5");
    cr_assert_eq(fb_selection_budget(7, 0.0), 0);
    cr_assert_eq(fb_selection_budget(7, 1.0), 7);
    cr_assert_eq(fb_selection_budget(7, 2.0), 7);
    cr_assert_eq(fb_selection_budget(7, (double)NAN), 0);
}

Test(selection, lists_ranges_and_complement) {
    fb_selection s = {0}, rest = {0};
    OK(fb_selection_begin(&s, 16, 75, 2)); /* 5 blocks, the last of 11 tokens */
    cr_assert_eq(s.num_blocks, 5);
    size_t blocks[3] = {0, 1, 4};
    OK(fb_selection_set(&s, 0, blocks, 3));
    expect_list(&s, 0, blocks, 3);
    expect_list(&s, 1, NULL, 0);
    fb_range ranges[5];
    cr_assert_eq(fb_selection_ranges(&s, 0, ranges), 2);
    cr_assert(ranges[0].begin == 0 && ranges[0].end == 32, "neighbours are joined");
    cr_assert(ranges[1].begin == 64 && ranges[1].end == 75, "the last block is partial");
    cr_assert_eq(fb_selection_tokens(&s, 0), 43);
    cr_assert_eq(fb_selection_tokens(&s, 1), 0);
    OK(fb_selection_complement(&s, &rest));
    size_t others[2] = {2, 3}, all[5] = {0, 1, 2, 3, 4};
    expect_list(&rest, 0, others, 2);
    expect_list(&rest, 1, all, 5);
    cr_assert_eq(fb_selection_tokens(&rest, 0), 32);
    cr_assert_eq(fb_selection_ranges(&rest, 1, ranges), 1, "all blocks are one range");
    cr_assert(ranges[0].begin == 0 && ranges[0].end == 75);
    fb_selection_release(&s);
    fb_selection_release(&rest);
    fb_selection_release(NULL);
}

Test(selection, contexts_without_or_below_a_block) {
    fb_selection s = {0};
    fb_range ranges[1];
    OK(fb_selection_begin(&s, 64, 0, 3));
    cr_assert_eq(s.num_blocks, 0);
    OK(fb_selection_set_all(&s, 2));
    OK(fb_selection_set_top(&s, 1, NULL, 4));
    cr_assert_eq(fb_selection_ranges(&s, 2, ranges), 0);
    cr_assert_eq(fb_selection_tokens(&s, 2), 0);
    OK(fb_selection_begin(&s, 64, 5, 1));
    cr_assert_eq(s.num_blocks, 1);
    OK(fb_selection_set_all(&s, 0));
    cr_assert_eq(fb_selection_ranges(&s, 0, ranges), 1);
    cr_assert(ranges[0].begin == 0 && ranges[0].end == 5);
    fb_selection_release(&s);
}

Test(selection, top_breaks_ties_by_the_lower_index) {
    fb_selection s = {0};
    OK(fb_selection_begin(&s, 16, 96, 1));
    double equal[6] = {1, 1, 1, 1, 1, 1};
    size_t first[3] = {0, 1, 2};
    OK(fb_selection_set_top(&s, 0, equal, 3));
    expect_list(&s, 0, first, 3);
    double zeros[6] = {-0.0, 0.0, -1.0, 0.0, -0.0, 0.0};
    size_t nonnegative[3] = {0, 1, 3};
    OK(fb_selection_set_top(&s, 0, zeros, 3));
    expect_list(&s, 0, nonnegative, 3);
    double nan = (double)NAN, inf = (double)INFINITY;
    double special[6] = {nan, -inf, 2.0, inf, nan, -5.0};
    size_t best[4] = {0, 2, 3, 5};
    OK(fb_selection_set_top(&s, 0, special, 4));
    expect_list(&s, 0, best, 4); /* NaN is -infinity: block 0 before block 1 */
    OK(fb_selection_set_top(&s, 0, special, 0));
    expect_list(&s, 0, NULL, 0);
    OK(fb_selection_set_top(&s, 0, special, 99));
    cr_assert_eq(s.counts[0], 6);
    fb_selection_release(&s);
}

/* Compares with choosing the largest score again and again, with many ties. */
Test(selection, top_of_random_scores) {
    random_stream random = random_named(700);
    fb_selection s = {0};
    for (size_t round = 0; round < 300; round++) {
        size_t num = random_between(&random, 1, 60), count = random_between(&random, 0, num);
        double scores[60];
        unsigned char chosen[60] = {0};
        for (size_t i = 0; i < num; i++)
            scores[i] = (double)random_between(&random, 0, 9);
        for (size_t i = 0; i < count; i++) {
            size_t best = num;
            for (size_t block = 0; block < num; block++)
                if (!chosen[block] && (best == num || scores[block] > scores[best]))
                    best = block;
            chosen[best] = 1;
        }
        OK(fb_selection_begin(&s, 32, 32 * num - 7, 1));
        OK(fb_selection_set_top(&s, 0, scores, count));
        size_t expected[60], n = 0;
        for (size_t block = 0; block < num; block++)
            if (chosen[block])
                expected[n++] = block;
        expect_list(&s, 0, expected, n);
    }
    fb_selection_release(&s);
}

Test(selection, identity_follows_the_content) {
    fb_selection a = {0}, b = {0};
    size_t blocks[2] = {1, 3}, others[2] = {1, 2};
    OK(fb_selection_begin(&a, 16, 80, 2));
    OK(fb_selection_set(&a, 1, blocks, 2));
    OK(fb_selection_copy(&a, &b));
    cr_assert(fb_selection_equal(&a, &b));
    uint64_t id = fb_selection_id(&a);
    cr_assert_eq(id, fb_selection_id(&b));
    cr_assert_neq(id, 0);
    OK(fb_selection_set(&b, 1, others, 2));
    cr_assert(!fb_selection_equal(&a, &b) && fb_selection_id(&b) != id, "another block");
    OK(fb_selection_set(&b, 1, NULL, 0));
    OK(fb_selection_set(&b, 0, blocks, 2));
    cr_assert(!fb_selection_equal(&a, &b) && fb_selection_id(&b) != id, "another list");
    OK(fb_selection_begin(&b, 16, 79, 2));
    OK(fb_selection_set(&b, 1, blocks, 2));
    cr_assert(!fb_selection_equal(&a, &b) && fb_selection_id(&b) != id, "another context");
    fb_selection_release(&b);
    OK(fb_selection_copy(&b, &a));
    cr_assert_eq(a.num_lists, 0);
    fb_selection_release(&a);
}

Test(selection, errors_name_the_value) {
    fb_selection s = {0};
    cr_assert_eq(fb_selection_begin(NULL, 16, 10, 1), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_selection_begin(&s, 24, 10, 1), FB_ERROR_ARGUMENT);
    expect_message("block_keys is 24");
    cr_assert_eq(fb_selection_begin(&s, 0, 10, 1), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_selection_begin(&s, 16, 10, 0), FB_ERROR_ARGUMENT);
    expect_message("num_lists is 0");
    cr_assert_eq(fb_selection_begin(&s, 16, SIZE_MAX, SIZE_MAX / 8), FB_ERROR_MEMORY);
    cr_assert_null(s.counts);
    OK(fb_selection_begin(&s, 16, 64, 1));
    size_t behind[1] = {4}, falling[2] = {2, 1}, twice[2] = {1, 1}, five[5] = {0};
    cr_assert_eq(fb_selection_set(&s, 0, behind, 1), FB_ERROR_ARGUMENT);
    expect_message("blocks[0] is 4, expected below 4");
    cr_assert_eq(fb_selection_set(&s, 0, falling, 2), FB_ERROR_ARGUMENT);
    expect_message("blocks[1] is 1 after 2");
    cr_assert_eq(fb_selection_set(&s, 0, twice, 2), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_selection_set(&s, 0, five, 5), FB_ERROR_ARGUMENT);
    expect_message("count is 5");
    cr_assert_eq(fb_selection_set(&s, 0, NULL, 1), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_selection_set(&s, 1, behind, 0), FB_ERROR_ARGUMENT);
    expect_message("list is 1");
    cr_assert_eq(fb_selection_set_top(&s, 0, NULL, 1), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_selection_complement(&s, &s), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_selection_copy(NULL, &s), FB_ERROR_ARGUMENT);
    expect_list(&s, 0, NULL, 0); /* untouched */
    fb_selection_release(&s);
}
