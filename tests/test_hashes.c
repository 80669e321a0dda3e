/* Golden hashes: they are the same for every instruction set and number of threads, and a
 * difference is named. The inputs of the cases are fixed. */
#include "oracle/hash_compute.h"
#include "oracle/hashes.h"
#include "oracle/inputs.h"
#include "tests/numbers.h"
#include "tests/temporary.h"

#include <flashblock/runtime.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static size_t index_of(const char *name) {
    for (size_t i = 0; i < fb_hash_case_count(); i++)
        if (strcmp(fb_hash_case_name(i), name) == 0)
            return i;
    cr_assert_fail("there is no case %s", name);
    return 0;
}

static fb_hash_list *builtin(void) {
    fb_hash_list *list = NULL;
    cr_assert_eq(fb_hash_list_open(NULL, &list), FB_OK, "%s", fb_error_message());
    return list;
}

/* Every case on every instruction set of the machine; of a sample, one case of eight. */
static void check_with_threads(int threads) {
    size_t step = test_is_sample() ? 8 : 1;
    fb_hash_list *list = builtin();
    cr_assert_eq(fb_set_num_threads(threads), FB_OK);
    for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++) {
        if (!fb_isa_built(isa) || !fb_isa_supported(isa))
            continue;
        cr_assert_eq(fb_isa_select(isa), FB_OK);
        for (size_t i = 0; i < fb_hash_case_count(); i += step) {
            fb_hash_finding *finding = NULL;
            cr_assert_eq(fb_hash_case_check(i, list, &finding), FB_OK, "%s", fb_error_message());
            cr_expect(!finding->out_differs && !finding->lse_differs,
                      "%s, %d threads, case %s: %s %s, expected %s %s: %s", fb_isa_name(isa),
                      threads, fb_hash_case_name(i), finding->found.out, finding->found.lse,
                      finding->expected.out, finding->expected.lse, finding->detail);
            fb_hash_finding_destroy(finding);
        }
    }
    fb_hash_list_close(list);
}

Test(hashes, one_thread) {
    check_with_threads(1);
}

Test(hashes, two_threads) {
    check_with_threads(2);
}

Test(hashes, three_threads) {
    check_with_threads(3);
}

Test(hashes, eight_threads) {
    check_with_threads(8);
}

Test(hashes, list_is_complete) {
    fb_hash_list *list = builtin();
    cr_expect_geq(fb_hash_case_count(), 60);
    for (size_t i = 0; i < fb_hash_case_count(); i++) {
        cr_expect_eq(strlen(list->entries[i].out), 32, "%s has no hash", fb_hash_case_name(i));
        for (size_t other = 0; other < i; other++)
            cr_expect_str_neq(fb_hash_case_name(i), fb_hash_case_name(other));
    }
    fb_hash_list_close(list);
}

/* xxHash's own value for no bytes: what `xxhsum -H2` prints for an empty file. */
Test(hashes, of_nothing) {
    fb_hash_list *list = builtin();
    const fb_hashes *none = &list->entries[index_of("queries_0")];
    cr_expect_str_eq(none->out, "99aa06d3014798d86001c324468d497f");
    cr_expect_str_eq(none->lse, "99aa06d3014798d86001c324468d497f");
    fb_hash_list_close(list);
}

/* The empty part is (0, -inf), and every NaN has the same bits. Otherwise the hashes would describe
 * wrong results. */
Test(hashes, results_are_what_they_should_be) {
    static const char *const empty[] = {"keys_0", "fully_masked", "every_score_minus_inf",
                                        "merge_both_empty"};
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++) {
        fb_hash_result result;
        cr_assert_eq(fb_hash_compute(&fb_hash_cases[index_of(empty[i])], &result), FB_OK);
        for (size_t j = 0; j < result.num_out; j++)
            cr_assert_eq(bits_of(result.out[j]), 0, "%s: out[%zu]", empty[i], j);
        for (size_t j = 0; j < result.num_lse; j++)
            cr_assert_eq(result.lse[j], -INFINITY, "%s: lse[%zu]", empty[i], j);
        fb_hash_result_free(&result);
    }
    for (size_t i = 0; i < fb_hash_case_count(); i++) {
        fb_hash_result result;
        const char *name = fb_hash_case_name(i);
        bool unusual = strstr(name, "nan_") || strstr(name, "inf_key") || strstr(name, "extremes");
        size_t nan = 0;
        cr_assert_eq(fb_hash_compute(&fb_hash_cases[i], &result), FB_OK);
        for (size_t j = 0; j < result.num_out; j++) {
            nan += isnan(result.out[j]) != 0;
            cr_assert(!isnan(result.out[j]) || bits_of(result.out[j]) == 0x7fc00000u,
                      "%s: out[%zu] is 0x%08x", name, j, bits_of(result.out[j]));
        }
        cr_expect_eq(nan > 0, unusual, "%s has %zu NaN", name, nan);
        cr_expect(nan < result.num_out || nan == 0, "%s: every value is NaN", name);
        fb_hash_result_free(&result);
    }
}

