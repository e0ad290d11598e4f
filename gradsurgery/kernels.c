/* Products and weighted sums of T rows of float32 that lie in many tensors, each row read from memory once.

   A tensor has up to T rows, of which absent ones are null. Rows are taken in threes or fours, whose products fit
   the registers, and in blocks, which stay in cache while they meet the other rows. */

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#define INLINE static inline __attribute__((always_inline))
#ifdef __AVX512F__ /* and so 32 registers */
#define LANES 16
#define GROUP 4
#else
#define LANES 8
#define GROUP 3
#endif
#define BLOCK 8192         /* floats of each row at a time */
#define PART (64 * LANES)  /* a lane of float32 adds up 64 products before they go to another, for exactness */
#define LOWEST 1e-24 /* a squared norm between these two has no square of weight that under- or overflows */
#define HIGHEST 1e37

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    const float *const *rows; /* (count, T) */
    const int64_t *sizes;     /* (count) */
    int64_t count, tasks;
    const float *weights; /* (sums, T) */
    float *const *targets; /* (count, sums) */
    int64_t sums;
} problem;

typedef struct {
    const problem *of;
    int64_t from, to; /* elements, counted over all tensors */
    double *lower;    /* (T, T) */
    void (*work)(const problem *, int64_t tensor, int64_t from, int64_t to, double *lower);
} job;

/* Products of the rows of two groups, or of one with itself: those of each a with the b up to its number. */
INLINE void products(const float *const *a, int as, const float *const *b, int bs, int same, int64_t n,
                     double *found, int64_t stride) {
    lanes totals[GROUP][GROUP] = {0};
    int64_t k = 0;
    while (k + LANES <= n) {
        lanes sums[GROUP][GROUP] = {0};
        int64_t end = k + PART < n - LANES + 1 ? k + PART : n - LANES + 1;
        for (; k < end; k += LANES) {
            lanes x[GROUP];
            for (int j = 0; j < bs; j++) x[j] = *(const lanes *)(b[j] + k);
            for (int i = 0; i < as; i++) {
                lanes y = same ? x[i] : *(const lanes *)(a[i] + k);
                for (int j = 0; j < (same ? i + 1 : bs); j++) sums[i][j] += y * x[j];
            }
        }
        for (int i = 0; i < as; i++)
            for (int j = 0; j < (same ? i + 1 : bs); j++) totals[i][j] += sums[i][j];
    }
    for (int i = 0; i < as; i++)
        for (int j = 0; j < (same ? i + 1 : bs); j++) {
            double total = 0;
            for (int lane = 0; lane < LANES; lane++) total += totals[i][j][lane];
            for (int64_t rest = k; rest < n; rest++) total += (double)a[i][rest] * b[j][rest];
            found[i * stride + j] = total;
        }
}

/* The same with the numbers of rows known to the compiler, which then keeps the sums in registers. */
static void grouped(const float *const *a, int as, const float *const *b, int bs, int same, int64_t n,
                    double *found, int64_t stride) {
#define CASE(A, B, SAME) \
    if (as == A && bs == B && same == SAME) products(a, A, b, B, SAME, n, found, stride)
    CASE(1, 1, 1);
    CASE(2, 2, 1);
    CASE(3, 3, 1);
    CASE(1, GROUP, 0);
    CASE(2, GROUP, 0);
    CASE(3, GROUP, 0);
#if GROUP == 4
    CASE(4, 4, 1);
    CASE(4, 4, 0);
#endif
}

static int any(const float *row, int64_t n) {
    const uint32_t *bits = (const uint32_t *)row;
    uint32_t seen = 0;
    for (int64_t k = 0; k < n; k++) seen |= bits[k];
    return seen != 0;
}

/* Adds the products of one part of one tensor's rows; in float64 where float32 has not the range. */
static void multiply(const problem *of, int64_t tensor, int64_t from, int64_t to, double *lower) {
    int64_t tasks = of->tasks, reaching[tasks], count = 0;
    const float *rows[tasks];
    double found[tasks * tasks];
    for (int64_t t = 0; t < tasks; t++)
        if (of->rows[tensor * tasks + t]) {
            rows[count] = of->rows[tensor * tasks + t] + from;
            reaching[count++] = t;
        }
    for (int64_t left = to - from; left > 0; left -= BLOCK) {
        int64_t n = left < BLOCK ? left : BLOCK;
        for (int64_t i = 0; i < count; i += GROUP) {
            int as = count - i < GROUP ? count - i : GROUP;
            for (int64_t j = 0; j <= i; j += GROUP)
                grouped(rows + i, as, rows + j, j == i ? as : GROUP, i == j, n, found + i * tasks + j, tasks);
        }
        int safe = 1;
        for (int64_t i = 0; i < count && safe; i++) {
            double square = found[i * tasks + i];
            safe = (square > LOWEST && square < HIGHEST) || (square == 0 && !any(rows[i], n));
        }
        for (int64_t i = 0; i < count; i++)
            for (int64_t j = 0; j <= i; j++) {
                double total = safe ? found[i * tasks + j] : 0;
                if (!safe)
                    for (int64_t k = 0; k < n; k++) total += (double)rows[i][k] * rows[j][k];
                lower[reaching[i] * tasks + reaching[j]] += total;
            }
        for (int64_t i = 0; i < count; i++) rows[i] += n;
    }
}

