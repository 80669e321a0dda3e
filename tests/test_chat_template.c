/* Which chat templates are ChatML. */
#include "io/chat_template.h"
#include "tests/temporary.h"

#include <flashblock/status.h>

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#define TURN   "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}"
#define LOOP   "{% for m in messages %}" TURN "{% endfor %}"
#define ANSWER "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

/* As long templates of models with tools and thinking are built, in words of our own. */
static const char with_tools[] =
    "{%- if tools %}\n"
    "    {{- '<|im_start|>system\\n' }}\n"
    "    {%- if messages[0].role == 'system' %}\n"
    "        {{- messages[0].content + '\\n\\n' }}\n"
    "    {%- endif %}\n"
    "    {{- \"# Functions\\n\\nThese are inside <tools></tools>:\\n<tools>\" }}\n"
    "    {%- for tool in tools %}\n"
    "        {{- \"\\n\" }}\n"
    "        {{- tool | tojson }}\n"
    "    {%- endfor %}\n"
    "    {{- \"\\n</tools>\\n{\\\"name\\\": <name>}\\n</tool_call><|im_end|>\\n\" }}\n"
    "{%- else %}\n"
    "    {%- if messages[0].role == 'system' %}\n"
    "        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}\n"
    "    {%- endif %}\n"
    "{%- endif %}\n"
    "{#- a comment with 'a quote #}\n"
    "{%- set ns = namespace(last=messages|length - 1, open=true) %}\n"
    "{%- for message in messages[::-1] %}\n"
    "    {%- set index = (messages|length - 1) - loop.index0 %}\n"
    "    {%- if ns.open and not(message.content.startswith('<tool_response>')) %}\n"
    "        {%- set ns.open = false %}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- for message in messages %}\n"
    "    {%- if message.content is string %}\n"
    "        {%- set content = message.content %}\n"
    "    {%- else %}\n"
    "        {%- set content = '' %}\n"
    "    {%- endif %}\n"
    "    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) %}\n"
    "        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n"
    "    {%- elif message.role == \"assistant\" %}\n"
    "        {%- if '</think>' in content %}\n"
    "            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n"
    "        {%- endif %}\n"
    "        {{- '<|im_start|>' + message.role + '\\n<think>\\n' + content.strip('\\n') }}\n"
    "        {{- '<|im_end|>\\n' }}\n"
    "    {%- elif message.role == \"tool\" %}\n"
    "        {{- '<|im_start|>user' }}\n"
    "        {{- '\\n<tool_response>\\n' }}\n"
    "        {{- content }}\n"
    "        {{- '\\n</tool_response>' }}\n"
    "        {{- '<|im_end|>\\n' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n"
    "    {%- if enable_thinking is defined and enable_thinking is false %}\n"
    "        {{- '<think>\\n\\n</think>\\n\\n' }}\n"
    "    {%- endif %}\n"
    "{%- endif %}\n";

/* The text with `end` for each line end. */
static const char *with_line_ends(const char *text, const char *end) {
    static char copy[2 * sizeof with_tools];
    size_t used = 0;
    for (; *text; text++) {
        const char *put = *text == '\n' ? end : (const char[]){*text, '\0'};
        cr_assert(used + strlen(put) < sizeof copy);
        strcpy(copy + used, put);
        used += strlen(put);
    }
    return copy;
}

Test(chat_template, those_that_are_chatml) {
    static const char *const texts[] = {
        LOOP ANSWER,
        with_tools,
        /* as text between tags */
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "{%- for m in messages -%}\n{%- if m.role == 'user' -%}\n<|im_start|>user\n{{ m.content }}"
        "<|im_end|>\n{% endif %}\n{%- endfor -%}\n{% if add_generation_prompt %}\n"
        "<|im_start|>assistant\n{% endif %}",
        LOOP "{{ '<|im_start|>assistant\\n' if add_generation_prompt else '' }}",
        "{% for m in messages %}{{ \"<|im_start|>\" ~ m.role ~ \"\\n\" ~ m.content ~ "
        "\"<|im_end|>\\n\" }}{% endfor %}{% if add_generation_prompt and messages %}"
        "{{ '<|im_start|>' }}{{ 'assistant\\n' }}{% endif %}",
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
        "{% endif %}" LOOP ANSWER,
    };
    static const char *const ends[] = {"\n", "\r\n", "\r"}; /* all are \n to Jinja */
    for (size_t i = 0; i < 3 * sizeof texts / sizeof *texts; i++) {
        const char *text = with_line_ends(texts[i / 3], ends[i % 3]);
        cr_expect_eq(fb_chat_template_check(text, strlen(text), "template"), FB_OK,
                     "template %zu, line end %zu: %s", i / 3, i % 3, fb_error_message());
    }
}

