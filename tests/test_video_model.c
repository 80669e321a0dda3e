/* Video models and clips, with the model of golden/demo-video. */
#include "tests/golden_case.h"
#include "tests/numbers.h"

#include <flashblock/experimental/calibration.h>
#include <flashblock/experimental/head_reuse.h>
#include <flashblock/experimental/video.h>
#include <flashblock/experimental/video_cache.h>
#include <flashblock/experimental/video_model.h>
#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FRAMES = 9, MAX_CLIPS = 3 };

/* A model, and clips of it. */
typedef struct studio {
    fb_video_model *model;
    const fb_video_config *config;
    size_t frame; /* values */
    float *text;
    fb_video_clip clips[MAX_CLIPS];
} studio;

static studio studio_new(void) {
    static const char *const prompts[MAX_CLIPS] = {"red circle top-left east", "blue ring",
                                                   "green square south"};
    studio s = {0};
    cr_assert_eq(fb_set_num_threads(1), FB_OK);
    cr_assert_eq(fb_video_model_load(golden_source_path("golden/demo-video"), &s.model), FB_OK,
                 "%s", fb_error_message());
    s.config = fb_video_config_of(s.model);
    s.frame = s.config->out_dim * s.config->frame_height * s.config->frame_width;
    size_t text = s.config->text_len * s.config->text_dim;
    s.text = malloc(MAX_CLIPS * text * sizeof *s.text);
    for (size_t i = 0; i < MAX_CLIPS; i++) {
        cr_assert_eq(fb_video_prompt(s.model, prompts[i], s.text + i * text), FB_OK);
        s.clips[i] = (fb_video_clip){.text = s.text + i * text,
                                     .seed = 7 + i,
                                     .frames = malloc(MAX_FRAMES * s.frame * sizeof(float))};
    }
    return s;
}

static void studio_free(studio *s) {
    for (size_t i = 0; i < MAX_CLIPS; i++)
        free(s->clips[i].frames);
    free(s->text);
    fb_video_model_destroy(s->model);
}

static fb_video_options options_of(size_t frames) {
    fb_video_options options;
    fb_video_options_init(&options);
    options.num_frames = frames;
    return options;
}

static void generate(studio *s, size_t clip, size_t count, size_t frames, fb_video_stats *stats) {
    fb_video_options options = options_of(frames);
    cr_assert_eq(fb_video_generate(s->model, s->clips + clip, count, &options, stats), FB_OK, "%s",
                 fb_error_message());
}

Test(video, a_clip_does_not_depend_on_its_batch_or_length) {
    studio s = studio_new();
    generate(&s, 0, 3, 9, NULL);
    size_t values = 6 * s.frame;
    float *first = malloc(values * sizeof *first);
    memcpy(first, s.clips[1].frames, values * sizeof *first);
    generate(&s, 1, 1, 6, NULL);
    expect_same_bits("alone, shorter", first, s.clips[1].frames, values);
    generate(&s, 1, 1, 8, NULL); /* the last block is two frames */
    expect_same_bits("not whole blocks", first, s.clips[1].frames, values);
    free(first);
    studio_free(&s);
}

Test(video, counts_passes_and_work) {
    studio s = studio_new();
    fb_video_stats stats;
    generate(&s, 0, 2, 6, &stats);
    double tokens = (double)(s.config->frame_height / s.config->patch_height *
                             (s.config->frame_width / s.config->patch_width) * 3);
    double heads = (double)(s.config->num_layers * s.config->num_heads);
    cr_expect_eq(stats.passes, 2 * (s.config->num_denoising_steps + 1));
    cr_expect_eq(stats.work, stats.dense_work);
    cr_expect_float_eq(stats.work, 2.0 * 5.0 * heads * tokens * 3.0 * tokens, 1.0);
    cr_expect(stats.heads_refreshed == 0 && stats.heads_reused == 0, "nothing could reuse");
    studio_free(&s);
}

/* One clip, dense or with the model's own calibration. */
static void generate_with(studio *s, fb_dtype dtype, fb_calibration *calibration, float *frames) {
    fb_video_options options = options_of(MAX_FRAMES);
    fb_video_stats stats;
    options.kv_dtype = dtype;
    options.calibration = calibration;
    cr_assert_eq(fb_video_generate(s->model, s->clips, 1, &options, &stats), FB_OK, "%s",
                 fb_error_message());
    cr_assert_eq(stats.heads_reused > 0, calibration != NULL);
    memcpy(frames, s->clips[0].frames, MAX_FRAMES * s->frame * sizeof *frames);
}

/* Dense and with heads that reuse, keys and values of 8 bits give frames that are near those of
 * float32: pixels are -1 to 1, the bound of their distance is twice what was measured. With heads
 * that reuse, and so with all that a dense clip does, the bits are the same on every instruction
 * set and with two threads. (Scalar code would take a minute.) docs/contract.md C7, C14. */
