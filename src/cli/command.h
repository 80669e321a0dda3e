/* The commands of the `flashblock` program: one file each, one line each in main.c's table.
 * A command gets its own name as argv[0] and returns the program's exit status. */
#ifndef FB_CLI_COMMAND_H
#define FB_CLI_COMMAND_H

int fb_command_bench(int argc, char **argv);
int fb_command_calibrate(int argc, char **argv);
int fb_command_eval(int argc, char **argv);
int fb_command_generate(int argc, char **argv);
int fb_command_golden(int argc, char **argv);
int fb_command_info(int argc, char **argv);
int fb_command_selftest(int argc, char **argv);
int fb_command_verify(int argc, char **argv);
int fb_command_video(int argc, char **argv);

#endif
