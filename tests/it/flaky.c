// Put before a daemon (LD_PRELOAD): calls on the files of its store fail now and then, as a file says that FLAKY names.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WRITE, FULL, SHORT, HALF, SYNC, CUT, INDEX, READ };

// Which of them fail, a bit each, and how many of a thousand.
static struct { atomic_uint which, often; } *control;
static atomic_uint dice;

static void *map(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
}

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("FLAKY");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR, 0) : -1;
    if (fd < 0)
        return;
    control = map(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    dice = (unsigned)getpid() * 2654435761u;
}

static int fails(int fd, int what)
{
    char link[64], path[4096];
    if (!control || !(control->which >> what & 1))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    if (!strstr(path, "/store.db") || strstr(path, ".lock") || (what == INDEX && !strstr(path, "-shm")))
        return 0;
    unsigned rolled = atomic_fetch_add(&dice, 0x9e3779b9u);
    rolled = (rolled ^ rolled >> 16) * 0x85ebca6bu;
    rolled = (rolled ^ rolled >> 13) * 0xc2b2ae35u;
    return (rolled ^ rolled >> 16) % 1000 < control->often;
}

static long refuse(int error)
{
    errno = error;
    return -1;
}

static ssize_t put(int fd, const void *bytes, size_t length, off_t at, int has_place)
{
    int half = 0;
    if (fails(fd, WRITE))
        return refuse(EIO);
    if (fails(fd, FULL))
        return refuse(ENOSPC);
    if (length > 1 && ((half = fails(fd, HALF)) || fails(fd, SHORT)))
        length /= 2;
    ssize_t written = has_place ? syscall(SYS_pwrite64, fd, bytes, length, at) : syscall(SYS_write, fd, bytes, length);
    return half ? refuse(EIO) : written;
}

ssize_t write(int fd, const void *bytes, size_t length) { return put(fd, bytes, length, 0, 0); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return put(fd, bytes, length, at, 1); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) { return put(fd, bytes, length, at, 1); }
ssize_t read(int fd, void *into, size_t length) { return fails(fd, READ) ? refuse(EIO) : syscall(SYS_read, fd, into, length); }
ssize_t pread(int fd, void *into, size_t length, off_t at) { return fails(fd, READ) ? refuse(EIO) : syscall(SYS_pread64, fd, into, length, at); }
ssize_t pread64(int fd, void *into, size_t length, off_t at) { return pread(fd, into, length, at); }
int fsync(int fd) { return (int)(fails(fd, SYNC) ? refuse(EIO) : syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { return (int)(fails(fd, SYNC) ? refuse(EIO) : syscall(SYS_fdatasync, fd)); }
int ftruncate(int fd, off_t length) { return (int)(fails(fd, CUT) ? refuse(EIO) : syscall(SYS_ftruncate, fd, length)); }
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return fd >= 0 && fails(fd, INDEX) ? (void *)refuse(ENOMEM) : map(at, length, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
    return mmap(at, length, protection, flags, fd, offset);
}