Test(chat_template, those_that_are_not) {
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "no turn"},
        {LOOP, "add_generation_prompt adds nothing"},
        {"{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}", "[INST]"},
        {"{{ bos_token }}" LOOP ANSWER, "it prints bos_token"},
        {"{% for m in messages %}{{ m.content + eos_token }}{% endfor %}", "it prints eos_token"},
        {"{% for m in messages %}<|start_header_id|>{{ m.role }}{% endfor %}",
         "<|start_header_id|>"},
        {"<|endoftext|>" LOOP ANSWER, "it prints text before the first turn: <|endoftext|>"},
        {"Hello." LOOP ANSWER, "it prints text before the first turn: Hello."},
        {"{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ "
         "'<|im_start|>system\\nYou are kind.<|im_end|>\\n' }}{% endif %}" TURN
         "{% endfor %}" ANSWER,
         "a system turn of its own: You are kind."},
        {"{% set system = 'You are kind.' %}" LOOP ANSWER, "it has a text of its own"},
        {LOOP "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}",
         "add_generation_prompt adds <|im_start|>assistant?<think>?"},
        {LOOP "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
              "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>' }}"
              "{% else %}{{ '<think>\\n' }}{% endif %}{% endif %}",
         "add_generation_prompt adds"},
        {LOOP "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
              "{% if not enable_thinking %}{{ '<think>' }}{% endif %}{% endif %}",
         "a condition on what begins the answer"},
        {LOOP "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}",
         "add_generation_prompt adds <|im_start|>assistant"},
        {"{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content | trim + "
         "'<|im_end|>\\n' }}{% endfor %}" ANSWER,
         "no turn"},
        {"{% for m in messages %}{{ '<|im_start|>user\\nQ: ' + m.content + '<|im_end|>\\n' }}"
         "{% endfor %}" ANSWER,
         "no turn"},
        {"{% for m in messages %}{{ '<|im_start|>user\\n' + m.content.strip() + '<|im_end|>\\n' }}"
         "{% endfor %}" ANSWER,
         "no turn"},
        {"{% macro turn(m) %}{% endmacro %}" LOOP ANSWER, "a statement that is not known: macro"},
        {"{% for m in messages %}{{ m.content", "a tag without its end"},
        {"{% endif %}", "an end without a beginning"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect_eq(fb_chat_template_check(cases[i].text, strlen(cases[i].text), "the template"),
                     FB_ERROR_UNSUPPORTED, "%s", cases[i].text);
        cr_expect(strstr(fb_error_message(), "the template is not ChatML: ") &&
                      strstr(fb_error_message(), cases[i].words),
                  "%s: '%s' does not say '%s'", cases[i].text, fb_error_message(), cases[i].words);
    }
}

static int try_template(const void *data, size_t size, void *context) {
    (void)context;
    return fb_chat_template_check(data, size, "template") == FB_OK;
}

Test(chat_template, damaged_ones) {
    try_variants(with_tools, sizeof with_tools - 1, 3000, try_template, NULL);
}

static void expect_directory(const char *directory, fb_status status, const char *words) {
    fb_chat_format format;
    cr_expect_eq(fb_chat_template_of_directory(directory, &format), status, "%s: %s", words,
                 fb_error_message());
    cr_expect(status == FB_OK || strstr(fb_error_message(), words), "'%s' does not say '%s'",
              fb_error_message(), words);
}

Test(chat_template, of_a_directory) {
    const char *directory = temporary_make();
    expect_directory(directory, FB_OK, "no files");
    temporary_write_text("tokenizer_config.json", "{\"chat_template\": null}");
    expect_directory(directory, FB_OK, "no template");
    temporary_write_text("tokenizer_config.json", "{\"chat_template\": \"{{ bos_token }}\"}");
    expect_directory(directory, FB_ERROR_UNSUPPORTED,
                     "tokenizer_config.json: chat_template is not");
    temporary_write_text("tokenizer_config.json",
                         "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"x\"}]}");
    expect_directory(directory, FB_ERROR_UNSUPPORTED, "has none named \"default\"");
    temporary_write_text("tokenizer_config.json",
                         "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"x\"},"
                         "{\"name\": \"default\", \"template\": \"{{ eos_token }}\"}]}");
    expect_directory(directory, FB_ERROR_UNSUPPORTED, "it prints eos_token");
    temporary_write_text("tokenizer_config.json", "{\"chat_template\": 7}");
    expect_directory(directory, FB_ERROR_FORMAT, "chat_template is 7");
    temporary_write_text("chat_template.jinja", LOOP ANSWER); /* goes first */
    expect_directory(directory, FB_OK, "");
    temporary_write_text("chat_template.jinja", LOOP);
    expect_directory(directory, FB_ERROR_UNSUPPORTED, "chat_template.jinja is not ChatML");
    temporary_remove();
}
