/* Products of tokens with weight matrices, which are read where they lie, in torch's layout (out, in).
 *
 * 16 tokens make a block: their activations are packed so that one vector holds one feature of 16 tokens. A product
 * multiplies such vectors by single weights (float32), or 16 x 32 tiles of weights by tiles of activations (AMX). PANEL
 * rows of a matrix are a part, the unit of work. See kernel.h for the invariant.
 */
#include "kernel.h"
#include <string.h>

#ifdef WITH_AMX
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { PANEL = 32, TILE = 8, PAIR = 32, GRAIN = 4 };
/* TILE: rows whose sums are held in registers. PAIR: features in one tile of AMX. GRAIN: parts that a thread takes at
 * once, which lie one after the other, so that the next can be fetched meanwhile. */

typedef struct {
    const void *weight; /* (n, k), contiguous */
    const float *bias;  /* (n), or NULL */
    float *out;         /* (tokens, n) */
    int64_t n;
} Matrix;

typedef struct {
    const Matrix *matrices;
    const float *x; /* (tokens, k) */
    void *packed;   /* (blocks, k, LANES) float32, or for AMX (blocks, k / 2, LANES, 2) bfloat16 */
    int64_t count, tokens, k;
    int32_t bf16; /* whether the weights are bfloat16, else float32 */
    int32_t amx;  /* whether AMX multiplies */
} Product;

