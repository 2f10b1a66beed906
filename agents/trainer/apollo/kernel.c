/* Apollo's two passes over a matrix, on raw pointers: measure (project, advance the moments, find the scale of
 * every channel) and apply (write the weights). kernel.py beside this file calls them; step.py
 * does the same in torch.
 *
 * Invariant: no result depends on the number of threads: a unit of work is CHANNELS channels of one matrix,
 * the sums of the units are stored separately and added in order. Nothing is written beyond the arrays that the
 * caller names. This file uses neither Python nor torch.
 *
 * A matrix (rows, cols) is wide when rows <= cols: then its rows are projected and its columns are the channels
 * (arXiv 2412.05270, Algorithm 1: R = P G, a scale for each column). For a tall matrix, rows and columns change
 * places.
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { CHANNELS = 512, BLOCK = 128, TILE = 8, PANEL = 16, MOST_THREADS = 256 };
/* CHANNELS: channels in one unit of work. BLOCK: elements that are projected between two additions to R, so that a
 * packed block of a wide matrix (BLOCK x CHANNELS) stays in the second-level cache. TILE x PANEL: size of the part
 * of R that is held in registers. */
enum { MEASURE = 1, APPLY = 2 };

typedef struct {
    const void *gradient; /* (rows, cols) */
    void *weight;         /* (rows, cols) */
    float *moment1;       /* wide: (rank, cols); tall: (rows, rank) */
    float *moment2;
    const float *projection; /* dense: P in panels (ceil(rank / PANEL), n, PANEL); else one coefficient for each of n */
    float *scales;           /* (channels), an output of measure */
    double *sums;            /* (units, 3): scratch */
    int64_t rows, cols, rank;
    int32_t dense;         /* else element k of the projected side goes into row k mod rank of R */
    int32_t tensor_wise;   /* one scale for the whole matrix (Mini), else one for each channel */
    int32_t gradient_bf16; /* else float32 */
    int32_t weight_bf16;   /* else float32 */
    float beta1, beta2, rest1, rest2, eps, alpha, growth_limit; /* rest: 1 - beta, rounded to float32 once */
    float rate;  /* learning rate with warm-up and bias correction */
    float decay; /* the weight is multiplied by this first */
    uint32_t key1, key2; /* of the stochastic rounding */
    float last;          /* norm of the last update before the rate, 0 for none; measure writes the new one */
    float norm;          /* of this update before the rate, limited; an output of measure */
    float divisor;       /* the limiter's divisor, 1 if not limited; an output of measure */
} Matrix;

typedef float Vector __attribute__((vector_size(32), aligned(4)));

/* Every pass is also compiled for the vector units of newer processors; the loader chooses the version. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int wide(const Matrix *m) { return m->rows <= m->cols; }
INLINE int64_t channels_of(const Matrix *m) { return wide(m) ? m->cols : m->rows; }
INLINE int64_t units_of(const Matrix *m) { return (channels_of(m) + CHANNELS - 1) / CHANNELS; }
INLINE int64_t padded(int64_t rank) { return (rank + PANEL - 1) / PANEL * PANEL; }

/* `count` elements of the gradient from `offset` on as float32: in place, or converted into the buffer. */
INLINE const float *run_of(const Matrix *m, int64_t offset, int64_t count, float *restrict buffer) {
    if (!m->gradient_bf16) return (const float *)m->gradient + offset;
    const uint16_t *restrict from = (const uint16_t *)m->gradient + offset;
    uint32_t *restrict to = (uint32_t *)buffer;
    for (int64_t i = 0; i < count; i++) to[i] = (uint32_t)from[i] << 16;
    return buffer;
}

