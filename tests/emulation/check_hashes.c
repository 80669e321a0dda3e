/* check_hashes ISA: recomputes every golden hash with one instruction set. It does the same as
 * `flashblock selftest`, but needs no file and no library other than libc: it is for an emulator
 * without an operating system. It prints in the format of the Test Anything Protocol. Exit status:
 * 0 no difference, 1 differences or errors, 2 wrong usage, 77 the instruction set is not in this
 * build or not in this CPU. */
#include "base/error.h"

#include <flashblock/experimental/oracle.h>
#include <flashblock/runtime.h>

#include <stdbool.h>
#include <stdio.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_SKIPPED = 77 };

static int fail(void) {
    printf("Bail out! %s\n", fb_error_message());
    return EXIT_FAILED;
}

static fb_status check_case(size_t index, const fb_hash_list *list, size_t *failed) {
    fb_hash_finding *finding = NULL;
    FB_TRY(fb_hash_case_check(index, list, &finding));
    bool same = fb_hash_finding_passed(finding);
    printf("%s %zu - %s\n", same ? "ok" : "not ok", index + 1, fb_hash_case_name(index));
    if (!same)
        printf("# %s\n", fb_hash_finding_detail(finding));
    *failed += !same;
    fb_hash_finding_destroy(finding);
    return FB_OK;
}

/* The last line names the instruction set that the library was using, not the one asked for. */
static int check_all(const fb_hash_list *list) {
    size_t failed = 0, count = fb_hash_case_count();
    printf("1..%zu\n", count);
    for (size_t i = 0; i < count; i++)
        if (check_case(i, list, &failed) != FB_OK)
            return fail();
    fb_isa used;
    if (fb_isa_current(&used) != FB_OK)
        return fail();
    printf("# isa %s: %zu hash cases, %zu failed\n", fb_isa_name(used), count, failed);
    return failed ? EXIT_FAILED : 0;
}

int main(int argc, char **argv) {
    fb_isa isa;
    fb_hash_list *list = NULL;
    if (argc != 2 || fb_isa_parse(argv[1], &isa) != FB_OK) {
        printf("usage: check_hashes ISA\n");
        return EXIT_USAGE;
    }
    if (!fb_isa_built(isa) || !fb_isa_supported(isa)) {
        printf("1..0 # SKIP this build or this CPU lacks %s\n", fb_isa_name(isa));
        return EXIT_SKIPPED;
    }
    if (fb_isa_select(isa) != FB_OK || fb_hash_list_open(NULL, &list) != FB_OK)
        return fail();
    int exit_status = check_all(list);
    fb_hash_list_close(list);
    return exit_status;
}
