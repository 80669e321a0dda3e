/* FlashBlock attention caching for block diffusion (arXiv 2602.05305): the whole public API.
 *
 *   runtime.h    version, instruction sets, threads
 *   attention.h  part = attend(view), merge; the double-precision truth
 *   kv_cache.h   keys and values of a sequence
 *   reuse.h      the cached block-external part and when it is reused
 *   selector.h   sparse attention: which key blocks a query block attends to
 *   sparse.h     sparse attention of a block, and residual reuse
 *   video_cache.h, head_reuse.h, calibration.h
 *                video: sink and window of frames, reuse head by head, and which heads may
 *   model.h, tokenizer.h, generate.h
 *                block-diffusion language models (library flashblock-lm)
 *   video_model.h, video.h
 *                causal video diffusion models (library flashblock-lm)
 */
#ifndef FLASHBLOCK_FLASHBLOCK_H
#define FLASHBLOCK_FLASHBLOCK_H

#include <flashblock/attention.h>
#include <flashblock/calibration.h>
#include <flashblock/generate.h>
#include <flashblock/head_reuse.h>
#include <flashblock/kv_cache.h>
#include <flashblock/model.h>
#include <flashblock/reuse.h>
#include <flashblock/runtime.h>
#include <flashblock/selector.h>
#include <flashblock/sparse.h>
#include <flashblock/status.h>
#include <flashblock/tokenizer.h>
#include <flashblock/types.h>
#include <flashblock/video.h>
#include <flashblock/video_cache.h>
#include <flashblock/video_model.h>

#endif
