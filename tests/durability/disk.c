/* A disk that a test commands: loaded by LD_PRELOAD, it counts the durable operations under one folder, in
 * Python, C and Rust alike, and at the n-th of them kills, fails, cuts short or holds the process; or it writes
 * every operation to a log, from which replay.py makes what a power cut could have left.
 *
 * What calls the kernel without libc is not seen: safetensors renames its temporary file so. The log gives inodes
 * too, by which replay.py notices it.
 *
 * Nothing happens until disk_arm() is called, and then only in the process that called it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Bits, so that a test can choose among them; the same numbers are in disk.py. */
enum { CREATE = 1, WRITE = 2, TRUNCATE = 4, FSYNC = 8, RENAME = 16, LINK = 32, UNLINK = 64, MKDIR = 128, RMDIR = 256, MARK = 512 };
enum { COUNT, KILL, TEAR, FAIL, SHORT, HOLD };

struct record {
    uint32_t op, path_bytes, second_bytes, padding;
    uint64_t inode, offset, data_bytes;
};

static char root[PATH_MAX], held[PATH_MAX];
static size_t root_length;
static pid_t armed;
static long at, count;
static int action, fault, forever, kinds, log_fd = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static ssize_t real_write(int fd, const void *data, size_t size) {
    REAL(write);
    return real(fd, data, size);
}

void disk_arm(const char *folder, const char *hold_file, long number, int what, int error, int for_good, int which, int log) {
    snprintf(root, sizeof root, "%s", folder);
    snprintf(held, sizeof held, "%s", hold_file);
    root_length = strlen(root);
    at = number, action = what, fault = error, forever = for_good, kinds = which, log_fd = log;
    count = 0;
    armed = getpid();
}

void disk_disarm(void) { armed = 0; }

long disk_count(void) { return count; }

static void write_all(const void *data, size_t size) {
    const char *next = data;
    while (size) {
        ssize_t done = real_write(log_fd, next, size);
        if (done < 0) abort();
        next += done, size -= done;
    }
}

static void keep(int op, const char *path, const char *second, uint64_t inode, uint64_t offset, const void *data, size_t size) {
    if (log_fd < 0 || armed != getpid()) return;
    struct record record = {op, strlen(path), strlen(second), 0, inode, offset, size};
    int before = errno;
    pthread_mutex_lock(&mutex);
    write_all(&record, sizeof record);
    write_all(path, record.path_bytes);
    write_all(second, record.second_bytes);
    write_all(data, size);
    pthread_mutex_unlock(&mutex);
    errno = before;
}

void disk_mark(const char *text) { keep(MARK, text, "", 0, 0, "", 0); }

/* SQLite's shared index of its log is rebuilt by whoever opens the database: nothing in it is durable. */
static int ours(const char *path) {
    if (armed != getpid() || strncmp(path, root, root_length) || (path[root_length] && path[root_length] != '/')) return 0;
    size_t length = strlen(path);
    return length < 4 || strcmp(path + length - 4, "-shm");
}

static int locate_fd(int fd, char *path) {
    char link[64];
    if (armed != getpid()) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return ours(path);
}

static int locate_at(int folder, const char *name, char *path) {
    if (armed != getpid()) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return ours(path);
    }
    char base[PATH_MAX], link[64];
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
    }
    if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    return ours(path);
}

static uint64_t inode_of(const char *path) {
    struct stat found;
    return lstat(path, &found) ? 0 : found.st_ino;
}

static uint64_t inode_of_fd(int fd) {
    struct stat found;
    return fstat(fd, &found) ? 0 : found.st_ino;
}

/* Count an operation that is about to happen, and say what is to become of it. */
static int due(int op) {
    if (!(kinds & op)) return COUNT;
    long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (number != at && !(forever && number > at)) return COUNT;
    if (action == KILL || (action == TEAR && op != WRITE)) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (action == HOLD) {
        int before = errno;
        armed = 0;
        close(open(held, O_CREAT | O_WRONLY, 0644));
        while (!access(held, F_OK)) usleep(10000);
        errno = before;
        return COUNT;
    }
    return action;
}

/* For operations that happen whole or not at all. */
static int fails(int op) {
    if (due(op) != FAIL) return 0;
    errno = fault;
    return 1;
}

