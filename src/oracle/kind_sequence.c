/* denoising_sequence: everything that script.h lists is recomputed from the file's inputs. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/kinds.h"
#include "oracle/script_result.h"
#include "oracle/scripted.h"
#include "oracle/sequence_names.h"
#include "oracle/verdict.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_SIZE = 1 << 24 };

/* The file's own tensors of a pass. An external part may be missing. */
typedef struct file_pass {
    const float *out, *lse, *external_out, *external_lse;
    const double *out64, *lse64, *external_out64, *external_lse64;
} file_pass;

/* Inputs as the file holds them. */
typedef struct file_inputs {
    fb_script_config config;
    const float *k_context, *v_context;
    fb_script_pass *passes; /* [steps + 1]: q, k, v, accepted */
    const int32_t *action, *dirty;
} file_inputs;

static fb_status read_config(fb_case *c, fb_script_config *config) {
    const char *dtype = NULL;
    config->preset = "file";
    FB_TRY(fb_case_size(c, "num_heads", 1, MAX_SIZE, &config->num_heads));
    FB_TRY(fb_case_size(c, "num_kv_heads", 1, MAX_SIZE, &config->num_kv_heads));
    FB_TRY(fb_case_size(c, "head_dim", 1, 65536, &config->head_dim));
    FB_TRY(fb_case_size(c, "block_size", 1, MAX_SIZE, &config->block_size));
    FB_TRY(fb_case_size(c, "context_length", 0, MAX_SIZE, &config->context_length));
    FB_TRY(fb_case_size(c, "tau", 0, MAX_SIZE, &config->tau));
    FB_TRY(fb_case_bool_or(c, "rows", false, &config->rows));
    FB_TRY(fb_case_bool_or(c, "correction", false, &config->correction));
    FB_TRY(fb_case_size(c, "steps", 1, FB_SCRIPT_MAX_STEPS, &config->steps));
    FB_TRY(
        fb_case_real_or(c, "softmax_scale", 1.0 / sqrt((double)config->head_dim), &config->scale));
    FB_TRY(fb_case_string(c, "dtype", &dtype));
    if (fb_dtype_parse(dtype, &config->dtype) != FB_OK)
        return fb_fail(FB_ERROR_FORMAT, "%s: params.dtype is none of f32, bf16, f16",
                       fb_case_path(c));
    if (config->scale == 0.0 || !isfinite(config->scale))
        return fb_fail(FB_ERROR_FORMAT, "%s: params.softmax_scale is %g", fb_case_path(c),
                       config->scale);
    return FB_OK;
}

/* Keys or values. They are stored in the dtype of the params, so narrowing them changes nothing. */
static fb_status read_kv(fb_case *c, const fb_script_config *config, size_t tokens,
                         const char *name, const float **values) {
    fb_dims shape = FB_DIMS(tokens, config->num_kv_heads, config->head_dim);
    const fb_tensor_view *tensor = NULL;
    fb_dtype stored = FB_F32;
    FB_TRY(fb_case_tensor(c, &tensor, shape, "%s", name));
    FB_TRY(fb_tensor_storage(tensor, &stored));
    if (stored != config->dtype)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is %s, params.dtype is %s", fb_case_path(c), name,
                       fb_dtype_name(stored), fb_dtype_name(config->dtype));
    return fb_case_f32(c, values, shape, "%s", name);
}

static fb_status read_inputs(fb_case *c, file_inputs *in) {
    fb_script_config *config = &in->config;
    FB_TRY(read_config(c, config));
    size_t passes = config->steps + 1, tokens = config->block_size;
    const int32_t *accepted = NULL;
    FB_TRY(fb_case_alloc(c, passes, sizeof *in->passes, &in->passes));
    FB_TRY(read_kv(c, config, config->context_length, "k_context", &in->k_context));
    FB_TRY(read_kv(c, config, config->context_length, "v_context", &in->v_context));
    FB_TRY(fb_case_i32(c, &accepted, FB_DIMS(passes, tokens), "accepted"));
    FB_TRY(fb_case_i32(c, &in->action, FB_DIMS(passes), "action"));
    FB_TRY(fb_case_i32(c, &in->dirty, FB_DIMS(passes), "dirty"));
    for (size_t i = 0; i < passes; i++) {
        fb_script_pass *pass = &in->passes[i];
        char name[32];
        FB_TRY(fb_case_f32(c, &pass->q, FB_DIMS(tokens, config->num_heads, config->head_dim),
                           "step%02zu.q", i));
        snprintf(name, sizeof name, "step%02zu.k", i);
        FB_TRY(read_kv(c, config, tokens, name, &pass->k));
        snprintf(name, sizeof name, "step%02zu.v", i);
        FB_TRY(read_kv(c, config, tokens, name, &pass->v));
        pass->accepted = accepted + i * tokens;
    }
    return FB_OK;
}

