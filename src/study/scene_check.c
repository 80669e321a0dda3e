#include "study/scene_check.h"

#include "base/error.h"
#include "base/memory.h"

#include <math.h>
#include <string.h>

enum { SIZE = FB_SCENE_SIZE, PIXELS = SIZE * SIZE };
enum { COLOURS = 8, FORMS = 5, PLACES = 9, HEADINGS = 8, NONE = FORMS };
enum { CIRCLE, SQUARE, TRIANGLE, RING, DIAMOND };

static const char *const colour_names[COLOURS] = {"red",     "green", "blue",  "yellow",
                                                  "magenta", "cyan",  "white", "orange"};
static const char *const form_names[FORMS] = {"circle", "square", "triangle", "ring", "diamond"};
static const char *const place_names[PLACES] = {"top-left",    "top-centre",    "top-right",
                                                "middle-left", "middle-centre", "middle-right",
                                                "bottom-left", "bottom-centre", "bottom-right"};
static const char *const heading_names[HEADINGS] = {"east", "southeast", "south", "southwest",
                                                    "west", "northwest", "north", "northeast"};

static const double colours[COLOURS][3] = {
    {0.95, 0.20, 0.20}, {0.20, 0.85, 0.30}, {0.25, 0.45, 1.00}, {1.00, 0.90, 0.20},
    {0.95, 0.30, 0.90}, {0.20, 0.90, 0.95}, {1.00, 1.00, 1.00}, {1.00, 0.55, 0.10}};

/* Of a form of radius 1: its area, and how far its centroid is below its middle. */
static const double areas[FORMS] = {3.142, 2.89, 1.731, 2.073, 2.88};
static const double lowers[FORMS] = {0.0, 0.0, 0.2, 0.0, 0.0};

static const double quarter_turn = 1.5707963267948966;
static const double cell = 6.0;         /* pixels between the middles of two places */
static const double reach = 1.2;        /* radii: a form turns back when a border is that near */
static const double frames_right = 0.9; /* share of the frames */
static const double unexplained = 0.2;  /* of the area: squared error that a form may leave */
static const double off_path = 2.0;     /* pixels */

/* What a frame shows. */
typedef struct sight {
    bool found;
    size_t colour, form; /* form: NONE if no form fits */
    double radius, x, y; /* of the form that was asked for, by area and centroid */
} sight;

/* --- prompts ---------------------------------------------------------------------------------- */

static bool take_word(const char **at, const char *const *names, size_t count, size_t *index) {
    *at += strspn(*at, " ");
    size_t length = strcspn(*at, " ");
    for (*index = 0; *index < count; ++*index)
        if (strlen(names[*index]) == length && memcmp(names[*index], *at, length) == 0)
            break;
    *at += length;
    return *index < count;
}

bool fb_scene_parse(const char *prompt, fb_scene *scene) {
    const char *at = prompt;
    return take_word(&at, colour_names, COLOURS, &scene->colour) &&
           take_word(&at, form_names, FORMS, &scene->form) &&
           take_word(&at, place_names, PLACES, &scene->place) &&
           take_word(&at, heading_names, HEADINGS, &scene->heading) && at[strspn(at, " ")] == '\0';
}

/* --- frames ----------------------------------------------------------------------------------- */

