#include "emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

namespace emulator {

dim3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr std::size_t kStackBytes = 128 * 1024, kLaneBytes = 64;
constexpr unsigned kMostThreads = 1024, kLanes = 32;

enum class Wait { nothing, block, lanes };

struct Fiber {
    jmp_buf state;
    std::unique_ptr<char[]> stack;
    Wait wait;
    unsigned mask;  // of the lanes waited for
    bool done;
};

std::mutex running;
std::vector<Fiber> fibers(kMostThreads);
alignas(kLaneBytes) char given[kMostThreads][kLaneBytes];
jmp_buf scheduler;
const std::function<void()> *body;
unsigned threads, current;
bool backwards = false;

[[noreturn]] void fail(const char *what) {
    std::fprintf(stderr, "emulator: block (%u, %u), thread %u: %s\n", block_index.x, block_index.y, current, what);
    std::abort();
}

/// Continues in the state that is kept in `to`. Jumps instead of swapcontext(), which calls the system each time.
void change(jmp_buf &from, jmp_buf &to) {
    if (_setjmp(from) == 0) _longjmp(to, 1);
}

void run_fiber() {
    Fiber &fiber = fibers[current];
    for (;;) {  // a body, then the next launch's or block's
        change(fiber.state, scheduler);
        (*body)();
        fiber.done = true;
    }
}

/// Enters a fiber for the first time; it waits for its first body.
void create(Fiber &fiber) {
    ucontext_t context;
    getcontext(&context);
    fiber.stack = std::make_unique<char[]>(kStackBytes);
    context.uc_stack.ss_sp = fiber.stack.get();
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, run_fiber, 0);
    if (_setjmp(scheduler) == 0) setcontext(&context);
}

void wait(Wait what, unsigned mask) {
    fibers[current].wait = what;
    fibers[current].mask = mask;
    change(fibers[current].state, scheduler);
}

/// Runs every thread that waits for nothing; whether there was one.
bool run_ready() {
    bool ran = false;
    for (unsigned i = 0; i < threads; i++) {
        current = backwards ? threads - 1 - i : i;
        Fiber &fiber = fibers[current];
        if (fiber.done || fiber.wait != Wait::nothing) continue;
        thread_index = {current, 0, 0};
        change(scheduler, fiber.state);
        ran = true;
    }
    return ran;
}

/// Whether all lanes that a thread waits for wait for the same ones.
bool has_its_lanes(unsigned thread) {
    const unsigned first = thread / kLanes * kLanes, mask = fibers[thread].mask;
    for (unsigned lane = 0; lane < kLanes; lane++) {
        if ((mask >> lane & 1) == 0) continue;
        if (first + lane >= threads || fibers[first + lane].done) fail("waits for a lane that has left");
        const Fiber &other = fibers[first + lane];
        if (other.wait != Wait::lanes || other.mask != mask) return false;
    }
    return true;
}

/// Ends the waiting that can be ended; fails where none can.
void release() {
    std::vector<unsigned> ready;
    unsigned at_barrier = 0, done = 0;
    for (unsigned i = 0; i < threads; i++) {
        done += fibers[i].done;
        at_barrier += !fibers[i].done && fibers[i].wait == Wait::block;
        if (!fibers[i].done && fibers[i].wait == Wait::lanes && has_its_lanes(i)) ready.push_back(i);
    }
    if (ready.empty()) {
        if (done != 0) fail("threads left while others wait at a barrier");
        if (at_barrier != threads) fail("threads wait for each other in different places");
        for (unsigned i = 0; i < threads; i++) fibers[i].wait = Wait::nothing;
    }
    for (const unsigned i : ready) fibers[i].wait = Wait::nothing;
}

bool all_done() {
    return std::all_of(fibers.begin(), fibers.begin() + threads, [](const Fiber &fiber) { return fiber.done; });
}

}  // namespace

void wait_for_block() { wait(Wait::block, 0); }

const char *begin_exchange(unsigned mask, const void *from, std::size_t bytes) {
    if ((mask >> current % kLanes & 1) == 0) fail("is no lane of its own mask");
    std::memcpy(given[current], from, bytes);
    wait(Wait::lanes, mask);
    return given[current / kLanes * kLanes];
}

void end_exchange(unsigned mask) { wait(Wait::lanes, mask); }

cudaError_t run(dim3 grid, unsigned count, const std::function<void()> &thread) {
    if (grid.x == 0 || grid.x > 0x7fffffff || grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535 || count == 0 ||
        count > kMostThreads)
        return cudaErrorInvalidConfiguration;
    const std::lock_guard<std::mutex> lock(running);
    threads = count;
    body = &thread;
    for (current = 0; current < threads; current++)
        if (!fibers[current].stack) create(fibers[current]);
    grid_size = grid;
    block_size = {count, 1, 1};
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                block_index = {x, y, z};
                for (unsigned i = 0; i < threads; i++) {
                    fibers[i].wait = Wait::nothing;
                    fibers[i].done = false;
                }
                while (!all_done())
                    if (!run_ready()) release();
            }
    return cudaSuccess;
}

}  // namespace emulator

void star_emulator_backwards(int backwards) { emulator::backwards = backwards != 0; }
