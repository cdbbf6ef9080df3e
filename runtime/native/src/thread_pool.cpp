#include "thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace star {

namespace {

// A run is a dozen jobs a few microseconds apart: a thread looks for the next one that long before it sleeps.
constexpr int kSpins = 2000;

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

/// Returns once the value is another than `old`.
uint32_t wait_for_change(const std::atomic<uint32_t> &value, uint32_t old) {
    for (int spin = 0; spin < kSpins; spin++) {
        const uint32_t now = value.load(std::memory_order_acquire);
        if (now != old) return now;
        relax();
    }
    value.wait(old, std::memory_order_acquire);
    return value.load(std::memory_order_acquire);
}

constexpr uint32_t kEnd = 1, kJob = 2;

}  // namespace

ThreadPool::ThreadPool(int threads) {
    workers_.reserve(threads - 1);
    try {
        for (int thread = 1; thread < threads; thread++) workers_.emplace_back([this, thread] { work(thread); });
    } catch (...) {
        end();
        throw;
    }
}

ThreadPool::~ThreadPool() { end(); }

void ThreadPool::end() {
    started_.fetch_or(kEnd, std::memory_order_release);
    started_.notify_all();
    for (std::thread &worker : workers_) worker.join();
}

void ThreadPool::take_parts(const Job &job, int thread) {
    for (int64_t part; (part = next_part_.fetch_add(1, std::memory_order_relaxed)) < job.parts;)
        job.call(job.context, part, thread);
}

void ThreadPool::run_job(const Job &job) {
    next_part_.store(0, std::memory_order_relaxed);
    if (workers_.empty() || job.parts <= 1) return take_parts(job, 0);
    job_ = job;
    finished_.store(0, std::memory_order_relaxed);
    started_.fetch_add(kJob, std::memory_order_release);
    started_.notify_all();
    take_parts(job, 0);
    for (uint32_t done; (done = finished_.load(std::memory_order_acquire)) != workers_.size();)
        wait_for_change(finished_, done);
}

void ThreadPool::work(int thread) {
    for (uint32_t seen = 0;;) {
        seen = wait_for_change(started_, seen);
        if (seen & kEnd) return;
        take_parts(job_, thread);
        finished_.fetch_add(1, std::memory_order_release);
        finished_.notify_one();
    }
}

}  // namespace star
