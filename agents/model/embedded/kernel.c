/* The arithmetic of a decoder's forward pass on a CPU, on raw pointers: products with weight matrices, and attention
 * over a paged cache. kernel.py beside this file calls it; without a compiler, torch does the same there.
 *
 * Invariant: a token's numbers depend on its own row alone. Every sum over features or earlier tokens is taken in one
 * order, whatever the number of other rows and of threads, so an answer does not depend on its batch. Weights are
 * read where they lie, in torch's layout (out, in). This file uses neither Python nor torch.
 *
 * 16 tokens make a block: their activations are packed so that one vector holds one feature of 16 tokens. A product
 * multiplies such vectors by single weights (float32), or 16 x 32 tiles of weights by tiles of activations (AMX).
 * A part is the unit of work that a thread takes: PANEL rows of a weight matrix, or one token's attention to one head.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#define WITH_AMX 1
#include <immintrin.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16, PANEL = 32, TILE = 8, PAIR = 32, MOST_THREADS = 256, SPINS = 4000 };
/* LANES: tokens in a block, and in a page of the cache. PANEL: rows of a weight matrix in one part. TILE: rows whose
 * sums are held in registers. PAIR: features in one tile of AMX. SPINS: looks at a flag before a thread sleeps. */

typedef float Vector __attribute__((vector_size(64), aligned(4)));
typedef int32_t Whole __attribute__((vector_size(64), aligned(4)));
typedef uint16_t Half __attribute__((vector_size(32), aligned(2)));

INLINE Vector load(const float *p) { return *(const Vector *)p; }
INLINE Vector all(float value) { return value - (Vector){}; }
INLINE Vector widened(const uint16_t *p) {
    return (Vector)(__builtin_convertvector(*(const Half *)p, Whole) << 16);
}
INLINE uint16_t narrowed(float value) { /* to the nearest bfloat16, ties to even */
    union { float f; uint32_t u; } now = {.f = value};
    return (uint16_t)((now.u + 0x7fff + (now.u >> 16 & 1)) >> 16);
}

/* ---------------------------------------------------------------- threads */

typedef void (*Body)(const void *work, _Atomic int64_t *next);

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    _Atomic int64_t round, next;
    _Atomic int active;
    int started, open, wanted;
    Body body;
    const void *work;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};
static pthread_mutex_t one_caller = PTHREAD_MUTEX_INITIALIZER;

INLINE void pause_once(void) {
#ifdef WITH_AMX
    _mm_pause();
#endif
}

static void *helper(void *argument) {
    int64_t seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && pool.round == seen; i++) pause_once();
        pthread_mutex_lock(&pool.lock);
        while (pool.round == seen) pthread_cond_wait(&pool.wake, &pool.lock);
        seen = pool.round;
        const int join = pool.open && pool.active < pool.wanted;
        if (join) pool.active++;
        pthread_mutex_unlock(&pool.lock);
        if (!join) continue;
        pool.body(pool.work, &pool.next);
        pthread_mutex_lock(&pool.lock);
        pool.active--;
        pthread_cond_signal(&pool.done);
        pthread_mutex_unlock(&pool.lock);
    }
    return argument;
}

/* Have up to `threads` threads, this one included, call the body, which takes parts until there are none left. */
static void run(Body body, const void *work, int threads) {
    if (threads <= 1 || pthread_mutex_trylock(&one_caller)) {
        _Atomic int64_t next = 0;
        body(work, &next);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    pthread_t thread;
    while (pool.started < threads - 1 && pool.started < MOST_THREADS && !pthread_create(&thread, NULL, helper, NULL)) {
        pthread_detach(thread);
        pool.started++;
    }
    pool.body = body;
    pool.work = work;
    pool.next = 0;
    pool.wanted = threads - 1;
    pool.open = 1;
    pool.round++;
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    body(work, &pool.next);
    pthread_mutex_lock(&pool.lock);
    pool.open = 0; /* a helper that wakes up only now finds nothing to do */
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < SPINS && pool.active; i++) pause_once();
    pthread_mutex_lock(&pool.lock);
    while (pool.active) pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&one_caller);
}

/* Memory of this thread, which lives as long as the thread. */
static void *scratch(size_t bytes) {
    static _Thread_local void *memory;
    static _Thread_local size_t size;
    if (bytes > size) {
        free(memory);
        size = (bytes + 4095) / 4096 * 4096;
        memory = aligned_alloc(64, size);
        if (!memory) abort(); /* a few hundred kilobytes: nothing else would work either */
    }
    return memory;
}

/* ---------------------------------------------------------------- products with weights */

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

