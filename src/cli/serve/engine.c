#include "cli/serve/engine.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "decode/batch.h"

#include <stdio.h>
#include <string.h>

enum { PREFILL_TOKENS = 512 };

typedef struct numbers {
    size_t requests, rejected, cancelled, failed;
    size_t prompt_tokens, kept_tokens, completion_tokens;
    size_t refreshes, reuses, commits, passes;
    double seconds, attention_seconds;
} numbers;

struct fb_serve_engine {
    const fb_serve_model *model;
    pthread_t thread;
    bool started;

    pthread_mutex_t mutex;
    pthread_cond_t changed;
    fb_serve_job *first, *last; /* the queue */
    size_t num_queued, most_queued, num_active;
    bool ending;
    atomic_bool cancelling; /* without the mutex, too */
    numbers numbers;

    /* of the thread only */
    fb_batch *batch;
    size_t parallel;
    fb_serve_choice **choices;       /* [parallel] by the number of their sequence */
    fb_conversation **conversations; /* [parallel], the most recently used one last */
    size_t num_idle;                 /* of the conversations: the first ones; others are in use */
    fb_serve_job *joining; /* some of whose choices have no place yet; the engine's reference */
};

/* --- the queue -------------------------------------------------------------------------------- */

fb_serve_put fb_serve_engine_put(fb_serve_engine *e, fb_serve_job *job) {
    pthread_mutex_lock(&e->mutex);
    fb_serve_put result = e->ending                         ? FB_SERVE_ENDING
                          : e->num_queued >= e->most_queued ? FB_SERVE_FULL
                                                            : FB_SERVE_QUEUED;
    e->numbers.requests++;
    e->numbers.rejected += result != FB_SERVE_QUEUED;
    if (result == FB_SERVE_QUEUED) {
        atomic_fetch_add(&job->references, 1);
        job->next = NULL;
        if (e->last)
            e->last->next = job;
        else
            e->first = job;
        e->last = job;
        e->num_queued++;
        pthread_cond_signal(&e->changed);
    }
    pthread_mutex_unlock(&e->mutex);
    return result;
}

static fb_serve_job *take(fb_serve_engine *e) {
    fb_serve_job *job = e->first;
    if (!job)
        return NULL;
    e->first = job->next;
    if (!e->first)
        e->last = NULL;
    e->num_queued--;
    e->num_active++; /* until it is counted again */
    return job;
}

/* --- choices ---------------------------------------------------------------------------------- */

static fb_prompt prompt_of(const fb_serve_job *job) {
    return (fb_prompt){(const int32_t *)(const void *)job->request.ids.data,
                       job->request.ids.size / sizeof(int32_t)};
}

/* The text of the tokens that a pass has added, in choice->piece. */
static fb_status read_new(fb_serve_choice *choice, const fb_step_event *event) {
    const char *text = NULL;
    size_t size = 0, num_prompt = prompt_of(choice->job).num_tokens;
    choice->piece.size = 0;
    for (size_t i = event->num_completion - event->num_new; i < event->num_completion; i++) {
        if (choice->job->request.logprobs)
            FB_TRY(fb_serve_logprobs_add(&choice->logprobs, event, num_prompt, i,
                                         choice->text.size + choice->piece.size));
        FB_TRY(fb_token_stream_put(choice->stream, event->completion + i, 1, &text, &size));
        FB_TRY(fb_buffer_append(&choice->piece, text, size));
    }
    return FB_OK;
}

static bool see_step(void *user, const fb_step_event *event) {
    fb_serve_choice *choice = user;
    fb_serve_job *job = choice->job;
    fb_status status = FB_OK;
    fb_serve_job_add_pass(choice, event);
    if (job->request.logprobs)
        status = fb_serve_logprobs_see(&choice->logprobs, event);
    if (status == FB_OK)
        status = read_new(choice, event);
    if (status != FB_OK)
        fb_serve_job_fail_with(job, status);
    else if (choice->piece.size > 0)
        return fb_serve_job_add_text(choice, (const char *)choice->piece.data, choice->piece.size);
    return !atomic_load(&job->cancelled);
}

