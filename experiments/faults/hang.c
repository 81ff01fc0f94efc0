/* Loaded by LD_PRELOAD: while the file $HANG_WHILE exists, nothing that writes below $HANG_BELOW returns. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void wait_at(const char *path) {
    const char *below = getenv("HANG_BELOW"), *flag = getenv("HANG_WHILE");
    if (!below || !flag || strncmp(path, below, strlen(below))) return;
    while (!access(flag, F_OK)) usleep(50000);
}

static void wait_for(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    wait_at(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define OPEN(name)                                                            \
    int name(const char *path, int flags, ...) {                              \
        va_list more;                                                         \
        va_start(more, flags);                                                \
        mode_t mode = va_arg(more, mode_t);                                   \
        va_end(more);                                                         \
        if (flags & (O_CREAT | O_WRONLY | O_RDWR)) wait_at(path);             \
        return REAL(name)(path, flags, mode);                                 \
    }

OPEN(open)
OPEN(open64)

ssize_t write(int file, const void *bytes, size_t count) {
    wait_for(file);
    return REAL(write)(file, bytes, count);
}

int fsync(int file) {
    wait_for(file);
    return REAL(fsync)(file);
}

int mkdir(const char *path, mode_t mode) {
    wait_at(path);
    return REAL(mkdir)(path, mode);
}

int rename(const char *from, const char *to) {
    wait_at(from);
    return REAL(rename)(from, to);
}
