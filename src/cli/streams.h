/* Standard output and standard error as this program needs them. */
#ifndef FB_CLI_STREAMS_H
#define FB_CLI_STREAMS_H

/* From here on stdout and stderr
 *   - wait where the descriptor is not blocking (O_NONBLOCK belongs to everybody who has the pipe
 * or the terminal; the C library would drop what does not fit);
 *   - end the process by SIGPIPE where nobody reads any more, as usual; but if the command has
 * files to write, what is printed is dropped instead, and the command goes on. Where memory is
 * missing they stay as they are. */
void fb_streams_open(void);

/* At the end of the command. After output was dropped it ends the process as SIGPIPE does. */
void fb_streams_close(void);

#endif