/* Of the idle conversations the one that has most of the prompt; of equal ones the one that was
 * used longest ago. */
static fb_conversation *take_conversation(fb_serve_engine *e, const fb_prompt *prompt,
                                          const fb_generate_options *options) {
    size_t best = 0, most = 0;
    for (size_t i = 0; i < e->num_idle; i++) {
        size_t kept = fb_conversation_kept(e->conversations[i], prompt, options);
        if (kept > most) {
            most = kept;
            best = i;
        }
    }
    fb_conversation *chosen = e->conversations[best];
    e->num_idle--;
    memmove(&e->conversations[best], &e->conversations[best + 1],
            (e->num_idle - best) * sizeof *e->conversations);
    return chosen;
}

static void give_back(fb_serve_engine *e, fb_conversation *conversation) {
    e->conversations[e->num_idle++] = conversation;
}

static size_t free_number(const fb_serve_engine *e) {
    size_t number = 0;
    while (e->choices[number])
        number++;
    return number;
}

static fb_status join(fb_serve_engine *e, fb_serve_choice *choice) {
    fb_serve_job *job = choice->job;
    fb_prompt prompt = prompt_of(job);
    fb_kv_cache *kv = NULL;
    if (!choice->stream)
        FB_TRY(fb_token_stream_create(job->model->session->tokenizer, true, &choice->stream));
    choice->options = job->request.options;
    choice->options.on_step = see_step;
    choice->options.user = choice;
    choice->conversation = take_conversation(e, &prompt, &choice->options);
    fb_batch_request request = {
        .prompt = prompt,
        .options = &choice->options,
        .seed = job->request.options.seed + choice->index,
        .number = free_number(e),
    };
    fb_status status =
        fb_conversation_begin(choice->conversation, &prompt, &choice->options, &choice->kept, &kv);
    request.kv = kv;
    if (status == FB_OK)
        status = fb_batch_join(e->batch, &request);
    if (status != FB_OK) {
        give_back(e, choice->conversation);
        choice->conversation = NULL;
        return status;
    }
    e->choices[request.number] = choice;
    return FB_OK;
}

static void add_numbers(fb_serve_engine *e, const fb_serve_choice *choice) {
    const fb_generate_counts *counts = &choice->counts;
    pthread_mutex_lock(&e->mutex);
    e->numbers.prompt_tokens += prompt_of(choice->job).num_tokens;
    e->numbers.kept_tokens += choice->kept;
    e->numbers.completion_tokens += counts->completion_tokens;
    e->numbers.refreshes += counts->refreshes + counts->row_refreshes;
    e->numbers.reuses += counts->reuses;
    e->numbers.commits += counts->commits;
    pthread_mutex_unlock(&e->mutex);
}

/* Whether what a commit keeps are the bits of a prefill: otherwise only the prompt is kept, so that
 * no request depends on the one before. */
static bool keeps_completion(const fb_generate_options *options) {
    const fb_reuse_policy *reuse = &options->reuse;
    return !reuse->reuse_at_commit && (!reuse->rows || reuse->refresh_commit) && !options->sparse;
}

static void note(fb_serve_engine *e, size_t *number) {
    pthread_mutex_lock(&e->mutex);
    (*number)++;
    pthread_mutex_unlock(&e->mutex);
}

/* Each job that failed, and was not dropped, counts once. */
static void note_failure(fb_serve_engine *e, fb_serve_job *job) {
    if (job->failed)
        note(e, &e->numbers.failed);
    job->failed = false;
}

/* Whether a job's time is over. */
static bool is_late(const fb_serve_job *job) {
    return fb_seconds() - job->arrived > job->model->most_seconds;
}

