#include "tensorrt_program.h"

#include "device_memory.h"
#include "message.h"
#include "sha256.h"
#include "tensorrt_runner.h"

namespace star {

namespace {

const char *name_of(star_precision precision) {
    switch (precision) {
        case STAR_PRECISION_FP32:
            return "fp32";
        case STAR_PRECISION_FP16:
            return "fp16";
        case STAR_PRECISION_INT8:
            return "int8";
        default:
            throw Error(STAR_UNSUPPORTED,
                        message("there are no TensorRT engines in bf16", {.expected = "fp32, fp16 or int8"}));
    }
}

Gpu this_gpu() {
    int device = 0;
    cudaDeviceProp properties{};
    check_cuda(cudaGetDevice(&device), "asking for the device");
    check_cuda(cudaGetDeviceProperties(&properties, device), "asking for the device's name");
    return {properties.name, 10 * properties.major + properties.minor, properties.multiProcessorCount,
            properties.integrated != 0};
}

void require_gpu() {
    int count = 0;
    if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0)
        throw Error(STAR_UNSUPPORTED, message("there is no GPU that CUDA can use",
                                              {.found = error == cudaSuccess ? "no device" : cudaGetErrorString(error),
                                               .expected = "a Jetson, or another NVIDIA GPU with its driver",
                                               .next = "star-edge doctor; in a container: --runtime nvidia"}));
}

std::string list(const std::vector<int64_t> &sizes) {
    std::string text;
    for (const int64_t size : sizes) text += (text.empty() ? "[" : ", ") + std::to_string(size);
    return text + "]";
}

void require_same(const std::string &what, const std::string &found, const std::string &expected) {
    if (found == expected) return;
    throw Error(STAR_MISMATCH, message("the engine has other tensors than its description says",
                                       {.where = what, .found = found, .expected = expected, .next = "star-edge build"}));
}

/// A wrong address or size would be a write anywhere.
void check_tensors(const TensorRtEngine &engine, const std::vector<Bucket> &buckets, const Config &config) {
    require_same("profiles", std::to_string(engine.profiles()), std::to_string(buckets.size()));
    const std::map<std::string, std::string> tensors = engine.tensors();
    require_same("tensors", std::to_string(tensors.size()), "3");
    for (const auto &[name, type] :
         std::map<std::string, std::string>{{"features", "float32"}, {"cu_seqlens", "int32"}, {"logits", "float32"}}) {
        const auto found = tensors.find(name);
        require_same(name, found == tensors.end() ? "none" : found->second, type);
    }
    for (std::size_t index = 0; index < buckets.size(); index++) {
        const auto profile = static_cast<int>(index);
        require_same("features of profile " + std::to_string(index), list(engine.largest_shape("features", profile)),
                     list({buckets[index].rows, config.joints, config.channels}));
        require_same("cu_seqlens of profile " + std::to_string(index), list(engine.largest_shape("cu_seqlens", profile)),
                     list({buckets[index].clips + 1}));
    }
    require_same("logits", list(engine.shape("logits")), list({-1, config.classes}));
}

}  // namespace

TensorRtProgram::TensorRtProgram(const Bundle &bundle, star_precision with_precision, const std::string &tensorrt,
                                 std::vector<Bucket> of_buckets, std::unique_ptr<TensorRtEngine> engine)
    : buckets(std::move(of_buckets)), engine_(std::move(engine)) {
    config = bundle.config;
    precision = with_precision;
    isa = STAR_ISA_TENSORRT;
    products = "TensorRT " + tensorrt;
    storage = compute = name_of(with_precision);
}

std::unique_ptr<Runner> TensorRtProgram::make_runner(int) const {
    return std::make_unique<TensorRtRunner>(std::static_pointer_cast<const TensorRtProgram>(shared_from_this()));
}

std::unique_ptr<TensorRtContext> TensorRtProgram::make_context(std::size_t bucket, const std::vector<Binding> &bindings,
                                                               cudaStream_t stream) const {
    const std::lock_guard lock(making_);
    return engine_->make_context(static_cast<int>(bucket), bindings, stream);
}

std::shared_ptr<const Program> compile_for_tensorrt(const Bundle &bundle, star_precision precision,
                                                    const std::filesystem::path &folder, TensorRt &tensorrt) {
    const std::string name = name_of(precision), version = tensorrt.version();
    if (folder.empty())
        throw Error(STAR_UNSUPPORTED, message("TensorRT's engines lie in a bundle's folder",
                                              {.found = "a bundle in memory, or packed into one file",
                                               .expected = "a NAME.star folder",
                                               .next = "star-edge pack --unpack, then star-edge build"}));
    require_gpu();
    Here here{.bundle = folder,
              .bundle_id = bundle.bundle_id,
              .precision = name,
              .tensorrt = version,
              .gpu = this_gpu(),
              .engine_sha256 = {},
              .plugin_sha256 = {}};
    const EngineFile file = find_engine_file(folder, version, here.gpu.sm, name);
    const std::string plan = read_plan(file);
    here.engine_sha256 = sha256(plan);
    here.plugin_sha256 = plugin_sha256(file.plugin_key);
    require_compatible(file, here);
    std::unique_ptr<TensorRtEngine> engine = tensorrt.load(plan, plugin_path(file.plugin_key));
    check_tensors(*engine, file.buckets, bundle.config);
    return std::make_shared<TensorRtProgram>(bundle, precision, version, file.buckets, std::move(engine));
}

}  // namespace star
