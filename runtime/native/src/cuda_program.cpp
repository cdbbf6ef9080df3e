#include "cuda_program.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "cuda_runner.h"
#include "half.h"

namespace star {

namespace {

constexpr float kLevels = 127.0f;
constexpr double kBatchNormEps = 1e-5;
constexpr const char *kElsewhere = "run it on the processor: leave out --isa cuda";

std::size_t round_up(std::size_t size, std::size_t tile) { return (size + tile - 1) / tile * tile; }

std::size_t padded_outputs(const Tensor &weight) {
    return round_up(static_cast<std::size_t>(weight.shape[0]), STAR_CUDA_TILE_OUTPUTS);
}

/// Rows of a matrix, converted and padded with zeros to whole tiles.
template <class Element, class Convert>
std::vector<Element> padded(const Tensor &weight, const Convert &convert) {
    const auto outputs = static_cast<std::size_t>(weight.shape[0]), inputs = static_cast<std::size_t>(weight.shape[1]);
    const std::size_t columns = round_up(inputs, STAR_CUDA_TILE_BYTES / sizeof(Element));
    std::vector<Element> matrix(padded_outputs(weight) * columns);
    for (std::size_t output = 0; output < outputs; output++)
        for (std::size_t input = 0; input < inputs; input++)
            matrix[output * columns + input] = convert(weight.data[output * inputs + input], output);
    return matrix;
}

}  // namespace

/// Takes the tensors of a bundle into the GPU's memory, module by module.
class CudaPacker {
   public:
    CudaPacker(const Bundle &bundle, star_precision precision, std::vector<DeviceMemory> &memory)
        : bundle_(bundle), precision_(precision), memory_(memory) {}

    const std::vector<float> &values(const std::string &name) const { return bundle_.weights.at(name).data; }

    template <class Value>
    const Value *keep(const std::vector<Value> &array) {
        memory_.push_back(copied_to_device(array));
        return static_cast<const Value *>(memory_.back().get());
    }

    star_cuda_norm norm(const std::string &path) { return {keep(values(path + ".weight")), keep(values(path + ".bias"))}; }

    star_cuda_encoder encoder(const std::string &path) {
        return {linear(path + ".qkv", false), linear(path + ".linear1", true), linear(path + ".linear2", false),
                norm(path + ".norm1"), norm(path + ".norm2")};
    }

    star_cuda_linear_layer linear(const std::string &path, bool silu) {
        const Tensor &weight = bundle_.weights.at(path + ".weight");
        star_cuda_linear_layer layer{};
        layer.inputs = static_cast<int32_t>(weight.shape[1]);
        layer.outputs = static_cast<int32_t>(weight.shape[0]);
        layer.silu = silu;
        const auto bias = bundle_.weights.find(path + ".bias");
        std::vector<float> biases = bias == bundle_.weights.end() ? std::vector<float>() : bias->second.data;
        biases.resize(padded_outputs(weight));
        layer.bias = keep(biases);
        if (precision_ == STAR_PRECISION_INT8 && bundle_.quantised.count(path) > 0) {
            quantise(path, weight, layer);
        } else if (precision_ == STAR_PRECISION_FP32) {
            layer.type = STAR_CUDA_FP32;
            layer.matrix = keep(padded<float>(weight, [](float value, std::size_t) { return value; }));
        } else {
            layer.type = STAR_CUDA_FP16;
            layer.matrix = keep(padded<uint16_t>(weight, [](float value, std::size_t) { return half_bits(value); }));
        }
        return layer;
    }

