/* scene_verdicts FRAMES PROMPT: reads a clip, float32 [FRAMES, 3, 32, 32], from standard input and
 * prints whether its colour, form, place and motion are those of the prompt: "1 0 1 1". */
#include "study/scene_check.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    fb_scene scene;
    fb_scene_verdict v;
    if (argc != 3 || !fb_scene_parse(argv[2], &scene))
        return 2;
    size_t frames = strtoul(argv[1], NULL, 10), values = frames * 3 * FB_SCENE_SIZE * FB_SCENE_SIZE;
    float *clip = malloc(values * sizeof *clip);
    if (!clip || fread(clip, sizeof *clip, values, stdin) != values)
        return 1;
    if (fb_scene_check(&scene, clip, frames, &v) != FB_OK)
        return 1;
    printf("%d %d %d %d\n", v.colour, v.form, v.place, v.motion);
    free(clip);
    return 0;
}