/* c (TILE, PANEL) += a (TILE, n) b (n, PANEL); row i of a is a[i], its elements a_stride apart. */
INLINE void tile(const float *const *a, int64_t a_stride, const float *b, int64_t n, float *c, int64_t c_stride) {
    Vector sum[TILE][2];
    for (int i = 0; i < TILE; i++)
        for (int h = 0; h < 2; h++) sum[i][h] = *(Vector *)(c + i * c_stride + 8 * h);
    for (int64_t k = 0; k < n; k++) {
        const Vector left = *(const Vector *)(b + k * PANEL), right = *(const Vector *)(b + k * PANEL + 8);
#pragma GCC unroll 8
        for (int i = 0; i < TILE; i++) {
            const float factor = a[i][k * a_stride];
            sum[i][0] += factor * left;
            sum[i][1] += factor * right;
        }
    }
    for (int i = 0; i < TILE; i++)
        for (int h = 0; h < 2; h++) *(Vector *)(c + i * c_stride + 8 * h) = sum[i][h];
}

/* Row `bucket` of R (CHANNELS) by a sketch, of `count` columns from `first` on; adds to their squared lengths. */
INLINE void sketch_columns(const Matrix *m, int64_t bucket, int64_t first, int64_t count, float *restrict r,
                           float *restrict lengths, float *restrict buffer) {
    memset(r, 0, sizeof(float) * (size_t)count);
    int64_t k = bucket;
    for (; k + (TILE - 1) * m->rank < m->rows; k += TILE * m->rank) { /* this many rows for each access to r */
        const float *g[TILE];
        float p[TILE];
        for (int i = 0; i < TILE; i++) {
            g[i] = run_of(m, (k + i * m->rank) * m->cols + first, count, buffer + i * CHANNELS);
            p[i] = m->projection[k + i * m->rank];
        }
        for (int64_t j = 0; j < count; j++) {
            float sum = 0, length = 0;
#pragma GCC unroll 8
            for (int i = 0; i < TILE; i++) {
                sum += p[i] * g[i][j];
                length += g[i][j] * g[i][j];
            }
            r[j] += sum;
            lengths[j] += length;
        }
    }
    for (; k < m->rows; k += m->rank) {
        const float *restrict g = run_of(m, k * m->cols + first, count, buffer);
        for (int64_t j = 0; j < count; j++) {
            r[j] += m->projection[k] * g[j];
            lengths[j] += g[j] * g[j];
        }
    }
}

/* r (rank) by a sketch of one row g (n); returns the row's squared length. */
INLINE float sketch_row(const Matrix *m, const float *restrict g, int64_t n, float *restrict r) {
    const float *restrict p = m->projection;
    float length = 0;
    int64_t k = 0;
    if (m->rank == 8 * TILE) { /* the usual rank: R's row stays in registers */
        Vector sum[TILE] = {0}, square[2] = {0};
        for (; k + 8 * TILE <= n; k += 8 * TILE)
#pragma GCC unroll 8
            for (int i = 0; i < TILE; i++) {
                const Vector x = *(const Vector *)(g + k + 8 * i);
                sum[i] += *(const Vector *)(p + k + 8 * i) * x;
                square[i & 1] += x * x;
            }
        for (int i = 0; i < TILE; i++) *(Vector *)(r + 8 * i) = sum[i];
        for (int i = 0; i < 8; i++) length += square[0][i] + square[1][i];
    } else if (m->rank == 1) { /* the loop below would take one element at a time */
        float sum = 0;
        for (; k < n; k++) {
            sum += p[k] * g[k];
            length += g[k] * g[k];
        }
        *r = sum;
    }
    for (; k < n; k += m->rank) {
        const int64_t part = smaller(m->rank, n - k);
        for (int64_t b = 0; b < part; b++) {
            r[b] += p[k + b] * g[k + b];
            length += g[k + b] * g[k + b];
        }
    }
    return length;
}

