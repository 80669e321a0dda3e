#include "model/mixture_config.h"

#include "base/error.h"

#include <math.h>
#include <stdint.h>

/* Far above every published model, and sizes multiply without overflow. */
enum { MAX_EXPERTS = 1 << 16, MAX_EXPERT_WIDTH = 1 << 24 };

/* The class's defaults of LLaDA2, for fields that config.json does not have. */
enum { LLADA2_EXPERTS = 16, LLADA2_CHOSEN = 2, LLADA2_GROUPS = 8, LLADA2_CHOSEN_GROUPS = 4 };

static fb_status read_experts(const fb_json *root, const char *where, bool sigmoid,
                              fb_model_config *config) {
    static const char chosen[] = "num_experts_per_tok";
    if (sigmoid)
        FB_TRY(fb_json_get_size_or(root, where, "num_experts", 0, MAX_EXPERTS, LLADA2_EXPERTS,
                                   &config->num_experts));
    else
        FB_TRY(fb_json_get_size(root, where, "num_experts", 0, MAX_EXPERTS, &config->num_experts));
    if (config->num_experts == 0)
        return FB_OK;
    if (sigmoid)
        FB_TRY(fb_json_get_size_or(root, where, chosen, 1, MAX_EXPERTS, LLADA2_CHOSEN,
                                   &config->num_experts_per_tok));
    else
        FB_TRY(fb_json_get_size(root, where, chosen, 1, MAX_EXPERTS, &config->num_experts_per_tok));
    if (config->num_experts_per_tok > config->num_experts)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is %zu, more than num_experts %zu", where, chosen,
                       config->num_experts_per_tok, config->num_experts);
    return fb_json_get_size(root, where, "moe_intermediate_size", 1, MAX_EXPERT_WIDTH,
                            &config->moe_intermediate_size);
}

static fb_status read_softmax(const fb_json *root, const char *where, fb_model_config *config) {
    config->routed_scaling_factor = 1.0;
    config->num_expert_groups = config->num_chosen_groups = 1;
    FB_TRY(fb_json_get_bool_or(root, where, "norm_topk_prob", false, &config->norm_topk_prob));
    return fb_json_get_size_or(root, where, "decoder_sparse_step", 1, MAX_EXPERTS, 1,
                               &config->decoder_sparse_step);
}

/* Groups are equal runs of neighbours, and those that are chosen hold enough experts. */
static fb_status check_groups(const char *where, const fb_model_config *config) {
    size_t groups = config->num_expert_groups, chosen = config->num_chosen_groups;
    size_t experts = config->num_experts, of_group = experts / groups;
    if (experts % groups != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: n_group is %zu, which does not divide num_experts %zu",
                       where, groups, experts);
    if (of_group < 2)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: n_group is %zu: groups of %zu of the %zu experts, expected at least 2 "
                       "in each",
                       where, groups, of_group, experts);
    if (chosen > groups)
        return fb_fail(FB_ERROR_FORMAT, "%s: topk_group is %zu, more than n_group %zu", where,
                       chosen, groups);
    if (config->num_experts_per_tok > chosen * of_group)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: num_experts_per_tok is %zu, more than the %zu experts in topk_group "
                       "%zu of %zu groups",
                       where, config->num_experts_per_tok, chosen * of_group, chosen, groups);
    return FB_OK;
}

static fb_status read_sigmoid(const fb_json *root, const char *where, fb_model_config *config) {
    size_t shared = 0;
    config->norm_topk_prob = true;
    config->decoder_sparse_step = 1;
    FB_TRY(fb_json_get_size_or(root, where, "num_shared_experts", 0, MAX_EXPERTS, 0, &shared));
    if (shared > MAX_EXPERT_WIDTH / config->moe_intermediate_size)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: num_shared_experts %zu times moe_intermediate_size %zu is too large",
                       where, shared, config->moe_intermediate_size);
    config->shared_intermediate_size = shared * config->moe_intermediate_size;
    FB_TRY(fb_json_get_size_or(root, where, "n_group", 1, MAX_EXPERTS, LLADA2_GROUPS,
                               &config->num_expert_groups));
    FB_TRY(fb_json_get_size_or(root, where, "topk_group", 1, MAX_EXPERTS, LLADA2_CHOSEN_GROUPS,
                               &config->num_chosen_groups));
    FB_TRY(fb_json_get_double_or(root, where, "routed_scaling_factor", 1.0,
                                 &config->routed_scaling_factor));
    if (!isfinite((float)config->routed_scaling_factor))
        return fb_fail(FB_ERROR_FORMAT, "%s: routed_scaling_factor is %g, expected a float32",
                       where, config->routed_scaling_factor);
    FB_TRY(fb_json_get_size_or(root, where, "first_k_dense_replace", 0, SIZE_MAX, 0,
                               &config->num_dense_layers));
    return check_groups(where, config);
}

fb_status fb_mixture_config_read(const fb_json *root, const char *where,
                                 const fb_architecture *architecture, fb_model_config *config) {
    bool sigmoid = architecture->router == FB_ROUTER_SIGMOID;
    if (architecture->router == FB_ROUTER_NONE)
        return FB_OK;
    FB_TRY(read_experts(root, where, sigmoid, config));
    if (config->num_experts == 0)
        return FB_OK;
    config->router = architecture->router;
    return sigmoid ? read_sigmoid(root, where, config) : read_softmax(root, where, config);
}
