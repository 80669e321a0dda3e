/* Reports as JSON. */
#ifndef FB_ORACLE_REPORT_JSON_H
#define FB_ORACLE_REPORT_JSON_H

#include "io/json_write.h"
#include "oracle/report.h"

/* An object without a key: an element of `cases` of `flashblock verify --json`. */
void fb_report_put_json(fb_json_writer *w, const fb_report *report);

#endif