INLINE int64_t blocks_of(const Product *p) { return (p->tokens + LANES - 1) / LANES; }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Swap rows and columns of 16 vectors, in four steps that swap ever smaller squares. */
INLINE void transpose(Vector *v) {
#pragma GCC unroll 4
    for (int size = 8; size; size /= 2) {
        Whole low, high;
        for (int c = 0; c < LANES; c++) {
            low[c] = c & size ? LANES + c - size : c;
            high[c] = c & size ? LANES + c : c + size;
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (!(i & size)) {
                const Vector a = v[i], b = v[i + size];
                v[i] = __builtin_shuffle(a, b, low);
                v[i + size] = __builtin_shuffle(a, b, high);
            }
    }
}

/* Pack one block; tokens beyond the last are zeros. */
FOR_EACH_PROCESSOR static void pack(const Product *p, int64_t block) {
    const int64_t k = p->k, first = block * LANES, step = p->amx ? 2 * LANES : LANES;
    float *wide = (float *)p->packed + first * k;
    uint16_t *narrow = (uint16_t *)p->packed + first * k;
    int64_t i = 0;
    for (; i + step <= k; i += step) {
        Vector v[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            const float *x = p->x + (first + lane) * k + i;
            if (first + lane >= p->tokens) v[lane] = (Vector){};
            else if (!p->amx) v[lane] = load(x);
            else { /* two neighbours make one element */
                const Whole a = narrowed(load(x)), b = narrowed(load(x + LANES));
                const Whole even = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
                v[lane] = (Vector)(__builtin_shuffle(a, b, even) | __builtin_shuffle(a, b, even + 1) << 16);
            }
        }
        transpose(v);
        float *to = p->amx ? (float *)(narrow + i * LANES) : wide + i * LANES;
        for (int j = 0; j < LANES; j++) save(to + j * LANES, v[j]);
    }
    for (; i < k; i++) /* features that fill no whole square; AMX has none */
        for (int64_t lane = 0; lane < LANES; lane++)
            wide[i * LANES + lane] = first + lane < p->tokens ? p->x[(first + lane) * k + i] : 0;
}

static void pack_parts(const void *work, _Atomic int64_t *next) {
    const Product *p = work;
    for (int64_t block; (block = (*next)++) < blocks_of(p);) pack(p, block);
}

/* Write sums (rows, 2, LANES) of a panel with the block `block` and its neighbour to the output. */
INLINE void write_panel(const Product *p, const Matrix *m, int64_t first, int64_t rows, int64_t block, const float *sums) {
    for (int64_t half = 0; half < 2; half++)
        for (int64_t i = 0; i < rows; i += LANES) {
            Vector v[LANES];
            for (int j = 0; j < LANES; j++) v[j] = load(sums + (2 * (i + j) + half) * LANES);
            transpose(v);
            const int64_t token = (block + half) * LANES, tokens = smaller(p->tokens - token, LANES);
            float *out = m->out + token * m->n + first + i;
            if (i + LANES <= rows) {
                const Vector bias = m->bias ? load(m->bias + first + i) : (Vector){};
                for (int64_t lane = 0; lane < tokens; lane++) save(out + lane * m->n, m->bias ? v[lane] + bias : v[lane]);
            } else
                for (int64_t lane = 0; lane < tokens; lane++)
                    for (int64_t j = 0; j < rows - i; j++)
                        out[lane * m->n + j] = m->bias ? v[lane][j] + m->bias[first + i + j] : v[lane][j];
        }
}

/* sums (TILE, 2, LANES) of TILE weight rows, k apart, with one or two blocks of activations. */
INLINE void tile(const float *w, int64_t rows, int64_t k, const float *x, int blocks, float *sums) {
    Vector sum[TILE][2] = {};
    const float *row[TILE], *x1 = x + (blocks - 1) * LANES * k;
    for (int i = 0; i < TILE; i++) row[i] = w + smaller(i, rows - 1) * k;
    for (int64_t j = 0; j < k; j++) {
        const Vector left = load(x + j * LANES), right = load(x1 + j * LANES);
        if (j % LANES == 0) /* the next tile's weights, a line of each row */
            for (int i = 0; i < TILE; i++) __builtin_prefetch(row[i] + j + TILE * k);
#pragma GCC unroll 8
        for (int i = 0; i < TILE; i++) {
            sum[i][0] += row[i][j] * left;
            if (blocks == 2) sum[i][1] += row[i][j] * right;
        }
    }
    for (int i = 0; i < TILE; i++)
        for (int h = 0; h < blocks; h++) save(sums + (2 * i + h) * LANES, sum[i][h]);
}

FOR_EACH_PROCESSOR static void panel(const Product *p, const Matrix *m, int64_t first) {
    const int64_t rows = smaller(m->n - first, PANEL), k = p->k;
    float sums[PANEL * 2 * LANES] __attribute__((aligned(64))) = {0};
    const float *w = (const float *)m->weight + first * k;
    if (p->bf16) {
        uint32_t *wide = scratch((size_t)(rows * k) * sizeof(float));
        const uint16_t *narrow = (const uint16_t *)m->weight + first * k;
        for (int64_t i = 0; i < rows * k; i++) wide[i] = (uint32_t)narrow[i] << 16;
        w = (const float *)wide;
    }
    for (int64_t block = 0; block < blocks_of(p); block += 2) {
        const float *x = (const float *)p->packed + block * LANES * k;
        for (int64_t i = 0; i < rows; i += TILE)
            if (block + 1 < blocks_of(p)) tile(w + i * k, rows - i, k, x, 2, sums + 2 * i * LANES);
            else tile(w + i * k, rows - i, k, x, 1, sums + 2 * i * LANES);
        write_panel(p, m, first, rows, block, sums);
    }
}

#ifdef WITH_AMX
#define FOR_AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,fma")))

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t columns[16];
    uint8_t rows[16];
} Tiles;