static int opening(int folder, const char *name, int flags, mode_t mode, int (*call)(int, const char *, int, mode_t)) {
    char path[PATH_MAX];
    if (!(flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE || !locate_at(folder, name, path))
        return call(folder, name, flags, mode);
    struct stat found;
    int exists = !stat(path, &found);
    int op = !exists && (flags & O_CREAT) ? CREATE : exists && (flags & O_TRUNC) && found.st_size ? TRUNCATE : 0;
    if (!op) return call(folder, name, flags, mode);
    if (fails(op)) return -1;
    int fd = call(folder, name, flags, mode);
    if (fd >= 0) keep(op, path, "", inode_of_fd(fd), 0, "", 0);
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

static int call_openat(int folder, const char *name, int flags, mode_t mode) {
    REAL(openat);
    return real(folder, name, flags, mode);
}

int open(const char *name, int flags, ...) {
    MODE(flags)
    return opening(AT_FDCWD, name, flags, mode, call_openat);
}

int open64(const char *name, int flags, ...) {
    MODE(flags)
    return opening(AT_FDCWD, name, flags | O_LARGEFILE, mode, call_openat);
}

int openat(int folder, const char *name, int flags, ...) {
    MODE(flags)
    return opening(folder, name, flags, mode, call_openat);
}

int openat64(int folder, const char *name, int flags, ...) {
    MODE(flags)
    return opening(folder, name, flags | O_LARGEFILE, mode, call_openat);
}

int creat(const char *name, mode_t mode) {
    return opening(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode, call_openat);
}

typedef ssize_t (*writer)(int, const void *, size_t, off_t);

static ssize_t call_write(int fd, const void *data, size_t size, off_t offset) {
    (void)offset;
    return real_write(fd, data, size);
}

static ssize_t call_pwrite(int fd, const void *data, size_t size, off_t offset) {
    static __typeof__(pwrite64) *real;
    if (!real) real = (__typeof__(pwrite64) *)dlsym(RTLD_NEXT, "pwrite64");
    return real(fd, data, size, offset);
}

static ssize_t writing(int fd, const void *data, size_t size, off_t offset, writer call) {
    char path[PATH_MAX];
    if (!size || !locate_fd(fd, path)) return call(fd, data, size, offset);
    int what = due(WRITE);
    if (what == FAIL) {
        errno = fault;
        return -1;
    }
    if (what == SHORT) size = (size + 1) / 2;
    off_t place = offset;
    if (offset < 0) {
        struct stat found;
        place = fcntl(fd, F_GETFL) & O_APPEND && !fstat(fd, &found) ? found.st_size : lseek(fd, 0, SEEK_CUR);
    }
    if (what == TEAR) {
        call(fd, data, size / 2, offset);
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    ssize_t done = call(fd, data, size, offset);
    if (done > 0) keep(WRITE, path, "", inode_of_fd(fd), place, data, done);
    return done;
}

ssize_t write(int fd, const void *data, size_t size) { return writing(fd, data, size, -1, call_write); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return writing(fd, data, size, offset, call_pwrite); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return writing(fd, data, size, offset, call_pwrite); }

/* Each part of a vector is an operation of its own, and a short write after the first is one writev may make. */
ssize_t writev(int fd, const struct iovec *parts, int number) {
    char path[PATH_MAX];
    if (!locate_fd(fd, path)) {
        REAL(writev);
        return real(fd, parts, number);
    }
    for (int part = 0; part < number; part++)
        if (parts[part].iov_len) return write(fd, parts[part].iov_base, parts[part].iov_len);
    return 0;
}

/* Copies inside the kernel would not be seen; callers have another way, by read and write. */
ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
    static ssize_t (*real)(int, int, off_t *, size_t);
    char path[PATH_MAX];
    if (!real) real = (ssize_t(*)(int, int, off_t *, size_t))dlsym(RTLD_NEXT, "sendfile");
    return locate_fd(out, path) ? (errno = EINVAL, -1) : real(out, in, offset, size);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) { return sendfile(out, in, offset, size); }

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    REAL(copy_file_range);
    char path[PATH_MAX];
    return locate_fd(out, path) ? (errno = EXDEV, -1) : real(in, from, out, to, size, flags);
}

static int truncating(int fd, off_t size) {
    static __typeof__(ftruncate64) *real;
    char path[PATH_MAX];
    if (!real) real = (__typeof__(ftruncate64) *)dlsym(RTLD_NEXT, "ftruncate64");
    int mine = locate_fd(fd, path);
    if (mine && fails(TRUNCATE)) return -1;
    int done = real(fd, size);
    if (mine && !done) keep(TRUNCATE, path, "", inode_of_fd(fd), size, "", 0);
    return done;
}

int ftruncate(int fd, off_t size) { return truncating(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncating(fd, size); }

static int syncing(int fd, int (*real)(int)) {
    char path[PATH_MAX];
    int mine = locate_fd(fd, path);
    if (mine && fails(FSYNC)) return -1;
    int done = real(fd);
    if (mine && !done) keep(FSYNC, path, "", inode_of_fd(fd), 0, "", 0);
    return done;
}

int fsync(int fd) {
    REAL(fsync);
    return syncing(fd, real);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return syncing(fd, real);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    REAL(renameat);
    char before[PATH_MAX], after[PATH_MAX];
    int mine = locate_at(from_folder, from, before) && locate_at(to_folder, to, after);
    if (mine && fails(RENAME)) return -1;
    uint64_t inode = mine ? inode_of(before) : 0;
    int done = real(from_folder, from, to_folder, to);
    if (mine && !done) keep(RENAME, before, after, inode, 0, "", 0);
    return done;
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    REAL(renameat2);
    return flags ? real(from_folder, from, to_folder, to, flags) : renameat(from_folder, from, to_folder, to);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    REAL(linkat);
    char before[PATH_MAX], after[PATH_MAX];
    int mine = locate_at(from_folder, from, before) && locate_at(to_folder, to, after);
    if (mine && fails(LINK)) return -1;
    int done = real(from_folder, from, to_folder, to, flags);
    if (mine && !done) keep(LINK, before, after, inode_of(after), 0, "", 0);
    return done;
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int folder, const char *name, int flags) {
    REAL(unlinkat);
    char path[PATH_MAX];
    int op = flags & AT_REMOVEDIR ? RMDIR : UNLINK;
    int mine = locate_at(folder, name, path);
    if (mine && access(path, F_OK)) mine = 0; /* there is nothing to remove, so nothing happens */
    if (mine && fails(op)) return -1;
    uint64_t inode = mine ? inode_of(path) : 0;
    int done = real(folder, name, flags);
    if (mine && !done) keep(op, path, "", inode, 0, "", 0);
    return done;
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int folder, const char *name, mode_t mode) {
    REAL(mkdirat);
    char path[PATH_MAX];
    int mine = locate_at(folder, name, path);
    if (mine && !access(path, F_OK)) mine = 0;
    if (mine && fails(MKDIR)) return -1;
    int done = real(folder, name, mode);
    if (mine && !done) keep(MKDIR, path, "", 0, 0, "", 0);
    return done;
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