/* A choice whose sequence has finished leaves its place. */
static void finish(fb_serve_engine *e, const fb_slot *slot) {
    fb_serve_choice *choice = e->choices[slot->prompt];
    const fb_sequence *sequence = slot->sequence;
    fb_prompt prompt = prompt_of(choice->job);
    const char *text = NULL;
    size_t size = 0, count = fb_sequence_num_completion(sequence);
    choice->finish_reason = sequence->finish_reason;
    choice->counts = sequence->counts;
    choice->counts.completion_tokens = count;
    if (slot->failure == FB_OK)
        fb_conversation_end(choice->conversation, &prompt, &choice->options,
                            sequence->tokens + sequence->num_prompt_tokens,
                            keeps_completion(&choice->options) ? count : 0);
    give_back(e, choice->conversation);
    choice->conversation = NULL;
    e->choices[slot->prompt] = NULL;
    add_numbers(e, choice);
    if (choice->finish_reason == FB_FINISH_CANCELLED && !choice->stopped && !choice->ended &&
        !is_late(choice->job))
        note(e, &e->numbers.cancelled);
    if (slot->failure != FB_OK) {
        fb_serve_job_fail(choice->job, slot->failure == FB_ERROR_MEMORY ? 503 : 500, "server_error",
                          slot->message);
    } else {
        if (!choice->stopped && fb_token_stream_finish(choice->stream, &text, &size) == FB_OK &&
            size > 0)
            fb_serve_job_add_text(choice, text, size);
        fb_serve_job_end_choice(choice);
    }
    note_failure(e, choice->job);
    fb_serve_job_release(choice->job);
}

/* --- the thread ------------------------------------------------------------------------------- */

/* The next choices of a job take places; each has a reference. */
static void join_choices(fb_serve_engine *e) {
    fb_serve_job *job = e->joining;
    while (job->num_begun < job->request.num_choices && fb_batch_num_free(e->batch) > 0) {
        fb_serve_choice *choice = &job->choices[job->num_begun++];
        if (job->num_begun == 1)
            job->begun = fb_seconds();
        atomic_fetch_add(&job->references, 1);
        fb_status status = join(e, choice);
        if (status == FB_OK)
            continue;
        fb_serve_job_release(job);
        fb_serve_job_fail_with(job, status);
        note_failure(e, job);
        job->num_begun = job->request.num_choices;
    }
    if (job->num_begun < job->request.num_choices)
        return;
    e->joining = NULL;
    fb_serve_job_release(job);
}

static bool is_over(const fb_serve_engine *e, fb_serve_job *job) {
    return atomic_load(&e->cancelling) || fb_serve_job_is_abandoned(job) || is_late(job);
}

/* A job that nobody waits for, or that waited too long, has no place. */
static void drop(fb_serve_engine *e, fb_serve_job *job) {
    note(e, &e->numbers.cancelled);
    fb_serve_job_fail(job, 503, "server_error",
                      is_late(job) ? "the request waited too long" : "the request was cancelled");
    fb_serve_job_release(job);
}

/* Such jobs free their places in the queue, too, however long those before them take. */
static void drop_queued(fb_serve_engine *e) {
    fb_serve_job *gone = NULL, **at = &e->first;
    pthread_mutex_lock(&e->mutex);
    e->last = NULL;
    while (*at) {
        fb_serve_job *job = *at;
        if (is_over(e, job)) {
            *at = job->next;
            job->next = gone;
            gone = job;
            e->num_queued--;
        } else {
            e->last = job;
            at = &job->next;
        }
    }
    pthread_mutex_unlock(&e->mutex);
    while (gone) {
        fb_serve_job *job = gone;
        gone = job->next;
        drop(e, job);
    }
}

