/* Tells the types of files with Google's Magika model, entirely inside the sandbox.
 *
 *   magika --config CONFIG --kb KNOWLEDGE FILE...
 *
 * The host offers the model under the name "magika". CONFIG is the model's config.min.json and
 * KNOWLEDGE the package's content_types_kb.min.json, both as the PyPI package `magika` carries
 * them. What is done with a file's bytes follows magika 1.0's own Python: the features of version
 * 2, the high-confidence mode, its answers for files that are too small for the model. Prints
 * label, score and path, separated by tabs. A file that cannot be read is reported and passed
 * over; the guest then ends with status 1. */
#define GUEST "magika"
#include "files.h"

#define MODEL "magika"
#define MOST_LABELS 1024
#define MOST_BLOCK 65536

typedef struct {
    const char *text;
    size_t length;
} Span;

static struct {
    const char *thresholds, *overwrites;
    int begin, end, block, padding, least;
    double medium;
    Span labels[MOST_LABELS];
    uint32_t label_count;
} config;

static const char *knowledge;
static nn_context context;
static unsigned char head[MOST_BLOCK], tail[MOST_BLOCK];
static int32_t features[2 * MOST_BLOCK];
static float scores[MOST_LABELS];

static Span span(const char *text) { return (Span){text, strlen(text)}; }

/* ---- JSON: as much of it as the two files need ---- */

static const char *skip_space(const char *at) { return at + strspn(at, " \t\r\n"); }

/* From a string's opening quote to its closing one. */
static const char *string_end(const char *quote) {
    for (const char *at = quote + 1; *at; at++) {
        if (*at == '"') return at;
        if (*at == '\\' && !*++at) break;
    }
    return NULL;
}

/* The value of a key in the object at `json`, or NULL. Keys compare byte for byte: the keys that
 * are looked up here have nothing to escape. */
static const char *member(const char *json, Span key) {
    int depth = 0;
    if (*json != '{') return NULL;
    for (const char *at = json; *at; at++) {
        if (*at == '{' || *at == '[') depth++;
        if ((*at == '}' || *at == ']') && --depth == 0) return NULL;
        if (*at != '"') continue;
        const char *name = at + 1, *close = string_end(at);
        if (!close) return NULL;
        at = close;
        const char *colon = skip_space(close + 1);
        if (depth == 1 && *colon == ':' && (size_t)(close - name) == key.length &&
            memcmp(name, key.text, key.length) == 0)
            return skip_space(colon + 1);
    }
    return NULL;
}

static const char *setting(const char *json, const char *key) {
    const char *value = member(json, span(key));
    if (!value) give_up("the config has no setting", key);
    return value;
}

/* Digits with at most one point. Fifteen digits and a power of ten are exact in a double, so that
 * the one division gives the same double as any JSON parser. */
static double number(const char *at, const char *key) {
    double digits = 0, unit = 1;
    int count = 0, point = 0;
    for (; (*at >= '0' && *at <= '9') || (*at == '.' && !point); at++) {
        if (*at == '.') {
            point = 1;
            continue;
        }
        digits = digits * 10 + (*at - '0');
        if (point) unit *= 10;
        count++;
    }
    if (count == 0 || count > 15 || strchr("+-.eE", *at))
        give_up(key, "not a number of up to 15 digits");
    return digits / unit;
}

static int size(const char *json, const char *key, int least, int most) {
    double value = number(setting(json, key), key);
    if (value < least || value > most || value != (int)value) give_up(key, "out of range");
    return (int)value;
}

static const char *object(const char *json, const char *key) {
    const char *value = setting(json, key);
    if (*value != '{') give_up(key, "not an object");
    return value;
}

static void read_labels(const char *json) {
    const char *at = setting(json, "target_labels_space");
    if (*at != '[') give_up("target_labels_space", "not a list");
    do {
        at = skip_space(at + 1);
        const char *close = *at == '"' ? string_end(at) : NULL;
        if (!close || config.label_count == MOST_LABELS)
            give_up("target_labels_space", "not a list of up to 1024 strings");
        config.labels[config.label_count++] = (Span){at + 1, (size_t)(close - at - 1)};
        at = skip_space(close + 1);
    } while (*at == ',');
    if (*at != ']') give_up("target_labels_space", "not closed");
}

static void read_config(const char *json) {
    json = skip_space(json);
    /* The package's own assertions, in this order. */
    config.block = size(json, "block_size", 1, MOST_BLOCK);
    config.begin = size(json, "beg_size", 1, config.block - 1);
    config.end = size(json, "end_size", 0, config.block - 1);
    size(json, "mid_size", 0, 0);
    if (*setting(json, "use_inputs_at_offsets") != 'f')
        give_up("use_inputs_at_offsets", "not supported");
    config.padding = size(json, "padding_token", 0, INT32_MAX);
    config.least = size(json, "min_file_size_for_dl", 1, config.begin);
    config.medium = number(setting(json, "medium_confidence_threshold"), "the medium threshold");
    config.thresholds = object(json, "thresholds");
    config.overwrites = object(json, "overwrite_map");
    read_labels(json);
}

