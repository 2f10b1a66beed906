/* The threads of the library: they wait for work, first awake and then asleep, and share its parts.
 *
 * Invariant: when `in_threads` returns, all parts are done and no helper touches the work any more. One caller at a time
 * gets help; others do their work alone. See kernel.h.
 */
#include "kernel.h"
#include <pthread.h>
#include <stdlib.h>

enum { MOST_THREADS = 256, SPINS = 4000 }; /* SPINS: looks at a flag before a thread sleeps, some 20 microseconds */

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
#if defined(__x86_64__)
    __builtin_ia32_pause();
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

void in_threads(Body body, const void *work, int threads) {
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

void *scratch(size_t bytes) {
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
