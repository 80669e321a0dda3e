/* From logits to a proposed token: the probabilities that the paper's engine sampled from, and the
 * properties that sampling must have. */
#include "base/half.h"
#include "base/rng.h"
#include "decode/proposals.h"
#include "tests/golden_case.h"
#include "tests/golden_list.h"
#include "tests/numbers.h"

#include <flashblock/attention.h>
#include <flashblock/runtime.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VOCAB = 1024 };

static const fb_sampler plain = {.temperature = 1.0, .top_p = 1.0, .banned_token = -1};

static void probabilities_of(const fb_sampler *sampler, const float *logits, size_t vocab_size,
                             float *probabilities) {
    uint32_t order[MAX_VOCAB];
    cr_assert_leq(vocab_size, MAX_VOCAB);
    cr_assert_eq(fb_sampler_probabilities(sampler, logits, vocab_size, order, probabilities), FB_OK,
                 "%s", fb_error_message());
}

static fb_proposal propose(const fb_sampler *sampler, const float *logits, size_t vocab_size,
                           double uniform) {
    float probabilities[MAX_VOCAB];
    uint32_t order[MAX_VOCAB];
    fb_proposal proposal = {-1, -1.0f, -1.0f};
    cr_assert_leq(vocab_size, MAX_VOCAB);
    cr_assert_eq(
        fb_sampler_propose(sampler, logits, vocab_size, uniform, order, probabilities, &proposal),
        FB_OK, "%s", fb_error_message());
    return proposal;
}

/* --- against the paper's code
 * -------------------------------------------------------------- */

static void expect_probabilities(const char *what, const float *found, const float *expected,
                                 size_t count) {
    for (size_t i = 0; i < count; i++)
        cr_assert_float_eq(found[i], expected[i], 2e-7, "%s: probability %zu is %.9g, not %.9g",
                           what, i, (double)found[i], (double)expected[i]);
}

/* Temperature, top-k and top-p together: the probabilities that the engine sampled from. */
static void check_trace(const char *file) {
    golden_case *c = golden_open(file);
    fb_sampler sampler = plain;
    sampler.temperature = golden_real(c, "temperature");
    sampler.top_k = golden_size(c, "top_k");
    sampler.top_p = golden_real(c, "top_p");
    const fb_tensor_view *shape = golden_tensor(c, "logits");
    size_t rows = shape->shape[0] * shape->shape[1], vocab_size = shape->shape[2];
    const float *logits = golden_f32(c, "logits"), *expected = golden_f32(c, "probs");
    size_t compared = 0;
    for (size_t row = 0; row < rows; row++) {
        const float *recorded = expected + row * vocab_size;
        float found[MAX_VOCAB], sum = 0.0f;
        for (size_t i = 0; i < vocab_size; i++)
            sum += recorded[i];
        if (fabsf(sum - 1.0f) > 1e-3f) /* a row of the batch that held no sequence */
            continue;
        probabilities_of(&sampler, logits + row * vocab_size, vocab_size, found);
        expect_probabilities(file, found, recorded, vocab_size);
        compared++;
    }
    cr_assert_gt(compared, 0);
    golden_close(c);
}

Test(sampler, probabilities_are_those_of_the_engine) {
    check_trace("sched/dyn_l4_topk_topp_tau2.safetensors");
    check_trace("sched/dyn_l4_thr1_tau3.safetensors");
}

/* --- properties
 * ---------------------------------------------------------------------------- */

static void random_logits(random_stream *random, float *logits, size_t count) {
    for (size_t i = 0; i < count; i++)
        logits[i] = 3.0f * random_normal(random);
}