/* Eight tiles of 16 rows of 64 bytes. Not a local variable: GCC 12 drops the stores to one. */
static const Tiles TILES __attribute__((aligned(64))) = {
    .palette = 1, .columns = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

FOR_AMX static void configure_tiles(void) { _tile_loadconfig(&TILES); }

FOR_AMX static void release_tiles(void) { _tile_release(); }

/* As `panel`, with weights in bfloat16; the rows are a multiple of 16, the features one of PAIR. The rows behind the
 * panel, up to `end`, are fetched into the cache meanwhile. */
FOR_AMX static void panel_amx(const Product *p, const Matrix *m, int64_t first, int64_t end) {
    const int64_t rows = smaller(m->n - first, PANEL), k = p->k;
    float sums[PANEL * 2 * LANES] __attribute__((aligned(64)));
    const uint16_t *w = (const uint16_t *)m->weight + first * k, *w1 = w + (rows > LANES ? LANES * k : 0);
    const char *ahead = (const char *)(w + PANEL * k);
    const int64_t lines = smaller(end - first - rows, PANEL) * k / PAIR;
    for (int64_t block = 0; block < blocks_of(p); block += 2) {
        const uint16_t *x = (const uint16_t *)p->packed + block * LANES * k, *x1 = x + LANES * k;
        const int two = block + 1 < blocks_of(p);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t j = 0; j < k; j += PAIR) {
            if (!block)
                for (int64_t line = j; line < smaller(j + PAIR, lines); line++) __builtin_prefetch(ahead + 64 * line, 0, 2);
            else
                for (int line = 0; line < LANES; line++) {
                    __builtin_prefetch(x + (j + 2 * PAIR) * LANES + line * PAIR);
                    __builtin_prefetch(x1 + (j + 2 * PAIR) * LANES + line * PAIR);
                }
            _tile_loadd(4, w + j, 2 * k);
            _tile_loadd(6, x + j * LANES, 4 * LANES);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, w1 + j, 2 * k);
            _tile_dpbf16ps(2, 5, 6);
            if (!two) continue;
            _tile_loadd(7, x1 + j * LANES, 4 * LANES);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, sums, 8 * LANES);
        _tile_stored(1, sums + LANES, 8 * LANES);
        _tile_stored(2, sums + 2 * LANES * LANES, 8 * LANES);
        _tile_stored(3, sums + 2 * LANES * LANES + LANES, 8 * LANES);
        write_panel(p, m, first, rows, block, sums);
    }
}
#endif

static void multiply_parts(const void *work, _Atomic int64_t *next) {
    const Product *p = work;
#ifdef WITH_AMX
    if (p->amx) configure_tiles();
#endif
    int64_t begin = 0, matrix = 0; /* in units of GRAIN panels */
    for (int64_t part; (part = (*next)++) >= 0;) {
        while (matrix < p->count && (part - begin) * GRAIN * PANEL >= p->matrices[matrix].n)
            begin += (p->matrices[matrix++].n + GRAIN * PANEL - 1) / (GRAIN * PANEL);
        if (matrix == p->count) break;
        const Matrix *m = p->matrices + matrix;
        const int64_t first = (part - begin) * GRAIN * PANEL, end = smaller(first + GRAIN * PANEL, m->n);
        for (int64_t row = first; row < end; row += PANEL)
#ifdef WITH_AMX
            if (p->amx) panel_amx(p, m, row, end);
            else
#endif
                panel(p, m, row);
    }
#ifdef WITH_AMX
    if (p->amx) release_tiles();
#endif
}

/* Whether this processor, and the system, let a program multiply with AMX. */
int has_amx(void) {
#ifdef WITH_AMX
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    return (d >> 22 & 1) && (d >> 24 & 1) && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           syscall(SYS_arch_prctl, 0x1023, 18) == 0; /* ARCH_REQ_XCOMP_PERM, for the data of tiles */
#else
    return 0;
#endif
}

/* Multiply the tokens' features by each of the matrices: out = x weight^T + bias. */
void multiply(const Product *product, int threads) {
    in_threads(pack_parts, product, product->tokens > 4 * LANES ? threads : 1);
    in_threads(multiply_parts, product, threads);
}

/* The size of the structs, which the caller compares with its own. */
int64_t matrix_bytes(void) { return sizeof(Matrix); }
int64_t product_bytes(void) { return sizeof(Product); }