/* ---- What the package does with the bytes ---- */

/* The six that Python's bytes.strip() takes off. */
static int is_space(unsigned char byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

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

/* The first bytes without the space before them, padded behind; then the last bytes without the
 * space behind them, padded in front. */
static void set_features(size_t length) {
    const unsigned char *from = head;
    size_t left = length;
    while (left && is_space(*from)) from++, left--;
    for (int i = 0; i < config.begin; i++)
        features[i] = (size_t)i < left ? from[i] : config.padding;
    left = length;
    while (left && is_space(tail[left - 1])) left--;
    for (int i = 0; i < config.end; i++) {
        size_t back = (size_t)(config.end - i);
        features[config.begin + i] = back <= left ? tail[left - back] : config.padding;
    }
}

static void answer(Span label, float score, const char *path) {
    print_bytes(label.text, label.length);
    print("\t");
    print_f32(score, 3);
    print("\t");
    print(path);
    print("\n");
    print_flush();
}

/* Whether a label stands for text, for a prediction that is not trusted any further. */
static int is_text(Span label) {
    const char *entry = member(knowledge, label);
    const char *text = entry ? member(entry, span("is_text")) : NULL;
    if (!text) give_up("knowledge", "no is_text for a label of the config");
    return *text == 't';
}

static void answer_by_model(const char *path) {
    uint32_t dims[2] = {1, (uint32_t)(config.begin + config.end)};
    nn_tensor tensor = {dims, 2, NN_I32, features, dims[1] * (uint32_t)sizeof *features};
    uint32_t written = 0;
    must("set_input", nn_set_input(context, 0, &tensor));
    must("compute", nn_compute(context));
    must("get_output", nn_get_output(context, 0, scores, sizeof scores, &written));
    if (written != config.label_count * sizeof *scores)
        give_up("get_output", "the model has another number of labels than its config");
    uint32_t best = 0;
    for (uint32_t i = 1; i < config.label_count; i++)
        if (scores[i] > scores[best]) best = i;
    Span seen = config.labels[best], label = seen;
    const char *other = member(config.overwrites, seen);
    const char *close = other && *other == '"' ? string_end(other) : NULL;
    if (close) label = (Span){other + 1, (size_t)(close - other - 1)};
    /* The threshold is that of the model's label, is_text that of the overwritten one. */
    const char *threshold = member(config.thresholds, seen);
    if (scores[best] < (threshold ? number(threshold, "thresholds") : config.medium))
        label = span(is_text(label) ? "txt" : "unknown");
    answer(label, scores[best], path);
}

/* The first and the last block of a file; 0, or -1 with errno. */
static int read_ends(const char *path, off_t whole, size_t length) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -1;
    int failed = read_at(fd, 0, head, length) || read_at(fd, whole - (off_t)length, tail, length);
    int reason = errno;
    close(fd);
    errno = reason;
    return failed ? -1 : 0;
}

static int identify(const char *path) {
    struct stat status;
    if (stat(path, &status) != 0) {
        complain(path, strerror(errno));
        return 1;
    }
    const char *kind = S_ISDIR(status.st_mode)    ? "directory"
                       : !S_ISREG(status.st_mode) ? "unknown"
                       : status.st_size == 0      ? "empty"
                                                  : NULL;
    if (kind) {
        answer(span(kind), 1, path);
        return 0;
    }
    size_t length = (size_t)(status.st_size < config.block ? status.st_size : config.block);
    if (read_ends(path, status.st_size, length) != 0) {
        complain(path, strerror(errno));
        return 1;
    }
    set_features(length);
    /* Padding this early: next to nothing is left without the space around it. */
    if (status.st_size < config.least || features[config.least - 1] == config.padding)
        answer(span(is_utf8(head, length) ? "txt" : "unknown"), 1, path);
    else
        answer_by_model(path);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 6 || strcmp(argv[1], "--config") != 0 || strcmp(argv[3], "--kb") != 0)
        give_usage("magika --config CONFIG --kb KNOWLEDGE FILE...");
    uint32_t length;
    read_config(read_file(argv[2], &length));
    knowledge = skip_space(read_file(argv[4], &length));
    nn_graph graph;
    must("load_by_name", nn_load_by_name(MODEL, sizeof MODEL - 1, &graph));
    must("init_execution_context", nn_init_execution_context(graph, &context));
    int failed = 0;
    for (int i = 5; i < argc; i++) failed |= identify(argv[i]);
    return failed;
}
