#include "program.h"

#include "cpu.h"
#include "error.h"
#include "kernels/targets.h"
#include "star_program.h"

#if defined(STAR_EDGE_CUDA)
#include "cuda_program.h"
#endif
#if defined(STAR_EDGE_TENSORRT)
#include "tensorrt_program.h"
#endif

namespace star {

namespace {

/// An instruction set's kernels by precision; null pointers where the processor lacks it.
struct Target {
    star_isa isa;
    const char *name;
    const Kernels *float32, *bfloat16, *int8;
    const char *bfloat16_compute;  // what bfloat16 is multiplied in
};

std::vector<Target> targets() {
    const Cpu &cpu = this_cpu();
    std::vector<Target> found;
#if defined(__x86_64__)
    if (cpu.avx512) {
        found.push_back({STAR_ISA_AVX512, "avx512", &avx512::float32,
                         cpu.avx512_bf16 ? &avx512_bf16::bfloat16 : &avx512::bfloat16,
                         cpu.avx512_vnni ? &avx512_vnni::int8 : &avx512::int8, cpu.avx512_bf16 ? "bf16" : "fp32"});
    }
    if (cpu.avx2) found.push_back({STAR_ISA_AVX2, "avx2", &avx2::float32, &avx2::bfloat16, &avx2::int8, "fp32"});
#elif defined(__aarch64__)
    found.push_back({STAR_ISA_NEON, "neon", &neon::float32, cpu.neon_bf16 ? &neon_bf16::bfloat16 : &neon::bfloat16,
                     cpu.neon_dotprod ? &neon_dotprod::int8 : &neon::int8, cpu.neon_bf16 ? "bf16" : "fp32"});
#endif
    found.push_back({STAR_ISA_PORTABLE, "portable", &portable::float32, &portable::bfloat16, &portable::int8, "fp32"});
    return found;
}

/// Null where it is lacking.
const Target *find_target(star_isa isa) {
    static const std::vector<Target> found = targets();
    if (isa == STAR_ISA_AUTO) return &found.front();
    for (const Target &target : found) {
        if (target.isa == isa) return &target;
    }
    return nullptr;
}

const Target &target_of(star_isa isa) {
    if (const Target *target = find_target(isa)) return *target;
    throw Error(STAR_UNSUPPORTED, "this processor, or this build, lacks the instruction set asked for; found: " +
                                      instruction_sets() + "; next: leave the choice to the library");
}

const Kernels &kernels_of(const Target &target, star_precision precision) {
    switch (precision) {
        case STAR_PRECISION_BF16:
            return *target.bfloat16;
        case STAR_PRECISION_INT8:
            return *target.int8;
        default:
            return *target.float32;
    }
}

#if defined(STAR_EDGE_CUDA)
std::shared_ptr<const Program> compile_for_gpu(const Bundle &bundle, star_precision precision) {
    return compile_for_cuda(bundle, precision);
}
const char *gpu_products_of(star_precision precision) { return has_cuda() ? cuda_products(precision) : nullptr; }
bool has_gpu() { return has_cuda(); }
#else
std::shared_ptr<const Program> compile_for_gpu(const Bundle &, star_precision) {
    throw Error(STAR_UNSUPPORTED,
                "this build has no CUDA kernels; next: pip install --config-settings=cmake.define.STAR_EDGE_CUDA=ON .");
}
const char *gpu_products_of(star_precision) { return nullptr; }
bool has_gpu() { return false; }
#endif

#if defined(STAR_EDGE_TENSORRT)
std::shared_ptr<const Program> open_engine(const Bundle &bundle, star_precision precision,
                                           const std::filesystem::path &folder) {
    return compile_for_tensorrt(bundle, precision, folder, installed_tensorrt());
}
#else
std::shared_ptr<const Program> open_engine(const Bundle &, star_precision, const std::filesystem::path &) {
    throw Error(
        STAR_UNSUPPORTED,
        "this build cannot run TensorRT engines; next: pip install --config-settings=cmake.define.STAR_EDGE_TENSORRT=ON .");
}
#endif

star_precision precision_of(const std::string &name) {
    if (name == "fp16") return STAR_PRECISION_FP16;
    if (name == "bf16") return STAR_PRECISION_BF16;
    return name == "int8" ? STAR_PRECISION_INT8 : STAR_PRECISION_FP32;
}

}  // namespace

std::shared_ptr<const Program> compile(const Bundle &bundle, star_precision precision, star_isa isa,
                                       const std::filesystem::path &folder) {
    if (precision == STAR_PRECISION_DEFAULT) precision = precision_of(bundle.default_precision);
    if (precision == STAR_PRECISION_INT8 && bundle.quantised.empty())
        throw Error(STAR_UNSUPPORTED, "the bundle has no int8 model; next: star-edge calibrate");
    if (isa == STAR_ISA_CUDA) return compile_for_gpu(bundle, precision);
    if (isa == STAR_ISA_TENSORRT) return open_engine(bundle, precision, folder);
    const Target &target = target_of(isa);
    const Kernels &kernels = kernels_of(target, precision);
    auto program = std::make_shared<StarProgram>(bundle, precision, kernels);
    program->isa = target.isa;
    program->products = kernels.products;
    switch (precision) {
        case STAR_PRECISION_INT8:
            program->storage = program->compute = "int8";
            break;
        case STAR_PRECISION_BF16:
            program->storage = "bf16", program->compute = target.bfloat16_compute;
            break;
        case STAR_PRECISION_FP16:
            program->storage = "fp16", program->compute = "fp32";
            break;
        default:
            program->storage = program->compute = "fp32";
    }
    return program;
}

const char *products_of(star_precision precision, star_isa isa) {
    if (isa == STAR_ISA_CUDA) return gpu_products_of(precision);
    const Target *target = find_target(isa);
    return target == nullptr ? nullptr : kernels_of(*target, precision).products;
}

const std::string &instruction_sets() {
    static const std::string names = [] {
        std::string joined;
        for (const Target &target : targets()) {
            if (!joined.empty()) joined += ", ";
            joined += target.name;
            if (target.isa == STAR_ISA_AVX512)
                joined += std::string(this_cpu().avx512_vnni ? " vnni" : "") + (this_cpu().avx512_bf16 ? " bf16" : "");
            if (target.isa == STAR_ISA_NEON)
                joined += std::string(this_cpu().neon_dotprod ? " dotprod" : "") + (this_cpu().neon_bf16 ? " bf16" : "");
        }
        return has_gpu() ? joined + ", cuda" : joined;
    }();
    return names;
}

}  // namespace star
