/* What the files of this library share: vectors, types, and the threads.
 *
 * Invariant of the whole library: a token's numbers depend on its own row alone. Every sum over features or earlier
 * tokens is taken in one order, whatever the number of other rows and of threads, so an answer does not depend on its
 * batch. The files use neither Python nor torch; ../kernel.py calls them, and does the same in torch where there is no
 * compiler.
 */
#ifndef NIGHTSCHOOL_KERNEL_H
#define NIGHTSCHOOL_KERNEL_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#define WITH_AMX 1
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16 }; /* elements of a vector, tokens in a block and in a page of the cache */

typedef float Vector __attribute__((vector_size(64), aligned(4)));
typedef int32_t Whole __attribute__((vector_size(64), aligned(4)));
typedef uint16_t Half __attribute__((vector_size(32), aligned(2)));

INLINE Vector load(const float *p) { return *(const Vector *)p; }
INLINE void save(float *p, Vector value) { *(Vector *)p = value; }
INLINE Vector all(float value) { return value - (Vector){}; }
INLINE Vector chosen(Whole which, Vector yes, Vector no) {
    return (Vector)(((Whole)yes & which) | ((Whole)no & ~which));
}
INLINE Vector widened(const uint16_t *p) {
    return (Vector)(__builtin_convertvector(*(const Half *)p, Whole) << 16);
}
/* The nearest bfloat16, ties to even, in the lower half of each element. */
INLINE Whole narrowed(Vector value) {
    const Whole bits = (Whole)value;
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) & 0xffff;
}
INLINE float sum_of(Vector v) { /* always in this order */
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += v[lane];
    return sum;
}

/* exp(x) for x <= 0, to a few units of the last place; below -87 it is 0. */
INLINE Vector exp_of(Vector x) {
    const Whole tiny = x < -87.0f;
    x = chosen(tiny, all(-87.0f), x);
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

/* Takes parts of the work, from `next` on, until there are none left. */
typedef void (*Body)(const void *work, _Atomic int64_t *next);

/* Have up to `threads` threads, this one included, call the body. */
void in_threads(Body body, const void *work, int threads);

/* Memory of the calling thread, aligned to 64 bytes; the next call may give the same memory. */
void *scratch(size_t bytes);

#endif
