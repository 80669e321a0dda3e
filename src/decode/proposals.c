#include "decode/proposals.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"

/* Below this many logits, waking other threads is not worth while. */
enum { WORTH_THREADS = 1 << 15 };

fb_status fb_proposals_create(size_t num_rows, size_t vocab_size, fb_proposals *proposals) {
    *proposals = (fb_proposals){.num_rows = num_rows, .vocab_size = vocab_size};
    FB_TRY(fb_alloc_zeroed(num_rows, sizeof *proposals->uniform, "random numbers",
                           &proposals->uniform));
    return fb_alloc_zeroed(num_rows, sizeof *proposals->rows, "proposals", &proposals->rows);
}

void fb_proposals_free(fb_proposals *proposals) {
    fb_free(proposals->uniform);
    fb_free(proposals->rows);
    fb_free(proposals->order);
    fb_free(proposals->probabilities);
    *proposals = (fb_proposals){0};
}

static fb_status reserve(fb_proposals *p, size_t threads) {
    if (threads <= p->threads)
        return FB_OK;
    fb_free(p->order);
    fb_free(p->probabilities);
    p->order = NULL;
    p->probabilities = NULL;
    p->threads = 0;
    FB_TRY(fb_alloc(threads, p->vocab_size * sizeof *p->order, "token order", &p->order));
    FB_TRY(fb_alloc(threads, p->vocab_size * sizeof *p->probabilities, "probabilities",
                    &p->probabilities));
    p->threads = threads;
    return FB_OK;
}

typedef struct make_call {
    fb_proposals *p;
    const fb_sampler *sampler;
    const float *logits;
} make_call;

static fb_status propose(const make_call *call, size_t row, size_t worker) {
    const fb_proposals *p = call->p;
    return fb_sampler_propose(call->sampler, call->logits + row * p->vocab_size, p->vocab_size,
                              p->uniform[row], p->order + worker * p->vocab_size,
                              p->probabilities + worker * p->vocab_size, &p->rows[row]);
}

enum { FAILED = -1 }; /* a token of a row that has to fail once more, on the calling thread */

static void propose_rows(void *context, size_t first, size_t end, size_t worker) {
    const make_call *call = context;
    for (size_t row = first; row < end; row++)
        if (propose(call, row, worker) != FB_OK)
            call->p->rows[row].token = FAILED;
}

fb_status fb_proposals_make(fb_proposals *p, const fb_sampler *sampler, const float *logits,
                            size_t *failed) {
    size_t threads = p->num_rows * p->vocab_size < WORTH_THREADS ? 1 : fb_parallel_threads();
    threads = threads < p->num_rows ? threads : p->num_rows;
    FB_TRY(reserve(p, threads));
    make_call call = {p, sampler, logits};
    fb_parallel_for(p->num_rows, 1, threads, propose_rows, &call);
    for (size_t row = 0; row < p->num_rows; row++)
        if (p->rows[row].token == FAILED) {
            *failed = row;
            FB_TRY(propose(&call, row, 0));
        }
    return FB_OK;
}