static void join_jobs(fb_serve_engine *e) {
    while (fb_batch_num_free(e->batch) > 0) {
        if (!e->joining) {
            pthread_mutex_lock(&e->mutex);
            e->joining = take(e);
            pthread_mutex_unlock(&e->mutex);
        }
        if (!e->joining)
            return;
        if (is_over(e, e->joining)) {
            drop(e, e->joining);
            e->joining = NULL;
        } else {
            join_choices(e);
        }
    }
}

/* Clients that have gone, and texts whose time is over, free their places before the next pass. */
static void cancel_abandoned(fb_serve_engine *e) {
    for (size_t i = 0; i < fb_batch_num_active(e->batch); i++) {
        fb_serve_choice *choice = e->choices[fb_batch_slot(e->batch, i)->prompt];
        if (is_over(e, choice->job))
            fb_batch_cancel(e->batch, i);
    }
}

static void leave(fb_serve_engine *e) {
    for (size_t i = 0; i < fb_batch_num_active(e->batch); i++)
        if (fb_batch_slot(e->batch, i)->sequence->status == FB_SEQUENCE_FINISHED)
            finish(e, fb_batch_slot(e->batch, i));
    fb_batch_retire(e->batch);
}

/* A pass that fails as a whole fails what is in it. */
static void fail_all(fb_serve_engine *e) {
    char message[256];
    snprintf(message, sizeof message, "%s", fb_error_message());
    for (size_t i = 0; i < fb_batch_num_active(e->batch); i++) {
        fb_serve_choice *choice = e->choices[fb_batch_slot(e->batch, i)->prompt];
        if (!choice->ended)
            fb_serve_job_fail(choice->job, 500, "server_error", message);
        fb_batch_cancel(e->batch, i);
    }
}

static void pass(fb_serve_engine *e) {
    bool none = true;
    fb_status status = fb_batch_prefill(e->batch, PREFILL_TOKENS, &none);
    if (status == FB_OK)
        status = fb_batch_decode(e->batch);
    if (status != FB_OK)
        fail_all(e);
    const fb_batch_times *times = fb_batch_times_of(e->batch);
    pthread_mutex_lock(&e->mutex);
    e->numbers.passes = times->prefill_passes + times->decode_passes;
    e->numbers.seconds = times->prefill.total + times->decode.total;
    e->numbers.attention_seconds = times->prefill.attention + times->decode.attention;
    pthread_mutex_unlock(&e->mutex);
}

/* Waits for work; false: there is none any more. */
static bool wait_for_work(fb_serve_engine *e) {
    pthread_mutex_lock(&e->mutex);
    e->num_active = fb_batch_num_active(e->batch) + (e->joining != NULL);
    while (!e->first && e->num_active == 0 && !e->ending)
        pthread_cond_wait(&e->changed, &e->mutex);
    bool more = e->first || e->num_active > 0 || !e->ending;
    pthread_mutex_unlock(&e->mutex);
    return more;
}

static void *run(void *engine) {
    fb_serve_engine *e = engine;
    while (wait_for_work(e)) {
        drop_queued(e);
        join_jobs(e);
        cancel_abandoned(e);
        leave(e);
        if (fb_batch_num_active(e->batch) > 0)
            pass(e);
        leave(e);
    }
    return NULL;
}

/* --- beginning and end ------------------------------------------------------------------------ */

static fb_status start(fb_serve_engine *e, size_t parallel) {
    const fb_session *session = e->model->session;
    FB_TRY(fb_alloc_zeroed(parallel, sizeof *e->choices, "places", &e->choices));
    FB_TRY(fb_alloc_zeroed(parallel, sizeof *e->conversations, "places", &e->conversations));
    e->parallel = parallel;
    for (; e->num_idle < parallel; e->num_idle++)
        FB_TRY(fb_conversation_create(session->model, session->options.kv_dtype,
                                      &e->conversations[e->num_idle]));
    FB_TRY(fb_batch_create(session->model, parallel, false, &e->batch));
    if (pthread_create(&e->thread, NULL, run, e) != 0)
        return fb_fail(FB_ERROR_MEMORY, "the thread of the model cannot be created");
    e->started = true;
    return FB_OK;
}

