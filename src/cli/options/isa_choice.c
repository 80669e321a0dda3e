#include "cli/options/isa_choice.h"

#include "base/error.h"

#include <string.h>

fb_status fb_isa_choice_parse_one(const char *text, void *choice) {
    fb_isa isa = FB_ISA_SCALAR;
    FB_TRY(fb_isa_parse(text, &isa));
    *(int *)choice = (int)isa;
    return FB_OK;
}

fb_status fb_isa_choice_parse(const char *text, void *choice) {
    if (strcmp(text, "all") != 0)
        return fb_isa_choice_parse_one(text, choice);
    *(int *)choice = FB_ISA_CHOICE_ALL;
    return FB_OK;
}

fb_status fb_isa_choice_set(size_t threads, int choice) {
    if (threads)
        FB_TRY(fb_set_num_threads((int)threads));
    return choice >= 0 ? fb_isa_select((fb_isa)choice) : FB_OK;
}

bool fb_isa_choice_has(int choice, fb_isa current, fb_isa isa) {
    if (choice == FB_ISA_CHOICE_ALL)
        return fb_isa_built(isa) && fb_isa_supported(isa);
    return isa == (choice == FB_ISA_CHOICE_CURRENT ? current : (fb_isa)choice);
}
