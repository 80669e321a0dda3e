#include "oracle/truth_cache.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/file_temporary.h"

#include <flashblock/version.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { MAX_HELD = 32 };

typedef struct held_values {
    const float *values;
    size_t count;
    bool hashed;
    XXH128_canonical_t hash;
} held_values;

struct fb_truth_cache {
    char *folder;
    held_values held[MAX_HELD];
    size_t num_held;
};

/* What a file begins with; the moments follow. */
typedef struct header {
    char magic[24];
    fb_truth_key key;
    uint64_t count;          /* of doubles */
    XXH128_canonical_t hash; /* of their bytes */
} header;

_Static_assert(sizeof(header) == 64, "it has no padding");

static const char magic[24] = "flashblock truth 1";

fb_status fb_truth_cache_open(const char *folder, fb_truth_cache **cache) {
    fb_truth_cache *made = NULL;
    size_t size = strlen(folder) + 1;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "kept truths", &made));
    fb_status status = fb_alloc(size, 1, "kept truths", &made->folder);
    if (status != FB_OK) {
        fb_free(made);
        return status;
    }
    memcpy(made->folder, folder, size);
    *cache = made;
    return FB_OK;
}

void fb_truth_cache_close(fb_truth_cache *cache) {
    if (!cache)
        return;
    fb_free(cache->folder);
    fb_free(cache);
}

/* --- keys ------------------------------------------------------------------------------------- */

static held_values *find_held(fb_truth_cache *cache, const float *values, size_t count) {
    for (size_t i = 0; i < cache->num_held; i++)
        if (cache->held[i].values == values && cache->held[i].count == count)
            return &cache->held[i];
    return NULL;
}

void fb_truth_cache_hold(fb_truth_cache *cache, const float *values, size_t count) {
    if (cache->num_held < MAX_HELD && !find_held(cache, values, count))
        cache->held[cache->num_held++] = (held_values){.values = values, .count = count};
}

void fb_truth_cache_release(fb_truth_cache *cache) {
    cache->num_held = 0;
}

static XXH128_canonical_t hash_of(const void *data, size_t size) {
    XXH128_canonical_t hash;
    XXH128_canonicalFromHash(&hash, XXH3_128bits(data, size));
    return hash;
}

static XXH128_canonical_t hash_values(fb_truth_cache *cache, const float *values, size_t count) {
    held_values *held = find_held(cache, values, count);
    if (!held)
        return hash_of(values, count * sizeof *values);
    if (!held->hashed)
        held->hash = hash_of(values, count * sizeof *values);
    held->hashed = true;
    return held->hash;
}

/* Below some 10 ms of work nothing is gained. */
bool fb_truth_cache_takes(const fb_attention_problem *p) {
    return (double)p->keys * (double)fb_attention_problem_values(p) >= 0x1p26;
}

/* Everything that the moments depend on: this version of them, sizes, and all inputs. */
fb_truth_key fb_truth_cache_key(fb_truth_cache *cache, const fb_attention_problem *p,
                                fb_weight_format weights) {
    const fb_mask *mask = &p->mask;
    size_t kv = p->batch * p->keys * p->kv_heads * p->head_dim;
    const uint64_t sizes[] = {FB_MOMENTS_VERSION, p->batch,
                              p->queries,         p->keys,
                              p->heads,           p->kv_heads,
                              p->head_dim,        (uint64_t)mask->kind,
                              mask->block_size,   mask->first_query,
                              mask->first_key,    p->key_lengths != NULL,
                              sizeof(size_t),     (uint64_t)weights.bits,
                              fb_moments_count(p)};
    const double numbers[] = {p->scale, weights.normal, weights.spacing};
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    (void)XXH3_128bits_reset(&state);
    (void)XXH3_128bits_update(&state, fb_version(), strlen(fb_version()) + 1);
    (void)XXH3_128bits_update(&state, sizes, sizeof sizes);
    (void)XXH3_128bits_update(&state, numbers, sizeof numbers);
    if (p->key_lengths)
        (void)XXH3_128bits_update(&state, p->key_lengths, p->batch * sizeof *p->key_lengths);
    (void)XXH3_128bits_update(&state, p->q, fb_attention_problem_values(p) * sizeof *p->q);
    const XXH128_canonical_t inputs[] = {hash_values(cache, p->k, kv),
                                         hash_values(cache, p->v, kv)};
    (void)XXH3_128bits_update(&state, inputs, sizeof inputs);
    XXH128_canonical_t hash;
    fb_truth_key key;
    XXH128_canonicalFromHash(&hash, XXH3_128bits_digest(&state));
    memcpy(key.bytes, hash.digest, sizeof key.bytes);
    return key;
}

