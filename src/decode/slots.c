#include "decode/slots.h"

#include "base/error.h"
#include "base/memory.h"

#include <flashblock/experimental/sparse.h>

#include <string.h>

fb_status fb_slots_create(size_t num_slots, fb_slots *slots) {
    fb_slot *memory;
    FB_TRY(fb_alloc_zeroed(num_slots, sizeof *memory, "slots", &memory));
    *slots = (fb_slots){.slots = memory, .num_slots = num_slots};
    return FB_OK;
}

void fb_slots_destroy(fb_slots *slots) {
    for (size_t i = 0; i < slots->num_slots; i++) {
        fb_sequence_destroy(slots->slots[i].sequence);
        fb_free(slots->slots[i].settings);
        fb_free(slots->slots[i].logits);
        fb_part_cache_destroy(slots->slots[i].parts);
        fb_sparse_destroy(slots->slots[i].sparse);
        fb_kv_cache_destroy(slots->slots[i].own_kv);
    }
    fb_free(slots->slots);
    *slots = (fb_slots){0};
}

fb_status fb_slots_admit(fb_slots *slots, const fb_schedule *schedule, const fb_prompt *prompt,
                         size_t number) {
    fb_slot *slot = &slots->slots[slots->num_active];
    FB_TRY(fb_sequence_create(schedule, prompt, &slot->sequence));
    slot->prompt = number;
    slot->failure = FB_OK;
    slots->num_active++;
    return FB_OK;
}

static void empty(fb_slot *slot) {
    fb_sequence_destroy(slot->sequence);
    fb_free(slot->settings);
    slot->sequence = NULL;
    slot->settings = NULL;
    slot->kv = NULL;
}

void fb_slots_dismiss(fb_slots *slots) {
    empty(&slots->slots[--slots->num_active]);
}

static void move_to_end(fb_slots *slots, size_t index) {
    fb_slot moving = slots->slots[index];
    size_t after = slots->num_slots - 1 - index;
    memmove(&slots->slots[index], &slots->slots[index + 1], after * sizeof moving);
    slots->slots[slots->num_slots - 1] = moving;
}

void fb_slots_retire(fb_slots *slots) {
    for (size_t i = 0; i < slots->num_active;) {
        fb_slot *slot = &slots->slots[i];
        if (slot->sequence->status != FB_SEQUENCE_FINISHED) {
            i++;
            continue;
        }
        empty(slot);
        move_to_end(slots, i);
        slots->num_active--;
    }
}
