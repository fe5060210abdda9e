// One token through the Llama of model.py; keys and values of earlier tokens are in the cache. Matrices are float32, or
// int8 with a scale for each row; everything else is float32. All threads run the same lines, share the rows of each
// product, and wait for each other after it.

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { const void *weight; const float *scale; } Matrix;  // scale is NULL where the weights are float32
typedef struct { const float *attention_norm, *mlp_norm; Matrix q, k, v, o, gate, up, down; } Layer;
typedef struct {
    int dims, hidden, n_layers, heads, kv_heads, head_dim, vocab;
    float eps;
    const float *embedding, *cos, *sin, *norm;
    Matrix head;
    const Layer *layers;
} Model;

// Round x to `steps`, multiples of the returned size: as many as a sum of products with int8 has room for in 32 bits,
// 4000 or more up to 4096 columns. The size is NaN where a value is not finite, and so are then all products.
static float quantize(int16_t *steps, const float *x, int columns) {
    float highest = 0, faults = 0;
    #pragma omp simd reduction(max : highest) reduction(+ : faults)
    for (int i = 0; i < columns; i++) {
        float size = fabsf(x[i]);
        highest = size > highest ? size : highest;  // fmaxf is no instruction, but a call
        faults += x[i] * 0;  // 0, or NaN for NaN and infinity
    }
    if (isnan(faults)) {
        memset(steps, 0, columns * sizeof(int16_t));
        return NAN;
    }
    float most = fminf(32767, (float)INT32_MAX / 128 / columns);
    float size = fmaxf(highest, 1e-30f) / most;
    for (int i = 0; i < columns; i++) steps[i] = (int16_t)rintf(x[i] / size);
    return size;
}

// y (rows) = matrix (rows, columns) times x, added to y if `add`. For int8 weights x is rounded, too, into the memory
// of each thread's own `steps`: integers are summed at the speed of memory.
static void product(float *y, Matrix m, const float *x, int rows, int columns, int add, int16_t *steps) {
    float size = m.scale ? quantize(steps, x, columns) : 0;
    #pragma omp for schedule(static)
    for (int row = 0; row < rows; row++) {
        float sum = 0;
        if (m.scale) {
            const int8_t *w = (const int8_t *)m.weight + (size_t)row * columns;
            int32_t int_sum = 0;
            for (int i = 0; i < columns; i++) int_sum += w[i] * steps[i];
            sum = int_sum * size * m.scale[row];
        } else {
            const float *w = (const float *)m.weight + (size_t)row * columns;
            #pragma omp simd reduction(+ : sum) simdlen(64)
            for (int i = 0; i < columns; i++) sum += w[i] * x[i];
        }
        y[row] = add ? y[row] + sum : sum;
    }
}

static void rms_norm(float *y, const float *x, const float *weight, int size, float eps) {
    #pragma omp single
    {
        float squares = 0;
        #pragma omp simd reduction(+ : squares)
        for (int i = 0; i < size; i++) squares += x[i] * x[i];
        float scale = 1 / sqrtf(squares / size + eps);
        for (int i = 0; i < size; i++) y[i] = x[i] * scale * weight[i];
    }
}

// Rotate each pair (x[i], x[i + D/2]) of a head by its position's angle.
static void rotate(float *x, const float *cos, const float *sin, int head_dim) {
    for (int i = 0, half = head_dim / 2; i < half; i++) {
        float left = x[i], right = x[i + half];
        x[i] = left * cos[i] - right * sin[i];
        x[i + half] = right * cos[i] + left * sin[i];
    }
}