/* --- differences ------------------------------------------------------------------------------ */

Test(hashes, wrong_hash_is_found) {
    fb_hash_list *list = builtin();
    size_t index = index_of("keys_65");
    list->entries[index].lse[31] ^= 1;
    fb_hash_finding *finding = NULL;
    cr_assert_eq(fb_hash_case_check(index, list, &finding), FB_OK);
    cr_expect_not(finding->out_differs);
    cr_expect(finding->lse_differs);
    cr_expect(strstr(finding->detail, "the list has other hashes"), "%s", finding->detail);
    fb_hash_finding_destroy(finding);
    memset(&list->entries[index], 0, sizeof list->entries[index]);
    cr_assert_eq(fb_hash_case_check(index, list, &finding), FB_OK);
    cr_expect(finding->out_differs && finding->lse_differs);
    cr_expect(strstr(finding->detail, "no such case"), "%s", finding->detail);
    fb_hash_finding_destroy(finding);
    fb_hash_list_close(list);
}

Test(hashes, planted_difference_is_named) {
    fb_hash_result found, scalar;
    fb_hashes hashes, changed;
    char text[256];
    size_t index = index_of("keys_65");
    cr_assert_eq(fb_hash_compute(&fb_hash_cases[index], &found), FB_OK);
    cr_assert_eq(fb_hash_compute(&fb_hash_cases[index], &scalar), FB_OK);
    cr_expect_not(fb_hash_result_difference(&found, &scalar, text, sizeof text));
    fb_hash_result_digest(&found, &hashes);
    for (int lse = 0; lse < 2; lse++) {
        float *values = lse ? found.lse : found.out, kept = values[7];
        char expected[64];
        values[7] = nextafterf(kept, INFINITY); /* one ulp */
        fb_hash_result_digest(&found, &changed);
        cr_expect_eq(strcmp(hashes.out, changed.out) != 0, !lse);
        cr_expect_eq(strcmp(hashes.lse, changed.lse) != 0, lse);
        cr_assert(fb_hash_result_difference(&found, &scalar, text, sizeof text));
        snprintf(expected, sizeof expected, "%s[7] is ", lse ? "lse" : "out");
        cr_expect_eq(strncmp(text, expected, strlen(expected)), 0, "%s", text);
        snprintf(expected, sizeof expected, "(0x%08x), the scalar path's", bits_of(values[7]));
        cr_expect(strstr(text, expected), "%s", text);
        snprintf(expected, sizeof expected, "(0x%08x)", bits_of(kept));
        cr_expect(strstr(text, expected), "%s", text);
        values[7] = kept;
    }
    fb_hash_result_free(&found);
    fb_hash_result_free(&scalar);
}

Test(hashes, written_list_is_the_list) {
    fb_hash_list *written = NULL, *list = builtin();
    temporary_make();
    const char *path = temporary_path("hashes.txt");
    cr_assert_eq(fb_set_num_threads(2), FB_OK);
    cr_assert_eq(fb_hash_list_write(path), FB_OK, "%s", fb_error_message());
    cr_assert_eq(fb_hash_list_open(path, &written), FB_OK, "%s", fb_error_message());
    cr_expect_eq(
        memcmp(written->entries, list->entries, fb_hash_case_count() * sizeof *list->entries), 0);
    fb_hash_list_close(written);
    fb_hash_list_close(list);
    temporary_remove();
}

/* --- lists of others -------------------------------------------------------------------------- */

#define HASH "0123456789abcdef0123456789abcdef"

