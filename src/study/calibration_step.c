#include "study/calibration_step.h"

fb_calibration_step fb_calibration_step_of(fb_calibration *c, size_t step) {
    const fb_calibration_config *config = fb_calibration_config_of(c);
    fb_calibration_step sum = {.heads = config->num_layers * config->num_heads};
    for (size_t layer = 0; layer < config->num_layers; layer++) {
        const bool *refresh = fb_calibration_refresh(c, layer, step);
        for (size_t head = 0; head < config->num_heads; head++) {
            sum.external += fb_calibration_similarity(c, layer, step, head);
            sum.internal += fb_calibration_internal_similarity(c, layer, step, head);
            sum.lse_change += fb_calibration_lse_change(c, layer, step, head);
            sum.refreshing += refresh[head];
        }
    }
    sum.external /= (double)sum.heads;
    sum.internal /= (double)sum.heads;
    sum.lse_change /= (double)sum.heads;
    return sum;
}
