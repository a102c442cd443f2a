/* Makes calls of the file system fail, for tests: loaded before the C library (LD_PRELOAD).
 *
 * FAULT_UNDER   folders with ':' between them: only files in them are concerned
 * FAULT_CALL    which calls are counted: open, create, read, write, sync, mkdir
 * FAULT_NTH     the first of them that fails; 0 counts only
 * FAULT_ERROR   ENOSPC (from then on), EIO, EACCES, EINTR (each that call alone), SHORT (from then on, reads and writes of few bytes),
 *               EINTRS (every second call from then on)
 * FAULT_COUNT   a file that the number of counted calls is written to
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls;

static int inside(const char *path) {
    const char *under = getenv("FAULT_UNDER");
    while (under && *under) {
        size_t length = strcspn(under, ":");
        if (strncmp(path, under, length) == 0 && (path[length] == '/' || path[length] == 0)) return 1;
        under += length + (under[length] == ':');
    }
    return 0;
}

static int inside_path(const char *path) {
    char full[2 * PATH_MAX];
    if (path[0] == '/') return inside(path);
    if (!getcwd(full, PATH_MAX)) return 0;
    strcat(full, "/");
    strncat(full, path, PATH_MAX - 1);
    return inside(full);
}

static int inside_fd(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return inside(path);
}

/* 0: the call goes on; an errno: it fails with that; -n: it moves at most n bytes. */
static int fault(const char *call, int concerned) {
    const char *wanted = getenv("FAULT_CALL"), *error = getenv("FAULT_ERROR"), *nth = getenv("FAULT_NTH");
    const char *count = getenv("FAULT_COUNT");
    if (!concerned || !wanted || strcmp(wanted, call) != 0) return 0;
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (count) {
        char text[32];
        int length = snprintf(text, sizeof text, "%ld\n", number);
        int fd = (int)syscall(SYS_openat, AT_FDCWD, count, O_WRONLY | O_CREAT, 0666);
        syscall(SYS_pwrite64, fd, text, length, 0);
        syscall(SYS_close, fd);
    }
    long first = nth ? atol(nth) : 0;
    if (first == 0 || !error || number < first) return 0;
    if (strcmp(error, "ENOSPC") == 0) return ENOSPC;
    if (strcmp(error, "SHORT") == 0) return -(int)(1 + number * 37 % 4096);
    if (strcmp(error, "EINTRS") == 0) return (number - first) % 2 == 0 ? EINTR : 0;
    if (number != first) return 0;
    if (strcmp(error, "EIO") == 0) return EIO;
    if (strcmp(error, "EACCES") == 0) return EACCES;
    return EINTR;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF(what)                  \
    do {                               \
        int found = (what);            \
        if (found > 0) {               \
            errno = found;             \
            return -1;                 \
        }                              \
    } while (0)
#define MOVE(call, fd, real, size)                       \
    do {                                                 \
        int found = fault(call, inside_fd(fd));          \
        if (found > 0) {                                 \
            errno = found;                               \
            return -1;                                   \
        }                                                \
        if (found < 0 && size > (size_t)-found) size = (size_t)-found; \
        return real;                                     \
    } while (0)

static const char *opening(int flags) { return flags & O_CREAT ? "create" : "open"; }

#define OPEN(name)                                                                            \
    int name(const char *path, int flags, ...) {                                              \
        va_list more;                                                                         \
        va_start(more, flags);                                                                \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;               \
        va_end(more);                                                                         \
        FAIL_IF(fault(opening(flags), inside_path(path)));                                    \
        return REAL(name)(path, flags, mode);                                                 \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                          \
    int name(int at, const char *path, int flags, ...) {                                      \
        va_list more;                                                                         \
        va_start(more, flags);                                                                \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;               \
        va_end(more);                                                                         \
        FAIL_IF(fault(opening(flags), at == AT_FDCWD && inside_path(path)));                  \
        return REAL(name)(at, path, flags, mode);                                             \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int fd, void *to, size_t size) { MOVE("read", fd, REAL(read)(fd, to, size), size); }
ssize_t pread64(int fd, void *to, size_t size, off64_t at) {
    MOVE("read", fd, REAL(pread64)(fd, to, size, at), size);
}
ssize_t write(int fd, const void *from, size_t size) { MOVE("write", fd, REAL(write)(fd, from, size), size); }
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
    MOVE("write", fd, REAL(pwrite64)(fd, from, size, at), size);
}
ssize_t readv(int fd, const struct iovec *to, int parts) {
    FAIL_IF(fault("read", inside_fd(fd)));
    return REAL(readv)(fd, to, parts);
}
ssize_t writev(int fd, const struct iovec *from, int parts) {
    FAIL_IF(fault("write", inside_fd(fd)));
    return REAL(writev)(fd, from, parts);
}
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *put, size_t size, unsigned flags) {
    MOVE("write", to, REAL(copy_file_range)(from, at, to, put, size, flags), size);
}
int ftruncate64(int fd, off64_t size) {
    FAIL_IF(fault("write", inside_fd(fd)));
    return REAL(ftruncate64)(fd, size);
}
int fsync(int fd) {
    FAIL_IF(fault("sync", inside_fd(fd)));
    return REAL(fsync)(fd);
}
int fdatasync(int fd) {
    FAIL_IF(fault("sync", inside_fd(fd)));
    return REAL(fdatasync)(fd);
}
int mkdir(const char *path, mode_t mode) {
    FAIL_IF(fault("mkdir", inside_path(path)));
    return REAL(mkdir)(path, mode);
}
