/* The golden files of a folder, so that each file put there is tested; and the golden models. */
#ifndef FB_TESTS_GOLDEN_LIST_H
#define FB_TESTS_GOLDEN_LIST_H

#include "tests/golden_case.h"

#include <flashblock/model.h>

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stddef.h>

typedef struct golden_file {
    char name[256]; /* as golden_open takes it */
} golden_file;

/* All "folder/PREFIX*.safetensors" of golden_folder(), sorted by name, in memory that Criterion
 * hands to parameterised tests (cr_malloc). Returns their number; 0 if there is no such folder. */
size_t golden_list(const char *folder, const char *prefix, golden_file **files);

/* Only the number of these files, for a test that there are any. */
size_t golden_count(const char *folder, const char *prefix);

/* Defines one test for each of these files:
 *     GOLDEN_TEST(suite, name, "folder", "PREFIX") { ... golden_case *c is open here ... } */
#define GOLDEN_TEST(suite, test, folder, prefix)                                                   \
    static void suite##_##test##_case(golden_case *c);                                             \
    ParameterizedTestParameters(suite, test) {                                                     \
        golden_file *files;                                                                        \
        size_t count = golden_list(folder, prefix, &files);                                        \
        return cr_make_param_array(golden_file, files, count);                                     \
    }                                                                                              \
    ParameterizedTest(golden_file *file, suite, test) {                                            \
        golden_case *c = golden_open(file->name);                                                  \
        suite##_##test##_case(c);                                                                  \
        golden_close(c);                                                                           \
    }                                                                                              \
    static void suite##_##test##_case(golden_case *c)

/* Loads "model/NAME" of golden_folder(), or fails the test. The caller destroys the model. */
fb_model *golden_model(const char *name);

#endif
