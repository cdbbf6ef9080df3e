// What this processor can run.
#pragma once

namespace star {

/// Of the instructions that are optional, those that are worth using.
struct Cpu {
    bool avx2, avx512, avx512_vnni, avx512_bf16;  // x86-64
    bool neon, neon_dotprod, neon_bf16;           // aarch64
};

const Cpu &this_cpu();

/// Cores this process may run on: fewer than the machine has inside a container.
int usable_cores();

}  // namespace star
