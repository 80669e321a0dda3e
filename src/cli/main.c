/* flashblock COMMAND [OPTION]...: the table of commands. */
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/streams.h"
#include "io/file.h"

#include <flashblock/runtime.h>
#include <flashblock/version.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define COMMANDS(list) .commands = list, .num_commands = sizeof list / sizeof list[0]

static const fb_command bench_commands[] = {
    {"attention", "attention of given shapes, dense and with FlashBlock, beside peers",
     fb_command_bench_attention, NULL},
    {"decode", "forward passes of a model's blocks, dense and with FlashBlock",
     fb_command_bench_decode, NULL},
    {"isa", "the kernels of every instruction set, and which ones the program chooses",
     fb_command_bench_isa, NULL},
    {"limits", "what this machine can do at best", fb_command_bench_limits, NULL},
    {"merge", "the log-space merge of two parts", fb_command_bench_merge, NULL},
    {"video", "a video model's attention, dense and with head-wise reuse", fb_command_bench_video,
     NULL},
};

static const fb_command_group bench = {
    .words = "flashblock bench",
    .noun = "benchmark",
    .description = "Measures speed, beside the limits of this machine measured in the same run.",
    COMMANDS(bench_commands),
};

static const fb_command eval_commands[] = {
    {"sparse", "what sparse attention and residual reuse change, on known text",
     fb_command_eval_sparse, NULL},
    {"reuse", "what policies of reuse cost and save, in real decoding", fb_command_eval_reuse,
     NULL},
    {"tasks", "how many problems are solved with each policy, and what that takes",
     fb_command_eval_tasks, NULL},
    {"video", "what thresholds of calibrations cost and save, in clips", fb_command_eval_video,
     NULL},
};

static const fb_command_group eval = {
    .words = "flashblock eval",
    .noun = "evaluation",
    .description =
        "Measures the quality of what a model writes, against dense attention and a true text.",
    COMMANDS(eval_commands),
};

static const fb_command commands[] = {
    {"bench", "measure speed beside the limits of this machine", NULL, &bench},
    {"calibrate", "find out which heads of a video model may reuse, at which steps",
     fb_command_calibrate, NULL},
    {"chat", "talk with a block-diffusion language model", fb_command_chat, NULL},
    {"eval", "measure what reuse does to what a model writes", NULL, &eval},
    {"generate", "write text with a block-diffusion language model", fb_command_generate, NULL},
    {"golden", "write a case file: a scripted denoising sequence, or one attention",
     fb_command_golden, NULL},
    {"info", "what this build and this machine have", fb_command_info, NULL},
    {"quantize", "write a model with weights of 8 or 4 bits", fb_command_quantize, NULL},
    {"selftest", "check this build against the golden hashes", fb_command_selftest, NULL},
#ifdef FB_HAVE_MICROHTTPD
    {"serve", "answer requests in the form of OpenAI's interface", fb_command_serve, NULL},
#endif
    {"trace", "record what attention does at each denoising step, and draw it", fb_command_trace,
     NULL},
    {"verify", "check case files, or another implementation's results of one", fb_command_verify,
     NULL},
    {"video", "make clips with a video diffusion model", fb_command_video, NULL},
};

static const fb_command_group program = {
    .words = "flashblock",
    .noun = "command",
    .description = "Block diffusion on CPUs with FlashBlock attention caching (arXiv 2602.05305).",
    .options = "  --version   print the version\n",
    .closing = "\n"
               "Exit status: 0 done, 1 failed, 2 wrong usage. Errors are one line on standard "
               "error.\n",
    COMMANDS(commands),
};

/* A standard stream that is closed would be the number of the next file that is opened, and text
 * would end up in it. What is opened in its place gives the errors that it would. */
static void open_missing_streams(void) {
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF &&
            open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) < 0)
            return; /* there is no better substitute */
}

static void clean_up(int number) {
    if (!fb_file_end_by_signal(number))
        return;
    signal(number, SIG_DFL);
    raise(number);
}

/* A process that is ended leaves no temporary file, and is ended by the signal. A file that grows
 * beyond its limit is an error and not the end. */
static void handle_signals(void) {
    static const int ending[] = {SIGHUP, SIGINT, SIGTERM, SIGPIPE};
    struct sigaction before, ours = {.sa_handler = clean_up, .sa_flags = SA_RESTART};
    sigemptyset(&ours.sa_mask);
    for (size_t i = 0; i < sizeof ending / sizeof ending[0]; i++)
        if (sigaction(ending[i], NULL, &before) == 0 && before.sa_handler == SIG_DFL)
            sigaction(ending[i], &ours, NULL);
    signal(SIGXFSZ, SIG_IGN);
}

/* Files are written even where nobody reads what is printed. */
static int run_command(int argc, char **argv) {
    fb_file_batch_begin();
    int status = fb_command_group_run(&program, argc, argv);
    status = fb_report_files(status, fb_file_batch_end());
    return status == FB_EXIT_OK ? fb_finish_stdout() : status;
}

int main(int argc, char **argv) {
    open_missing_streams();
    handle_signals();
    fb_streams_open();
    int status = FB_EXIT_OK;
    if (argc == 1 || strcmp(argv[1], "--version") != 0) {
        status = run_command(argc, argv);
    } else {
        printf("flashblock %s\n", fb_version());
        status = fb_finish_stdout();
    }
    fb_streams_close();
    return status;
}