fb_status fb_serve_engine_start(const fb_serve_model *model, size_t parallel, size_t queue,
                                fb_serve_engine **engine) {
    fb_serve_engine *e = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *e, "engine", &e));
    e->model = model;
    e->most_queued = queue;
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->changed, NULL);
    fb_status status = start(e, parallel);
    if (status == FB_OK)
        *engine = e;
    else
        fb_serve_engine_destroy(e);
    return status;
}

void fb_serve_engine_drain(fb_serve_engine *e, bool cancel) {
    pthread_mutex_lock(&e->mutex);
    e->ending = true;
    if (cancel)
        atomic_store(&e->cancelling, true);
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->mutex);
}

bool fb_serve_engine_is_idle(fb_serve_engine *e) {
    pthread_mutex_lock(&e->mutex);
    bool idle = !e->first && e->num_active == 0;
    pthread_mutex_unlock(&e->mutex);
    return idle;
}

void fb_serve_engine_stop(fb_serve_engine *e) {
    if (!e->started)
        return;
    fb_serve_engine_drain(e, false);
    pthread_join(e->thread, NULL);
    e->started = false;
}

void fb_serve_engine_destroy(fb_serve_engine *e) {
    if (!e)
        return;
    fb_serve_engine_stop(e);
    fb_batch_destroy(e->batch);
    for (size_t i = 0; i < e->num_idle; i++)
        fb_conversation_destroy(e->conversations[i]);
    fb_free(e->conversations);
    fb_free(e->choices);
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->mutex);
    fb_free(e);
}

/* --- metrics ---------------------------------------------------------------------------------- */

static fb_status metric(fb_buffer *out, const char *name, const char *type, const char *help,
                        double value) {
    char text[256];
    snprintf(text, sizeof text,
             "# HELP flashblock_%s %s\n# TYPE flashblock_%s %s\nflashblock_%s %.15g\n", name, help,
             name, type, name, value);
    return fb_buffer_append_text(out, text);
}

fb_status fb_serve_engine_metrics(fb_serve_engine *e, fb_buffer *out) {
    pthread_mutex_lock(&e->mutex);
    numbers n = e->numbers;
    size_t queued = e->num_queued, active = e->num_active;
    pthread_mutex_unlock(&e->mutex);
    const struct {
        const char *name, *type, *help;
        double value;
    } all[] = {
        {"requests_total", "counter", "requests for completions", (double)n.requests},
        {"requests_rejected_total", "counter", "requests that found no place in the queue",
         (double)n.rejected},
        {"requests_cancelled_total", "counter", "texts that their clients left",
         (double)n.cancelled},
        {"requests_failed_total", "counter", "requests that failed", (double)n.failed},
        {"prompt_tokens_total", "counter", "tokens of prompts", (double)n.prompt_tokens},
        {"kept_tokens_total", "counter", "tokens of prompts that were not read again",
         (double)n.kept_tokens},
        {"completion_tokens_total", "counter", "tokens written", (double)n.completion_tokens},
        {"refreshes_total", "counter", "denoising steps that computed external attention",
         (double)n.refreshes},
        {"reuses_total", "counter", "denoising steps that reused it", (double)n.reuses},
        {"commits_total", "counter", "blocks committed", (double)n.commits},
        {"passes_total", "counter", "forward passes", (double)n.passes},
        {"pass_seconds_total", "counter", "seconds in forward passes", n.seconds},
        {"attention_seconds_total", "counter", "of them in attention", n.attention_seconds},
        {"queue_length", "gauge", "requests that wait", (double)queued},
        {"active_sequences", "gauge", "texts that are being written", (double)active},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        FB_TRY(metric(out, all[i].name, all[i].type, all[i].help, all[i].value));
    return FB_OK;
}
