#include "oracle/case_model.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

fb_status fb_case_load_model(fb_case *c, fb_model **model) {
    const char *name = fb_case_text(c, "model"), *path = fb_case_path(c);
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    char beside[5000], above[5000], config[5100];
    if (!name || name[0] == '/' || strstr(name, ".."))
        return fb_fail(FB_ERROR_FORMAT, "%s: metadata model: expected a relative path", path);
    snprintf(beside, sizeof beside, "%.*s%s", folder, path, name);
    snprintf(above, sizeof above, "%.*s../%s", folder, path, name);
    snprintf(config, sizeof config, "%s/config.json", beside);
    return fb_model_load(access(config, R_OK) == 0 ? beside : above, model);
}
