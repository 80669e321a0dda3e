/* Reports as JSON. */
#ifndef FB_ORACLE_REPORT_JSON_H
#define FB_ORACLE_REPORT_JSON_H

#include "oracle/report.h"

#include <jansson.h>

/* One element of `cases` of `flashblock verify --json`. NULL only when memory is short. */
json_t *fb_report_json_value(const fb_report *report);

/* Text that may hold anything, for JSON. */
json_t *fb_report_json_string(const char *text);

#endif
