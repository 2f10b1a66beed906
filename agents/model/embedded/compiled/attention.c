/* The attention of single tokens to the earlier tokens of their rows, whose keys and values lie in a paged cache.
 *
 * A page holds LANES tokens of one row: keys with one feature of all its tokens side by side, so that one vector
 * multiplies 16 keys; values token by token. A token's attention to one key head is a part. See kernel.h.
 */
#include "kernel.h"
#include <string.h>

enum { GROUP = 4, FEATURES = 4 }; /* query heads, and vectors of features, whose sums are held in registers */
static const float NOT_SEEN = -3e38f;

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

/* Where a token's page `number` begins for one head, in elements; the same for keys and values. */
INLINE int64_t place_of(const Attention *a, int64_t token, int64_t head, int64_t number) {
    return (a->pages[a->row[token] * a->most + number] * a->kv_heads + head) * a->dim * LANES;
}

INLINE Vector cached(const void *cache, int64_t offset, int bf16) {
    return bf16 ? widened((const uint16_t *)cache + offset) : load((const float *)cache + offset);
}

INLINE void put(void *cache, int64_t offset, float value, int32_t half, int bf16) {
    if (bf16) ((uint16_t *)cache)[offset] = (uint16_t)half;
    else ((float *)cache)[offset] = value;
}

INLINE void store_token(const Attention *a, int64_t token, int64_t head, int bf16) {
    const int64_t place = a->position[token] % LANES, dim = a->dim, from = (token * a->kv_heads + head) * dim;
    const int64_t begin = place_of(a, token, head, a->position[token] / LANES);
    for (int64_t i = 0; i < dim; i += LANES) {
        const Vector k = load(a->k + from + i), v = load(a->v + from + i);
        const Whole narrow_k = narrowed(k), narrow_v = narrowed(v);
        for (int j = 0; j < LANES; j++) {
            put(a->keys, begin + (i + j) * LANES + place, k[j], narrow_k[j], bf16);
            put(a->values, begin + place * dim + i + j, v[j], narrow_v[j], bf16);
        }
    }
}

/* Write the tokens' keys and values into their pages. */
FOR_EACH_PROCESSOR void store(const Attention *a) {
    for (int64_t token = 0; token < a->tokens; token++)
        for (int64_t head = 0; head < a->kv_heads; head++)
            if (a->bf16) store_token(a, token, head, 1);
            else store_token(a, token, head, 0);
}

/* Queries times keys of the page at `page`, for `heads` heads. */
INLINE void score_page(const Attention *a, int64_t page, const float *q, int heads, int bf16, Vector *score) {
    Vector sum[GROUP] = {};
    for (int64_t d = 0; d < a->dim; d++) {
        const Vector key = cached(a->keys, page + d * LANES, bf16);
        for (int h = 0; h < heads; h++) sum[h] += q[h * a->dim + d] * key;
    }
    for (int h = 0; h < heads; h++) score[h] = sum[h] * a->scale;
}

/* Turn the scores from `begin` to `end` into weights exp(score - most); returns their sum. */
INLINE float soften(float *scores, int64_t begin, int64_t end, Vector most) {
    float top = most[0];
    for (int lane = 1; lane < LANES; lane++) top = most[lane] > top ? most[lane] : top;
    Vector sum = {};
    for (int64_t place = begin; place < end; place += LANES) {
        const Vector weight = exp_of(load(scores + place) - top);
        save(scores + place, weight);
        sum += weight;
    }
    return sum_of(sum);
}

/* The weighted values of `heads` heads, in `vectors` vectors of features from `from` on. */
INLINE void weigh(const Attention *a, int64_t token, int64_t head, int64_t first, int64_t end, const float *scores,
                  int64_t stride, const float *sums, int64_t from, float *out, int heads, int vectors, int bf16) {
    Vector sum[GROUP][FEATURES] = {};
    for (int64_t place = first; place < end;) {
        const int64_t page = place_of(a, token, head, place / LANES) + from;
        const int64_t page_end = (place / LANES + 1) * LANES < end ? (place / LANES + 1) * LANES : end;
        for (; place < page_end; place++)
            for (int i = 0; i < vectors; i++) {
                const Vector value = cached(a->values, page + place % LANES * a->dim + i * LANES, bf16);
                for (int h = 0; h < heads; h++) sum[h][i] += scores[h * stride + place] * value;
            }
    }
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < vectors; i++) save(out + h * a->dim + from + i * LANES, sum[h][i] * (1 / sums[h]));
}

/* Attention of one token in `heads` query heads that share the key head `head`. */
INLINE void attend_heads(const Attention *a, int64_t token, int64_t head, const float *q, float *out, int heads, int bf16) {
    const int64_t end = a->position[token] + 1, first = a->window && end > a->window ? end - a->window : 0;
    const int64_t stride = (end + LANES - 1) / LANES * LANES, begin = first / LANES * LANES;
    const Whole lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float *scores = scratch((size_t)(GROUP * stride) * sizeof(float)), sums[GROUP];
    Vector most[GROUP];
    for (int h = 0; h < heads; h++) most[h] = all(NOT_SEEN);
    for (int64_t place = begin; place < end; place += LANES) {
        Vector score[GROUP];
        score_page(a, place_of(a, token, head, place / LANES), q, heads, bf16, score);
        const Whole here = lanes + (int32_t)(place - begin);
        const Whole seen = (here >= (int32_t)(first - begin)) & (here < (int32_t)(end - begin));
        for (int h = 0; h < heads; h++) {
            score[h] = chosen(seen, score[h], all(NOT_SEEN));
            save(scores + h * stride + place, score[h]);
            most[h] = chosen(score[h] > most[h], score[h], most[h]);
        }
    }
    for (int h = 0; h < heads; h++) sums[h] = soften(scores + h * stride, begin, end, most[h]);
    int64_t from = 0;
    for (; from + FEATURES * LANES <= a->dim; from += FEATURES * LANES)
        weigh(a, token, head, first, end, scores, stride, sums, from, out, heads, FEATURES, bf16);
    for (; from < a->dim; from += LANES)
        weigh(a, token, head, first, end, scores, stride, sums, from, out, heads, 1, bf16);
}

INLINE void attend_some(const Attention *a, int64_t token, int64_t head, const float *q, float *out, int64_t heads, int bf16) {
    switch (heads) {
    case 1: attend_heads(a, token, head, q, out, 1, bf16); break;
    case 2: attend_heads(a, token, head, q, out, 2, bf16); break;
    case 3: attend_heads(a, token, head, q, out, 3, bf16); break;
    default: attend_heads(a, token, head, q, out, GROUP, bf16);
    }
}

FOR_EACH_PROCESSOR static void attend_part(const Attention *a, int64_t token, int64_t head) {
    const int64_t group = a->heads / a->kv_heads;
    for (int64_t first = 0; first < group; first += GROUP) {
        const int64_t offset = (token * a->heads + head * group + first) * a->dim;
        const int64_t some = group - first < GROUP ? group - first : GROUP;
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
void attend(const Attention *attention, int threads) { in_threads(attend_parts, attention, threads); }

int64_t attention_bytes(void) { return sizeof(Attention); }
