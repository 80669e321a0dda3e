/* A scripted sequence that is judged in memory. */
#ifndef FB_ORACLE_SCRIPTED_H
#define FB_ORACLE_SCRIPTED_H

#include "oracle/report.h"
#include "oracle/script.h"

/* Claims the results of every pass, for report->candidate. The truths are set. */
fb_status fb_claim_script(fb_report *report, const fb_script *s);

#endif
