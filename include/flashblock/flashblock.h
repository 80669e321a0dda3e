/* FlashBlock attention caching for block diffusion (arXiv 2602.05305): the stable public API.
 *
 *   version.h    the version of headers and library
 *   status.h     errors
 *   types.h      how tensors are stored
 *   runtime.h    instruction sets, threads
 *   attention.h  part = attend(view), merge; the double-precision truth
 *   kv_cache.h   keys and values of a sequence
 *   reuse.h      the cached block-external part and when it is reused
 *   model.h, tokenizer.h, generate.h
 *                block-diffusion language models (library flashblock-lm)
 *
 * What is in experimental/ may change in any release; programs include it header by header:
 *
 *   rows.h       refresh by rows, the first-order correction
 *   selector.h   sparse attention: which key blocks a query block attends to
 *   sparse.h     sparse attention of a block, and residual reuse
 *   video_cache.h, head_reuse.h, calibration.h
 *                video: sink and window of frames, reuse head by head, and which heads may
 *   video_model.h, video.h
 *                causal video diffusion models (library flashblock-lm)
 *   oracle.h     judging other implementations (library flashblock-oracle)
 */
#ifndef FLASHBLOCK_FLASHBLOCK_H
#define FLASHBLOCK_FLASHBLOCK_H

#include <flashblock/attention.h>
#include <flashblock/generate.h>
#include <flashblock/kv_cache.h>
#include <flashblock/model.h>
#include <flashblock/reuse.h>
#include <flashblock/runtime.h>
#include <flashblock/status.h>
#include <flashblock/tokenizer.h>
#include <flashblock/types.h>
#include <flashblock/version.h>

#endif
