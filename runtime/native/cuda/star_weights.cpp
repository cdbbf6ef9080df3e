// Packs a state dict for star_cuda_run: BatchNorm and scales folded in, matrices permuted and in float16.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "half.h"
#include "star_model.h"

namespace {

constexpr int kDim = STAR_CUDA_DIM, kHeadDim = kDim / STAR_CUDA_HEADS, kBlock = kDim * kDim;
constexpr double kBatchNormEps = 1e-5, kLog2e = 1.4426950408889634;

size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

/// Places every array one behind the other; returns their bytes.
size_t place(const star_cuda_sizes &sizes, const void *memory, star_cuda_weights &weights) {
    const size_t joints = sizes.joints, channels = sizes.channels, layers = sizes.layers, hidden = sizes.hidden,
                 classes = sizes.classes;
    size_t used = 0;
    const auto take = [&](auto *&array, size_t bytes) {
        array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(static_cast<const char *>(memory) + used);
        used += round_up(bytes);
    };
    take(weights.input_scale, joints * channels * sizeof(float));
    take(weights.input_shift, joints * channels * sizeof(float));
    take(weights.embedding, channels * kDim * sizeof(float));
    take(weights.embedding_bias, kDim * sizeof(float));
    take(weights.key_values, layers * 2 * kBlock * sizeof(uint16_t));
    take(weights.matrices, layers * STAR_CUDA_LAYER_ROWS * kDim * sizeof(uint16_t));
    take(weights.vectors, layers * STAR_CUDA_LAYER_VECTORS * kDim * sizeof(float));
    take(weights.edge_starts, (joints + 1) * sizeof(int32_t));
    take(weights.edge_ends, static_cast<size_t>(sizes.edges) * sizeof(int32_t));
    take(weights.context, kBlock * sizeof(float));
    take(weights.head_hidden, hidden * joints * kDim * sizeof(uint16_t));
    take(weights.head_hidden_bias, hidden * sizeof(float));
    take(weights.head_output, classes * hidden * sizeof(uint16_t));
    take(weights.head_output_bias, classes * sizeof(float));
    return used;
}

/// Channel that stands in a row of a packed matrix: a thread of four then has sixteen neighbouring channels.
int output_at(int row) { return row / 2 % 4 * 16 + row / 8 * 2 + row % 2; }

/// Channel that stands in a column, which the same threads multiply with what they have.
int input_at(int column) { return column / 2 % 4 * 16 + column / 16 * 4 + column / 8 % 2 * 2 + column % 2; }

class Packer {
   public:
    Packer(const star_cuda_sizes &sizes, star_cuda_tensor tensor, void *context, void *host)
        : sizes_(sizes), tensor_(tensor), context_(context) {
        place(sizes, host, to_);
    }

    /// False where a tensor is missing.
    bool pack(const int32_t *edges) {
        pack_input();
        for (int32_t layer = 0; layer < sizes_.layers; layer++) pack_layer("layers." + std::to_string(layer), layer);
        pack_edges(edges);
        copy("context.weight", kBlock, to_.context);
        copy_halves("head.hidden.weight", static_cast<size_t>(sizes_.hidden) * sizes_.joints * kDim, to_.head_hidden);
        copy("head.hidden.bias", sizes_.hidden, to_.head_hidden_bias);
        copy_halves("head.output.weight", static_cast<size_t>(sizes_.classes) * sizes_.hidden, to_.head_output);
        copy("head.output.bias", sizes_.classes, to_.head_output_bias);
        return has_all_;
    }

   private:
    /// Zeros of a block where it is missing.
    const float *tensor(const std::string &name) {
        const float *found = tensor_(context_, name.c_str());
        has_all_ = has_all_ && found != nullptr;
        return found;
    }

    /// The arrays are the host's memory, which place() takes for the device's.
    template <class Value>
    static Value *writable(const void *array) {
        return static_cast<Value *>(const_cast<void *>(array));
    }

    void copy(const std::string &name, size_t count, const float *to) {
        if (const float *from = tensor(name)) std::copy_n(from, count, writable<float>(to));
    }

    void copy_halves(const std::string &name, size_t count, const void *to) {
        if (const float *from = tensor(name)) std::transform(from, from + count, writable<uint16_t>(to), star::half_bits);
    }

    void pack_input() {
        const float *gain = tensor("input_norm.weight"), *bias = tensor("input_norm.bias"),
                    *mean = tensor("input_norm.running_mean"), *variance = tensor("input_norm.running_var"),
                    *embedding = tensor("embedding.weight");
        if (!has_all_) return;
        for (int32_t i = 0; i < sizes_.joints * sizes_.channels; i++) {
            const double scale = gain[i] / std::sqrt(variance[i] + kBatchNormEps);
            writable<float>(to_.input_scale)[i] = static_cast<float>(scale);
            writable<float>(to_.input_shift)[i] = static_cast<float>(bias[i] - mean[i] * scale);
        }
        for (int32_t channel = 0; channel < sizes_.channels; channel++)
            for (int output = 0; output < kDim; output++)
                writable<float>(to_.embedding)[channel * kDim + output] = embedding[output * sizes_.channels + channel];
        copy("embedding.bias", kDim, to_.embedding_bias);
    }

