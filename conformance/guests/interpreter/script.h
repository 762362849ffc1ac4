/* Reads a script from standard input or from a file, makes the wasi-nn calls that it says from inside Wasm, and
 * prints a transcript. docs/conformance.md explains the language, which has seven words:
 *
 *   grow PAGES                    add pages of 64 KiB to the memory
 *   buf NAME SIZE [SHIFT]         a buffer of zeros, SHIFT bytes off an address that 16 divides
 *   put NAME OFFSET HEX           bytes into a buffer
 *   ptr NAME OFFSET VALUE         a u32 into a buffer, little-endian
 *   file NAME PATH                a buffer with a file's bytes
 *   call FUNCTION VALUE...        prints "call FUNCTION RESULT"
 *   show NAME OFFSET LENGTH       prints "show NAME HEX"
 *
 * A VALUE is a number (0x… too), &NAME or &NAME+N (an address), #NAME (a size), *NAME (the u32 at
 * the buffer's beginning) or `end` (the memory's size in bytes). */
#include "files.h"

#define MOST_BUFFERS 256
#define MOST_VALUES 8

typedef struct {
    char name[32];
    unsigned char *at;
    uint32_t size;
} Buffer;

typedef int32_t (*Call)(const uint32_t *values);

typedef struct {
    const char *name;
    uint32_t values;
    Call call;
} Function;

static Buffer buffers[MOST_BUFFERS];
static uint32_t buffer_count;
static char *rest;

static char *word(void) {
    rest += strspn(rest, " ");
    if (!*rest) give_up("script", "a word is missing");
    char *from = rest;
    rest += strcspn(rest, " ");
    if (*rest) *rest++ = 0;
    return from;
}

static int has_more(void) { return rest[strspn(rest, " ")] != 0; }

static Buffer *buffer_named(const char *name) {
    for (uint32_t i = 0; i < buffer_count; i++)
        if (strcmp(buffers[i].name, name) == 0) return &buffers[i];
    give_up("no buffer has the name", name);
}

static Buffer *new_buffer(const char *name, uint32_t size, uint32_t shift) {
    if (buffer_count == MOST_BUFFERS || strlen(name) >= sizeof buffers[0].name)
        give_up("too many buffers, or too long a name", name);
    unsigned char *block = calloc(1, size + shift + 32);
    if (!block) give_up(name, "out of memory");
    Buffer *made = &buffers[buffer_count++];
    strcpy(made->name, name);
    made->at = (unsigned char *)(((uintptr_t)block + 15) & ~(uintptr_t)15) + shift;
    made->size = size;
    return made;
}

static uint32_t value(const char *text) {
    if (strcmp(text, "end") == 0) return (uint32_t)__builtin_wasm_memory_size(0) * 65536;
    if (*text == '#') return buffer_named(text + 1)->size;
    if (*text == '*') {
        uint32_t number;
        Buffer *buffer = buffer_named(text + 1);
        if (buffer->size < 4) give_up(text, "no u32 in this buffer");
        memcpy(&number, buffer->at, 4);
        return number;
    }
    if (*text == '&') {
        char name[32] = {0};
        size_t length = strcspn(text + 1, "+");
        if (length >= sizeof name) give_up(text, "too long a name");
        memcpy(name, text + 1, length);
        uint32_t address = (uint32_t)(uintptr_t)buffer_named(name)->at;
        return text[1 + length] ? address + value(text + 2 + length) : address;
    }
    char *end;
    unsigned long number = strtoul(text, &end, 0);
    if (end == text || *end) give_up(text, "not a value");
    return (uint32_t)number;
}

/* The bytes of a buffer from an offset on, which must be there. */
static unsigned char *within(Buffer *buffer, uint32_t offset, uint32_t length) {
    if (offset > buffer->size || length > buffer->size - offset)
        give_up(buffer->name, "outside of the buffer");
    return buffer->at + offset;
}

static int nibble(char digit) {
    const char *digits = "0123456789abcdef", *at = digit ? strchr(digits, digit) : NULL;
    if (!at) give_up("put", "not hexadecimal");
    return (int)(at - digits);
}

static void put(void) {
    Buffer *buffer = buffer_named(word());
    uint32_t offset = value(word());
    const char *hex = word();
    uint32_t length = (uint32_t)strlen(hex) / 2;
    unsigned char *into = within(buffer, offset, length);
    for (uint32_t i = 0; i < length; i++)
        into[i] = (unsigned char)(nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]));
}

static void show(void) {
    Buffer *buffer = buffer_named(word());
    uint32_t offset = value(word()), length = value(word());
    const unsigned char *from = within(buffer, offset, length);
    print("show ");
    print(buffer->name);
    print(" ");
    for (uint32_t i = 0; i < length; i++) {
        const char pair[2] = {"0123456789abcdef"[from[i] >> 4], "0123456789abcdef"[from[i] & 15]};
        print_bytes(pair, 2);
    }
    print("\n");
}

static void call(const Function *functions, uint32_t count) {
    const char *name = word();
    uint32_t values[MOST_VALUES] = {0}, given = 0;
    while (has_more()) {
        if (given == MOST_VALUES) give_up(name, "too many values");
        values[given++] = value(word());
    }
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(functions[i].name, name) != 0) continue;
        if (functions[i].values != given) give_up(name, "another number of values");
        /* What the transcript says is safe should the call end the guest. */
        print("call ");
        print(name);
        print_flush();
        int32_t result = functions[i].call(values);
        print(" ");
        if (result < 0) print("-");
        print_number(result < 0 ? -(uint64_t)(int64_t)result : (uint64_t)result, 1);
        print("\n");
        print_flush();
        return;
    }
    give_up("this build has no function", name);
}

static char *read_all(void) {
    size_t size = 1 << 16, used = 0;
    char *text = malloc(size);
    for (;;) {
        if (!text) give_up("script", "out of memory");
        ssize_t got = read(STDIN_FILENO, text + used, size - used - 1);
        if (got < 0) give_up("script", "cannot be read");
        if (got == 0) break;
        used += (size_t)got;
        if (size - used < 2) text = realloc(text, size *= 2);
    }
    text[used] = 0;
    return text;
}

/* The script is in the file `path`, or if that is NULL on standard input. */
static int run_script(const Function *functions, uint32_t count, const char *path) {
    uint32_t length;
    char *next = path ? read_file(path, &length) : read_all();
    while (*next) {
        rest = next;
        next += strcspn(next, "\n");
        if (*next) *next++ = 0;
        if (!has_more()) continue;
        const char *what = word();
        if (strcmp(what, "grow") == 0) {
            if (__builtin_wasm_memory_grow(0, value(word())) == (size_t)-1)
                give_up("grow", "no more memory");
        } else if (strcmp(what, "buf") == 0) {
            const char *name = word();
            uint32_t size = value(word());
            new_buffer(name, size, has_more() ? value(word()) : 0);
        } else if (strcmp(what, "put") == 0) {
            put();
        } else if (strcmp(what, "ptr") == 0) {
            Buffer *buffer = buffer_named(word());
            uint32_t offset = value(word()), number = value(word());
            memcpy(within(buffer, offset, 4), &number, 4);
        } else if (strcmp(what, "file") == 0) {
            const char *name = word();
            uint32_t length;
            char *data = read_file(word(), &length);
            Buffer *made = new_buffer(name, length, 0);
            memcpy(made->at, data, length);
            free(data);
        } else if (strcmp(what, "call") == 0) {
            call(functions, count);
        } else if (strcmp(what, "show") == 0) {
            show();
        } else {
            give_up("script: no such word", what);
        }
    }
    print("end\n");
    print_flush();
    return 0;
}
