/* As much JSON as the configuration and a model's header need. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "card.h"

#define MAX_DEPTH 16

static const char *value(const char *text, int depth);

static const char *space(const char *text) {
    while (*text == ' ' || *text == '\t' || *text == '\n' || *text == '\r') text++;
    return text;
}

static const char *string(const char *text) {
    if (*text != '"') return NULL;
    for (text++; *text && *text != '"'; text++)
        if (*text == '\\' && !*++text) return NULL;
    return *text ? text + 1 : NULL;
}

/* The members of an object or an array, after its first character. */
static const char *members(const char *text, char end, int depth) {
    text = space(text);
    if (*text == end) return text + 1;
    for (;;) {
        if (end == '}') {
            if (!(text = string(space(text)))) return NULL;
            text = space(text);
            if (*text++ != ':') return NULL;
        }
        if (!(text = value(text, depth))) return NULL;
        text = space(text);
        if (*text == end) return text + 1;
        if (*text++ != ',') return NULL;
    }
}

static const char *value(const char *text, int depth) {
    static const char *const words[] = {"true", "false", "null"};
    text = space(text);
    if (depth > MAX_DEPTH) return NULL;
    if (*text == '{') return members(text + 1, '}', depth + 1);
    if (*text == '[') return members(text + 1, ']', depth + 1);
    if (*text == '"') return string(text);
    for (int i = 0; i < 3; i++)
        if (strncmp(text, words[i], strlen(words[i])) == 0) return text + strlen(words[i]);
    if (*text != '-' && !isdigit((unsigned char)*text)) return NULL;
    char *end;
    strtod(text, &end);
    return end;
}

bool json_valid(const char *text) {
    const char *end = value(text, 0);
    return end && !*space(end);
}

/* What follows a key, wherever it is: no two keys of our files have one name. */
static const char *after(const char *text, const char *key) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *found = strstr(text, quoted);
    if (!found) return NULL;
    found = space(found + strlen(quoted));
    return *found == ':' ? space(found + 1) : NULL;
}

bool json_number(const char *text, const char *key, double *number) {
    const char *found = after(text, key);
    char *end;
    if (!found) return false;
    *number = strtod(found, &end);
    return end != found;
}

int json_numbers(const char *text, const char *key, double *values, int capacity) {
    const char *found = after(text, key);
    int count = 0;
    if (!found || *found++ != '[') return -1;
    while (*(found = space(found)) && *found != ']' && count < capacity) {
        char *end;
        values[count++] = strtod(found, &end);
        if (end == found) return -1;
        found = space(end);
        if (*found == ',') found++;
    }
    return *space(found) == ']' ? count : -1;
}

bool json_string(const char *text, const char *key, char *result, size_t size) {
    const char *found = after(text, key);
    if (!found || *found != '"') return false;
    const char *end = string(found);
    if (!end || (size_t)(end - found) >= size + 1) return false;
    snprintf(result, size, "%.*s", (int)(end - found - 2), found + 1);
    return true;
}