/* Softmax and entropy in double precision. */
static double softmax_reference(const float *logits, size_t count, double temperature, double *p) {
    float largest = -INFINITY; /* in float: see fb_largest_magnitude */
    double sum = 0.0, entropy = 0.0;
    for (size_t i = 0; i < count; i++)
        largest = fmaxf(largest, logits[i]);
    for (size_t i = 0; i < count; i++)
        sum += p[i] = exp(((double)logits[i] - (double)largest) / temperature);
    for (size_t i = 0; i < count; i++) {
        p[i] /= sum;
        double clamped = fmax(p[i], 1e-12);
        entropy -= clamped * log(clamped);
    }
    return entropy;
}

Test(sampler, softmax_and_entropy_are_accurate) {
    random_stream random = random_named(1);
    for (int round = 0; round < 200; round++) {
        float logits[300], found[300];
        double expected[300], temperature = 0.25 + 2.0 * random_uniform(&random);
        random_logits(&random, logits, 300);
        fb_sampler sampler = plain;
        sampler.temperature = temperature;
        sampler.with_entropy = true;
        double entropy = softmax_reference(logits, 300, temperature, expected);
        probabilities_of(&sampler, logits, 300, found);
        for (size_t i = 0; i < 300; i++)
            cr_assert_float_eq(found[i], expected[i], 1e-9 + 4e-6 * expected[i],
                               "round %d, token %zu: %.9g, not %.9g", round, i, (double)found[i],
                               expected[i]);
        fb_proposal proposal = propose(&sampler, logits, 300, 0.5);
        cr_assert_float_eq(proposal.entropy, entropy, 1e-5 * (1.0 + entropy),
                           "round %d: entropy %.9g, not %.9g", round, (double)proposal.entropy,
                           entropy);
    }
}

Test(sampler, temperature_zero_is_greedy_at_temperature_one) {
    random_stream random = random_named(2);
    for (int round = 0; round < 200; round++) {
        float logits[50], probabilities[50];
        random_logits(&random, logits, 50);
        size_t best = 0;
        for (size_t i = 1; i < 50; i++)
            best = logits[i] > logits[best] ? i : best;
        fb_sampler zero = plain, greedy = plain;
        zero.temperature = 0.0;
        greedy.greedy = true;
        probabilities_of(&plain, logits, 50, probabilities);
        fb_proposal a = propose(&zero, logits, 50, 0.999), b = propose(&greedy, logits, 50, 0.0);
        cr_assert_eq(a.token, (int32_t)best);
        cr_assert_eq(b.token, (int32_t)best);
        cr_assert_eq(a.confidence, probabilities[best]);
        cr_assert_eq(b.confidence, probabilities[best]);
        greedy.temperature = 0.5;
        cr_assert_gt(propose(&greedy, logits, 50, 0.0).confidence, a.confidence);
    }
}

/* Of equal logits the lowest id wins. Of unequal logits whose probabilities round to the same
 * number, the larger wins. */
Test(sampler, argmax_ties_go_to_the_lowest_id) {
    fb_sampler greedy = plain;
    greedy.greedy = true;
    const float equal[4] = {1.0f, 5.0f, 5.0f, 0.0f};
    cr_assert_eq(propose(&greedy, equal, 4, 0.0).token, 1);
    const float close[4] = {1.0f, 1e-9f, 2e-9f, 0.0f};
    const float tiny[3] = {1e-9f, 2e-9f, 0.0f};
    cr_assert_eq(propose(&greedy, close, 4, 0.0).token, 0);
    cr_assert_eq(propose(&greedy, tiny, 3, 0.0).token, 1);
}

Test(sampler, banned_token_has_no_probability) {
    fb_sampler sampler = plain;
    sampler.banned_token = 1;
    const float logits[4] = {0.0f, 9.0f, 1.0f, 0.0f};
    float probabilities[4];
    probabilities_of(&sampler, logits, 4, probabilities);
    cr_assert_eq(probabilities[1], 0.0f);
    cr_assert_float_eq(probabilities[0] + probabilities[2] + probabilities[3], 1.0f, 1e-6);
    sampler.greedy = true;
    cr_assert_eq(propose(&sampler, logits, 4, 0.0).token, 2);
    const float only_banned[2] = {-INFINITY, 0.0f};
    uint32_t order[2];
    cr_assert_eq(fb_sampler_probabilities(&sampler, only_banned, 2, order, probabilities),
                 FB_ERROR_FORMAT);
}

