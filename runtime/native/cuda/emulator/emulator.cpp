#include "emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

namespace emulator {

dim3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr std::size_t kStackBytes = 128 * 1024;
constexpr std::size_t kSharedBytes = 227 * 1024;
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
std::vector<uint4> shared(kSharedBytes / sizeof(uint4));
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

/// The last lane to come lets all go on, itself at once.
void wait_for_lanes(unsigned mask) {
    if ((mask >> current % kLanes & 1) == 0) fail("is no lane of its own mask");
    fibers[current].wait = Wait::lanes;
    fibers[current].mask = mask;
    if (!has_its_lanes(current)) {
        change(fibers[current].state, scheduler);
        return;
    }
    for (unsigned lane = 0; lane < kLanes; lane++)
        if ((mask >> lane & 1) != 0) fibers[current / kLanes * kLanes + lane].wait = Wait::nothing;
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

/// Ends the wait for the block; fails where not all threads wait for it.
void release_block() {
    for (current = 0; current < threads; current++) {
        if (fibers[current].done) fail("left while others wait at a barrier");
        if (fibers[current].wait != Wait::block) fail("waits for other lanes than they do, or while others wait at a barrier");
        fibers[current].wait = Wait::nothing;
    }
}

bool all_done() {
    return std::all_of(fibers.begin(), fibers.begin() + threads, [](const Fiber &fiber) { return fiber.done; });
}

}  // namespace

void wait_for_block() {
    fibers[current].wait = Wait::block;
    change(fibers[current].state, scheduler);
}

const char *begin_exchange(unsigned mask, const void *from, std::size_t bytes) {
    std::memcpy(given[current], from, bytes);
    wait_for_lanes(mask);
    return given[current / kLanes * kLanes];
}

void end_exchange(unsigned mask) { wait_for_lanes(mask); }

void *dynamic_memory() { return shared.data(); }

cudaError_t run(dim3 grid, unsigned count, std::size_t shared_bytes, const std::function<void()> &thread) {
    if (grid.x == 0 || grid.x > 0x7fffffff || grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535 || count == 0 ||
        count > kMostThreads || shared_bytes > kSharedBytes)
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
                std::memset(shared.data(), 0xff, shared_bytes);
                for (unsigned i = 0; i < threads; i++) {
                    fibers[i].wait = Wait::nothing;
                    fibers[i].done = false;
                }
                while (!all_done())
                    if (!run_ready()) release_block();
            }
    return cudaSuccess;
}

}  // namespace emulator

namespace {

/// c += a b of a warp. Operands are the values in a register, kCount of a row's next to each other; a lane gives six of them.
template <class Values, class Sum>
void multiply_operands(Sum (&c)[4], const Values (&own)[6]) {
    const unsigned lane = threadIdx.x % 32;
    const char *lanes = emulator::begin_exchange(0xffffffff, own, sizeof own);
    const auto values_of = [&](unsigned row, unsigned part, unsigned which) -> const Values & {
        return *reinterpret_cast<const Values *>(lanes + (row % 8 * 4 + part % 4) * emulator::kLaneBytes +
                                                 which * sizeof(Values));
    };
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned part = 0; part < 8; part++) {
            const Values &a = values_of(row, part, row / 8 + part / 4 * 2), &b = values_of(column, part, 4 + part / 4);
            for (std::size_t k = 0; k < a.size(); k++) c[i] += static_cast<Sum>(a[k]) * static_cast<Sum>(b[k]);
        }
    }
    emulator::end_exchange(0xffffffff);
}

}  // namespace

void multiply_add(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    const uint32_t registers[6] = {a0, a1, a2, a3, b0, b1};
    std::array<float, 2> own[6];
    for (int i = 0; i < 6; i++) {
        __half2 halves;
        std::memcpy(&halves, &registers[i], sizeof halves);
        own[i] = {__half2float(halves.x), __half2float(halves.y)};
    }
    multiply_operands(c, own);
}

void multiply_add(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    const uint32_t registers[6] = {a0, a1, a2, a3, b0, b1};
    std::array<int8_t, 4> own[6];
    std::memcpy(own, registers, sizeof own);
    multiply_operands(c, own);
}

void star_emulator_backwards(int backwards) { emulator::backwards = backwards != 0; }
