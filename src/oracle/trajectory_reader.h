/* What reads a record line by line: the line, the decoding up to there, and values of a line's
 * arrays. Each line is checked against what the lines before it have decided. Messages name the
 * line. */
#ifndef FB_ORACLE_TRAJECTORY_READER_H
#define FB_ORACLE_TRAJECTORY_READER_H

#include "io/json.h"
#include "oracle/trajectory_record.h"

typedef struct fb_trajectory_reader {
    fb_trajectory *record;
    const fb_model_config *config;
    fb_sequence *sequence; /* with the record's decisions; NULL before the first line */
    const char *tensors;   /* given by the caller; NULL: as the record says */
    size_t line;           /* from 1 */
    char where[600];       /* "run.jsonl: line 7" */
} fb_trajectory_reader;

/* The line lacks something that every line should have. */
void fb_trajectory_note_missing(const fb_trajectory_reader *r, const char *what);

/* An array of `size` items; NULL where the line has none. */
fb_status fb_trajectory_items(const fb_trajectory_reader *r, const fb_json *line, const char *key,
                              size_t size, const fb_json **items);

/* One id of the vocabulary; ids of an array of up to `limit` of them, which the caller frees, on
 * failure, too. */
fb_status fb_trajectory_read_id(const fb_trajectory_reader *r, const char *key, const fb_json *item,
                                int32_t *id);
fb_status fb_trajectory_read_ids(const fb_trajectory_reader *r, const fb_json *object,
                                 const char *key, size_t limit, int32_t **ids, size_t *count);

/* A number of a masked position; NaN where the record does not know it: null, or no item. */
fb_status fb_trajectory_read_number(const fb_trajectory_reader *r, const char *key, size_t position,
                                    const fb_json *item, double *number);

#endif
