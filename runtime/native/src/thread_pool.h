// Threads that share the parts of one job, and sleep between jobs.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace star {

/// Belongs to one caller at a time. Each thread begins with the parts of a share of its own, the same in every job of as many
/// parts, so that what it wrote in one job is in its caches in the next; then it takes what others have left. What a part
/// computes must not depend on the thread.
class ThreadPool {
   public:
    /// `threads` includes the caller's. Throws std::system_error when the system has no more.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    int size() const { return static_cast<int>(shares_.size()); }

    /// body(part, thread) for part 0 to parts - 1, thread 0 to size() - 1; returns when all are done. body must not throw.
    template <class Body>
    void run(int64_t parts, const Body &body) {
        run_job({[](const void *context, int64_t part, int thread) { (*static_cast<const Body *>(context))(part, thread); },
                 &body, parts});
    }

   private:
    struct Job {
        void (*call)(const void *context, int64_t part, int thread) = nullptr;
        const void *context = nullptr;
        int64_t parts = 0;
    };

    /// Consecutive parts, in a cache line of their own.
    struct alignas(64) Share {
        std::atomic<int64_t> next{0};
        int64_t end = 0;
    };

    void run_job(const Job &job);
    void work(int thread);
    void end();
    void take_parts(const Job &job, int thread);

    Job job_;
    std::vector<Share> shares_;          // of each thread
    std::atomic<uint32_t> started_{0};   // jobs; the lowest bit says that the threads are to end
    std::atomic<uint32_t> finished_{0};  // workers done with the present job
    std::vector<std::thread> workers_;
};

}  // namespace star
