/* A layer and the logits of Qwen2 and Qwen3, in bfloat16 with float32 sums.
 *
 * README.md lists where values are rounded. Every sum has a fixed order, so that reference.py can
 * repeat it to the last bit: a dot product runs in 16 lanes that are then added in halves, all else
 * from the first to the last. A product of two bfloat16 values is exact in float32. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "card.h"

#define LANES 16
#define EXP_IS_ZERO (-110.0f) /* below it, exp is 0 in float32 */

static size_t padded(size_t length) { return (length + LANES - 1) / LANES * LANES; }

static float widen(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* To the nearest, ties to even; a NaN stays one. */
static uint16_t narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static float rounded(float value) { return widen(narrow(value)); }

static float *floats(size_t count) { return zeroed((count ? count : 1) * sizeof(float)); }

static void widen_row(const uint16_t *from, float *to, size_t length) {
    for (size_t i = 0; i < length; i++) to[i] = widen(from[i]);
}

static float dot(const float *restrict a, const float *restrict b, size_t length) {
    float lanes[LANES] = {0};
    for (size_t i = 0; i < length; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++) lanes[lane] += a[i + lane] * b[i + lane];
    for (size_t half = LANES / 2; half; half /= 2)
        for (size_t lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

/* y = x W^T + bias for rows of x, which are padded with zeros; y is rounded. */
static void linear(const float *x, size_t rows, size_t in, const uint16_t *weight, size_t out,
                   const uint16_t *bias, float *y, size_t y_stride) {
    size_t x_stride = padded(in);
    float *row = floats(x_stride);
    for (size_t o = 0; o < out; o++) {
        widen_row(weight + o * in, row, in);
        float shift = bias ? widen(bias[o]) : 0.0f;
        for (size_t i = 0; i < rows; i++) {
            float sum = dot(x + i * x_stride, row, x_stride);
            y[i * y_stride + o] = rounded(bias ? sum + shift : sum);
        }
    }
    free(row);
}

static void rms_norm(const float *x, float *y, size_t length, const uint16_t *weight, float eps) {
    float sum = 0;
    for (size_t i = 0; i < length; i++) sum += x[i] * x[i];
    float scale = 1.0f / sqrtf(sum / (float)length + eps);
    for (size_t i = 0; i < length; i++) y[i] = rounded(x[i] * scale * widen(weight[i]));
}

/* Rotate one head by its position; the angle and its sine are float32. */
static void rotate(float *x, size_t head_dim, uint32_t position, const float *frequencies) {
    size_t half = head_dim / 2;
    for (size_t i = 0; i < half; i++) {
        float angle = (float)position * frequencies[i];
        float cosine = (float)cos((double)angle), sine = (float)sin((double)angle);
        float left = x[i], right = x[i + half];
        x[i] = rounded(left * cosine - right * sine);
        x[i + half] = rounded(right * cosine + left * sine);
    }
}

/* Scores to probabilities, rounded. */
static void softmax(float *scores, size_t length) {
    float largest = -INFINITY, sum = 0;
    for (size_t i = 0; i < length; i++)
        if (scores[i] > largest) largest = scores[i];
    for (size_t i = 0; i < length; i++) {
        float shifted = scores[i] - largest;
        scores[i] = shifted < EXP_IS_ZERO ? 0.0f : (float)exp((double)shifted);
        sum += scores[i];
    }
    for (size_t i = 0; i < length; i++) scores[i] = rounded(scores[i] / sum);
}

struct layer_weights {
    const uint16_t *input_norm, *q, *k, *v, *q_bias, *k_bias, *v_bias, *q_norm, *k_norm, *o,
        *post_norm, *gate, *up, *down;
};

static const uint16_t *take(const uint16_t **next, size_t count, bool present) {
    const uint16_t *weights = present ? *next : NULL;
    if (present) *next += count;
    return weights;
}

static struct layer_weights find_weights(const struct model *model) {
    size_t hidden = (size_t)model->hidden, inner = (size_t)model->inner;
    size_t head_dim = (size_t)model->head_dim;
    size_t q = (size_t)model->heads * head_dim, kv = (size_t)model->kv_heads * head_dim;
    const uint16_t *next = model->weights;
    struct layer_weights weights;
    weights.input_norm = take(&next, hidden, true);
    weights.q = take(&next, q * hidden, true);
    weights.k = take(&next, kv * hidden, true);
    weights.v = take(&next, kv * hidden, true);
    weights.q_bias = take(&next, q, model->qkv_bias);
    weights.k_bias = take(&next, kv, model->qkv_bias);
    weights.v_bias = take(&next, kv, model->qkv_bias);
    weights.q_norm = take(&next, head_dim, model->qk_norm);
    weights.k_norm = take(&next, head_dim, model->qk_norm);
    weights.o = take(&next, hidden * q, true);
    weights.post_norm = take(&next, hidden, true);
    weights.gate = take(&next, inner * hidden, true);
    weights.up = take(&next, inner * hidden, true);
    weights.down = take(&next, hidden * inner, true);
    return weights;
}

static void finish_heads(const struct model *model, float *x, size_t rows, size_t heads,
                         const uint16_t *norm, const uint32_t *indices) {
    size_t head_dim = (size_t)model->head_dim;
    for (size_t i = 0; i < rows; i++) {
        for (size_t h = 0; h < heads; h++) {
            float *head = x + (i * heads + h) * head_dim;
            if (norm) rms_norm(head, head, head_dim, norm, model->eps);
            if (indices) rotate(head, head_dim, indices[i], model->frequencies);
        }
    }
}

/* All query heads of one KV head. Every row of the history is read, whatever the mask says. */
static void attend(const struct model *model, size_t kv_head, size_t chunk, size_t history,
                   const struct layer_io *io, const float *q, const float *k, const float *v,
                   float *attended, size_t stride) {
    size_t head_dim = (size_t)model->head_dim, heads = (size_t)model->heads;
    size_t kv_heads = (size_t)model->kv_heads, shared = heads / kv_heads;
    size_t kv_dim = kv_heads * head_dim, total = history + chunk, row_dim = padded(head_dim);
    float *keys = floats(total * row_dim), *values = floats(total * head_dim);
    float *scores = floats(total), *mask = floats(total), *query = floats(row_dim);
    float scale = (float)(1.0 / sqrt((double)model->head_dim));
    for (size_t j = 0; j < total; j++) {
        bool is_old = j < history;
        size_t at = (is_old ? j : j - history) * kv_dim + kv_head * head_dim;
        if (is_old) {
            widen_row(io->keys + at, keys + j * row_dim, head_dim);
            widen_row(io->values + at, values + j * head_dim, head_dim);
        } else {
            memcpy(keys + j * row_dim, k + at, head_dim * sizeof(float));
            memcpy(values + j * head_dim, v + at, head_dim * sizeof(float));
        }
    }
    for (size_t i = 0; i < chunk; i++) {
        widen_row(io->mask + i * total, mask, total);
        for (size_t h = kv_head * shared; h < (kv_head + 1) * shared; h++) {
            memcpy(query, q + (i * heads + h) * head_dim, head_dim * sizeof(float));
            for (size_t j = 0; j < total; j++)
                scores[j] = dot(query, keys + j * row_dim, row_dim) * scale + mask[j];
            softmax(scores, total);
            float *out = attended + i * stride + h * head_dim;
            for (size_t j = 0; j < total; j++)
                for (size_t d = 0; d < head_dim; d++)
                    out[d] += scores[j] * values[j * head_dim + d];
            for (size_t d = 0; d < head_dim; d++) out[d] = rounded(out[d]);
        }
    }
    free(keys), free(values), free(scores), free(mask), free(query);
}

static void feed_forward(const struct model *model, const struct layer_weights *weights,
                         const float *normed, size_t rows, float *y) {
    size_t hidden = (size_t)model->hidden, inner = (size_t)model->inner, stride = padded(inner);
    float *gate = floats(rows * stride), *up = floats(rows * stride);
    linear(normed, rows, hidden, weights->gate, inner, NULL, gate, stride);
    linear(normed, rows, hidden, weights->up, inner, NULL, up, stride);
    for (size_t i = 0; i < rows * stride; i++) {
        float sigmoid = (float)(1.0 / (1.0 + exp(-(double)gate[i])));
        gate[i] = rounded(rounded(gate[i] * sigmoid) * up[i]);
    }
    linear(gate, rows, inner, weights->down, hidden, NULL, y, hidden);
    free(gate), free(up);
}

static void norm_rows(const float *x, float *y, size_t rows, size_t length, const uint16_t *weight,
                      float eps) {
    for (size_t i = 0; i < rows; i++)
        rms_norm(x + i * length, y + i * padded(length), length, weight, eps);
}

static void narrow_row(const float *from, uint16_t *to, size_t length) {
    for (size_t i = 0; i < length; i++) to[i] = narrow(from[i]);
}

void run_layer(const struct model *model, int chunk, int history, const struct layer_io *io) {
    struct layer_weights weights = find_weights(model);
    size_t rows = (size_t)chunk, hidden = (size_t)model->hidden;
    size_t heads = (size_t)model->heads, kv_heads = (size_t)model->kv_heads;
    size_t q_dim = heads * (size_t)model->head_dim, kv_dim = kv_heads * (size_t)model->head_dim;
    float *x = floats(rows * hidden), *normed = floats(rows * padded(hidden));
    float *q = floats(rows * q_dim), *k = floats(rows * kv_dim), *v = floats(rows * kv_dim);
    float *attended = floats(rows * padded(q_dim)), *y = floats(rows * hidden);

    widen_row(io->input, x, rows * hidden);
    norm_rows(x, normed, rows, hidden, weights.input_norm, model->eps);
    linear(normed, rows, hidden, weights.q, q_dim, weights.q_bias, q, q_dim);
    linear(normed, rows, hidden, weights.k, kv_dim, weights.k_bias, k, kv_dim);
    linear(normed, rows, hidden, weights.v, kv_dim, weights.v_bias, v, kv_dim);
    finish_heads(model, q, rows, heads, weights.q_norm, io->indices);
    finish_heads(model, k, rows, kv_heads, weights.k_norm, io->indices);
    for (size_t g = 0; g < kv_heads; g++)
        attend(model, g, rows, (size_t)history, io, q, k, v, attended, padded(q_dim));
    linear(attended, rows, q_dim, weights.o, hidden, NULL, y, hidden);
    for (size_t i = 0; i < rows * hidden; i++) x[i] = rounded(x[i] + y[i]);
    norm_rows(x, normed, rows, hidden, weights.post_norm, model->eps);
    feed_forward(model, &weights, normed, rows, y);
    for (size_t i = 0; i < rows * hidden; i++) x[i] = rounded(x[i] + y[i]);

    /* Last, so that a row in place in the cache is read as it was before. */
    narrow_row(k, io->keys_out, rows * kv_dim);
    narrow_row(v, io->values_out, rows * kv_dim);
    narrow_row(x, io->output, rows * hidden);
    free(x), free(normed), free(q), free(k), free(v), free(attended), free(y);
}

void run_post(const struct model *model, const uint16_t *input, uint16_t *logits) {
    size_t hidden = (size_t)model->hidden, vocab = (size_t)model->vocab;
    float *x = floats(hidden), *normed = floats(padded(hidden)), *y = floats(vocab);
    widen_row(input, x, hidden);
    norm_rows(x, normed, 1, hidden, model->weights, model->eps);
    linear(normed, 1, hidden, model->weights + hidden, vocab, NULL, y, vocab);
    narrow_row(y, logits, vocab);
    free(x), free(normed), free(y);
}