/* Counts of draws against probabilities, by chi-square: 49 degrees of freedom exceed 100 with
 * probability 2e-5; the numbers are fixed by the seed. */
Test(sampler, draws_follow_the_probabilities) {
    enum { VOCAB = 50, DRAWS = 200000 };
    random_stream random = random_named(3);
    float logits[VOCAB], p[VOCAB];
    for (size_t i = 0; i < VOCAB; i++)
        logits[i] = random_normal(&random);
    probabilities_of(&plain, logits, VOCAB, p);
    size_t counts[VOCAB] = {0};
    for (uint32_t i = 0; i < DRAWS; i++)
        counts[propose(&plain, logits, VOCAB, fb_random_uniform(test_seed(), i, 1, 2, 3)).token]++;
    double chi_square = 0.0;
    for (size_t i = 0; i < VOCAB; i++) {
        double expected = (double)p[i] * DRAWS, difference = (double)counts[i] - expected;
        chi_square += difference * difference / expected;
    }
    cr_assert_lt(chi_square, 100.0, "chi-square %g", chi_square);
}

Test(sampler, draws_stay_inside_the_filters) {
    random_stream random = random_named(4);
    for (int round = 0; round < 2000; round++) {
        float logits[40], p[40];
        random_logits(&random, logits, 40);
        fb_sampler sampler = plain;
        sampler.top_k = random_between(&random, 0, 12);
        sampler.top_p = random_between(&random, 0, 1) ? 1.0 : random_uniform(&random) + 1e-3;
        sampler.top_p = fmin(sampler.top_p, 1.0);
        probabilities_of(&sampler, logits, 40, p);
        fb_proposal proposal = propose(&sampler, logits, 40, random_uniform(&random));
        cr_assert_gt(p[proposal.token], 0.0f, "round %d: token %d", round, proposal.token);
        cr_assert_eq(p[proposal.token], proposal.confidence);
        size_t kept = 0;
        for (size_t i = 0; i < 40; i++)
            kept += p[i] > 0.0f;
        cr_assert(sampler.top_k == 0 || kept <= sampler.top_k, "round %d: %zu kept", round, kept);
    }
}

Test(sampler, ends_of_the_unit_interval) {
    const float logits[3] = {-INFINITY, 0.0f, -INFINITY}, two[3] = {-INFINITY, 0.0f, 0.0f};
    cr_assert_eq(propose(&plain, logits, 3, 0.0).token, 1);
    cr_assert_eq(propose(&plain, logits, 3, 1.0 - 0x1p-53).token, 1);
    cr_assert_eq(propose(&plain, two, 3, 0.0).token, 1);
    cr_assert_eq(propose(&plain, two, 3, 1.0 - 0x1p-53).token, 2);
}

/* A sum that equals the uniform number is not above it. */
Test(sampler, draws_between_equal_tokens) {
    const float logits[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int i = 0; i < 8; i++)
        cr_assert_eq(propose(&plain, logits, 4, i / 8.0).token, i / 2);
}

/* A token stays while the sum of the tokens before it is at most top_p. Of equal tokens the lower
 * id is first. */
