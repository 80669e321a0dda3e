#include "model/loop_choice.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"

#include <stdio.h>
#include <string.h>

enum { MAX_FILE = 8 * 1024 * 1024, MAX_NAME = 128 };

/* "modeling_x.py" of "modeling_x.Class", or of "owner/name--modeling_x.Class". False if it is no
 * plain name. */
static bool file_of_class(const char *class, char name[MAX_NAME]) {
    const char *repository = class ? strstr(class, "--") : NULL;
    const char *module = repository ? repository + 2 : class;
    size_t length = module ? strcspn(module, ".") : 0;
    if (length == 0 || length + sizeof ".py" > MAX_NAME || memchr(module, '/', length))
        return false;
    snprintf(name, MAX_NAME, "%.*s.py", (int)length, module);
    return true;
}

fb_status fb_loop_choose_llada2(const char *directory, const fb_json *config,
                                fb_decoding_loop *loop, fb_warnings *warnings) {
    const fb_json *map = fb_json_object_get(config, "auto_map");
    const char *class = fb_json_string(fb_json_object_get(map, "AutoModelForCausalLM"));
    char name[MAX_NAME] = "modeling_llada2_moe.py", *path = NULL, *text = NULL;
    size_t size = 0;
    (void)file_of_class(class, name);
    *loop = FB_LOOP_LLADA2;
    FB_TRY(fb_path_join(directory, name, &path));
    fb_status status = FB_OK;
    if (!fb_file_exists(path))
        status = fb_warn(warnings,
                         "%s: there is no %s, which tells LLaDA2.0 from LLaDA2.1: the loop llada2 "
                         "is taken, which does not edit",
                         directory, name);
    else
        status = fb_file_read_text(path, MAX_FILE, &text, &size);
    if (text && strstr(text, "editing_threshold"))
        *loop = FB_LOOP_LLADA2_EDITING;
    fb_free(text);
    fb_free(path);
    return status;
}
