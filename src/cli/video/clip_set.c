#include "cli/video/clip_set.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"

#include <math.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 2, MAX_SIDE = 1 << 15 };

static unsigned char byte_of(double value) {
    double rounded = floor(value + 0.5);
    return (unsigned char)(rounded < 0.0 ? 0.0 : rounded > 255.0 ? 255.0 : rounded);
}

/* Channel `channel`, from 0 to 1, of the pixel of the enlarged picture. */
static double shade(const fb_clip_set *set, size_t clip, size_t frame, size_t channel, size_t y,
                    size_t x) {
    size_t row = y / set->scale, column = x / set->scale;
    size_t at = ((frame * 3 + channel) * set->height + row) * set->width + column;
    double value = 0.5 + 0.5 * (double)set->clips[clip][at];
    return !(value > 0.0) ? 0.0 : value > 1.0 ? 1.0 : value;
}

/* --- YUV4MPEG2 -------------------------------------------------------------------------------- */

/* Y, Cb and Cr of BT.601, studio range, from R, G and B in [0, 1]. */
static unsigned char studio(size_t plane, double r, double g, double b) {
    static const double rows[3][4] = {{65.481, 128.553, 24.966, 16.0},
                                      {-37.797, -74.203, 112.0, 128.0},
                                      {112.0, -93.786, -18.214, 128.0}};
    return byte_of(rows[plane][0] * r + rows[plane][1] * g + rows[plane][2] * b + rows[plane][3]);
}

/* One frame of all clips: planes [3, height, all widths], enlarged. */
static void fill_planes(const fb_clip_set *set, size_t frame, unsigned char *planes) {
    size_t height = set->height * set->scale, width = set->width * set->scale;
    for (size_t plane = 0; plane < 3; plane++)
        for (size_t y = 0; y < height; y++)
            for (size_t clip = 0; clip < set->num_clips; clip++)
                for (size_t x = 0; x < width; x++)
                    *planes++ =
                        studio(plane, shade(set, clip, frame, 0, y, x),
                               shade(set, clip, frame, 1, y, x), shade(set, clip, frame, 2, y, x));
}

static fb_status put_frames(const fb_clip_set *set, const char *header, unsigned char *planes,
                            size_t size, fb_file_writer *writer) {
    FB_TRY(fb_file_writer_put(writer, header, strlen(header)));
    for (size_t frame = 0; frame < set->num_frames; frame++) {
        fill_planes(set, frame, planes);
        FB_TRY(fb_file_writer_put(writer, "FRAME\n", 6));
        FB_TRY(fb_file_writer_put(writer, planes, size));
    }
    return FB_OK;
}

static fb_status check_size(size_t width, size_t height, const char *path) {
    if (width > MAX_SIDE || height > MAX_SIDE)
        return fb_fail(FB_ERROR_ARGUMENT, "%s: a picture of %zu x %zu, expected at most %d", path,
                       width, height, MAX_SIDE);
    return FB_OK;
}

fb_status fb_clip_set_write_y4m(const fb_clip_set *set, size_t frames_per_second,
                                const char *path) {
    size_t height = set->height * set->scale, width = set->num_clips * set->width * set->scale;
    char header[128];
    unsigned char *planes = NULL;
    fb_file_writer *writer = NULL;
    FB_TRY(check_size(width, height, path));
    snprintf(header, sizeof header, "YUV4MPEG2 W%zu H%zu F%zu:1 Ip A1:1 C444\n", width, height,
             frames_per_second);
    FB_TRY(fb_alloc(3 * width, height, "frame", &planes));
    fb_status status = fb_file_writer_open(path, &writer);
    if (status == FB_OK)
        status = put_frames(set, header, planes, 3 * width * height, writer);
    fb_free(planes);
    if (status == FB_OK)
        return fb_file_writer_commit(writer);
    fb_file_writer_abandon(writer);
    return status;
}

/* --- PNG -------------------------------------------------------------------------------------- */

/* pixels [sheet height, sheet width, 3], white at first */
static void fill_sheet(const fb_clip_set *set, size_t sheet_width, unsigned char *pixels) {
    size_t height = set->height * set->scale, width = set->width * set->scale;
    for (size_t clip = 0; clip < set->num_clips; clip++)
        for (size_t frame = 0; frame < set->num_frames; frame++)
            for (size_t y = 0; y < height; y++) {
                size_t top = GAP + clip * (height + GAP) + y, left = GAP + frame * (width + GAP);
                unsigned char *to = pixels + 3 * (top * sheet_width + left);
                for (size_t x = 0; x < width; x++)
                    for (size_t channel = 0; channel < 3; channel++)
                        *to++ = byte_of(255.0 * shade(set, clip, frame, channel, y, x));
            }
}

static fb_status write_png(const unsigned char *pixels, size_t width, size_t height,
                           const char *path) {
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)width,
                       .height = (png_uint_32)height,
                       .format = PNG_FORMAT_RGB};
    png_alloc_size_t size = 0;
    void *bytes = NULL;
    if (!png_image_write_get_memory_size(image, size, 0, pixels, 0, NULL))
        return fb_fail(FB_ERROR_MEMORY, "%s: %s", path, image.message);
    FB_TRY(fb_alloc(size, 1, "PNG", &bytes));
    fb_status status = FB_OK;
    if (!png_image_write_to_memory(&image, bytes, &size, 0, pixels, 0, NULL))
        status = fb_fail(FB_ERROR_MEMORY, "%s: %s", path, image.message);
    if (status == FB_OK)
        status = fb_file_write(path, bytes, size);
    fb_free(bytes);
    return status;
}

fb_status fb_clip_set_write_sheet(const fb_clip_set *set, const char *path) {
    size_t width = GAP + set->num_frames * (set->width * set->scale + GAP);
    size_t height = GAP + set->num_clips * (set->height * set->scale + GAP);
    unsigned char *pixels = NULL;
    FB_TRY(check_size(width, height, path));
    FB_TRY(fb_alloc(3 * width, height, "sheet", &pixels));
    memset(pixels, 255, 3 * width * height);
    fill_sheet(set, width, pixels);
    fb_status status = write_png(pixels, width, height, path);
    fb_free(pixels);
    return status;
}