Test(video, keys_and_values_of_8_bits) {
    studio s = studio_new();
    fb_calibration *calibration = NULL;
    cr_assert_eq(
        fb_calibration_load(golden_source_path("golden/demo-video/calibration.json"), &calibration),
        FB_OK, "%s", fb_error_message());
    const size_t values = MAX_FRAMES * s.frame;
    float *frames[3];
    for (size_t i = 0; i < 3; i++)
        frames[i] = calloc(values, sizeof *frames[i]);
    for (int reuses = 0; reuses <= 1; reuses++) {
        fb_calibration *used = reuses ? calibration : NULL;
        generate_with(&s, FB_F32, used, frames[0]);
        generate_with(&s, FB_INT8, used, frames[1]);
        double distance = 0;
        for (size_t i = 0; i < values; i++) {
            double difference = (double)frames[1][i] - (double)frames[0][i];
            distance += difference * difference;
        }
        distance = sqrt(distance / (double)values);
        cr_expect(distance > 0 && distance < 0.005, "%g", distance);
        for (fb_isa isa = FB_ISA_SCALAR + 1; isa < FB_ISA_COUNT; isa++) {
            if (!reuses || !fb_isa_built(isa) || !fb_isa_supported(isa))
                continue;
            cr_assert_eq(fb_isa_select(isa), FB_OK);
            cr_assert_eq(fb_set_num_threads(2), FB_OK);
            generate_with(&s, FB_INT8, used, frames[2]);
            expect_same_bits(fb_isa_name(isa), frames[1], frames[2], values);
        }
        cr_assert_eq(fb_set_num_threads(1), FB_OK);
    }
    for (size_t i = 0; i < 3; i++)
        free(frames[i]);
    fb_calibration_destroy(calibration);
    studio_free(&s);
}

/* A correct call, and each way to make it wrong. */
Test(video, forward_says_what_is_wrong) {
    studio s = studio_new();
    fb_video_cache *cache = NULL, *other = NULL;
    fb_part_cache *parts = NULL;
    cr_assert_eq(fb_video_model_new_cache(s.model, FB_F32, FB_COMPAT_PAPER, &cache), FB_OK);
    cr_assert_eq(fb_video_model_new_parts(s.model, &parts), FB_OK);
    fb_video_cache_config wrong = *fb_video_cache_config_of(cache);
    wrong.num_layers++;
    cr_assert_eq(fb_video_cache_create(&wrong, &other), FB_OK);
    float *flow = malloc(3 * s.frame * sizeof *flow);
    size_t values = 3 * s.frame / s.config->out_dim * s.config->in_dim;
    float *latents = calloc(values, sizeof *latents);
    const fb_video_forward_call right = {.latents = latents,
                                         .num_frames = 3,
                                         .timestep = 1000.0,
                                         .text = s.text,
                                         .cache = cache,
                                         .parts = parts,
                                         .flow = flow};
    cr_expect_eq(fb_video_forward(s.model, &right, 1, NULL, NULL), FB_OK, "%s", fb_error_message());

    fb_video_forward_call call = right;
    call.timestep = 1001.0;
    cr_expect_eq(fb_video_forward(s.model, &call, 1, NULL, NULL), FB_ERROR_ARGUMENT);
    call = right, call.num_frames = 4;
    cr_expect_eq(fb_video_forward(s.model, &call, 1, NULL, NULL), FB_ERROR_ARGUMENT);
    call = right, call.first_frame = 6;
    cr_expect_eq(fb_video_forward(s.model, &call, 1, NULL, NULL), FB_ERROR_ARGUMENT, "a gap");
    call = right, call.cache = other;
    cr_expect_eq(fb_video_forward(s.model, &call, 1, NULL, NULL), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "another model"), "%s", fb_error_message());
    call = right, call.flow = NULL;
    cr_expect_eq(fb_video_forward(s.model, &call, 1, NULL, NULL), FB_ERROR_ARGUMENT);
    fb_video_forward_call twice[] = {right, right};
    cr_expect_eq(fb_video_forward(s.model, twice, 2, NULL, NULL), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "share"), "%s", fb_error_message());

    fb_calibration *calibration = NULL;
    fb_calibration_config of;
    fb_calibration_config_init(&of);
    of.num_layers = s.config->num_layers;
    of.num_heads = s.config->num_heads;
    of.num_steps = 4;
    cr_assert_eq(fb_calibration_create(&of, &calibration), FB_OK);
    fb_video_plan plan = {.calibration = calibration};
    cr_expect_eq(fb_video_forward(s.model, &right, 1, &plan, NULL), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "4 passes"), "%s", fb_error_message());
    plan = (fb_video_plan){.observes = true};
    cr_expect_eq(fb_video_forward(s.model, &right, 1, &plan, NULL), FB_ERROR_ARGUMENT);
    free(flow), free(latents);
    fb_calibration_destroy(calibration);
    fb_video_cache_destroy(cache), fb_video_cache_destroy(other);
    fb_part_cache_destroy(parts);
    studio_free(&s);
}

Test(video, prompts) {
    studio s = studio_new();
    size_t count = s.config->text_len * s.config->text_dim, ones = 0;
    float *text = calloc(count, sizeof *text);
    cr_assert_eq(fb_video_prompt(s.model, "red ring,  blue", text), FB_OK);
    for (size_t i = 0; i < count; i++)
        ones += text[i] == 1.0f;
    cr_expect_eq(ones, 3);
    text[0] = 5.0f;
    cr_expect_eq(fb_video_prompt(s.model, "red elephant", text), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "'elephant'"), "%s", fb_error_message());
    cr_expect_eq(text[0], 5.0f, "untouched on error");
    cr_expect_eq(fb_video_prompt(s.model, "", text), FB_OK);
    cr_expect_eq(text[0], 0.0f);
    cr_expect_null(fb_video_model_word(s.model, s.config->num_words));
    cr_expect_str_eq(fb_video_model_word(s.model, 0), "red");
    free(text);
    studio_free(&s);
}
