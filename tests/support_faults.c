/* Makes writing fail: preloaded into a process, it counts the calls that change files below a folder and fails the k-th.

   fault_arm(folder, at, error, sticky): the call number `at` (from 1) fails with `error`; when sticky, all later ones, too,
   and the first write gets half of its bytes to the disk, as on one that is full. at = 0 counts only.

   fault_void_locks(1): flock says yes to everybody, as on some network file systems. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static size_t folder_length;
static long at, count;
static int error_number, sticky;

static int locks_are_void;

void fault_void_locks(int are_void)
{
    locks_are_void = are_void;
}

int flock(int fd, int operation)
{
    return locks_are_void ? 0 : ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(fd, operation);
}

void fault_arm(const char *where, long number, int error, int stays)
{
    snprintf(folder, sizeof folder, "%s", where);
    folder_length = strlen(folder);
    at = number, count = 0, error_number = error, sticky = stays;
}

long fault_count(void)
{
    return __atomic_load_n(&count, __ATOMIC_SEQ_CST);
}

__attribute__((constructor)) static void arm_from_environment(void)
{
    const char *where = getenv("FAULT_FOLDER"), *number = getenv("FAULT_AT"), *error = getenv("FAULT_ERRNO");
    if (where && number && error)
        fault_arm(where, atol(number), atoi(error), getenv("FAULT_STICKY") != NULL);
}

static int below(const char *path)
{
    return folder_length && strncmp(path, folder, folder_length) == 0;
}

static int below_fd(int fd)
{
    char link[64], path[PATH_MAX];
    int saved = errno;
    if (!folder_length)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (length < 0)
        return 0;
    path[length] = 0;
    return below(path);
}

static int below_at(int directory, const char *path)
{
    char full[PATH_MAX];
    int saved = errno;
    if (!folder_length || !path)
        return 0;
    if (path[0] == '/')
        return below(path);
    if (directory != AT_FDCWD)
        return below_fd(directory);
    if (!getcwd(full, sizeof full)) {
        errno = saved;
        return 0;
    }
    strncat(full, "/", sizeof full - strlen(full) - 1);
    strncat(full, path, sizeof full - strlen(full) - 1);
    return below(full);
}

/* 0: goes on; 1: fails with errno set; 2: is the first to fail for good, and may do half of its work. */
static int fails(int is_ours)
{
    if (!is_ours)
        return 0;
    long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (!at || number < at || (number > at && !sticky))
        return 0;
    errno = error_number;
    return number == at && sticky ? 2 : 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRITING(result, name, parameters, arguments)                                                                           \
    result name parameters                                                                                                     \
    {                                                                                                                          \
        int how = fails(below_fd(fd));                                                                                         \
        if (how == 2 && size > 1) {                                                                                            \
            size /= 2;                                                                                                         \
            return REAL(name) arguments;                                                                                       \
        }                                                                                                                      \
        return how ? -1 : REAL(name) arguments;                                                                                \
    }

WRITING(ssize_t, write, (int fd, const void *bytes, size_t size), (fd, bytes, size))
WRITING(ssize_t, pwrite, (int fd, const void *bytes, size_t size, off_t place), (fd, bytes, size, place))
WRITING(ssize_t, pwrite64, (int fd, const void *bytes, size_t size, off64_t place), (fd, bytes, size, place))

#define CHANGING(result, name, parameters, arguments, is_ours, failure)                                                        \
    result name parameters                                                                                                     \
    {                                                                                                                          \
        return fails(is_ours) ? failure : REAL(name) arguments;                                                                \
    }

CHANGING(ssize_t, writev, (int fd, const struct iovec *parts, int n), (fd, parts, n), below_fd(fd), -1)
CHANGING(int, fsync, (int fd), (fd), below_fd(fd), -1)
CHANGING(int, fdatasync, (int fd), (fd), below_fd(fd), -1)
CHANGING(int, ftruncate, (int fd, off_t size), (fd, size), below_fd(fd), -1)
CHANGING(int, ftruncate64, (int fd, off64_t size), (fd, size), below_fd(fd), -1)
CHANGING(ssize_t, sendfile, (int fd, int from, off_t *place, size_t size), (fd, from, place, size), below_fd(fd), -1)
CHANGING(ssize_t, sendfile64, (int fd, int from, off64_t *place, size_t size), (fd, from, place, size), below_fd(fd), -1)
CHANGING(ssize_t, copy_file_range, (int from, off64_t *i, int fd, off64_t *o, size_t size, unsigned flags),
         (from, i, fd, o, size, flags), below_fd(fd), -1)
CHANGING(int, rename, (const char *old, const char *new), (old, new), below_at(AT_FDCWD, new), -1)
CHANGING(int, renameat, (int a, const char *old, int b, const char *new), (a, old, b, new), below_at(b, new), -1)
CHANGING(int, mkdir, (const char *path, mode_t mode), (path, mode), below_at(AT_FDCWD, path), -1)
CHANGING(int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode), below_at(fd, path), -1)

#define OPENING(name, parameters, arguments, directory)                                                                        \
    int name parameters                                                                                                        \
    {                                                                                                                          \
        va_list more;                                                                                                          \
        va_start(more, flags);                                                                                                 \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                                                \
        va_end(more);                                                                                                          \
        return fails(flags & O_CREAT && below_at(directory, path)) ? -1 : REAL(name) arguments;                                \
    }

OPENING(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPENING(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPENING(openat, (int fd, const char *path, int flags, ...), (fd, path, flags, mode), fd)
OPENING(openat64, (int fd, const char *path, int flags, ...), (fd, path, flags, mode), fd)

/* Streams are made to write at once, so that a write that fails is one the disk never saw. */
#define STREAM(name)                                                                                                           \
    FILE *name(const char *path, const char *mode)                                                                             \
    {                                                                                                                          \
        int is_ours = strpbrk(mode, "wa+") && below_at(AT_FDCWD, path);                                                        \
        if (fails(is_ours))                                                                                                    \
            return NULL;                                                                                                       \
        FILE *stream = REAL(name)(path, mode);                                                                                 \
        if (stream && is_ours)                                                                                                 \
            setvbuf(stream, NULL, _IONBF, 0);                                                                                  \
        return stream;                                                                                                         \
    }

STREAM(fopen)
STREAM(fopen64)

size_t fwrite(const void *bytes, size_t size, size_t n, FILE *stream)
{
    return fails(below_fd(fileno(stream))) ? 0 : REAL(fwrite)(bytes, size, n, stream);
}