   private:
    /// The bundle's int8: per output amax / 127, nearest level, ties to even.
    void quantise(const std::string &path, const Tensor &weight, star_cuda_linear_layer &layer) {
        layer.type = STAR_CUDA_INT8;
        layer.input_scale = bundle_.ranges.at(path + ".in") / kLevels;
        std::vector<float> steps(padded_outputs(weight)), scales(steps.size());
        for (std::ptrdiff_t output = 0; output < weight.shape[0]; output++) {
            const auto row = weight.data.begin() + output * layer.inputs;
            const float amax = std::accumulate(row, row + layer.inputs, 0.0f,
                                               [](float most, float value) { return std::max(most, std::fabs(value)); });
            steps[output] = amax > 0 ? amax / kLevels : 1.0f;
            scales[output] = steps[output] * layer.input_scale;
        }
        layer.matrix = keep(padded<int8_t>(weight, [&](float value, std::size_t output) {
            return static_cast<int8_t>(std::nearbyint(std::clamp(value / steps[output], -kLevels, kLevels)));
        }));
        layer.scales = keep(scales);
    }

    const Bundle &bundle_;
    const star_precision precision_;
    std::vector<DeviceMemory> &memory_;
};

namespace {

/// Bit j of word i for each edge (i, j).
std::vector<uint64_t> words_of(const Config &config) {
    std::vector<uint64_t> words(static_cast<std::size_t>(config.joints));
    for (const auto &[from, to] : config.edges) words[from] |= uint64_t{1} << to;
    return words;
}

std::vector<float> turned(const Tensor &weight) {
    const int64_t rows = weight.shape[0], columns = weight.shape[1];
    std::vector<float> result(weight.data.size());
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++) result[column * rows + row] = weight.data[row * columns + column];
    return result;
}

void require(bool can_run, const char *what, int64_t found, const char *expected) {
    if (can_run) return;
    throw Error(STAR_UNSUPPORTED, message(std::string("there are no CUDA kernels for this model: ") + what,
                                          {.found = std::to_string(found), .expected = expected, .next = kElsewhere}));
}

void check_config(const Config &config) {
    const int64_t head_dim = config.dim / config.heads;
    require(config.joints <= STAR_CUDA_MOST_JOINTS, "joints", config.joints, "at most 64");
    require(config.dim <= STAR_CUDA_MOST_POOLED, "width", config.dim, "at most 1024");
    require(head_dim == 4 || head_dim == 8 || head_dim == 16 || head_dim == 32 || head_dim == 64, "width of a head", head_dim,
            "4, 8, 16, 32 or 64");
    require(config.ranks.empty(), "layers of low rank", static_cast<int64_t>(config.ranks.size()), "none");
    require(config.widths.empty(), "encoders with an FFN of another width", static_cast<int64_t>(config.widths.size()),
            "none");
    require(config.hidden % 4 == 0, "width of the head's hidden layer", config.hidden, "a multiple of 4");
}

int32_t int32(int64_t value) { return static_cast<int32_t>(value); }

star_cuda_sizes fused_sizes_of(const Config &config) {
    return {.joints = int32(config.joints),
            .channels = int32(config.channels),
            .classes = int32(config.classes),
            .layers = int32(config.layers),
            .hidden = int32(config.hidden),
            .edges = int32(static_cast<int64_t>(config.edges.size())),
            .frames = 1,
            .clips = 1,
            .tile_rows = 0};
}

/// Whether the kernels that keep a layer on the chip take this model, and this device them.
bool can_fuse(const Config &config, star_precision precision) {
    if (precision != STAR_PRECISION_FP16 || config.dim != STAR_CUDA_DIM || config.heads != STAR_CUDA_HEADS) return false;
    const star_cuda_sizes sizes = fused_sizes_of(config);
    return star_cuda_workspace(&sizes) > 0;
}

}  // namespace

CudaProgram::CudaProgram(const Bundle &bundle, star_precision with_precision) {
    config = bundle.config;
    precision = with_precision;
    isa = STAR_ISA_CUDA;
    products = cuda_products(with_precision);
    storage = compute = with_precision == STAR_PRECISION_FP32   ? "fp32"
                        : with_precision == STAR_PRECISION_INT8 ? "int8"
                                                                : "fp16";
    unquantised = "fp16";
    if (can_fuse(config, precision)) {
        pack_fused(bundle);
    } else {
        pack_layered(bundle);
    }
}

