/* Tells the types of files with Google's Magika model, entirely inside the sandbox.
 *
 *   magika --config CONFIG --kb KNOWLEDGE FILE...
 *
 * The host offers the model under the name "magika". CONFIG is the model's config.min.json and
 * KNOWLEDGE the package's content_types_kb.min.json, both as the PyPI package `magika` carries
 * them. What is done with a file's bytes follows magika 1.0's own Python: the features of version
 * 2, the high-confidence mode, its answers for files that are too small for the model. Prints
 * label, score and path, separated by tabs. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "wasi_nn.h"

#define MODEL "magika"
#define MOST_LABELS 1024
#define MOST_FEATURES 8192

typedef struct {
    const char *text;
    int length;
} Span;

static struct {
    const char *thresholds, *overwrites;
    int begin, end, block, padding, least;
    double medium;
    Span labels[MOST_LABELS];
    int label_count;
} config;

static const char *knowledge;
static nn_context context;
static int32_t features[MOST_FEATURES];
static float scores[MOST_LABELS];

static void die(const char *what, const char *why) {
    fprintf(stderr, "magika: %s: %s\n", what, why);
    exit(1);
}

static void check(const char *function, nn_errno code) {
    if (code != NN_SUCCESS) die(function, nn_errno_name(code));
}

static char *read_text(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path, strerror(errno));
    size_t room = 1 << 16, used = 0, got;
    char *text = malloc(room + 1);
    while (text && (got = fread(text + used, 1, room - used, file)) > 0) {
        used += got;
        if (used == room) text = realloc(text, (room *= 2) + 1);
    }
    fclose(file);
    if (!text) die(path, "out of memory");
    text[used] = 0;
    return text;
}

/* Both JSON files are minified and hold plain strings without escapes. */
static const char *value_of(const char *json, const char *key, int length, char opens) {
    if (!json) return NULL;
    int depth = 0;
    for (const char *at = json; *at; at++) {
        if (*at == '{' || *at == '[') depth++;
        if (*at == '}' || *at == ']') {
            if (--depth <= 0) return NULL;
        }
        if (*at != '"') continue;
        const char *name = at + 1, *close = strchr(name, '"');
        if (!close) return NULL;
        at = close;
        if (depth != 1 || close[1] != ':') continue;
        if (close - name == length && strncmp(name, key, length) == 0) {
            const char *value = close + 2;
            return opens && *value != opens ? NULL : value;
        }
    }
    return NULL;
}

static const char *setting(const char *json, const char *key, char opens) {
    const char *value = value_of(json, key, (int)strlen(key), opens);
    if (!value) die("the config has no setting", key);
    return value;
}

static int whole(const char *json, const char *key) { return atoi(setting(json, key, 0)); }

static void read_config(const char *json) {
    config.begin = whole(json, "beg_size");
    config.end = whole(json, "end_size");
    config.block = whole(json, "block_size");
    config.padding = whole(json, "padding_token");
    config.least = whole(json, "min_file_size_for_dl");
    config.medium = atof(setting(json, "medium_confidence_threshold", 0));
    config.thresholds = setting(json, "thresholds", '{');
    config.overwrites = setting(json, "overwrite_map", '{');
    if (whole(json, "mid_size") != 0) die("config", "models with mid features are not supported");
    if (config.begin < config.least || config.end < 0 || config.block < 1 ||
        config.begin + config.end > MOST_FEATURES)
        die("config", "sizes out of range");
    const char *at = setting(json, "target_labels_space", '[') + 1;
    while (*at == '"' && config.label_count < MOST_LABELS) {
        const char *close = strchr(at + 1, '"');
        if (!close) break;
        config.labels[config.label_count++] = (Span){at + 1, (int)(close - at - 1)};
        at = close[1] == ',' ? close + 2 : close + 1;
    }
    if (*at != ']') die("config", "target_labels_space is damaged");
}