/* Pack one block; tokens beyond the last are zeros. */
FOR_EACH_PROCESSOR static void pack(const Product *p, int64_t block) {
    for (int64_t lane = 0; lane < LANES; lane++) {
        const int64_t token = block * LANES + lane, k = p->k;
        const float *x = p->x + token * k;
        float *wide = (float *)p->packed + block * LANES * k + lane;
        uint16_t *narrow = (uint16_t *)p->packed + block * LANES * k + 2 * lane;
        if (token >= p->tokens)
            for (int64_t i = 0; i < k; i++)
                if (p->amx) narrow[i / 2 * 2 * LANES + i % 2] = 0;
                else wide[i * LANES] = 0;
        else if (p->amx)
            for (int64_t i = 0; i < k / 2; i++) {
                narrow[i * 2 * LANES] = narrowed(x[2 * i]);
                narrow[i * 2 * LANES + 1] = narrowed(x[2 * i + 1]);
            }
        else
            for (int64_t i = 0; i < k; i++) wide[i * LANES] = x[i];
    }
}

static void pack_parts(const void *work, _Atomic int64_t *next) {
    const Product *p = work;
    for (int64_t block; (block = (*next)++) < blocks_of(p);) pack(p, block);
}

/* sums (TILE, 2, LANES) of TILE weight rows, k apart, with one or two blocks. */
INLINE void tile(const float *w, int64_t rows, int64_t k, const float *x, int two, float *sums) {
    Vector sum[TILE][2] = {};
    const float *row[TILE], *x1 = x + (two ? LANES * k : 0);
    for (int i = 0; i < TILE; i++) row[i] = w + (i < rows ? i : rows - 1) * k;
    for (int64_t j = 0; j < k; j++) {
        const Vector left = load(x + j * LANES), right = two ? load(x1 + j * LANES) : left;
#pragma GCC unroll 8
        for (int i = 0; i < TILE; i++) {
            sum[i][0] += row[i][j] * left;
            if (two) sum[i][1] += row[i][j] * right;
        }
    }
    for (int i = 0; i < TILE; i++)
        for (int h = 0; h < 1 + two; h++) *(Vector *)(sums + (2 * i + h) * LANES) = sum[i][h];
}

/* Write the sums (rows, 2, LANES) of a panel with the block `block` and its neighbour to the output. */
INLINE void write_panel(const Product *p, const Matrix *m, int64_t first, int64_t rows, int64_t block, const float *sums) {
    for (int64_t half = 0; half < 2; half++)
        for (int64_t lane = 0; lane < LANES; lane++) {
            const int64_t token = (block + half) * LANES + lane;
            if (token >= p->tokens) return;
            float *out = m->out + token * m->n + first;
            const float *from = sums + half * LANES + lane;
            if (m->bias)
                for (int64_t i = 0; i < rows; i++) out[i] = from[2 * i * LANES] + m->bias[first + i];
            else
                for (int64_t i = 0; i < rows; i++) out[i] = from[2 * i * LANES];
        }
}

FOR_EACH_PROCESSOR static void panel(const Product *p, const Matrix *m, int64_t first) {
    const int64_t rows = m->n - first < PANEL ? m->n - first : PANEL, k = p->k;
    float sums[PANEL * 2 * LANES] __attribute__((aligned(64)));
    const float *w = (const float *)m->weight + first * k;
    if (p->bf16) {
        float *wide = scratch((size_t)(rows * k + LANES) * sizeof(float));
        const uint16_t *narrow = (const uint16_t *)m->weight + first * k;
        for (int64_t i = 0; i < rows * k; i++) ((uint32_t *)wide)[i] = (uint32_t)narrow[i] << 16;
        w = wide;
    }
    for (int64_t block = 0; block < blocks_of(p); block += 2) {
        const float *x = (const float *)p->packed + block * LANES * k;
        for (int64_t i = 0; i < rows; i += TILE) {
            if (block + 1 < blocks_of(p)) tile(w + i * k, rows - i, k, x, 1, sums + 2 * i * LANES);
            else tile(w + i * k, rows - i, k, x, 0, sums + 2 * i * LANES);
        }
        write_panel(p, m, first, rows, block, sums);
    }
}

#ifdef WITH_AMX
typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t columns[16];
    uint8_t rows[16];
} Tiles;

#define FOR_AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,fma")))

