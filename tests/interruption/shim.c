/* Counts what a process does to files under a folder, and at the k-th of these operations kills it, or has no space.
 *
 * LD_PRELOAD it; a process is left alone until it calls shim_arm. Counted: write, pwrite, open for creating or cutting
 * off, rename, unlink, rmdir, mkdir, ftruncate, fsync. A descriptor is looked up in /proc/self/fd.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { COUNT, KILL, TEAR, FULL_ONCE, FULL };

static char prefix[PATH_MAX];
static size_t length;
static long armed_at, count;
static int mode = -1;

void shim_arm(const char *folder, long at, int what) {
    strncpy(prefix, folder, sizeof prefix - 1);
    length = strlen(prefix), armed_at = at, count = 0, mode = what;
}

long shim_count(void) { return count; }

static int below(const char *path) {
    return !strncmp(path, prefix, length) && (path[length] == '/' || !path[length]);
}

static int fd_below(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path);
}

static int path_below(int folder, const char *path) {
    return path[0] != '/' && folder != AT_FDCWD ? fd_below(folder) : below(path);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether this operation fails for want of space; may not return. */
static int fails(void) {
    long k = ++count;
    if (mode == COUNT || k < armed_at || (k > armed_at && mode != FULL)) return 0;
    if (mode == KILL || mode == TEAR) die();
    errno = ENOSPC;
    return 1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define GUARD(applies) if (mode >= 0 && (applies) && fails()) return -1

/* TEAR: half of the k-th write comes to the disk before the process dies. */
static int torn(void) { return mode == TEAR && count + 1 == armed_at; }

ssize_t write(int fd, const void *data, size_t n) {
    REAL(write);
    if (mode >= 0 && fd_below(fd)) {
        if (torn()) real(fd, data, n / 2), die();
        if (fails()) return -1;
    }
    return real(fd, data, n);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    REAL(pwrite);
    GUARD(fd_below(fd));
    return real(fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    REAL(pwrite64);
    GUARD(fd_below(fd));
    return real(fd, data, n, at);
}

#define OPENS(name)                                             \
    int name(const char *path, int flags, ...) {                \
        REAL(name);                                             \
        va_list rest;                                           \
        va_start(rest, flags);                                  \
        mode_t bits = va_arg(rest, mode_t);                     \
        va_end(rest);                                           \
        GUARD((flags & (O_CREAT | O_TRUNC)) && below(path));    \
        return real(path, flags, bits);                         \
    }
OPENS(open)
OPENS(open64)

#define OPENATS(name)                                                            \
    int name(int folder, const char *path, int flags, ...) {                     \
        REAL(name);                                                              \
        va_list rest;                                                            \
        va_start(rest, flags);                                                   \
        mode_t bits = va_arg(rest, mode_t);                                      \
        va_end(rest);                                                            \
        GUARD((flags & (O_CREAT | O_TRUNC)) && path_below(folder, path));        \
        return real(folder, path, flags, bits);                                  \
    }
OPENATS(openat)
OPENATS(openat64)

int rename(const char *old, const char *new) {
    REAL(rename);
    GUARD(below(new));
    return real(old, new);
}

int renameat(int from, const char *old, int to, const char *new) {
    REAL(renameat);
    GUARD(path_below(to, new));
    return real(from, old, to, new);
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    REAL(renameat2);
    GUARD(path_below(to, new));
    return real(from, old, to, new, flags);
}

int unlink(const char *path) {
    REAL(unlink);
    GUARD(below(path));
    return real(path);
}

int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat);
    GUARD(path_below(folder, path));
    return real(folder, path, flags);
}

int rmdir(const char *path) {
    REAL(rmdir);
    GUARD(below(path));
    return real(path);
}

int mkdir(const char *path, mode_t bits) {
    REAL(mkdir);
    GUARD(below(path));
    return real(path, bits);
}

int mkdirat(int folder, const char *path, mode_t bits) {
    REAL(mkdirat);
    GUARD(path_below(folder, path));
    return real(folder, path, bits);
}

int fsync(int fd) {
    REAL(fsync);
    if (mode < 0 || !fd_below(fd)) return real(fd);
    /* It guards against no kill and takes most of the time; a kill before it leaves what one after it does. */
    return mode != KILL && mode != TEAR && fails() ? -1 : 0;
}

int fdatasync(int fd) {
    REAL(fdatasync);
    if (mode < 0 || !fd_below(fd)) return real(fd);
    /* It guards against no kill and takes most of the time; a kill before it leaves what one after it does. */
    return mode != KILL && mode != TEAR && fails() ? -1 : 0;
}

int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    GUARD(fd_below(fd));
    return real(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    GUARD(fd_below(fd));
    return real(fd, size);
}
