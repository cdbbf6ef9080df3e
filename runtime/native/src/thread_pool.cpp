#include "thread_pool.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace star {

namespace {

// A run is a dozen jobs, and a thread waits in each for the slowest, tens of microseconds in all: so long it looks for the
// next one before it sleeps, since waking it takes as long again.
constexpr std::chrono::microseconds kSpin(200);
constexpr int kLooks = 32;  // between two looks at the clock

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

/// Returns once the value is another than `old`.
uint32_t wait_for_change(const std::atomic<uint32_t> &value, uint32_t old) {
    using Clock = std::chrono::steady_clock;
    for (const auto end = Clock::now() + kSpin; Clock::now() < end;) {
        for (int look = 0; look < kLooks; look++) {
            const uint32_t now = value.load(std::memory_order_acquire);
            if (now != old) return now;
            relax();
        }
    }
    value.wait(old, std::memory_order_acquire);
    return value.load(std::memory_order_acquire);
}

constexpr uint32_t kEnd = 1, kJob = 2;

}  // namespace

ThreadPool::ThreadPool(int threads) : shares_(threads) {
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
    for (int i = 0; i < size(); i++) {
        Share &share = shares_[(thread + i) % size()];
        for (int64_t part; (part = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;)
            job.call(job.context, part, thread);
    }
}

void ThreadPool::run_job(const Job &job) {
    if (workers_.empty() || job.parts <= 1) {
        for (int64_t part = 0; part < job.parts; part++) job.call(job.context, part, 0);
        return;
    }
    job_ = job;
    for (int thread = 0; thread < size(); thread++) {
        shares_[thread].next.store(job.parts * thread / size(), std::memory_order_relaxed);
        shares_[thread].end = job.parts * (thread + 1) / size();
    }
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