static void set_inputs(const file_inputs *in, fb_script *s) {
    s->k_context = in->k_context;
    s->v_context = in->v_context;
    for (size_t i = 0; i < s->num_passes; i++) {
        s->passes[i].q = in->passes[i].q;
        s->passes[i].k = in->passes[i].k;
        s->passes[i].v = in->passes[i].v;
        s->passes[i].accepted = in->passes[i].accepted;
    }
}

/* --- results ---------------------------------------------------------------------------------- */

/* Files of other programs may lack external parts. */
static fb_status read_pass(fb_case *c, const fb_script *s, size_t index, bool own,
                           file_pass *file) {
    const fb_script_config *config = &s->config;
    fb_dims lse = FB_DIMS(config->block_size, config->num_heads);
    fb_dims out = FB_DIMS(config->block_size, config->num_heads, config->head_dim);
    struct {
        const char *name;
        fb_dims shape;
        const float **values;
        const double **truth;
    } tensors[] = {
        {"out", out, &file->out, &file->out64},
        {"lse", lse, &file->lse, &file->lse64},
        {"external_out", out, &file->external_out, &file->external_out64},
        {"external_lse", lse, &file->external_lse, &file->external_lse64},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        bool external = i >= 2, stores = fb_script_stores(&s->passes[index]);
        if (!external || (own && stores) || fb_case_has(c, "step%02zu.%s", index, tensors[i].name))
            FB_TRY(fb_case_f32(c, tensors[i].values, tensors[i].shape, "step%02zu.%s", index,
                               tensors[i].name));
        if (fb_case_has(c, "step%02zu.%s64", index, tensors[i].name))
            FB_TRY(fb_case_f64(c, tensors[i].truth, tensors[i].shape, "step%02zu.%s64", index,
                               tensors[i].name));
    }
    return FB_OK;
}

/* `stated` is NULL if the file states no truth. */
static fb_status check_truth(fb_case *c, size_t index, const char *name, const double *stated,
                             const double *truth, size_t count) {
    char tensor[64];
    snprintf(tensor, sizeof tensor, "step%02zu.%s64", index, name);
    return stated ? fb_case_check_truth(c, stated, truth, count, tensor) : FB_OK;
}

static fb_status check_truths(fb_case *c, const fb_script *s, size_t index, const file_pass *file) {
    const fb_script_pass *pass = &s->passes[index];
    size_t rows = fb_script_rows(s), values = fb_script_values(s);
    FB_TRY(check_truth(c, index, "out", file->out64, pass->true_out, values));
    FB_TRY(check_truth(c, index, "lse", file->lse64, pass->true_lse, rows));
    if (!fb_script_stores(pass))
        return FB_OK;
    FB_TRY(check_truth(c, index, "external_out", file->external_out64, pass->true_external_out,
                       values));
    return check_truth(c, index, "external_lse", file->external_lse64, pass->true_external_lse,
                       rows);
}

/* Whether the file states every truth that claims are made against. */
static bool states_truths(const fb_script *s, const file_pass *files) {
    for (size_t i = 0; i < s->num_passes; i++) {
        bool stores = fb_script_stores(&s->passes[i]);
        if (!files[i].out64 || !files[i].lse64 ||
            (stores && (!files[i].external_out64 || !files[i].external_lse64)))
            return false;
    }
    return true;
}

/* The file's own results and the truths that it states are judged by the truth of its inputs. A
 * candidate is judged by the stated truths if they are all there: at the sizes of videos it takes
 * minutes to compute them. */
static fb_status find_truths(fb_case *c, fb_script *s, const file_pass *files, bool candidate) {
    if (!candidate || !states_truths(s, files)) {
        FB_TRY(fb_script_find_truth(s, NULL, NULL));
        for (size_t i = 0; i < s->num_passes; i++)
            FB_TRY(check_truths(c, s, i, &files[i]));
        return FB_OK;
    }
    for (size_t i = 0; i < s->num_passes; i++)
        FB_TRY(fb_script_set_truth(s, i, files[i].out64, files[i].lse64, files[i].external_out64,
                                   files[i].external_lse64));
    return FB_OK;
}

/* --- claims ----------------------------------------------------------------------------------- */

static double output_effect(const fb_script *s, const fb_script_pass *pass) {
    const fb_script_config *c = &s->config;
    size_t rows = fb_script_rows(s);
    size_t context = c->context_length * c->num_kv_heads * c->head_dim;
    return fmax(fb_score_effect(pass->true_lse, rows, s->v_context, context),
                fb_score_effect(pass->true_lse, rows, pass->v, fb_script_kv_values(s)));
}