/* Writes the weighted sums of one part of one tensor's rows; all are read before one is written. */
INLINE void sum(const float *const *rows, const float *weights, int64_t count, float *const *targets,
                int64_t sums, int64_t stride, int64_t from, int64_t to) {
    int64_t k = from;
    for (; k + LANES <= to; k += LANES) {
        lanes totals[2];
        for (int64_t s = 0; s < sums; s++) totals[s] = weights[s * stride] * *(const lanes *)(rows[0] + k);
        for (int64_t t = 1; t < count; t++) {
            lanes x = *(const lanes *)(rows[t] + k);
            for (int64_t s = 0; s < sums; s++) totals[s] += weights[s * stride + t] * x;
        }
        for (int64_t s = 0; s < sums; s++) *(lanes *)(targets[s] + k) = totals[s];
    }
    for (; k < to; k++) {
        float totals[2];
        for (int64_t s = 0; s < sums; s++) totals[s] = weights[s * stride] * rows[0][k];
        for (int64_t t = 1; t < count; t++)
            for (int64_t s = 0; s < sums; s++) totals[s] += weights[s * stride + t] * rows[t][k];
        for (int64_t s = 0; s < sums; s++) targets[s][k] = totals[s];
    }
}

static void add_up(const problem *of, int64_t tensor, int64_t from, int64_t to, double *unused) {
    (void)unused;
    int64_t tasks = of->tasks, count = 0;
    const float *rows[tasks];
    float weights[2 * tasks];
    for (int64_t t = 0; t < tasks; t++)
        if (of->rows[tensor * tasks + t]) {
            rows[count] = of->rows[tensor * tasks + t];
            for (int64_t s = 0; s < of->sums; s++) weights[s * tasks + count] = of->weights[s * tasks + t];
            count++;
        }
    float *const *targets = of->targets + tensor * of->sums;
    if (of->sums == 1)
        sum(rows, weights, count, targets, 1, tasks, from, to);
    else
        sum(rows, weights, count, targets, 2, tasks, from, to);
}

static void *run(void *argument) {
    const job *own = argument;
    int64_t start = 0;
    for (int64_t tensor = 0; tensor < own->of->count; tensor++) {
        int64_t size = own->of->sizes[tensor], from = own->from - start, to = own->to - start;
        from = from < 0 ? 0 : from;
        to = to > size ? size : to;
        if (from < to) own->work(own->of, tensor, from, to, own->lower);
        start += size;
    }
    return NULL;
}

/* Divides the elements among threads; returns 0, or 1 where there is no memory. What cannot be started runs here. */
static int divide(const problem *of, int64_t threads, double *lower, void (*work)(const problem *, int64_t,
                  int64_t, int64_t, double *)) {
    int64_t total = 0, squared = of->tasks * of->tasks;
    for (int64_t tensor = 0; tensor < of->count; tensor++) total += of->sizes[tensor];
    int64_t least = 16 * BLOCK; /* below it, a thread takes longer to start than to work */
    if (threads > total / least) threads = total / least;
    if (threads < 1) threads = 1;
    pthread_t *started = calloc(threads, sizeof(pthread_t));
    char *running = calloc(threads, 1);
    job *jobs = calloc(threads, sizeof(job));
    double *parts = calloc(threads * squared, sizeof(double));
    int failed = !started || !running || !jobs || !parts;
    if (!failed) {
        int64_t share = (total / threads + BLOCK - 1) / BLOCK * BLOCK;
        for (int64_t k = 0; k < threads; k++) {
            int64_t to = k + 1 < threads ? (k + 1) * share : total;
            jobs[k] = (job){of, k * share, to < total ? to : total, parts + k * squared, work};
            running[k] = k && !pthread_create(&started[k], NULL, run, &jobs[k]);
        }
        for (int64_t k = 0; k < threads; k++)
            if (!running[k]) run(&jobs[k]);
        for (int64_t k = 0; k < threads; k++) {
            if (running[k]) pthread_join(started[k], NULL);
            for (int64_t p = 0; lower && p < squared; p++) lower[p] += parts[k * squared + p];
        }
    }
    free(started), free(running), free(jobs), free(parts);
    return failed;
}

int gradsurgery_gramian(const float *const *rows, const int64_t *sizes, int64_t count, int64_t tasks,
                        int64_t threads, double *lower) {
    problem of = {rows, sizes, count, tasks, NULL, NULL, 0};
    return divide(&of, threads, lower, multiply);
}

int gradsurgery_combine(const float *const *rows, const int64_t *sizes, int64_t count, int64_t tasks,
                        int64_t threads, const float *weights, float *const *targets, int64_t sums) {
    problem of = {rows, sizes, count, tasks, weights, targets, sums};
    return divide(&of, threads, NULL, add_up);
}
