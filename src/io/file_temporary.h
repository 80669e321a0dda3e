/* Temporary files beside the file that is to be written: PATH.tmp-PID-N. */
#ifndef FB_IO_FILE_TEMPORARY_H
#define FB_IO_FILE_TEMPORARY_H

/* Opens a new one for reading and writing, locked while it is open. `name` gets its path: an
 * fb_alloc'ed text that the caller gives to fb_file_temporary_forget. Removes those of `path` that
 * processes which have ended left. Returns the descriptor, or -1 with errno. */
int fb_file_temporary_open(const char *path, char **name);

/* Removes the file and frees the name; NULL is allowed. */
void fb_file_temporary_remove(char *name);

/* Frees the name of a file that has another name now. */
void fb_file_temporary_forget(char *name);

/* The same for files and folders that were made in another way: a handler of signals that end the
 * process removes what is noted, files first. A name is forgotten, and freed, before another one
 * has it. */
void fb_file_temporary_note(const char *name);
void fb_file_temporary_note_folder(const char *name);
void fb_file_temporary_forget_folder(char *name);

/* Between these two no signal ends the process, whichever of its threads gets it
 * (fb_file_end_by_signal). */
void fb_file_hold_signals(void);
void fb_file_release_signals(void);

#endif
