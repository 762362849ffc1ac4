/* Reading files through the guest's preopened directories, without stdio. */
#ifndef FILES_H
#define FILES_H

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "guest.h"

/* Fills `into`, or gives -1 with errno. pread, because its offset has 64 bits where the long of
 * fseek has 32. A file that has become shorter meanwhile is an error as well. */
static inline int read_at(int fd, off_t offset, void *into, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t got = pread(fd, (char *)into + done, length - done, offset + (off_t)done);
        if (got < 0) return -1;
        if (got == 0) {
            errno = EIO;
            return -1;
        }
        done += (size_t)got;
    }
    return 0;
}

/* A file as a whole with a NUL behind it, which `length` does not count. */
static inline char *read_file(const char *path, uint32_t *length) {
    struct stat status;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &status) != 0) give_up(path, strerror(errno));
    if (!S_ISREG(status.st_mode)) give_up(path, "not a file");
    if (status.st_size >= INT32_MAX) give_up(path, strerror(EFBIG));
    *length = (uint32_t)status.st_size;
    char *data = malloc(*length + 1);
    if (!data) give_up(path, strerror(ENOMEM));
    if (read_at(fd, 0, data, *length) != 0) give_up(path, strerror(errno));
    close(fd);
    data[*length] = 0;
    return data;
}

#endif