void CudaProgram::pack_fused(const Bundle &bundle) {
    sizes_ = fused_sizes_of(config);
    std::vector<int32_t> edges;
    for (const auto &[from, to] : config.edges) edges.insert(edges.end(), {from, to});
    std::vector<char> packed(star_cuda_weights_size(&sizes_));
    const auto tensor = [](void *context, const char *name) -> const float * {
        const auto &weights = *static_cast<const std::map<std::string, Tensor> *>(context);
        const auto found = weights.find(name);
        return found == weights.end() ? nullptr : found->second.data.data();
    };
    auto *context = const_cast<std::map<std::string, Tensor> *>(&bundle.weights);
    check_cuda(star_cuda_pack_weights(&sizes_, edges.data(), tensor, context, packed.data()), "packing weights");
    memory_.push_back(copied_to_device(packed));
    star_cuda_place_weights(&sizes_, memory_.back().get(), &weights_);
}

void CudaProgram::pack_layered(const Bundle &bundle) {
    neighbours_ = words_of(config);
    CudaPacker packer(bundle, precision, memory_);
    for (int64_t layer = 0; layer < config.layers; layer++) {
        for (const char *branch : {".spatial", ".temporal"})
            encoders_.push_back(packer.encoder("layers." + std::to_string(layer) + branch));
    }
    const std::vector<float> &gain = packer.values("input_norm.weight"), &bias = packer.values("input_norm.bias"),
                             &mean = packer.values("input_norm.running_mean"),
                             &variance = packer.values("input_norm.running_var");
    std::vector<float> scale(gain.size()), shift(gain.size());
    for (std::size_t i = 0; i < gain.size(); i++) {
        const double factor = gain[i] / std::sqrt(static_cast<double>(variance[i]) + kBatchNormEps);
        scale[i] = static_cast<float>(factor);
        shift[i] = static_cast<float>(bias[i] - mean[i] * factor);
    }
    layered_ = {.activations = precision == STAR_PRECISION_FP32 ? STAR_CUDA_FP32 : STAR_CUDA_FP16,
                .joints = int32(config.joints),
                .inputs = int32(config.channels),
                .dim = int32(config.dim),
                .heads = int32(config.heads),
                .layers = int32(config.layers),
                .hidden = int32(config.hidden),
                .classes = int32(config.classes),
                .neighbours = neighbours_.data(),
                .input_scale = packer.keep(scale),
                .input_shift = packer.keep(shift),
                .embedding = packer.keep(turned(bundle.weights.at("embedding.weight"))),
                .embedding_bias = packer.keep(packer.values("embedding.bias")),
                .encoders = encoders_.data(),
                .context = packer.keep(packer.values("context.weight")),
                .head_hidden = packer.linear("head.hidden", true),
                .head_output = packer.linear("head.output", false)};
}

std::unique_ptr<Runner> CudaProgram::make_runner(int) const {
    return std::make_unique<CudaRunner>(std::static_pointer_cast<const CudaProgram>(shared_from_this()));
}

std::shared_ptr<const Program> compile_for_cuda(const Bundle &bundle, star_precision precision) {
    if (!has_cuda()) throw Error(STAR_UNSUPPORTED, message("no NVIDIA GPU that CUDA can use", {.next = kElsewhere}));
    if (cuda_products(precision) == nullptr)
        throw Error(STAR_UNSUPPORTED, message("there are no CUDA kernels for this precision",
                                              {.found = "bf16", .expected = "fp32, fp16 or int8"}));
    check_config(bundle.config);
    return std::make_shared<CudaProgram>(bundle, precision);
}

bool has_cuda() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

const char *cuda_products(star_precision precision) {
    switch (precision) {
        case STAR_PRECISION_FP32:
            return "cuda fma";
        case STAR_PRECISION_FP16:
            return "cuda mma fp16";
        case STAR_PRECISION_INT8:
            return "cuda mma int8";
        default:
            return nullptr;
    }
}

}  // namespace star