/* R (padded rank, CHANNELS) of `count` columns from `first` on, and the squared length of each column. */
INLINE void project_wide(const Matrix *m, int64_t first, int64_t count, float *restrict r, float *restrict lengths,
                         float *restrict packed, float *restrict buffer) {
    const int64_t panels = (count + PANEL - 1) / PANEL, whole = count / PANEL;
    if (count % PANEL) memset(packed, 0, sizeof(float) * BLOCK * CHANNELS);
    for (int64_t start = 0; start < m->rows; start += BLOCK) {
        const int64_t block = smaller(BLOCK, m->rows - start);
        for (int64_t k = 0; k < block; k++) {
            const float *restrict g = run_of(m, (start + k) * m->cols + first, count, buffer);
            for (int64_t j = 0; j < count; j++) lengths[j] += g[j] * g[j];
            for (int64_t p = 0; p < whole; p++) memcpy(packed + (p * BLOCK + k) * PANEL, g + p * PANEL, 4 * PANEL);
            if (whole < panels)
                memcpy(packed + (whole * BLOCK + k) * PANEL, g + whole * PANEL, 4 * (size_t)(count % PANEL));
        }
        for (int64_t p = 0; p < panels; p++)
            for (int64_t row = 0; row < padded(m->rank); row += TILE) {
                const float *base = m->projection + ((row / PANEL) * m->rows + start) * PANEL + row % PANEL;
                const float *a[TILE];
                for (int i = 0; i < TILE; i++) a[i] = base + i;
                tile(a, PANEL, packed + p * BLOCK * PANEL, block, r + row * CHANNELS + p * PANEL, CHANNELS);
            }
    }
}

/* R (CHANNELS, padded rank) of `count` rows from `first` on, and the squared length of each row. */
INLINE void project_tall(const Matrix *m, int64_t first, int64_t count, float *restrict r, float *restrict lengths,
                         float *restrict buffer) {
    const int64_t n = m->cols, width = padded(m->rank);
    for (int64_t start = 0; start < count; start += TILE) {
        const float *a[TILE];
        for (int64_t i = 0; i < TILE; i++) {
            const int64_t row = smaller(start + i, count - 1); /* the last tile repeats its last row, in scratch */
            a[i] = run_of(m, (first + row) * n, n, buffer + i * n);
            if (start + i >= count) continue;
            if (m->dense) {
                const float *restrict g = a[i];
                float sum = 0;
                for (int64_t k = 0; k < n; k++) sum += g[k] * g[k];
                lengths[row] = sum;
            } else {
                lengths[row] = sketch_row(m, a[i], n, r + row * width);
            }
        }
        if (!m->dense) continue;
        for (int64_t p = 0; p < width / PANEL; p++)
            tile(a, 1, m->projection + p * n * PANEL, n, r + start * width + p * PANEL, width);
    }
}

/* Advance the moments of a run of R; adds |R|^2 to `before` and |R~|^2 to `after`. */
INLINE void advance(const Matrix *m, const float *restrict r, float *restrict m1, float *restrict m2, int64_t count,
                    float *restrict before, float *restrict after, int64_t step) {
    const float beta1 = m->beta1, beta2 = m->beta2, rest1 = m->rest1, rest2 = m->rest2, eps = m->eps;
    if (step) { /* one sum for each element: a run is a row of R, and its elements are channels */
        for (int64_t j = 0; j < count; j++) {
            const float x = r[j], a = m1[j] = beta1 * m1[j] + rest1 * x, b = m2[j] = beta2 * m2[j] + rest2 * (x * x);
            const float adapted = a / (sqrtf(b) + eps);
            before[j] += x * x;
            after[j] += adapted * adapted;
        }
        return;
    }
    float sum = 0, adapted_sum = 0;
    for (int64_t j = 0; j < count; j++) {
        const float x = r[j], a = m1[j] = beta1 * m1[j] + rest1 * x, b = m2[j] = beta2 * m2[j] + rest2 * (x * x);
        const float adapted = a / (sqrtf(b) + eps);
        sum += x * x;
        adapted_sum += adapted * adapted;
    }
    *before += sum;
    *after += adapted_sum;
}

