#include "star_program.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "star_runner.h"

namespace star {

AlignedFloats allocate_floats(std::size_t count) {
    auto *memory = static_cast<float *>(::operator new[](count * sizeof(float), std::align_val_t(kAlignment)));
    std::memset(memory, 0, count * sizeof(float));
    return AlignedFloats(memory);
}

namespace {

constexpr float kLog2e = 1.44269504f;
constexpr float kBatchNormEps = 1e-5f;

/// Nearest fp16, ties to even; infinite beyond its range.
float round_fp16(float value) {
    const float magnitude = std::fabs(value);
    if (magnitude < 6.103515625e-5f) {  // below the normal numbers: multiples of 2^-24
        volatile float shifted = magnitude + 0.75f;
        return std::copysign(shifted - 0.75f, value);
    }
    volatile float scaled = magnitude * 8193.0f;  // 2^13 + 1: what is left of a product this much larger are 11 bits
    volatile float rest = scaled - magnitude;
    const float rounded = scaled - rest;
    return std::copysign(rounded > 65504.0f ? INFINITY : rounded, value);
}

/// Takes the tensors of a bundle into kernels' layouts, module by module.
class Packer {
   public:
    Packer(const Bundle &bundle, star_precision precision, const Kernels &kernels)
        : bundle_(bundle), precision_(precision), kernels_(kernels) {}

    AlignedFloats copy(const std::string &name) const {
        const Tensor &tensor = bundle_.weights.at(name);
        AlignedFloats copied = allocate_floats(tensor.data.size());
        std::copy(tensor.data.begin(), tensor.data.end(), copied.get());
        return copied;
    }

    Norm norm(const std::string &path) const { return {copy(path + ".weight"), copy(path + ".bias")}; }

    bool is_low_rank(const std::string &path) const { return bundle_.config.ranks.count(path) > 0; }

    /// A linear layer, with both factors where it is of low rank; outputs times factors.
    Linear layer(const std::string &path, const std::vector<float> &factors = {}) const {
        if (!is_low_rank(path)) return linear(path, 0, 0, factors);
        Linear first = linear(path + ".first");
        first.second = std::make_unique<Linear>(linear(path + ".second", 0, 0, factors));
        return first;
    }

    /// A linear layer of the head, whose input has [channel][joint] where the state dict has [joint][channel].
    Linear head_layer(const std::string &path, int joints) const {
        if (!is_low_rank(path)) return head_linear(path, joints);
        Linear first = head_linear(path + ".first", joints);
        first.second = std::make_unique<Linear>(head_linear(path + ".second", 1));
        return first;
    }

    /// Rows `first` to `first + outputs` of a module; all of them when outputs is 0.
    Linear linear(const std::string &path, int first = 0, int outputs = 0, const std::vector<float> &factors = {}) const {
        const Tensor &tensor = bundle_.weights.at(path + ".weight");
        const int inputs = static_cast<int>(tensor.shape[1]);
        if (outputs == 0) outputs = static_cast<int>(tensor.shape[0]);
        const std::vector<float> weight(tensor.data.begin() + static_cast<std::ptrdiff_t>(first) * inputs,
                                        tensor.data.begin() + static_cast<std::ptrdiff_t>(first + outputs) * inputs);
        return pack(path, weight, inputs, outputs, factors, false);
    }

    /// weight [outputs, inputs]; the bias is the module's, if it has one.
    Linear pack(const std::string &path, std::vector<float> weight, int inputs, int outputs, const std::vector<float> &factors,
                bool token_major) const {
        if (precision_ == STAR_PRECISION_FP16) {
            for (float &value : weight) value = round_fp16(value);
        }
        LinearSource source{};
        source.weight = weight.data();
        const auto bias = bundle_.weights.find(path + ".bias");
        source.bias = bias == bundle_.weights.end() ? nullptr : bias->second.data.data();
        source.factors = factors.empty() ? nullptr : factors.data();
        source.inputs = inputs;
        source.outputs = outputs;
        source.token_major = token_major;
        source.low_precision = is_low_precision(path);
        const auto range = bundle_.ranges.find(path + ".in");
        source.input_amax = range == bundle_.ranges.end() ? 0.0f : range->second;
        Linear packed;
        kernels_.pack(source, packed);
        return packed;
    }

    bool is_low_precision(const std::string &path) const {
        if (precision_ == STAR_PRECISION_INT8) return bundle_.quantised.count(path) > 0;
        // raw joints are metres: their few channels stay in float32, and so do the head's vectors, which cost nothing
        return precision_ == STAR_PRECISION_BF16 && path.rfind("embedding", 0) != 0 && path.rfind("head.", 0) != 0;
    }

    const std::vector<float> &values(const std::string &name) const { return bundle_.weights.at(name).data; }

   private:
    Linear head_linear(const std::string &path, int joints) const {
        const Tensor &weight = bundle_.weights.at(path + ".weight");
        const int outputs = static_cast<int>(weight.shape[0]), inputs = static_cast<int>(weight.shape[1]);
        const int channels = inputs / joints;
        std::vector<float> rows(weight.data.size());
        for (int output = 0; output < outputs; output++) {
            const std::size_t row = static_cast<std::size_t>(output) * inputs;
            for (int joint = 0; joint < joints; joint++) {
                for (int c = 0; c < channels; c++) rows[row + c * joints + joint] = weight.data[row + joint * channels + c];
            }
        }
        return pack(path, rows, inputs, outputs, {}, true);
    }

