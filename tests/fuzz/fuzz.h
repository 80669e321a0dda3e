/* Shared by the harnesses: inputs that are several files, a folder for them, and mutations that
 * keep the structure of a file. A harness is one file NAME.c with LLVMFuzzerTestOneInput, and one
 * line in meson.build. */
#ifndef FB_TESTS_FUZZ_FUZZ_H
#define FB_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What libFuzzer calls, and calls of it. https://llvm.org/docs/LibFuzzer.html */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* --- inputs that are several files ------------------------------------------------------------ */

/* A part of an input. The parts follow each other: 4 bytes of length, little-endian, then the
 * bytes. A length beyond the end means all that is left. */
typedef struct fuzz_part {
    const uint8_t *data;
    size_t size;
} fuzz_part;

enum { FUZZ_MAX_PARTS = 8 };

/* Gives `count` parts; those that the input does not have are empty. */
void fuzz_split(const uint8_t *data, size_t size, fuzz_part *parts, size_t count);

/* --- files ------------------------------------------------------------------------------------ */

/* The path of `name` in a folder of this process, which is in memory where the system allows it.
 * The folder is removed at exit. Valid for the next seven calls. */
const char *fuzz_path(const char *name);

/* Writes a file there; with an empty part, removes it. Returns its path. */
const char *fuzz_write(const char *name, fuzz_part part);

/* --- mutation --------------------------------------------------------------------------------- */

/* A copy of what the harness gives to the code under test ends where the memory ends, so that the
 * address sanitizer sees a read beyond it. libFuzzer's own buffer does so, too. */

/* Mutates a file by its kind, which its first bytes say: safetensors, JSON, or anything. Each takes
 * and gives a size; the result has at most `max` bytes. Random numbers are rand() of the seed that
 * fuzz_seed was given. */
void fuzz_seed(unsigned seed);
size_t fuzz_random(size_t below);
size_t fuzz_mutate_file(uint8_t *data, size_t size, size_t max);
size_t fuzz_mutate_json(uint8_t *text, size_t size, size_t max);
size_t fuzz_mutate_safetensors(uint8_t *data, size_t size, size_t max);

/* Replaces the whole number `from` by `to`: in JSON wherever it stands; in safetensors also as a
 * size in shapes, where the bytes of the tensors follow. */
size_t fuzz_rescale_json(uint8_t *text, size_t size, size_t max, size_t from, size_t to);
size_t fuzz_rescale_safetensors(uint8_t *data, size_t size, size_t max, size_t from, size_t to);

/* A whole number that the file has, or 0. */
size_t fuzz_pick_number(const uint8_t *text, size_t size);

/* For LLVMFuzzerCustomMutator of a harness whose input is one file, or `count` parts. In the latter
 * case one part is mutated, or one number in all of them. */
size_t fuzz_mutate_one(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t fuzz_mutate_parts(uint8_t *data, size_t size, size_t max, unsigned seed, size_t count);

#endif
