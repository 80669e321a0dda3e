#include "oracle/search.h"

#include "oracle/known.h"

fb_status fb_try_cheap(fb_filter *filter, fb_wrong *wrong) {
    static fb_try_known_fn *const tries[] = {fb_try_results, fb_try_lanes, fb_try_lses,
                                             fb_try_merges,  fb_try_reuse, fb_try_block,
                                             fb_try_ends,    fb_try_sizes};
    wrong->cheap = true;
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++)
        FB_TRY(tries[i](filter, wrong));
    return FB_OK;
}

bool fb_best_is_named(const fb_filter *f) {
    return f->best.found && f->best.share > 0.6;
}

bool fb_best_leaves_noise(fb_filter *f) {
    double squares, excess = fb_filter_excess_left(f, &squares);
    return excess < FB_MOST_NOISE || squares < 1e-4 || (excess < 10.0 && squares < 1e-3);
}

fb_status fb_try_dear(fb_filter *filter, fb_wrong *wrong) {
    static fb_try_known_fn *const tries[] = {
        fb_try_reuse, fb_try_lane_order, fb_try_scales,  fb_try_heads,  fb_try_keys,
        fb_try_pages, fb_try_half_heads, fb_try_softmax, fb_try_inputs, fb_try_noise,
    };
    wrong->cheap = false;
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        FB_TRY(tries[i](filter, wrong));
        if (fb_best_is_named(filter) && fb_best_leaves_noise(filter))
            break;
    }
    return FB_OK;
}

fb_status fb_search_stage(fb_filter *filter, fb_wrong *wrong, bool *named, bool *complete) {
    FB_TRY(fb_try_cheap(filter, wrong));
    *named = fb_best_is_named(filter);
    *complete = *named && fb_best_leaves_noise(filter);
    if (*complete)
        return FB_OK;
    FB_TRY(fb_try_dear(filter, wrong));
    *named = fb_best_is_named(filter);
    *complete = *named && fb_best_leaves_noise(filter);
    return FB_OK;
}
