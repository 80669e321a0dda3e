/* The commands of `flashblock eval`: one file each, one line each in eval.c's table. */
#ifndef FB_CLI_EVAL_EVAL_H
#define FB_CLI_EVAL_EVAL_H

int fb_eval_sparse(int argc, char **argv);
int fb_eval_reuse(int argc, char **argv);

#endif
