/* A loaded video model. */
#ifndef FB_MODEL_VIDEO_STATE_H
#define FB_MODEL_VIDEO_STATE_H

#include "base/busy.h"
#include "io/buffer.h"
#include "io/checkpoint.h"
#include "model/linear.h"
#include "model/video_attention.h"

#include <flashblock/experimental/video_model.h>

/* Attention to the text: as self-attention, without positions. */
typedef struct fb_video_layer {
    const float *modulation; /* [6, dim]: shift, scale, gate of attention, then of the ffn */
    fb_video_attention self, cross;
    const float *norm3_weight, *norm3_bias; /* [dim], or NULL */
    fb_matrix ffn_in, ffn_out;              /* [ffn_dim, dim], [dim, ffn_dim] */
} fb_video_layer;

/* Where tensors are looked up: by the names of CausalWanModel's state dict. NULL: not found. */
typedef const fb_tensor_view *fb_video_find(const void *source, const char *name);

struct fb_video_model {
    fb_video_config config;
    char **words;              /* [config.num_words] */
    fb_checkpoint *checkpoint; /* NULL where the tensors belong to someone else */
    fb_matrix patch;           /* [dim, in_dim * patch_height * patch_width] */
    fb_matrix text_in, text_out, time_in, time_out, time_projection;
    fb_video_layer *layers;       /* [num_layers] */
    const float *head_modulation; /* [2, dim] */
    fb_matrix head;               /* [patch_height * patch_width * out_dim, dim] */
    size_t num_parameters;
    float **vectors; /* widened copies that the pointers above point to */
    size_t num_vectors, max_vectors;
    fb_linear_scratch linear;
    fb_busy busy;
    fb_warnings warnings; /* of loading */
};

/* A model whose configuration is given and whose tensors `find` finds; they are borrowed. `used`
 * may be NULL; pointers to their views are added to it, after a failure too. */
fb_status fb_video_model_bind(const fb_video_config *config, fb_video_find *find,
                              const void *source, const char *where, fb_buffer *used,
                              fb_video_model **model);

/* Checks a configuration's sizes; `where` is named first in messages. */
fb_status fb_video_config_check(const fb_video_config *config, const char *where);

/* Reads config.json; *words [config->num_words] are the caller's, each and all fb_free. */
fb_status fb_video_config_read(const char *directory, fb_video_config *config, char ***words,
                               fb_warnings *warnings);

#endif
