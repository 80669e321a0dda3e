/* flashblock info: what this build and this machine have. */
#include "cli/commands.h"
#include "cli/options/common_options.h"
#include "cli/options/options.h"
#include "cli/output.h"

#include <flashblock/runtime.h>
#include <flashblock/version.h>

#include <stdio.h>
#include <unistd.h>

typedef struct settings {
    const char *json;
} settings;

static const fb_option options[] = {
    FB_JSON_OPTION(settings, json, "write it as JSON to FILE, or to standard output"),
};

static const fb_option_table table = {
    .usage = "info [OPTION]...",
    .summary = "Prints the version, the instruction sets of this build and this CPU, the one that\n"
               "is used (FLASHBLOCK_ISA overrides it), and threads (OMP_NUM_THREADS).",
    FB_TABLE_OPTIONS(options),
};

static json_t *instruction_sets(void) {
    json_t *list = json_array();
    for (int isa = 0; isa < FB_ISA_COUNT; isa++)
        json_array_append_new(list, json_pack("{s:s, s:b, s:b}", "name", fb_isa_name((fb_isa)isa),
                                              "built", fb_isa_built((fb_isa)isa), "supported",
                                              fb_isa_supported((fb_isa)isa)));
    return list;
}

static const char *compiler(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}

static json_t *gather(fb_isa chosen) {
    return json_pack("{s:s, s:o, s:s, s:i, s:I, s:s}", "version", fb_version(), "instruction_sets",
                     instruction_sets(), "instruction_set", fb_isa_name(chosen), "threads",
                     fb_num_threads(), "page_size", (json_int_t)sysconf(_SC_PAGESIZE), "compiler",
                     compiler());
}

static void print(fb_isa chosen) {
    printf("flashblock %s\n", fb_version());
    for (int isa = 0; isa < FB_ISA_COUNT; isa++)
        printf("%-18s%-8s%s, %s%s\n", isa == 0 ? "instruction sets" : "", fb_isa_name((fb_isa)isa),
               fb_isa_built((fb_isa)isa) ? "built" : "not built",
               fb_isa_supported((fb_isa)isa) ? "supported" : "not supported by this CPU",
               isa == (int)chosen ? ", used" : "");
    printf("%-18s%d\n", "threads", fb_num_threads());
    printf("%-18s%ld bytes\n", "page size", sysconf(_SC_PAGESIZE));
    printf("%-18s%s\n", "compiler", compiler());
}

int fb_command_info(int argc, char **argv) {
    settings chosen = {0};
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &chosen, &exit_status))
        return exit_status;
    fb_isa isa;
    fb_status status = fb_isa_current(&isa);
    if (status != FB_OK)
        return fb_report_status(status);
    if (!chosen.json) {
        print(isa);
        return FB_EXIT_OK;
    }
    return fb_report_status(fb_write_json(gather(isa), chosen.json));
}