    /// A permuted block [64, 64] of weight [outputs, 64], from one of its blocks of rows.
    void pack_block(const float *weight, int block, double factor, const void *to, int to_block) {
        if (weight == nullptr) return;
        auto *out = writable<uint16_t>(to) + static_cast<size_t>(to_block) * kBlock;
        for (int row = 0; row < kDim; row++)
            for (int column = 0; column < kDim; column++)
                out[row * kDim + column] = star::half_bits(
                    static_cast<float>(weight[(block * kDim + output_at(row)) * kDim + input_at(column)] * factor));
    }

    void pack_layer(const std::string &path, int32_t layer) {
        constexpr int kBlocks = STAR_CUDA_LAYER_ROWS / kDim;
        const int first = layer * kBlocks;
        const std::string spatial = path + ".spatial", temporal = path + ".temporal";
        const float *qkv = tensor(spatial + ".qkv.weight"), *temporal_qkv = tensor(temporal + ".qkv.weight");
        pack_block(qkv, 0, kLog2e / std::sqrt(static_cast<double>(kHeadDim)), to_.matrices, first);  // softmax by powers of 2
        pack_block(qkv, 1, 1.0, to_.matrices, first + 1);
        pack_block(qkv, 2, 1.0, to_.matrices, first + 2);
        pack_block(tensor(spatial + ".linear1.weight"), 0, 1.0, to_.matrices, first + 3);
        pack_block(tensor(spatial + ".linear2.weight"), 0, 1.0, to_.matrices, first + 4);
        pack_block(temporal_qkv, 0, std::pow(kHeadDim, -0.25), to_.matrices, first + 5);
        pack_block(tensor(temporal + ".linear1.weight"), 0, 1.0, to_.matrices, first + 6);
        pack_block(tensor(temporal + ".linear2.weight"), 0, 1.0, to_.matrices, first + 7);
        pack_block(temporal_qkv, 1, std::pow(kHeadDim, -0.25), to_.key_values, 2 * layer);
        pack_block(temporal_qkv, 2, 1.0, to_.key_values, 2 * layer + 1);
        int vector = layer * STAR_CUDA_LAYER_VECTORS;
        for (const std::string &branch : {spatial, temporal})
            for (const char *name :
                 {".norm1.weight", ".norm1.bias", ".linear1.bias", ".linear2.bias", ".norm2.weight", ".norm2.bias"})
                copy(branch + name, kDim, to_.vectors + static_cast<size_t>(vector++) * kDim);
    }

    void pack_edges(const int32_t *edges) {
        std::vector<std::pair<int32_t, int32_t>> pairs;
        for (int32_t edge = 0; edge < sizes_.edges; edge++) pairs.emplace_back(edges[2 * edge], edges[2 * edge + 1]);
        std::sort(pairs.begin(), pairs.end());
        auto *starts = writable<int32_t>(to_.edge_starts), *ends = writable<int32_t>(to_.edge_ends);
        std::fill_n(starts, sizes_.joints + 1, 0);
        for (size_t edge = 0; edge < pairs.size(); edge++) {
            starts[pairs[edge].first + 1]++;
            ends[edge] = pairs[edge].second;
        }
        std::partial_sum(starts, starts + sizes_.joints + 1, starts);
    }

    const star_cuda_sizes &sizes_;
    const star_cuda_tensor tensor_;
    void *const context_;
    star_cuda_weights to_{};
    bool has_all_ = true;
};

/// Whether edges join joints that there are.
bool are_edges(const star_cuda_sizes &sizes, const int32_t *edges) {
    return std::all_of(edges, edges + 2 * static_cast<ptrdiff_t>(sizes.edges),
                       [&](int32_t joint) { return joint >= 0 && joint < sizes.joints; });
}

}  // namespace

size_t star_cuda_weights_size(const star_cuda_sizes *sizes) {
    star_cuda_weights weights;
    return sizes == nullptr ? 0 : place(*sizes, nullptr, weights);
}

cudaError_t star_cuda_pack_weights(const star_cuda_sizes *sizes, const int32_t *edges, star_cuda_tensor tensor, void *context,
                                   void *host) {
    if (sizes == nullptr || edges == nullptr || tensor == nullptr || host == nullptr || !are_edges(*sizes, edges))
        return cudaErrorInvalidValue;
    return Packer(*sizes, tensor, context, host).pack(edges) ? cudaSuccess : cudaErrorInvalidValue;
}

void star_cuda_place_weights(const star_cuda_sizes *sizes, const void *memory, star_cuda_weights *weights) {
    place(*sizes, memory, *weights);
}