static void expect_malformed(const char *text, size_t size, const char *word) {
    fb_hash_list *list = NULL;
    const char *path = temporary_write("list.txt", text, size);
    cr_expect_eq(fb_hash_list_open(path, &list), FB_ERROR_FORMAT, "accepted: %s", text);
    cr_expect(strstr(fb_error_message(), word), "'%s' is not in '%s'", word, fb_error_message());
    cr_expect_null(list);
}

Test(hashes, malformed_lists) {
    static const struct {
        const char *text, *word;
    } lists[] = {
        {"nonsense " HASH " " HASH "\n", "'nonsense' is not a case"},
        {"# comment\nkeys_1 " HASH "\n", "line 2"},
        {"keys_1 " HASH "\n" HASH, "line 1"},
        {"keys_1 " HASH " " HASH " " HASH "\n", "32 hexadecimal"},
        {"keys_1 " HASH "0 " HASH "\n", "32 hexadecimal"},
        {"keys_1 0123456789ABCDEF0123456789ABCDEF " HASH "\n", "32 hexadecimal"},
        {"keys_1 " HASH " " HASH "\n\nkeys_1 " HASH " " HASH "\n", "line 3: keys_1 comes twice"},
    };
    temporary_make();
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        expect_malformed(lists[i].text, strlen(lists[i].text), lists[i].word);
    expect_malformed("# \0\n", 4, "NUL");
    temporary_remove();
}

Test(hashes, partial_list) {
    fb_hash_list *list = NULL;
    temporary_make();
    const char *path =
        temporary_write_text("list.txt", "\t# one\r\nkeys_1\t" HASH "  " HASH "\r\n");
    cr_assert_eq(fb_hash_list_open(path, &list), FB_OK, "%s", fb_error_message());
    cr_expect_str_eq(list->entries[index_of("keys_1")].out, HASH);
    cr_expect_str_eq(list->entries[index_of("keys_0")].out, "");
    fb_hash_list_close(list);
    cr_expect_eq(fb_hash_list_open(temporary_path("missing"), &list), FB_ERROR_IO);
    temporary_remove();
}

/* --- inputs ----------------------------------------------------------------------------------- */

/* Published numbers never change. These were computed separately, from the definition of Philox. */
Test(inputs, are_fixed) {
    cr_expect_eq(fb_input_stream(""), 0x811c9dc5u);
    cr_expect_eq(fb_input_stream("q"), 0xf40c425cu);
    cr_expect_eq(bits_of(fb_input_normal(0x0u, fb_input_stream("q"), 0x0u)), 0x3f9c2400u);
    cr_expect_eq(bits_of(fb_input_normal(0x1u, fb_input_stream("q"), 0x0u)), 0x3ee47192u);
    cr_expect_eq(bits_of(fb_input_normal(0x1u, fb_input_stream("k_context"), 0x75bcd15u)),
                 0xbe27d40du);
    cr_expect_eq(
        bits_of(fb_input_normal(0x123456789abcdef0u, fb_input_stream("v drift"), 0x10000000007u)),
        0xbeb48de0u);
}

Test(inputs, are_about_normal) {
    enum { COUNT = 200000 };
    float *values = malloc(COUNT * sizeof *values);
    double sum = 0.0, squares = 0.0, fourth = 0.0;
    cr_assert_eq(fb_set_num_threads(3), FB_OK);
    fb_input_normals(5, "values", 1.0f, values, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        double x = (double)values[i];
        cr_assert_lt(fabs(x), 4.9);
        cr_assert_eq(bits_of(values[i]), bits_of(fb_input_normal(5, fb_input_stream("values"), i)));
        sum += x;
        squares += x * x;
        fourth += x * x * x * x;
    }
    cr_expect_lt(fabs(sum / COUNT), 0.01);
    cr_expect_lt(fabs(squares / COUNT - 1.0), 0.01);
    cr_expect_lt(fabs(fourth / COUNT - 2.85), 0.05); /* 3 - 1.2 / 8 for the sum of eight */
    free(values);
}

Test(inputs, below_its_bound) {
    uint32_t stream = fb_input_stream("below"), seen[5] = {0};
    for (uint64_t i = 0; i < 1000; i++)
        seen[fb_input_below(1, stream, i, 5)]++;
    for (size_t i = 0; i < 5; i++)
        cr_expect_gt(seen[i], 150);
    cr_expect_eq(fb_input_below(1, stream, UINT64_MAX, 1), 0);
}