/* An LSE of merged parts is rounded twice: in the part, which is as large, and in the merge. A
 * merge in float32 is therefore allowed two ulps. */
static double lse_effect(const fb_script *s, const fb_script_pass *pass) {
    return 2.0 * fb_spacing_at(fb_largest_finite(pass->true_lse, fb_script_rows(s)));
}

/* One tensor of a pass. `c` is NULL if the sequence is not a file's. */
static fb_status claim(fb_case *c, fb_report *report, const fb_script *s,
                       const fb_script_result *result, fb_bound_rule rule, const char *name,
                       const float *ours, const float *file, const double *truth) {
    const fb_script_config *config = &s->config;
    const fb_script_pass *pass = &s->passes[result->pass];
    char tensor[32];
    snprintf(tensor, sizeof tensor, "step%02zu.%s", result->pass, name);
    fb_claim made = {
        .tensor = tensor,
        .shape = result->lse ? FB_DIMS(config->block_size, config->num_heads)
                             : FB_DIMS(config->block_size, config->num_heads, config->head_dim),
        .ours = ours,
        .file = file,
        .truth = truth,
        .rule = rule,
        .file_precision = c ? fb_case_precision(c, tensor) : FB_F32,
        .is_lse = result->lse,
        .token_axis = 0,
        .head_axis = 1,
        .plain = fb_script_plain,
        .name = fb_script_name,
        .context = result,
        .explain = fb_script_explain,
    };
    made.score_effect = result->lse ? lse_effect(s, pass) : output_effect(s, pass);
    return fb_report_claim(report, &made);
}

static fb_status claim_pass(fb_case *c, fb_report *report, const fb_script *s, size_t index,
                            const file_pass *file, fb_bound_rule rule) {
    const fb_script_pass *pass = &s->passes[index];
    fb_script_result result = {s, index, false, false};
    FB_TRY(claim(c, report, s, &result, rule, "out", pass->out, file->out, pass->true_out));
    result.lse = true;
    FB_TRY(claim(c, report, s, &result, rule, "lse", pass->lse, file->lse, pass->true_lse));
    if (!fb_script_stores(pass))
        return FB_OK;
    result = (fb_script_result){s, index, true, false};
    if (file->external_out || report->candidate)
        FB_TRY(claim(c, report, s, &result, rule, "external_out", pass->external_out,
                     file->external_out, pass->true_external_out));
    result.lse = true;
    if (file->external_lse || report->candidate)
        FB_TRY(claim(c, report, s, &result, rule, "external_lse", pass->external_lse,
                     file->external_lse, pass->true_external_lse));
    return FB_OK;
}

/* A trial holds a dozen numbers for each element. */
static bool is_large(const fb_script *s) {
    return (double)fb_script_values(s) * (double)s->num_passes > (double)FB_TRIAL_MAX_VALUES;
}

/* What is wrong about an action or a number of dirty tokens that a port states. */
static void say_stated(const fb_script *s, size_t pass, bool dirty, int32_t stated, char *note,
                       size_t size) {
    const fb_script_pass *right = &s->passes[pass];
    if (dirty)
        snprintf(note, size,
                 "step %zu: %d dirty tokens are stated, it has %d: those that the step of the last "
                 "refresh accepted, and those accepted since",
                 pass, (int)stated, (int)right->dirty);
    else
        snprintf(
            note, size, "step %zu: %s is stated where %s is due, with %d dirty tokens and tau %zu",
            pass,
            stated >= 0 && stated <= FB_REFRESH_ROWS ? fb_reuse_action_name((fb_reuse_action)stated)
                                                     : "no action",
            fb_reuse_action_name((fb_reuse_action)right->action), (int)right->dirty, s->config.tau);
}

/* Whole numbers, stored as such or as floating-point numbers. */
static fb_status read_numbers(const fb_tensor_view *view, size_t count, int32_t *numbers) {
    if (fb_tensor_read_i32(view, 0, count, numbers) == FB_OK)
        return FB_OK;
    for (size_t i = 0; i < count; i++) {
        float value;
        FB_TRY(fb_tensor_read_f32(view, i, 1, &value));
        numbers[i] = value >= -1e6f && value <= 1e6f ? (int32_t)value : INT32_MIN;
    }
    return FB_OK;
}