// One query head over `length` keys and values (length, head_dim).
static void attend(float *out, float *scores, const float *q, const float *keys, const float *values, int length,
                   int head_dim) {
    float highest = -INFINITY, total = 0;
    for (int t = 0; t < length; t++) {
        float sum = 0;
        #pragma omp simd reduction(+ : sum)
        for (int i = 0; i < head_dim; i++) sum += q[i] * keys[(size_t)t * head_dim + i];
        scores[t] = sum / sqrtf(head_dim);
        highest = fmaxf(highest, scores[t]);
    }
    memset(out, 0, head_dim * sizeof(float));
    for (int t = 0; t < length; t++) {
        float weight = expf(scores[t] - highest);
        total += weight;
        for (int i = 0; i < head_dim; i++) out[i] += weight * values[(size_t)t * head_dim + i];
    }
    for (int i = 0; i < head_dim; i++) out[i] /= total;
}

// Logits (vocab) after `token` at `position`; its keys and values join those in (layers, kv_heads, room, head_dim).
// Returns 0, or 1 where there is no memory. The caller checks that token and position are in the vocabulary and the room.
int step(const Model *model, int token, int position, int room, float *keys, float *values, float *logits) {
    Model m = *model;
    int D = m.head_dim, width = m.heads * D, kv_width = m.kv_heads * D;
    int longest = width > m.dims ? width : m.dims;
    if (m.hidden > longest) longest = m.hidden;

    size_t floats = 2 * (size_t)m.dims + 2 * (size_t)width + 2 * (size_t)kv_width + 2 * (size_t)m.hidden;
    float *x = malloc(sizeof(float) * (floats + (size_t)m.heads * room));
    int16_t *all_steps = malloc(sizeof(int16_t) * longest * omp_get_max_threads());
    if (!x || !all_steps) {
        free(x);
        free(all_steps);
        return 1;
    }
    float *h = x + m.dims, *q = h + m.dims, *out = q + width, *k = out + width, *v = k + kv_width;
    float *gate = v + kv_width, *up = gate + m.hidden, *scores = up + m.hidden;
    const float *cos = m.cos + (size_t)position * D, *sin = m.sin + (size_t)position * D;
    memcpy(x, m.embedding + (size_t)token * m.dims, sizeof(float) * m.dims);
    #pragma omp parallel
    {
        int16_t *steps = all_steps + (size_t)longest * omp_get_thread_num();
        for (int n = 0; n < m.n_layers; n++) {
            Layer layer = m.layers[n];
            rms_norm(h, x, layer.attention_norm, m.dims, m.eps);
            product(q, layer.q, h, width, m.dims, 0, steps);
            product(k, layer.k, h, kv_width, m.dims, 0, steps);
            product(v, layer.v, h, kv_width, m.dims, 0, steps);
            #pragma omp for schedule(static)
            for (int head = 0; head < m.kv_heads; head++) {
                size_t base = ((size_t)n * m.kv_heads + head) * room * D, group = m.heads / m.kv_heads;
                rotate(k + head * D, cos, sin, D);
                memcpy(keys + base + (size_t)position * D, k + head * D, sizeof(float) * D);
                memcpy(values + base + (size_t)position * D, v + head * D, sizeof(float) * D);
                for (size_t i = head * group; i < (head + 1) * group; i++) {
                    rotate(q + i * D, cos, sin, D);
                    attend(out + i * D, scores + i * room, q + i * D, keys + base, values + base, position + 1, D);
                }
            }
            product(x, layer.o, out, m.dims, width, 1, steps);
            rms_norm(h, x, layer.mlp_norm, m.dims, m.eps);
            product(gate, layer.gate, h, m.hidden, m.dims, 0, steps);
            product(up, layer.up, h, m.hidden, m.dims, 0, steps);
            #pragma omp for schedule(static)
            for (int i = 0; i < m.hidden; i++) gate[i] *= up[i] / (1 + expf(-gate[i]));
            product(x, layer.down, gate, m.dims, m.hidden, 1, steps);
        }
        rms_norm(h, x, m.norm, m.dims, m.eps);
        product(logits, m.head, h, m.vocab, m.dims, 0, steps);
    }
    free(x);
    free(all_steps);
    return 0;
}