static double clip(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

/* What is behind the form, in [0, 1]; it depends on the row. */
static double ground(size_t channel, size_t row) {
    static const double top[3] = {0.06, 0.07, 0.12}, more[3] = {0.02, 0.03, 0.10};
    return top[channel] + more[channel] * ((double)row / (SIZE - 1));
}

/* How far the point is outside of the form, whose middle is at (0, 0). */
static double outside(size_t form, double x, double y, double radius) {
    double across = fabs(x), along = fabs(y);
    switch (form) {
    case CIRCLE:
        return hypot(x, y) - radius;
    case SQUARE:
        return fmax(across, along) - 0.85 * radius;
    case TRIANGLE:
        return fmax(0.88 * across - 0.47 * (y + radius), y - 0.8 * radius);
    case RING:
        return fabs(hypot(x, y) - 0.75 * radius) - 0.22 * radius;
    default:
        return 0.707 * (across + along - 1.2 * radius);
    }
}

/* Small errors of the ground and of the inside no longer count. */
static double sharpen(double share) {
    return clip((share - 0.15) / 0.7, 0.0, 1.0);
}

/* The mean colour of the pixels that are far from the ground; false if there are none. */
static bool see_colour(const double (*picture)[3], double mean[3]) {
    double far[PIXELS], farthest = 0.0, count = 0.0;
    for (size_t i = 0; i < PIXELS; i++) {
        far[i] = 0.0;
        for (size_t c = 0; c < 3; c++)
            far[i] += pow(picture[i][c] - ground(c, i / SIZE), 2.0);
        far[i] = sqrt(far[i]);
        farthest = fmax(farthest, far[i]);
    }
    mean[0] = mean[1] = mean[2] = 0.0;
    for (size_t i = 0; i < PIXELS; i++) {
        bool counts = far[i] > 0.5 * farthest;
        count += counts;
        for (size_t c = 0; c < 3; c++)
            mean[c] += counts ? picture[i][c] : 0.0;
    }
    for (size_t c = 0; c < 3; c++)
        mean[c] /= count;
    return farthest >= 0.2;
}

static size_t nearest_colour(const double mean[3]) {
    size_t nearest = 0;
    double least = INFINITY;
    for (size_t i = 0; i < COLOURS; i++) {
        double distance = 0.0;
        for (size_t c = 0; c < 3; c++)
            distance += pow(mean[c] - colours[i][c], 2.0);
        if (distance < least) {
            least = distance;
            nearest = i;
        }
    }
    return nearest;
}

/* How much of each pixel the form covers, if it has that colour. */
static void see_cover(const double (*picture)[3], const double colour[3], double *cover) {
    for (size_t i = 0; i < PIXELS; i++) {
        double along = 0.0, whole = 0.0;
        for (size_t c = 0; c < 3; c++) {
            double behind = ground(c, i / SIZE), shade = colour[c] - behind;
            along += (picture[i][c] - behind) * shade;
            whole += shade * shade;
        }
        cover[i] = sharpen(along / whole);
    }
}

/* The squared error that the form leaves, drawn with the area and the centroid of the cover. */
static double left_over(size_t form, const double *cover, double area, double x, double y) {
    double radius = sqrt(area / areas[form]), sum = 0.0;
    for (size_t i = 0; i < PIXELS; i++) {
        double dx = (double)(i % SIZE) + 0.5 - x;
        double dy = (double)(i / SIZE) + 0.5 - y + lowers[form] * radius;
        double drawn = clip(0.5 - outside(form, dx, dy, radius), 0.0, 1.0);
        sum += pow(cover[i] - sharpen(drawn), 2.0);
    }
    return sum;
}

static size_t best_form(const double *cover, double area, double x, double y) {
    size_t best = NONE;
    double least = unexplained * area;
    for (size_t form = 0; form < FORMS; form++) {
        double left = left_over(form, cover, area, x, y);
        if (left < least) {
            least = left;
            best = form;
        }
    }
    return best;
}

static sight look(const float *frame, size_t asked) {
    double picture[PIXELS][3], cover[PIXELS], mean[3], area = 0.0, x = 0.0, y = 0.0;
    for (size_t i = 0; i < PIXELS; i++)
        for (size_t c = 0; c < 3; c++)
            picture[i][c] = 0.5 + 0.5 * clip((double)frame[c * PIXELS + i], -1.0, 1.0);
    if (!see_colour(picture, mean))
        return (sight){0};
    size_t colour = nearest_colour(mean);
    see_cover(picture, colours[colour], cover);
    for (size_t i = 0; i < PIXELS; i++) {
        area += cover[i];
        x += cover[i] * ((double)(i % SIZE) + 0.5);
        y += cover[i] * ((double)(i / SIZE) + 0.5);
    }
    if (!(area >= 4.0))
        return (sight){0};
    double radius = sqrt(area / areas[asked]);
    x /= area;
    y /= area;
    return (sight){true,   colour, best_form(cover, area, x, y),
                   radius, x,      y - lowers[asked] * radius};
}

/* --- motion ----------------------------------------------------------------------------------- */

/* A straight motion folded into [low, high]. */
static double bounce(double x, double low, double high) {
    double span = high - low, phase = fmod(x - low, 2.0 * span);
    phase += phase < 0.0 ? 2.0 * span : 0.0;
    return low + fmin(phase, 2.0 * span - phase);
}

/* A path along one axis. */
typedef struct path {
    double start, speed, low, high;
} path;

static double distance(const path *p, double at, size_t frame) {
    return bounce(p->start + p->speed * (double)frame, p->low, p->high) - at;
}

/* The path that passes nearest to `at` [count]. */
static path fit_path(const double *at, size_t count, double low, double high) {
    path best = {0};
    double least = INFINITY;
    for (int i = -10; i <= 10; i++)
        for (int j = -60; j <= 60; j++) {
            path p = {at[0] + 0.1 * i, 0.03 * j, low, high};
            double sum = 0.0;
            for (size_t frame = 0; frame < count; frame++)
                sum += pow(distance(&p, at[frame], frame), 2.0);
            if (sum < least) {
                least = sum;
                best = p;
            }
        }
    return best;
}

/* The middle one of `count` numbers, which are put in order. */
static double median(double *numbers, size_t count) {
    for (size_t i = 1; i < count; i++)
        for (size_t j = i; j > 0 && numbers[j - 1] > numbers[j]; j--) {
            double larger = numbers[j - 1];
            numbers[j - 1] = numbers[j];
            numbers[j] = larger;
        }
    return 0.5 * (numbers[(count - 1) / 2] + numbers[count / 2]);
}

/* x, y: [count], of every frame. */
static bool motion_is_right(const fb_scene *scene, const double *x, const double *y, size_t count,
                            double radius) {
    double low = reach * radius;
    path east = fit_path(x, count, low, SIZE - low), south = fit_path(y, count, low, SIZE - low);
    long eighth = lround(atan2(south.speed, east.speed) / (0.5 * quarter_turn));
    for (size_t frame = 0; frame < count; frame++) {
        double off = hypot(distance(&east, x[frame], frame), distance(&south, y[frame], frame));
        if (!(off <= off_path))
            return false;
    }
    return (size_t)((eighth + HEADINGS) % HEADINGS) == scene->heading;
}

/* 0, 1 or 2: the third of the frame that a coordinate lies in, by the nearest middle. */
static size_t third(double at) {
    return (size_t)clip(nearbyint((at - 0.5 * SIZE) / cell + 1.0), 0.0, 2.0);
}

/* --- the whole -------------------------------------------------------------------------------- */

/* numbers [3, count]: x, y and radius of every frame. */
static void judge(const fb_scene *scene, const float *frames, size_t count, double *numbers,
                  fb_scene_verdict *verdict) {
    double *x = numbers, *y = x + count, *radius = y + count;
    size_t right_colours = 0, right_forms = 0, found = 0;
    for (size_t i = 0; i < count; i++) {
        sight s = look(frames + i * 3 * PIXELS, scene->form);
        found += s.found;
        right_colours += s.found && s.colour == scene->colour;
        right_forms += s.found && s.form == scene->form;
        x[i] = s.x;
        y[i] = s.y;
        radius[i] = s.radius;
    }
    *verdict = (fb_scene_verdict){.colour = (double)right_colours >= frames_right * (double)count,
                                  .form = (double)right_forms >= frames_right * (double)count};
    if (found < count)
        return;
    verdict->place = 3 * third(y[0]) + third(x[0]) == scene->place;
    verdict->motion = motion_is_right(scene, x, y, count, median(radius, count));
}

fb_status fb_scene_check(const fb_scene *scene, const float *frames, size_t num_frames,
                         fb_scene_verdict *verdict) {
    double *numbers = NULL;
    *verdict = (fb_scene_verdict){0};
    if (num_frames == 0)
        return FB_OK;
    FB_TRY(fb_alloc(num_frames, 3 * sizeof *numbers, "frames", &numbers));
    judge(scene, frames, num_frames, numbers, verdict);
    fb_free(numbers);
    return FB_OK;
}

bool fb_scene_all_right(const fb_scene_verdict *verdict) {
    return verdict->colour && verdict->form && verdict->place && verdict->motion;
}