Test(sampler, top_p_at_its_boundary) {
    const float logits[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    static const struct {
        double top_p;
        size_t kept;
    } cases[] = {{0.2, 1}, {0.25, 2}, {0.3, 2}, {0.5, 3}, {0.75, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fb_sampler sampler = plain;
        sampler.top_p = cases[i].top_p;
        float p[4];
        probabilities_of(&sampler, logits, 4, p);
        for (size_t j = 0; j < 4; j++)
            cr_assert_eq(p[j] > 0.0f, j < cases[i].kept, "top_p %g, token %zu: %g", sampler.top_p,
                         j, (double)p[j]);
    }
}

Test(sampler, top_k_keeps_equal_logits) {
    fb_sampler sampler = plain;
    sampler.top_k = 2;
    const float logits[5] = {1.0f, 3.0f, 1.0f, 2.0f, 2.0f};
    float p[5];
    probabilities_of(&sampler, logits, 5, p);
    cr_assert(p[1] > 0.0f && p[3] > 0.0f && p[4] > 0.0f);
    cr_assert(p[0] == 0.0f && p[2] == 0.0f);
}

Test(sampler, tiny_temperatures_do_not_overflow) {
    fb_sampler sampler = plain;
    sampler.temperature = 1e-300;
    const float logits[3] = {-3e38f, 3e38f, 2.9e38f};
    fb_proposal proposal = propose(&sampler, logits, 3, 0.7);
    cr_assert_eq(proposal.token, 1);
    cr_assert_eq(proposal.confidence, 1.0f);
}

Test(sampler, logits_that_are_not_numbers_are_an_error) {
    uint32_t order[3];
    float p[3], logits[3][3] = {{0, NAN, 1}, {0, INFINITY, 1}, {-INFINITY, -INFINITY, -INFINITY}};
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(fb_sampler_probabilities(&plain, logits[i], 3, order, p), FB_ERROR_FORMAT);
    fb_sampler_probabilities(&plain, logits[0], 3, order, p);
    cr_assert_not_null(strstr(fb_error_message(), "token 1"), "%s", fb_error_message());
}

/* A filtered row has the same bits, here hashed, on every machine. The logits are dyadic, so no
 * library function is needed to make them. */
Test(sampler, bits_are_fixed) {
    float logits[256], p[256];
    for (size_t i = 0; i < 256; i++)
        logits[i] = (float)((i * 167 + 13) % 256) / 32.0f;
    fb_sampler sampler = {
        .temperature = 0.75, .top_k = 200, .top_p = 0.95, .banned_token = 7, .with_entropy = true};
    probabilities_of(&sampler, logits, 256, p);
    uint64_t hash = 1469598103934665603u;
    for (size_t i = 0; i < 256; i++)
        hash = (hash ^ fb_f32_to_bits(p[i])) * 1099511628211u;
    hash = (hash ^ fb_f32_to_bits(propose(&sampler, logits, 256, 0.5).entropy)) * 1099511628211u;
    cr_assert_eq(hash, UINT64_C(0xad81e4a4d53440b4), "hash %#llx", (unsigned long long)hash);
}

/* The definition, plainly: a sum of exponentials in double precision, in the order of token ids. */
static fb_proposal most_probable_plainly(const float *logits, size_t vocab_size,
                                         int32_t banned_token) {
    size_t best = vocab_size;
    for (size_t i = 0; i < vocab_size; i++)
        if ((int64_t)i != banned_token && (best == vocab_size || logits[i] > logits[best]))
            best = i;
    double sum = 0.0;
    for (size_t i = 0; i < vocab_size; i++)
        if ((int64_t)i != banned_token)
            sum += (double)fb_exp(logits[i] - logits[best]);
    return (fb_proposal){.token = (int32_t)best, .confidence = (float)(1.0 / sum)};
}

/* Rows around the size of the pieces in which the sampler works; the banned token, the largest of
 * all, at the ends of a piece; any number of threads. */
Test(sampler, long_rows_have_the_bits_of_the_definition) {
    enum { ROWS = 5, LONGEST = 40000 };
    static const size_t sizes[] = {1, 15, 16, 17, 2047, 2048, 2049, 4097, LONGEST};
    static float logits[ROWS * LONGEST];
    random_stream random = random_named(5);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int round = 0; round < 4; round++) {
            size_t size = sizes[s];
            random_logits(&random, logits, ROWS * size);
            fb_sampler greedy = plain;
            greedy.greedy = true;
            if (round > 0 && size > 1) {
                const size_t banned[] = {0, size - 1, size > 2048 ? 2047 : size / 2};
                greedy.banned_token = (int32_t)banned[round - 1];
                logits[size + banned[round - 1]] = 100.0f;
            }
            fb_proposals proposals;
            cr_assert_eq(fb_proposals_create(ROWS, size, &proposals), FB_OK);
            for (int threads = 1; threads <= 3; threads++) {
                size_t failed;
                cr_assert_eq(fb_set_num_threads(threads), FB_OK);
                cr_assert_eq(fb_proposals_make(&proposals, &greedy, logits, &failed), FB_OK);
                for (size_t row = 0; row < ROWS; row++) {
                    fb_proposal expected =
                        most_probable_plainly(logits + row * size, size, greedy.banned_token);
                    cr_assert_eq(proposals.rows[row].token, expected.token);
                    cr_assert_eq(proposals.rows[row].confidence, expected.confidence,
                                 "row %zu of %zu logits: %a, not %a", row, size,
                                 (double)proposals.rows[row].confidence,
                                 (double)expected.confidence);
                }
            }
            fb_proposals_free(&proposals);
        }
}

Test(sampler, the_first_row_that_fails_is_named) {
    enum { ROWS = 4, SIZE = 20000 };
    static float logits[ROWS * SIZE];
    logits[2 * SIZE + 12345] = INFINITY;
    logits[3 * SIZE + 7] = NAN;
    fb_proposals proposals;
    cr_assert_eq(fb_proposals_create(ROWS, SIZE, &proposals), FB_OK);
    for (int threads = 1; threads <= 3; threads++) {
        size_t failed = 0;
        cr_assert_eq(fb_set_num_threads(threads), FB_OK);
        cr_assert_eq(fb_proposals_make(&proposals, &plain, logits, &failed), FB_ERROR_FORMAT);
        cr_assert_eq(failed, 2);
        cr_assert_not_null(strstr(fb_error_message(), "token 12345"), "%s", fb_error_message());
    }
    fb_proposals_free(&proposals);
}

/* --- the generator
 * ------------------------------------------------------------------------- */

/* Known answers of Random123's kat_vectors for philox4x32-10. */
Test(sampler, philox_gives_the_known_answers) {
    static const uint32_t cases[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u},
        {0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu, 0x408f276du,
         0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu},
        {0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u, 0xa4093822u, 0x299f31d0u, 0xd16cfe09u,
         0x94fdccebu, 0x5001e420u, 0x24126ea1u},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t counter[4];
        memcpy(counter, cases[i], sizeof counter);
        fb_philox(counter, cases[i] + 4);
        for (size_t j = 0; j < 4; j++)
            cr_assert_eq(counter[j], cases[i][6 + j], "case %zu, word %zu: %#x", i, j, counter[j]);
    }
}

Test(sampler, every_coordinate_changes_the_number) {
    double first = fb_random_uniform(1, 2, 3, 4, 5);
    cr_assert(first >= 0.0 && first < 1.0);
    cr_assert_eq(first, fb_random_uniform(1, 2, 3, 4, 5));
    cr_assert_neq(first, fb_random_uniform(2, 2, 3, 4, 5));
    cr_assert_neq(first, fb_random_uniform(1 + (UINT64_C(1) << 32), 2, 3, 4, 5));
    cr_assert_neq(first, fb_random_uniform(1, 3, 3, 4, 5));
    cr_assert_neq(first, fb_random_uniform(1, 2, 4, 4, 5));
    cr_assert_neq(first, fb_random_uniform(1, 2, 3, 5, 5));
    cr_assert_neq(first, fb_random_uniform(1, 2, 3, 4, 6));
}