static int is_space(unsigned char byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

/* Strict UTF-8, as Python decodes it: no overlong forms, no surrogates, nothing above 10FFFF. */
static int is_utf8(const unsigned char *at, size_t length) {
    const unsigned char *end = at + length;
    while (at < end) {
        unsigned char first = *at++;
        if (first < 0x80) continue;
        int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
        if (first < 0xC2 || first > 0xF4 || end - at < more) return 0;
        unsigned char low = 0x80, high = 0xBF;
        if (first == 0xE0) low = 0xA0;
        if (first == 0xED) high = 0x9F;
        if (first == 0xF0) low = 0x90;
        if (first == 0xF4) high = 0x8F;
        for (; more--; low = 0x80, high = 0xBF, at++)
            if (*at < low || *at > high) return 0;
    }
    return 1;
}

static void answer(Span label, double score, const char *path) {
    int thousandths = (int)(score * 1000 + 0.5);
    printf("%.*s\t%d.%03d\t%s\n", label.length, label.text, thousandths / 1000,
           thousandths % 1000, path);
}

static void answer_word(const char *label, const char *path) {
    answer((Span){label, (int)strlen(label)}, 1.0, path);
}

static size_t read_at(FILE *file, long offset, unsigned char *into, size_t length) {
    if (fseek(file, offset, SEEK_SET) != 0) return 0;
    return fread(into, 1, length, file);
}

static void set_features(const unsigned char *start, const unsigned char *stop, size_t length) {
    const unsigned char *from = start;
    size_t left = length;
    while (left && is_space(*from)) from++, left--;
    for (int i = 0; i < config.begin; i++)
        features[i] = (size_t)i < left ? from[i] : config.padding;
    left = length;
    while (left && is_space(stop[left - 1])) left--;
    for (int i = 0; i < config.end; i++) {
        int back = config.end - i;
        features[config.begin + i] = (size_t)back <= left ? stop[left - back] : config.padding;
    }
}

static void answer_by_model(const char *path) {
    uint32_t dims[2] = {1, (uint32_t)(config.begin + config.end)};
    nn_tensor tensor = {dims, 2, NN_I32, features, dims[1] * (uint32_t)sizeof *features};
    uint32_t written = 0;
    check("set_input", nn_set_input(context, 0, &tensor));
    check("compute", nn_compute(context));
    check("get_output", nn_get_output(context, 0, scores, sizeof scores, &written));
    if (written / sizeof *scores != (size_t)config.label_count)
        die("get_output", "the model has another number of labels than its config");
    int best = 0;
    for (int i = 1; i < config.label_count; i++)
        if (scores[i] > scores[best]) best = i;
    Span seen = config.labels[best], label = seen;
    const char *other = value_of(config.overwrites, seen.text, seen.length, '"');
    if (other) label = (Span){other + 1, (int)strcspn(other + 1, "\"")};
    const char *threshold = value_of(config.thresholds, seen.text, seen.length, 0);
    if (scores[best] < (threshold ? atof(threshold) : config.medium)) {
        const char *entry = value_of(knowledge, label.text, label.length, '{');
        const char *text = value_of(entry, "is_text", 7, 0);
        label = text && *text == 't' ? (Span){"txt", 3} : (Span){"unknown", 7};
    }
    answer(label, scores[best], path);
}

static void identify(const char *path) {
    struct stat status;
    if (stat(path, &status) != 0) die(path, strerror(errno));
    if (S_ISDIR(status.st_mode)) {
        answer_word("directory", path);
        return;
    }
    if (status.st_size == 0) {
        answer_word("empty", path);
        return;
    }
    size_t length = status.st_size < config.block ? (size_t)status.st_size : (size_t)config.block;
    unsigned char *start = malloc(2 * length), *stop = start + length;
    FILE *file = fopen(path, "rb");
    if (!start || !file) die(path, "cannot be read");
    if (read_at(file, 0, start, length) != length ||
        read_at(file, (long)(status.st_size - (off_t)length), stop, length) != length)
        die(path, "cannot be read");
    fclose(file);
    set_features(start, stop, length);
    int too_little =
        status.st_size < config.least || features[config.least - 1] == config.padding;
    if (too_little)
        answer_word(is_utf8(start, length) ? "txt" : "unknown", path);
    else
        answer_by_model(path);
    free(start);
}

int main(int argc, char **argv) {
    if (argc < 6 || strcmp(argv[1], "--config") != 0 || strcmp(argv[3], "--kb") != 0) {
        fputs("usage: magika --config CONFIG --kb KNOWLEDGE FILE...\n", stderr);
        return 2;
    }
    read_config(read_text(argv[2]));
    knowledge = read_text(argv[4]);
    nn_graph graph;
    check("load_by_name", nn_load_by_name(MODEL, sizeof MODEL - 1, &graph));
    check("init_execution_context", nn_init_execution_context(graph, &context));
    for (int i = 5; i < argc; i++) identify(argv[i]);
    return 0;
}
