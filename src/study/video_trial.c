#include "study/video_trial.h"

#include "base/error.h"
#include "base/memory.h"
#include "study/measures.h"

#include <math.h>
#include <string.h>

fb_status fb_video_trial_create(fb_video_model *model, size_t count,
                                const fb_video_options *options, fb_video_trial *trial) {
    const fb_video_config *c = fb_video_config_of(model);
    *trial = (fb_video_trial){.model = model, .count = count, .options = *options};
    trial->clip_values = options->num_frames * c->out_dim * c->frame_height * c->frame_width;
    FB_TRY(fb_alloc(count, trial->clip_values * sizeof *trial->dense, "frames", &trial->dense));
    return fb_alloc_zeroed(count, sizeof *trial->verdicts, "verdicts", &trial->verdicts);
}

void fb_video_trial_free(fb_video_trial *trial) {
    fb_free(trial->dense);
    fb_free(trial->verdicts);
    *trial = (fb_video_trial){0};
}

static fb_status check_clip(fb_video_trial *trial, size_t i, bool is_dense,
                            fb_video_trial_score *score) {
    fb_scene_verdict verdict, *dense = &trial->verdicts[i];
    FB_TRY(fb_scene_check(&trial->scenes[i], trial->clips[i].frames, trial->options.num_frames,
                          &verdict));
    if (is_dense)
        *dense = verdict;
    bool right = fb_scene_all_right(&verdict), was_right = fb_scene_all_right(dense);
    score->colour += verdict.colour;
    score->form += verdict.form;
    score->place += verdict.place;
    score->motion += verdict.motion;
    score->right += right;
    score->lost += was_right && !right;
    score->won += right && !was_right;
    return FB_OK;
}

static void compare_clip(const fb_video_trial *trial, size_t i, fb_video_trial_score *score) {
    const float *dense = trial->dense + i * trial->clip_values;
    double psnr = fb_measure_psnr(dense, trial->clips[i].frames, trial->clip_values);
    if (isinf(psnr)) {
        score->equal++;
        return;
    }
    score->psnr += psnr;
    score->psnr_squared += psnr * psnr;
}

fb_status fb_video_trial_run(fb_video_trial *trial, fb_calibration *calibration,
                             fb_video_trial_score *score) {
    fb_video_stats stats;
    trial->options.calibration = calibration;
    FB_TRY(fb_video_generate(trial->model, trial->clips, trial->count, &trial->options, &stats));
    for (size_t i = 0; i < trial->count; i++) {
        if (!calibration)
            memcpy(trial->dense + i * trial->clip_values, trial->clips[i].frames,
                   trial->clip_values * sizeof *trial->dense);
        if (trial->scenes)
            FB_TRY(check_clip(trial, i, !calibration, score));
        compare_clip(trial, i, score);
    }
    score->clips += trial->count;
    score->attention_seconds += stats.times.attention;
    score->total_seconds += stats.times.total;
    score->work += stats.work;
    score->dense_work += stats.dense_work;
    score->heads_refreshed += stats.heads_refreshed;
    score->heads_reused += stats.heads_reused;
    return FB_OK;
}

fb_video_trial_result fb_video_trial_result_of(const fb_video_trial_score *score,
                                               const fb_video_trial_score *dense) {
    double clips = (double)score->clips, differing = clips - (double)score->equal;
    double heads = (double)(score->heads_reused + score->heads_refreshed);
    fb_video_trial_result r = {
        .reused = fb_measure_ratio((double)score->heads_reused, heads),
        .right = fb_measure_ratio((double)score->right, clips),
        .psnr = differing > 0 ? score->psnr / differing : (double)NAN,
        .attention = fb_measure_ratio(score->attention_seconds, dense->attention_seconds),
        .work = fb_measure_ratio(score->work, score->dense_work),
    };
    double variance = fb_measure_ratio(score->psnr_squared, differing) - r.psnr * r.psnr;
    r.right_error = sqrt(fb_measure_ratio(r.right * (1.0 - r.right), clips));
    r.psnr_error = differing > 1 ? sqrt(fmax(variance, 0.0) / (differing - 1.0)) : (double)NAN;
    return r;
}