FOR_EACH_PROCESSOR static void measure_unit(const Matrix *m, int64_t unit, float *scratch) {
    const int64_t first = unit * CHANNELS, count = smaller(CHANNELS, channels_of(m) - first);
    const int64_t width = padded(m->rank);
    float *lengths = scratch, *before = lengths + CHANNELS, *after = before + CHANNELS, *r = after + CHANNELS;
    float *packed = r + width * CHANNELS, *buffer = packed + BLOCK * CHANNELS;
    memset(scratch, 0, sizeof(float) * (size_t)(3 + width) * CHANNELS);
    if (wide(m)) {
        if (m->dense) project_wide(m, first, count, r, lengths, packed, buffer);
        for (int64_t row = 0; row < m->rank; row++) {
            if (!m->dense) sketch_columns(m, row, first, count, r + row * CHANNELS, lengths, buffer);
            const int64_t at = row * m->cols + first;
            advance(m, r + row * CHANNELS, m->moment1 + at, m->moment2 + at, count, before, after, 1);
        }
    } else {
        project_tall(m, first, count, r, lengths, buffer);
        for (int64_t row = 0; row < count; row++) {
            const int64_t at = (first + row) * m->rank;
            advance(m, r + row * width, m->moment1 + at, m->moment2 + at, m->rank, before + row, after + row, 0);
        }
    }
    double *sums = m->sums + 3 * unit;
    sums[0] = sums[1] = sums[2] = 0;
    for (int64_t j = 0; j < count; j++) {
        const float scale = before[j] > 0 ? m->alpha * sqrtf(after[j] / before[j]) : 0;
        m->scales[first + j] = scale;
        sums[0] += m->tensor_wise ? lengths[j] : (double)scale * scale * lengths[j];
        sums[1] += before[j];
        sums[2] += after[j];
    }
}

/* The norm of the scaled gradient, limited: |G~_t| <= gamma |G~_t-1| (arXiv 2412.05270, section 4). */
static void limit(Matrix *m) {
    double sums[3] = {0, 0, 0};
    for (int64_t unit = 0; unit < units_of(m); unit++)
        for (int i = 0; i < 3; i++) sums[i] += m->sums[3 * unit + i];
    if (m->tensor_wise) { /* Mini, section 4.2 */
        const float scale = sums[1] > 0 ? (float)(m->alpha * sqrt(sums[2] / sums[1])) : 0;
        for (int64_t j = 0; j < channels_of(m); j++) m->scales[j] = scale;
        sums[0] *= (double)scale * scale;
    }
    const float norm = (float)sqrt(sums[0]), ceiling = m->growth_limit * m->last;
    m->divisor = m->last > 0 && norm > ceiling ? norm / ceiling : 1;
    m->norm = norm / m->divisor;
    /* A zero norm is never stored: its ceiling would be zero, and the matrix would never move again. */
    if (m->norm > 0 && isfinite(m->norm)) m->last = m->norm;
}

/* A bijection of 32-bit words in which each input bit flips each output bit half the time (lowbias32). */
INLINE uint32_t mix(uint32_t x) {
    x = (x ^ x >> 16) * 0x7FEB352Du;
    x = (x ^ x >> 15) * 0x846CA68Bu;
    return x ^ x >> 16;
}

/* Round up or down at random, by element index and key, as rounding.py does; NaN and infinity stay. */
INLINE uint16_t rounded(float value, int64_t index, uint32_t key1, uint32_t key2) {
    union { float f; uint32_t u; } bits = {.f = value};
    const uint32_t noise = mix(mix((uint32_t)index ^ key1) ^ (uint32_t)(index >> 32) ^ key2) & 0xFFFF;
    const int finite = (bits.u & 0x7F800000u) != 0x7F800000u;
    const uint32_t quiet = (bits.u & 0x7FFFFFFFu) > 0x7F800000u ? 0x400000u : 0; /* a NaN stays one when cut */
    return (uint16_t)((finite ? bits.u + noise : bits.u | quiet) >> 16);
}

