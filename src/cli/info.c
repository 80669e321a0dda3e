/* flashblock info: what this build and this machine have. */
#include "cli/commands.h"
#include "cli/options/common_options.h"
#include "cli/options/options.h"
#include "cli/output.h"
#include "simd/kernels.h"

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

static void put_instruction_sets(fb_json_writer *w) {
    fb_json_open_array(w, "instruction_sets");
    for (int isa = 0; isa < FB_ISA_COUNT; isa++) {
        fb_json_open_object(w, NULL);
        fb_json_put_string(w, "name", fb_isa_name((fb_isa)isa));
        fb_json_put_bool(w, "built", fb_isa_built((fb_isa)isa));
        fb_json_put_bool(w, "supported", fb_isa_supported((fb_isa)isa));
        fb_json_close_object(w);
    }
    fb_json_close_array(w);
}

/* Whether each kernel is of the set that is fastest here: nobody has asked for a set. */
static bool takes_fastest(void) {
    const fb_kernels *kernels = NULL;
    return fb_kernels_current(&kernels) == FB_OK && kernels == fb_kernels_fastest();
}

static fb_isa set_of(fb_kernel kernel, fb_isa chosen) {
    return takes_fastest() ? fb_kernel_choice(kernel) : chosen;
}

static void put_kernels(fb_json_writer *w, fb_isa chosen) {
    fb_json_open_object(w, "kernels");
    for (fb_kernel kernel = 0; kernel < FB_NUM_KERNELS; kernel++)
        fb_json_put_string(w, fb_kernel_name(kernel), fb_isa_name(set_of(kernel, chosen)));
    fb_json_close_object(w);
}

/* A line for each set that has kernels: "avx2    scores f32, values f32". */
static void print_kernels(void) {
    enum { A_LINE = 6 };
    printf("%-18s%s\n", "kernels", fb_kernels_cpu());
    for (fb_isa isa = 0; isa < FB_ISA_COUNT; isa++) {
        size_t count = 0;
        for (fb_kernel kernel = 0; kernel < FB_NUM_KERNELS; kernel++)
            if (fb_kernel_choice(kernel) == isa) {
                const char *name = count == 0 ? fb_isa_name(isa) : "";
                if (count % A_LINE == 0)
                    printf("%s%-18s%-12s", count ? ",\n" : "", "", name);
                printf("%s%s", count % A_LINE ? ", " : "", fb_kernel_name(kernel));
                count++;
            }
        if (count > 0)
            printf("\n");
    }
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

static fb_status write_json(fb_isa chosen, const char *path) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    fb_json_put_string(&w, "version", fb_version());
    put_instruction_sets(&w);
    fb_json_put_string(&w, "instruction_set", fb_isa_name(chosen));
    put_kernels(&w, chosen);
    fb_json_put_int64(&w, "threads", fb_num_threads());
    fb_json_put_int64(&w, "page_size", sysconf(_SC_PAGESIZE));
    fb_json_put_string(&w, "compiler", compiler());
    fb_json_close_object(&w);
    return fb_write_json(&w, path);
}

static void print(fb_isa chosen) {
    printf("flashblock %s\n", fb_version());
    for (int isa = 0; isa < FB_ISA_COUNT; isa++)
        printf("%-18s%-12s%s, %s%s\n", isa == 0 ? "instruction sets" : "", fb_isa_name((fb_isa)isa),
               fb_isa_built((fb_isa)isa) ? "built" : "not built",
               fb_isa_supported((fb_isa)isa) ? "supported" : "not supported by this CPU",
               isa != (int)chosen ? ""
               : takes_fastest()  ? ", used where it is faster"
                                  : ", used");
    if (takes_fastest())
        print_kernels();
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
    return fb_report_status(write_json(isa, chosen.json));
}