/* Eight tiles of 16 rows of 64 bytes. Not a local variable: GCC 12 drops the stores to one. */
static const Tiles TILES __attribute__((aligned(64))) = {
    .palette = 1, .columns = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

FOR_AMX static void configure_tiles(void) { _tile_loadconfig(&TILES); }

FOR_AMX static void release_tiles(void) { _tile_release(); }

/* As `panel`, with weights in bfloat16; the rows are a multiple of 16, the features one of PAIR. */
FOR_AMX static void panel_amx(const Product *p, const Matrix *m, int64_t first) {
    const int64_t rows = m->n - first < PANEL ? m->n - first : PANEL, k = p->k;
    float sums[PANEL * 2 * LANES] __attribute__((aligned(64)));
    const uint16_t *w = (const uint16_t *)m->weight + first * k, *w1 = w + (rows > LANES ? LANES * k : 0);
    for (int64_t block = 0; block < blocks_of(p); block += 2) {
        const uint16_t *x = (const uint16_t *)p->packed + block * LANES * k, *x1 = x + LANES * k;
        const int two = block + 1 < blocks_of(p);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t j = 0; j < k; j += PAIR) {
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
    int64_t begin = 0, matrix = 0;
    for (int64_t part; (part = (*next)++) >= 0;) {
        while (matrix < p->count && (part - begin) * PANEL >= p->matrices[matrix].n)
            begin += (p->matrices[matrix++].n + PANEL - 1) / PANEL;
        if (matrix == p->count) break;
        const int64_t first = (part - begin) * PANEL;
#ifdef WITH_AMX
        if (p->amx) {
            panel_amx(p, p->matrices + matrix, first);
            continue;
        }
#endif
        panel(p, p->matrices + matrix, first);
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
    if (product->tokens > 2 * LANES) run(pack_parts, product, threads);
    else run(pack_parts, product, 1);
    run(multiply_parts, product, threads);
}

/* ---------------------------------------------------------------- attention */

typedef struct {
    const float *q;          /* (tokens, heads, dim) */
    const float *k, *v;      /* (tokens, kv_heads, dim) */
    float *out;              /* (tokens, heads, dim) */
    void *keys;              /* (pages, kv_heads, dim, LANES) */
    void *values;            /* (pages, kv_heads, LANES, dim) */
    const int32_t *pages;    /* (rows, most): the pages of each row, in order */
    const int32_t *row;      /* (tokens) */
    const int32_t *position; /* (tokens) */
    int64_t tokens, heads, kv_heads, dim, most;
    int64_t window; /* how many tokens a token sees, itself included; 0 for all */
    float scale;
    int32_t bf16; /* whether the cache is bfloat16, else float32 */
} Attention;

INLINE int64_t page_of(const Attention *a, int64_t token, int64_t number) {
    return a->pages[a->row[token] * a->most + number];
}

/* Write the tokens' keys and values into their pages. */
FOR_EACH_PROCESSOR void store(const Attention *a) {
    for (int64_t token = 0; token < a->tokens; token++)
        for (int64_t head = 0; head < a->kv_heads; head++) {
            const int64_t place = a->position[token] % LANES, dim = a->dim;
            const int64_t begin = (page_of(a, token, a->position[token] / LANES) * a->kv_heads + head) * dim * LANES;
            const float *k = a->k + (token * a->kv_heads + head) * dim, *v = a->v + (token * a->kv_heads + head) * dim;
            if (a->bf16) {
                uint16_t *keys = (uint16_t *)a->keys + begin + place, *values = (uint16_t *)a->values + begin + place * dim;
                for (int64_t i = 0; i < dim; i++) keys[i * LANES] = narrowed(k[i]), values[i] = narrowed(v[i]);
            } else {
                float *keys = (float *)a->keys + begin + place, *values = (float *)a->values + begin + place * dim;
                for (int64_t i = 0; i < dim; i++) keys[i * LANES] = k[i], values[i] = v[i];
            }
        }
}

/* exp(x) for x <= 0, to a few units of the last place; below -87 it is 0. */
INLINE Vector exp_of(Vector x) {
    const Whole tiny = x < -87.0f;
    x = (Vector)(((Whole)x & ~tiny) | ((Whole)all(-87.0f) & tiny));
    const Vector magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    const Vector shifted = x * 1.44269504f + magic, n = shifted - magic;
    const Vector r = (x - n * 0.693359375f) - n * -2.12194440e-4f; /* ln 2 in two parts */
    Vector p = all(1.3981999e-3f);
    p = p * r + 8.3334519e-3f;
    p = p * r + 4.1665794e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    const Whole power = ((Whole)shifted - (Whole)magic + 127) << 23;
    return (Vector)((Whole)(p * (Vector)power) & ~tiny);
}

INLINE Vector cached(const void *cache, int64_t offset, int bf16) {
    return bf16 ? widened((const uint16_t *)cache + offset) : load((const float *)cache + offset);
}

/* The weighted values of `heads` heads in `vectors` * LANES dimensions. */
INLINE void weigh(const Attention *a, int64_t token, int64_t head, int64_t first, int64_t end, const float *scores,
                  int64_t stride, const float *sums, int64_t from, float *out, int heads, int vectors, int bf16) {
    Vector sum[4][4] = {};
    for (int64_t place = first; place < end; place++) {
        const int64_t begin = (page_of(a, token, place / LANES) * a->kv_heads + head) * LANES + place % LANES;
        for (int i = 0; i < vectors; i++) {
            const Vector value = cached(a->values, begin * a->dim + from + i * LANES, bf16);
            for (int h = 0; h < heads; h++) sum[h][i] += scores[h * stride + place] * value;
        }
    }
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < vectors; i++) *(Vector *)(out + h * a->dim + from + i * LANES) = sum[h][i] * (1 / sums[h]);
}

/* Attention of one token in `heads` query heads that share the key head `head`. */
INLINE void attend_heads(const Attention *a, int64_t token, int64_t head, const float *q, float *out, int heads, int bf16) {
    const int64_t end = a->position[token] + 1, first = a->window && end > a->window ? end - a->window : 0;
    const int64_t stride = (end + LANES - 1) / LANES * LANES, begin = first / LANES * LANES;
    float *scores = scratch((size_t)(4 * stride) * sizeof(float)), sums[4];
    Vector most[4];
    for (int h = 0; h < heads; h++) most[h] = all(-3e38f);
    for (int64_t place = begin; place < end; place += LANES) {
        const int64_t page = (page_of(a, token, place / LANES) * a->kv_heads + head) * a->dim * LANES;
        Vector sum[4] = {};
        for (int64_t d = 0; d < a->dim; d++) {
            const Vector key = cached(a->keys, page + d * LANES, bf16);
            for (int h = 0; h < heads; h++) sum[h] += q[h * a->dim + d] * key;
        }
        for (int h = 0; h < heads; h++) {
            Vector score = sum[h] * a->scale;
            for (int lane = 0; lane < LANES; lane++)
                if (place + lane < first || place + lane >= end) score[lane] = -3e38f;
            *(Vector *)(scores + h * stride + place) = score;
            const Whole more = score > most[h];
            most[h] = (Vector)(((Whole)score & more) | ((Whole)most[h] & ~more));
        }
    }
    for (int h = 0; h < heads; h++) {
        float top = most[h][0];
        for (int lane = 1; lane < LANES; lane++) top = most[h][lane] > top ? most[h][lane] : top;
        Vector sum = {};
        for (int64_t place = begin; place < end; place += LANES) {
            const Vector weight = exp_of(load(scores + h * stride + place) - top);
            *(Vector *)(scores + h * stride + place) = weight;
            sum += weight;
        }
        sums[h] = 0;
        for (int lane = 0; lane < LANES; lane++) sums[h] += sum[lane];
    }
    int64_t from = 0;
    for (; from + 4 * LANES <= a->dim; from += 4 * LANES)
        weigh(a, token, head, first, end, scores, stride, sums, from, out, heads, 4, bf16);
    for (; from < a->dim; from += LANES)
        weigh(a, token, head, first, end, scores, stride, sums, from, out, heads, 1, bf16);
}

INLINE void attend_some(const Attention *a, int64_t token, int64_t head, const float *q, float *out, int64_t heads, int bf16) {
    switch (heads) {
    case 1: attend_heads(a, token, head, q, out, 1, bf16); break;
    case 2: attend_heads(a, token, head, q, out, 2, bf16); break;
    case 3: attend_heads(a, token, head, q, out, 3, bf16); break;
    default: attend_heads(a, token, head, q, out, 4, bf16);
    }
}

FOR_EACH_PROCESSOR static void attend_part(const Attention *a, int64_t token, int64_t head) {
    const int64_t group = a->heads / a->kv_heads;
    for (int64_t first = 0; first < group; first += 4) {
        const int64_t offset = (token * a->heads + head * group + first) * a->dim;
        const int64_t some = group - first < 4 ? group - first : 4;
        if (a->bf16) attend_some(a, token, head, a->q + offset, a->out + offset, some, 1);
        else attend_some(a, token, head, a->q + offset, a->out + offset, some, 0);
    }
}

static void attend_parts(const void *work, _Atomic int64_t *next) {
    const Attention *a = work;
    for (int64_t part; (part = (*next)++) < a->tokens * a->kv_heads;)
        attend_part(a, part / a->kv_heads, part % a->kv_heads);
}

/* The attention of each token to its row's tokens up to itself, whose keys and values are in the cache. */
void attend(const Attention *attention, int threads) { run(attend_parts, attention, threads); }

/* The sizes of the structs, which the caller compares with those of its own. */
int64_t struct_bytes(int which) {
    return which == 0 ? sizeof(Matrix) : which == 1 ? sizeof(Product) : sizeof(Attention);
}