INLINE void write_run(const Matrix *m, int64_t offset, int64_t count, const float *restrict g,
                      const float *restrict factors, float factor) {
    const float decay = m->decay, rate = m->rate / m->divisor;
    if (!m->weight_bf16) {
        float *restrict w = (float *)m->weight + offset;
        if (factors)
            for (int64_t j = 0; j < count; j++) w[j] = w[j] * decay - g[j] * (factors[j] * rate);
        else
            for (int64_t j = 0; j < count; j++) w[j] = w[j] * decay - g[j] * (factor * rate);
        return;
    }
    uint16_t *restrict w = (uint16_t *)m->weight + offset;
    for (int64_t j = 0; j < count; j++) {
        union { uint32_t u; float f; } now = {.u = (uint32_t)w[j] << 16};
        const float value = now.f * decay - g[j] * ((factors ? factors[j] : factor) * rate);
        w[j] = rounded(value, offset + j, m->key1, m->key2);
    }
}

/* Rows [first, last) of the weight. */
FOR_EACH_PROCESSOR static void apply_rows(const Matrix *m, int64_t first, int64_t last, float *buffer) {
    for (int64_t row = first; row < last; row++) {
        const float *g = run_of(m, row * m->cols, m->cols, buffer);
        write_run(m, row * m->cols, m->cols, g, wide(m) ? m->scales : NULL, wide(m) ? 0 : m->scales[row]);
    }
}

typedef struct {
    Matrix *matrices;
    int64_t count;
    int passes;
    size_t scratch; /* floats that a thread needs */
    _Atomic int64_t next, failed;
} Work;

/* Both passes: a thread takes whole matrices, whose gradient is then still in its cache. One pass: units. */
static void take(Work *work, float *scratch) {
    int64_t unit = 0, matrix = 0, mine;
    while ((mine = atomic_fetch_add(&work->next, 1)) >= 0) {
        if (work->passes == (MEASURE | APPLY)) {
            if (mine >= work->count) return;
            Matrix *m = work->matrices + mine;
            for (int64_t u = 0; u < units_of(m); u++) measure_unit(m, u, scratch);
            limit(m);
            apply_rows(m, 0, m->rows, scratch);
            continue;
        }
        while (matrix < work->count && mine - unit >= units_of(work->matrices + matrix))
            unit += units_of(work->matrices + matrix++);
        if (matrix == work->count) return;
        const Matrix *m = work->matrices + matrix;
        const int64_t part = mine - unit, parts = units_of(m);
        if (work->passes == MEASURE) measure_unit(m, part, scratch);
        else apply_rows(m, m->rows * part / parts, m->rows * (part + 1) / parts, scratch);
    }
}

static void *in_thread(void *argument) {
    Work *work = argument;
    float *scratch = aligned_alloc(64, (work->scratch * sizeof(float) + 63) / 64 * 64);
    if (scratch) take(work, scratch);
    else atomic_fetch_add(&work->failed, 1);
    free(scratch);
    return NULL;
}

/* The size of a Matrix, which the caller compares with that of its own struct. */
int64_t apollo_matrix_bytes(void) { return sizeof(Matrix); }

/* Elements of `sums` that a matrix of so many channels needs. */
int64_t apollo_sums(int64_t channels) { return 3 * ((channels + CHANNELS - 1) / CHANNELS); }

/* Do the passes over every matrix; returns 0, or 1 if no thread could allocate its scratch memory. */
int apollo_run(Matrix *matrices, int64_t count, int passes, int threads) {
    Work work = {.matrices = matrices, .count = count, .passes = passes};
    for (int64_t i = 0; i < count; i++) {
        const Matrix *m = matrices + i;
        const size_t rows = 3 + (size_t)padded(m->rank) + BLOCK;
        const size_t need = rows * CHANNELS + TILE * (size_t)(m->cols > CHANNELS ? m->cols : CHANNELS);
        if (need > work.scratch) work.scratch = need;
    }
    pthread_t others[MOST_THREADS];
    int started = 0;
    while (started < threads - 1 && started < MOST_THREADS &&
           pthread_create(others + started, NULL, in_thread, &work) == 0)
        started++;
    in_thread(&work);
    for (int i = 0; i < started; i++) pthread_join(others[i], NULL);
    if (work.failed > started) return 1; /* else the other threads have done all the work */
    if (passes == MEASURE)
        for (int64_t i = 0; i < count; i++) limit(matrices + i);
    return 0;
}
