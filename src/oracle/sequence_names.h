/* The names of a candidate's tensors, where the case is a denoising sequence. */
#ifndef FB_ORACLE_SEQUENCE_NAMES_H
#define FB_ORACLE_SEQUENCE_NAMES_H

#include "oracle/candidate.h"
#include "oracle/script.h"

/* FB_ERROR_ARGUMENT, naming the tensor: it is of a pass that the script does not have, or it is an
 * input that is not the one that the script gives. A copy of an input is allowed, and so are other
 * names: they are not judged. */
fb_status fb_check_sequence_names(const fb_candidate *candidate, const fb_script *s);

#endif