    const Bundle &bundle_;
    const star_precision precision_;
    const Kernels &kernels_;
};

int largest(const std::map<std::string, int64_t> &sizes) {
    int64_t found = 0;
    for (const auto &[path, size] : sizes) found = std::max(found, size);
    return static_cast<int>(found);
}

int largest_latent(const Config &config) {
    std::map<std::string, int64_t> ranks;
    for (const auto &[path, rank] : config.ranks) {
        if (path.ends_with(".temporal.qkv")) ranks.emplace(path, rank);
    }
    return largest(ranks);
}

Shape shape_of(const Config &config, const Kernels &kernels) {
    Shape shape{};
    shape.joints = static_cast<int>(config.joints);
    shape.channels = static_cast<int>(config.channels);
    shape.classes = static_cast<int>(config.classes);
    shape.dim = static_cast<int>(config.dim);
    shape.heads = static_cast<int>(config.heads);
    shape.head_dim = shape.dim / shape.heads;
    shape.layers = static_cast<int>(config.layers);
    shape.hidden = static_cast<int>(config.hidden);
    shape.ffn = std::max(shape.dim, largest(config.widths));
    shape.rank = largest(config.ranks);
    shape.latent = (largest_latent(config) + 15) / 16 * 16;
    shape.tile_frames = kernels.tile_frames;
    shape.group_tokens = kernels.group_tokens;
    shape.tokens = shape.joints * shape.tile_frames;
    shape.stride = (shape.tokens + 15) / 16 * 16;
    shape.padded_dim = (shape.dim + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
    return shape;
}

SpatialEncoder pack_spatial(const Packer &packer, const Shape &shape, const std::string &path) {
    std::vector<float> factors(3 * shape.dim, 1.0f);
    std::fill_n(factors.begin(), shape.dim, kLog2e / std::sqrt(static_cast<float>(shape.head_dim)));
    return {packer.layer(path + ".qkv", factors), packer.norm(path + ".norm1"), packer.layer(path + ".linear1"),
            packer.layer(path + ".linear2"), packer.norm(path + ".norm2")};
}

TemporalEncoder pack_temporal(const Packer &packer, const Shape &shape, const std::string &path) {
    const int dim = shape.dim, padded = shape.padded_dim;
    const float factor = std::pow(static_cast<float>(shape.head_dim), -0.25f);
    const bool low_rank = packer.is_low_rank(path + ".qkv");
    const std::string split = path + (low_rank ? ".qkv.second" : ".qkv");
    const std::vector<float> &qkv = packer.values(split + ".weight");
    const int inputs = static_cast<int>(qkv.size()) / (3 * dim);
    std::vector<float> rows(static_cast<std::size_t>(2 * padded) * inputs, 0.0f), factors(2 * padded, 1.0f);
    std::fill_n(factors.begin(), padded, factor);
    const auto size = static_cast<std::size_t>(dim) * inputs;
    std::copy_n(qkv.begin() + size, size, rows.begin());                                                  // keys
    std::copy_n(qkv.begin() + 2 * size, size, rows.begin() + static_cast<std::size_t>(padded) * inputs);  // values
    return {low_rank ? packer.linear(path + ".qkv.first") : Linear(),
            packer.linear(split, 0, dim, std::vector<float>(dim, factor)),
            packer.pack(split, rows, inputs, 2 * padded, factors, true),
            packer.norm(path + ".norm1"),
            packer.layer(path + ".linear1"),
            packer.layer(path + ".linear2"),
            packer.norm(path + ".norm2")};
}

Weights pack_weights(const Bundle &bundle, star_precision precision, const Kernels &kernels) {
    const Packer packer(bundle, precision, kernels);
    Weights weights;
    weights.shape = shape_of(bundle.config, kernels);
    const Shape &shape = weights.shape;

    const int inputs = shape.joints * shape.channels;
    weights.input_scale = allocate_floats(inputs);
    weights.input_shift = allocate_floats(inputs);
    const auto &gain = packer.values("input_norm.weight"), &bias = packer.values("input_norm.bias");
    const auto &mean = packer.values("input_norm.running_mean"), &variance = packer.values("input_norm.running_var");
    for (int i = 0; i < inputs; i++) {
        const double scale = gain[i] / std::sqrt(static_cast<double>(variance[i]) + kBatchNormEps);
        weights.input_scale[i] = static_cast<float>(scale);
        weights.input_shift[i] = static_cast<float>(bias[i] - mean[i] * scale);
    }
    weights.embedding = packer.layer("embedding");
    for (int layer = 0; layer < shape.layers; layer++) {
        const std::string path = "layers." + std::to_string(layer);
        weights.layers.push_back(
            {pack_spatial(packer, shape, path + ".spatial"), pack_temporal(packer, shape, path + ".temporal")});
    }
    weights.edge_starts.assign(shape.joints + 1, 0);
    for (const auto &edge : bundle.config.edges) weights.edge_starts[edge.first + 1]++;
    for (int joint = 0; joint < shape.joints; joint++) weights.edge_starts[joint + 1] += weights.edge_starts[joint];
    weights.edge_ends.resize(bundle.config.edges.size());
    std::vector<int> next(weights.edge_starts.begin(), weights.edge_starts.end() - 1);
    for (const auto &edge : bundle.config.edges) weights.edge_ends[next[edge.first]++] = edge.second;
    weights.context = packer.copy("context.weight");
    weights.head_hidden = packer.head_layer("head.hidden", shape.joints);
    weights.head_output = packer.head_layer("head.output", 1);
    return weights;
}

}  // namespace

StarProgram::StarProgram(const Bundle &bundle, star_precision with_precision, const Kernels &with_kernels)
    : kernels(with_kernels), weights(pack_weights(bundle, with_precision, with_kernels)) {
    config = bundle.config;
    precision = with_precision;
}

std::unique_ptr<Runner> StarProgram::make_runner(int threads) const {
    return std::make_unique<StarRunner>(std::static_pointer_cast<const StarProgram>(shared_from_this()), threads);
}

}  // namespace star
