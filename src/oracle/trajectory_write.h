/* Writes the record of a decoding, line by line while it happens. docs/trajectory.md specifies the
 * format; trajectory_record.h reads it. */
#ifndef FB_ORACLE_TRAJECTORY_WRITE_H
#define FB_ORACLE_TRAJECTORY_WRITE_H

#include <flashblock/generate.h>

/* The version of the format: the value of "trajectory" in the first line. */
enum { FB_TRAJECTORY_VERSION = 1 };

typedef struct fb_trajectory_writer fb_trajectory_writer;

/* Begins a record of one sequence. `model` is what the record calls the model; `options` are
 * resolved (generate_options.h) and without sparse attention. */
fb_status fb_trajectory_writer_open(const char *path, const char *model,
                                    const fb_generate_options *options, const fb_prompt *prompt,
                                    fb_trajectory_writer **writer);

/* Writes a pass, and after the last one the end. Of one sequence. */
fb_status fb_trajectory_writer_step(fb_trajectory_writer *writer, const fb_step_event *event);

/* The file appears whole. Frees the writer, on success and on failure. */
fb_status fb_trajectory_writer_commit(fb_trajectory_writer *writer);

/* Frees the writer; no file appears. NULL is allowed. */
void fb_trajectory_writer_abandon(fb_trajectory_writer *writer);

#endif
