#include "cpu.h"

#include <sched.h>

#include <thread>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace star {

namespace {

Cpu detect() {
    Cpu cpu{};
#if defined(__x86_64__)
    __builtin_cpu_init();
    cpu.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    cpu.avx512 = cpu.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512vl");
    cpu.avx512_vnni = cpu.avx512 && __builtin_cpu_supports("avx512vnni");
    // Intel's bfloat16 instruction, seen on Emerald Rapids, takes four times as long as a float32 one that does half as much
    cpu.avx512_bf16 = cpu.avx512 && __builtin_cpu_supports("avx512bf16") && !__builtin_cpu_is("intel");
#elif defined(__aarch64__)
    cpu.neon = true;
    cpu.neon_dotprod = getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
    cpu.neon_bf16 = getauxval(AT_HWCAP2) & HWCAP2_BF16;
#endif
    return cpu;
}

}  // namespace

const Cpu &this_cpu() {
    static const Cpu cpu = detect();
    return cpu;
}

int usable_cores() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    const unsigned cores = std::thread::hardware_concurrency();
    return cores ? static_cast<int>(cores) : 1;
}

}  // namespace star
