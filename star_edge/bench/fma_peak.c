/* Prints the float32 multiply-accumulates per second that THREADS threads reach with all operands in registers.
 *
 * usage: fma_peak THREADS BURSTS
 *
 * Independent accumulators hide the latency of the multiply-add: 4 or 5 cycles on up to 4 pipes. The best burst counts:
 * a peak is what the machine can do, whatever else runs on it.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define LANES (BYTES / 4)

typedef float vector __attribute__((vector_size(BYTES)));

/* As many as fit into 16 registers beside the two operands; machines with 32 registers take twice as many. */
#define TWELVE(M, o) M(o##0) M(o##1) M(o##2) M(o##3) M(o##4) M(o##5) M(o##6) M(o##7) M(o##8) M(o##9) M(o##10) M(o##11)
#if defined(__AVX512F__) || defined(__aarch64__)
#define ACCUMULATORS 24
#define ALL(M) TWELVE(M, a) TWELVE(M, b)
#else
#define ACCUMULATORS 12
#define ALL(M) TWELVE(M, a)
#endif

#define MAX_THREADS 1024
/* Under a millisecond a burst: short enough that some bursts run without being interrupted on a busy machine. */
static const long ITERATIONS = 100000;
static pthread_barrier_t start, stop;
static int bursts;
static double begun[MAX_THREADS], ended[MAX_THREADS]; /* by each thread: the main thread may wake up late */
static volatile float sink;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *work(void *argument) {
    long index = (long)argument;
    for (int burst = 0; burst < bursts; burst++) {
        vector factor, term;
        for (int i = 0; i < LANES; i++) {
            factor[i] = 0.5f; /* the sums converge to 2 */
            term[i] = 1.0f;
        }
/* Opaque to the compiler, which would otherwise compute equal accumulators once or beforehand. */
#define HIDE(x) __asm__ volatile("" : "+m"(x));
#define DECLARE(x) vector x = term; HIDE(x)
        HIDE(factor)
        HIDE(term)
        ALL(DECLARE)
        pthread_barrier_wait(&start);
        begun[index] = now();
        for (long i = 0; i < ITERATIONS; i++) {
#define STEP(x) x = x * factor + term;
            ALL(STEP)
        }
#define USE(x) HIDE(x)
        ALL(USE)
        ended[index] = now();
        float sum = 0;
#define ADD(x) sum += x[0];
        ALL(ADD)
        sink = sum;
        pthread_barrier_wait(&stop);
    }
    return NULL;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 0;
    bursts = argc > 2 ? atoi(argv[2]) : 0;
    if (threads < 1 || threads > MAX_THREADS || bursts < 1) {
        fprintf(stderr, "usage: fma_peak THREADS BURSTS\n");
        return 2;
    }
    pthread_barrier_init(&start, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&stop, NULL, (unsigned)threads + 1);
    for (long i = 0; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)i)) {
            fprintf(stderr, "cannot start thread %ld\n", i);
            return 1;
        }
    }
    double best = 0;
    for (int burst = 0; burst < bursts; burst++) {
        pthread_barrier_wait(&start);
        pthread_barrier_wait(&stop);
        double first = begun[0], last = ended[0];
        for (int i = 1; i < threads; i++) {
            if (begun[i] < first) first = begun[i];
            if (ended[i] > last) last = ended[i];
        }
        double rate = (double)threads * (double)ITERATIONS * ACCUMULATORS * LANES / (last - first);
        if (rate > best) best = rate;
    }
    printf("%.0f %d %d\n", best, 8 * BYTES, ACCUMULATORS);
    return 0;
}