/* `action` or `dirty`, if the candidate states them. */
static fb_status judge_stated(fb_report *report, const fb_script *s, bool dirty) {
    const char *name = dirty ? "dirty" : "action";
    const fb_tensor_view *view = fb_candidate_find(report->candidate, name);
    fb_finding finding = {.shape = FB_DIMS(s->num_passes), .decisions = true, .of_candidate = true};
    int32_t *stated = NULL;
    if (!view)
        return FB_OK;
    snprintf(finding.tensor, sizeof finding.tensor, "%s", name);
    if (view->count != s->num_passes) {
        fb_finding_other_size(&finding, view->count, s->num_passes);
        return fb_report_add(report, &finding);
    }
    FB_TRY(fb_alloc(s->num_passes, sizeof *stated, name, &stated));
    fb_status status = read_numbers(view, s->num_passes, stated);
    for (size_t i = s->num_passes; i-- > 0 && status == FB_OK;) {
        int32_t right = dirty ? s->passes[i].dirty : s->passes[i].action;
        if (stated[i] == right)
            continue;
        finding.differing++;
        finding.errors.worst = i; /* the first one, in the end */
        finding.value = (double)stated[i];
        finding.truth = (double)right;
        say_stated(s, i, dirty, stated[i], finding.note, sizeof finding.note);
    }
    fb_free(stated);
    FB_TRY(status);
    finding.passed = finding.differing == 0;
    if (!finding.passed) {
        char results[sizeof report->reason / 2];
        snprintf(results, sizeof results, "%.499s", report->reason);
        snprintf(report->reason, sizeof report->reason, "%.400s; the results: %s", finding.note,
                 results);
    }
    return fb_report_add(report, &finding);
}

/* A candidate's results, all of them together; where there are too many, tensor by tensor. */
fb_status fb_claim_script(fb_report *report, const fb_script *s) {
    const file_pass none = {0};
    fb_trial *trial = NULL;
    FB_TRY(fb_check_sequence_names(report->candidate, s));
    if (!is_large(s)) {
        FB_TRY(fb_trial_of_script(s, report->candidate, &trial));
        fb_status status = fb_report_trial(report, trial);
        fb_trial_free(trial);
        FB_TRY(status);
    }
    for (size_t i = 0; is_large(s) && i < s->num_passes; i++)
        FB_TRY(claim_pass(NULL, report, s, i, &none, FB_BOUND_FILE));
    FB_TRY(judge_stated(report, s, false));
    return judge_stated(report, s, true);
}

static fb_status claim_decisions(fb_case *c, fb_report *report, const fb_script *s,
                                 const file_inputs *in) {
    int32_t *action = NULL, *dirty = NULL;
    FB_TRY(fb_case_alloc(c, s->num_passes, sizeof *action, &action));
    FB_TRY(fb_case_alloc(c, s->num_passes, sizeof *dirty, &dirty));
    for (size_t i = 0; i < s->num_passes; i++) {
        action[i] = s->passes[i].action;
        dirty[i] = s->passes[i].dirty;
    }
    FB_TRY(fb_report_decisions(report, "action", FB_DIMS(s->num_passes), action, in->action));
    return fb_report_decisions(report, "dirty", FB_DIMS(s->num_passes), dirty, in->dirty);
}

static fb_status recompute(fb_case *c, fb_report *report, const file_inputs *in, fb_script *s) {
    const char *producer = fb_case_text(c, "produced_by");
    bool own = producer && strncmp(producer, FB_SCRIPT_PRODUCER, strlen(FB_SCRIPT_PRODUCER)) == 0;
    file_pass *files = NULL;
    set_inputs(in, s);
    FB_TRY(fb_script_run(s));
    if (report->candidate && !is_large(s))
        return fb_claim_script(report, s);
    if (report->candidate)
        FB_TRY(fb_check_sequence_names(report->candidate, s));
    FB_TRY(fb_case_alloc(c, s->num_passes, sizeof *files, &files));
    for (size_t i = 0; i < s->num_passes; i++)
        FB_TRY(read_pass(c, s, i, own, &files[i]));
    FB_TRY(find_truths(c, s, files, report->candidate != NULL));
    FB_TRY(claim_decisions(c, report, s, in));
    for (size_t i = 0; i < s->num_passes; i++)
        FB_TRY(claim_pass(c, report, s, i, &files[i], own ? FB_BOUND_BITS : FB_BOUND_FILE));
    return FB_OK;
}

/* If this program wrote the file, its results must have the same bits. Otherwise they may be as far
 * off as the file's own. */
fb_status fb_recompute_denoising_sequence(fb_case *c, fb_report *report) {
    file_inputs in = {0};
    fb_script *s = NULL;
    FB_TRY(read_inputs(c, &in)); /* their shapes are those of tensors that the file has */
    FB_TRY(fb_script_create(&in.config, &s));
    fb_status status = recompute(c, report, &in, s);
    fb_script_free(s);
    return status == FB_ERROR_ARGUMENT || status == FB_ERROR_STALE
               ? fb_fail_in(FB_ERROR_FORMAT, "%s", fb_case_path(c))
               : status;
}
