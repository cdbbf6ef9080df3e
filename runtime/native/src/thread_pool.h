// Threads that share the parts of one job, and sleep between jobs.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace star {

/// Belongs to one caller at a time. Which thread takes a part is open; what a part computes must not depend on it.
class ThreadPool {
   public:
    /// `threads` includes the caller's. Throws std::system_error when the system has no more.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }

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

    void run_job(const Job &job);
    void work(int thread);
    void end();
    void take_parts(const Job &job, int thread);

    Job job_;
    std::atomic<int64_t> next_part_{0};
    std::atomic<uint32_t> started_{0};   // jobs; the lowest bit says that the threads are to end
    std::atomic<uint32_t> finished_{0};  // workers done with the present job
    std::vector<std::thread> workers_;
};

}  // namespace star
