/* Chat templates: whether they are ChatML. */
#include "io/chat_template.h"

#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fb_chat_template_check((const char *)data, size, "fuzz");
    return 0;
}
