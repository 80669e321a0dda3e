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
        fb_part_cache_destroy(slots->slots[i].parts);
        fb_sparse_destroy(slots->slots[i].sparse);
        fb_kv_cache_destroy(slots->slots[i].own_kv);
    }
    fb_free(slots->slots);
    *slots = (fb_slots){0};
}

fb_status fb_slots_admit(fb_slots *slots, const fb_schedule *schedule, const fb_prompt *prompts,
                         size_t num_prompts) {
    while (slots->num_active < slots->num_slots && slots->next_prompt < num_prompts) {
        fb_slot *slot = &slots->slots[slots->num_active];
        slot->prompt = slots->next_prompt;
        FB_TRY(fb_sequence_create(schedule, &prompts[slot->prompt], &slot->sequence));
        slots->num_active++;
        slots->next_prompt++;
    }
    return FB_OK;
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
        fb_sequence_destroy(slot->sequence);
        slot->sequence = NULL;
        move_to_end(slots, i);
        slots->num_active--;
    }
}
