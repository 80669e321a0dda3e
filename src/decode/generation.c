#include "decode/generation.h"

#include "base/error.h"
#include "base/memory.h"

#include <string.h>

fb_status fb_generation_create(size_t num_prompts, fb_generation **generation) {
    fb_generation *created = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "generation", &created));
    fb_status status =
        fb_alloc_zeroed(num_prompts, sizeof *created->entries, "results", &created->entries);
    if (status != FB_OK) {
        fb_free(created);
        return status;
    }
    created->num_results = num_prompts;
    created->stats.counts = &created->counts;
    for (size_t i = 0; i < num_prompts; i++) {
        created->entries[i].result.counts = &created->entries[i].counts;
        created->entries[i].result.finish_reason = FB_FINISH_CANCELLED;
    }
    *generation = created;
    return FB_OK;
}

void fb_generation_destroy(fb_generation *generation) {
    if (generation == NULL)
        return;
    for (size_t i = 0; i < generation->num_results; i++) {
        fb_free(generation->entries[i].tokens);
        fb_free(generation->entries[i].unmask_step);
    }
    fb_free(generation->entries);
    fb_free(generation);
}

/* --- filling it in ---------------------------------------------------------------------------- */

static void add_counts(fb_generate_counts *sum, const fb_generate_counts *counts) {
    sum->prefill_tokens += counts->prefill_tokens;
    sum->denoising_steps += counts->denoising_steps;
    sum->refreshes += counts->refreshes;
    sum->stores += counts->stores;
    sum->reuses += counts->reuses;
    sum->commits += counts->commits;
    sum->accepted_tokens += counts->accepted_tokens;
    sum->completion_tokens += counts->completion_tokens;
    sum->row_refreshes += counts->row_refreshes;
    sum->external_rows += counts->external_rows;
    sum->edited_tokens += counts->edited_tokens;
}

fb_status fb_generation_take(fb_generation *generation, size_t prompt, const int32_t *tokens,
                             const int32_t *unmask_step, size_t num_tokens,
                             fb_finish_reason finish_reason, const fb_generate_counts *counts) {
    fb_generation_entry *entry = &generation->entries[prompt];
    FB_TRY(fb_alloc(num_tokens, sizeof *tokens, "completion", &entry->tokens));
    FB_TRY(fb_alloc(num_tokens, sizeof *unmask_step, "completion", &entry->unmask_step));
    memcpy(entry->tokens, tokens, num_tokens * sizeof *tokens);
    memcpy(entry->unmask_step, unmask_step, num_tokens * sizeof *unmask_step);
    entry->result.tokens = entry->tokens;
    entry->result.unmask_step = entry->unmask_step;
    entry->result.num_tokens = num_tokens;
    entry->result.finish_reason = finish_reason;
    entry->counts = *counts;
    add_counts(&generation->counts, counts);
    return FB_OK;
}

void fb_sparse_counts_add(fb_sparse_counts *sum, const fb_sparse_counts *counts) {
    sum->layers += counts->layers;
    sum->selections += counts->selections;
    sum->forced_refreshes += counts->forced_refreshes;
    sum->keys_selected += counts->keys_selected;
    sum->keys_residual += counts->keys_residual;
    sum->keys += counts->keys;
}

/* --- reading it ------------------------------------------------------------------------------- */

size_t fb_generation_num_results(const fb_generation *generation) {
    return generation->num_results;
}

const fb_generate_result *fb_generation_result(const fb_generation *generation, size_t index) {
    return index < generation->num_results ? &generation->entries[index].result : NULL;
}

const fb_generate_stats *fb_generation_stats(const fb_generation *generation) {
    return &generation->stats;
}

const fb_sparse_counts *fb_generation_sparse_counts(const fb_generation *generation) {
    return &generation->sparse;
}