/* --- files ------------------------------------------------------------------------------------ */

/* FOLDER/HASH.truth; NULL for want of memory. */
static char *path_of(const fb_truth_cache *cache, const fb_truth_key *key) {
    char name[2 * sizeof key->bytes + sizeof ".truth"], *path = NULL;
    for (size_t i = 0; i < sizeof key->bytes; i++)
        snprintf(name + 2 * i, 3, "%02x", key->bytes[i]);
    memcpy(name + 2 * sizeof key->bytes, ".truth", sizeof ".truth");
    return fb_path_join(cache->folder, name, &path) == FB_OK ? path : NULL;
}

static bool read_all(int fd, void *to, size_t size) {
    for (char *at = to; size > 0;) {
        ssize_t got = read(fd, at, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        at += got;
        size -= (size_t)got;
    }
    return true;
}

static bool write_all(int fd, const void *from, size_t size) {
    for (const char *at = from; size > 0;) {
        ssize_t put = write(fd, at, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return false;
        at += put;
        size -= (size_t)put;
    }
    return true;
}

/* A file of exactly these moments, from a regular file. */
static bool read_moments(int fd, const fb_truth_key *key, double *moments, size_t count) {
    struct stat status;
    header h;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) ||
        (uintmax_t)status.st_size != sizeof h + count * sizeof *moments)
        return false;
    if (!read_all(fd, &h, sizeof h) || memcmp(h.magic, magic, sizeof magic) != 0 ||
        memcmp(&h.key, key, sizeof h.key) != 0 || h.count != count ||
        !read_all(fd, moments, count * sizeof *moments))
        return false;
    const XXH128_canonical_t hash = hash_of(moments, count * sizeof *moments);
    return memcmp(&hash, &h.hash, sizeof hash) == 0;
}

bool fb_truth_cache_load(const fb_truth_cache *cache, const fb_truth_key *key,
                         const fb_attention_problem *p, fb_moments *moments) {
    size_t count = fb_moments_count(p);
    char *path = path_of(cache, key);
    /* not to wait for whoever writes a named pipe */
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    bool read = fd >= 0 && read_moments(fd, key, moments->memory, count);
    if (fd >= 0)
        close(fd);
    if (fd >= 0 && !read)
        memset(moments->memory, 0, count * sizeof *moments->memory);
    fb_free(path);
    return read;
}

static bool write_moments(int fd, const fb_truth_key *key, const double *moments, size_t count) {
    header h = {.key = *key, .count = count};
    memcpy(h.magic, magic, sizeof magic);
    h.hash = hash_of(moments, count * sizeof *moments);
    bool written = write_all(fd, &h, sizeof h) && write_all(fd, moments, count * sizeof *moments);
    return close(fd) == 0 && written;
}

void fb_truth_cache_save(const fb_truth_cache *cache, const fb_truth_key *key,
                         const fb_attention_problem *p, const fb_moments *moments) {
    char *path = path_of(cache, key), *temporary = NULL;
    if (!path)
        return;
    mkdir(cache->folder, 0777); /* it may be there */
    int fd = fb_file_temporary_open(path, &temporary);
    bool written = fd >= 0 && write_moments(fd, key, moments->memory, fb_moments_count(p));
    fb_file_hold_signals(); /* the file is removed, or has its name */
    if (written && rename(temporary, path) == 0)
        fb_file_temporary_forget(temporary);
    else
        fb_file_temporary_remove(temporary);
    fb_file_release_signals();
    fb_free(path);
}
