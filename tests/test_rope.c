/* Rotary positions against PyTorch and the paper's SDARRotaryEmbedding, where the bits are the
 * same. test_golden.c compares the other tensors. */
#include "base/half.h"
#include "model/rope.h"
#include "tests/golden_case.h"
#include "tests/golden_list.h"
#include "tests/numbers.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

enum { MAX_HEAD_DIM = 512, MAX_HALF = MAX_HEAD_DIM / 2 };

/* Values of PyTorch 1.13 where its power function is not correctly rounded, in its vector loop and
 * in the remainder that it leaves to libm. */
Test(rope, frequencies_of_other_models) {
    static const struct {
        size_t head_dim;
        double theta;
        size_t index;
        float inv_freq;
    } expected[] = {
        {128, 1e6, 37, 0x1.6453f60000000p-12f},   {256, 1e6, 74, 0x1.6453f60000000p-12f},
        {96, 10000, 20, 0x1.60fb8e0000000p-6f},   {128, 5e6, 19, 0x1.5046220000000p-7f},
        {24, 10000, 5, 0x1.60fb8c0000000p-6f},    {80, 100000, 28, 0x1.4b96c20000000p-12f},
        {80, 100000, 39, 0x1.bf74940000000p-17f}, {80, 8e6, 38, 0x1.29246e0000000p-22f},
        {56, 1e7, 3, 0x1.6c310e0000000p-3f},      {56, 1e7, 20, 0x1.4f8b520000000p-17f},
    };
    float inv_freq[MAX_HALF];
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        fb_rope_frequencies(expected[i].head_dim, expected[i].theta, inv_freq);
        float got = inv_freq[expected[i].index];
        cr_assert_eq(fb_f32_to_bits(got), fb_f32_to_bits(expected[i].inv_freq),
                     "head_dim %zu, theta %g: inv_freq[%zu] is %a, expected %a",
                     expected[i].head_dim, expected[i].theta, expected[i].index, (double)got,
                     (double)expected[i].inv_freq);
    }
}

/* x, expected  [1, heads, S, D]: with the paper's own angles the rotation is the same bits. With
 * ours, cosine and sine are off by an ulp (2^-24), and products and sum may round the other way
 * (2^-23 each, relatively). */
static void expect_rotated(golden_case *c, const char *name) {
    const fb_tensor_view *tensor = golden_tensor(c, "%s", name);
    size_t heads = tensor->shape[1], num_positions = tensor->shape[2], head_dim = tensor->shape[3];
    size_t half = head_dim / 2;
    const float *x = golden_f32(c, "%s", name), *expected = golden_f32(c, "%s_rot", name);
    const float *cosines = golden_f32(c, "cos"), *sines = golden_f32(c, "sin");
    const float *inv_freq = golden_f32(c, "inv_freq");
    const int32_t *positions = golden_i32(c, "pos");
    for (size_t row = 0; row < heads * num_positions; row++) {
        size_t p = row % num_positions;
        const float *in = x + row * head_dim, *want = expected + row * head_dim;
        float theirs[MAX_HEAD_DIM], ours[MAX_HEAD_DIM], own_cos[MAX_HALF], own_sin[MAX_HALF];
        memcpy(theirs, in, head_dim * sizeof *in);
        memcpy(ours, in, head_dim * sizeof *in);
        fb_rope_rotate(cosines + p * head_dim, sines + p * head_dim, half, theirs);
        expect_same_bits(golden_name(c), theirs, want, head_dim);
        fb_rope_angles(inv_freq, half, (size_t)positions[p], own_cos, own_sin);
        fb_rope_rotate(own_cos, own_sin, half, ours);
        for (size_t d = 0; d < head_dim; d++) {
            double bound =
                0x5p-24 * (fabs((double)in[d % half]) + fabs((double)in[d % half + half]));
            cr_assert(fabs((double)ours[d] - (double)want[d]) <= bound,
                      "%s: %s row %zu, dimension %zu is %.9g, expected %.9g", golden_name(c), name,
                      row, d, (double)ours[d], (double)want[d]);
        }
    }
}

GOLDEN_TEST(rope, rotation, "rope", "sdar_rope_") {
    expect_rotated(c, "q");
    expect_rotated(c, "k");
}

Test(rope, position_zero_changes_nothing) {
    float inv_freq[32], cosines[32], sines[32], x[64], before[64];
    fb_rope_frequencies(64, 10000.0, inv_freq);
    fb_rope_angles(inv_freq, 32, 0, cosines, sines);
    for (size_t i = 0; i < 64; i++)
        before[i] = x[i] = (float)i - 31.5f;
    fb_rope_rotate(cosines, sines, 32, x);
    expect_same_bits("position 0", x, before, 64);
}
