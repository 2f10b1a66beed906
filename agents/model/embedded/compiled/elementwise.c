/* What happens to each token by itself between the products: norms, rotary embedding, the gate; and the drawing of
 * tokens. Torch can do all of it, with a pass over memory for every operation. See kernel.h.
 */
#include "kernel.h"

typedef struct {
    float *x;            /* (rows, size); a residual is added in place */
    const float *delta;  /* (rows, size), added to x first; or NULL */
    const float *weight; /* (size) */
    float *out;          /* (rows, size) */
    int64_t rows, size;
    float eps, more; /* more: added to the weight, 0 or 1 */
} Norm;

/* out = (x + delta) / rms(x + delta) * (weight + more), with x = x + delta. The size is a multiple of LANES. */
FOR_EACH_PROCESSOR static void norm_row(const Norm *n, int64_t row) {
    float *x = n->x + row * n->size, *out = n->out + row * n->size;
    Vector squares = {};
    for (int64_t i = 0; i < n->size; i += LANES) {
        Vector value = load(x + i);
        if (n->delta) save(x + i, value += load(n->delta + row * n->size + i));
        squares += value * value;
    }
    const float factor = 1 / __builtin_sqrtf(sum_of(squares) / (float)n->size + n->eps);
    for (int64_t i = 0; i < n->size; i += LANES) save(out + i, load(x + i) * factor * (load(n->weight + i) + n->more));
}

static void norm_parts(const void *work, _Atomic int64_t *next) {
    const Norm *n = work;
    for (int64_t row; (row = (*next)++) < n->rows;) norm_row(n, row);
}

void norm(const Norm *work, int threads) { in_threads(norm_parts, work, work->rows * work->size > 1 << 16 ? threads : 1); }

typedef struct {
    float *x;                /* (tokens, heads, dim), changed in place */
    const float *cos, *sin;  /* (positions, dim); the sines of the first half are negated */
    const int32_t *position; /* (tokens) */
    int64_t tokens, heads, dim;
} Rotation;

/* Rotate the pairs (i, i + dim / 2) of each head. */
FOR_EACH_PROCESSOR void rotate(const Rotation *r) {
    const int64_t half = r->dim / 2;
    for (int64_t token = 0; token < r->tokens; token++) {
        const float *cos = r->cos + r->position[token] * r->dim, *sin = r->sin + r->position[token] * r->dim;
        for (int64_t head = 0; head < r->heads; head++) {
            float *restrict x = r->x + (token * r->heads + head) * r->dim;
            for (int64_t i = 0; i < half; i++) {
                const float a = x[i], b = x[i + half];
                x[i] = a * cos[i] + b * sin[i];
                x[i + half] = b * cos[i + half] + a * sin[i + half];
            }
        }
    }
}

typedef struct {
    float *gate;     /* (count), changed in place */
    const float *up; /* (count) */
    int64_t count;   /* a multiple of LANES */
} Gate;

enum { SPAN = 4096 }; /* elements in one part */

FOR_EACH_PROCESSOR static void gate_span(const Gate *g, int64_t first) {
    const int64_t end = first + SPAN < g->count ? first + SPAN : g->count;
    for (int64_t i = first; i < end; i += LANES) {
        const Vector x = load(g->gate + i), below = chosen(x < 0, x, -x), e = exp_of(below); /* exp(-|x|) */
        save(g->gate + i, x * chosen(x < 0, e, all(1)) / (1 + e) * load(g->up + i));
    }
}

static void gate_parts(const void *work, _Atomic int64_t *next) {
    const Gate *g = work;
    for (int64_t part; (part = (*next)++) * SPAN < g->count;) gate_span(g, part * SPAN);
}

/* gate = gate * sigmoid(gate) * up */
void silu_gate(const Gate *work, int threads) { in_threads(gate_parts, work, work->count > 4 * SPAN ? threads : 1); }

typedef struct {
    const float *logits;    /* (rows, size) */
    const double *uniform;  /* (rows), in [0, 1) */
    const float *inverse_t; /* (rows), 1 / temperature */
    const float *least;     /* (rows): a token this much less likely than the likeliest is not drawn, 0 for none */
    int64_t *tokens;        /* (rows) */
    int64_t rows, size;     /* the size is a multiple of BLOCK */
} Draw;

enum { BLOCK = 256 }; /* tokens whose weights are added up together */

INLINE Vector weight_of(const Draw *d, int64_t row, const float *logits, float most) {
    const Vector weight = exp_of((load(logits) - most) * d->inverse_t[row]);
    return chosen(weight >= d->least[row], weight, (Vector){});
}

/* Draw a token by the inverse of the cumulative distribution. */
FOR_EACH_PROCESSOR static void draw_row(const Draw *d, int64_t row) {
    const float *logits = d->logits + row * d->size;
    const int64_t blocks = d->size / BLOCK;
    double *upto = scratch((size_t)blocks * sizeof(double)), sum = 0;
    Vector top = load(logits);
    for (int64_t i = 0; i < d->size; i += LANES) top = chosen(load(logits + i) > top, load(logits + i), top);
    float most = top[0];
    for (int lane = 1; lane < LANES; lane++) most = top[lane] > most ? top[lane] : most;
    for (int64_t block = 0; block < blocks; block++) {
        Vector weights = {};
        for (int64_t i = 0; i < BLOCK; i += LANES) weights += weight_of(d, row, logits + block * BLOCK + i, most);
        upto[block] = sum += sum_of(weights);
    }
    const double target = d->uniform[row] * sum;
    int64_t block = 0, last = -1;
    while (block + 1 < blocks && upto[block] <= target) block++;
    double here = block ? upto[block - 1] : 0;
    for (; block >= 0 && last < 0; block--, here = -1) /* rounding may leave nothing in the block: take the one before */
        for (int64_t i = 0; i < BLOCK; i += LANES) {
            const Vector weight = weight_of(d, row, logits + block * BLOCK + i, most);
            for (int lane = 0; lane < LANES; lane++) {
                if (weight[lane] <= 0) continue;
                last = block * BLOCK + i + lane;
                if (here >= 0 && (here += weight[lane]) > target) {
                    d->tokens[row] = last;
                    return;
                }
            }
        }
    d->tokens[row] = last < 0 ? 0 : last;
}

static void draw_parts(const void *work, _Atomic int64_t *next) {
    const Draw *d = work;
    for (int64_t row; (row = (*next)++) < d->rows;) draw_row(d, row);
}

void draw(const Draw *work, int threads) { in_threads(draw_parts, work, threads); }

int64_t norm_bytes(void) { return sizeof(Norm); }
int64_t rotation_bytes(void) { return sizeof(Rotation); }
int64_t gate_bytes(void) { return sizeof(Gate); }
int64_t draw_bytes(void) { return sizeof(Draw); }
