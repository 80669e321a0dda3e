#include "isa_choice.h"

#include "error.h"

#include <string.h>

fb_status fb_isa_choice_parse(const char *text, void *choice) {
    fb_isa isa = FB_ISA_SCALAR;
    if (strcmp(text, "all") == 0) {
        *(int *)choice = FB_ISA_CHOICE_ALL;
        return FB_OK;
    }
    FB_TRY(fb_isa_parse(text, &isa));
    *(int *)choice = (int)isa;
    return FB_OK;
}

bool fb_isa_is_chosen(int choice, fb_isa current, fb_isa isa) {
    if (choice == FB_ISA_CHOICE_ALL)
        return fb_isa_built(isa) && fb_isa_supported(isa);
    return isa == (choice == FB_ISA_CHOICE_CURRENT ? current : (fb_isa)choice);
}
