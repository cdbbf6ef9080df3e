// Linear layers: a block takes 64 rows by 64 outputs and goes along the inputs 128 bytes at a time. FP16 and INT8 go through
// tensor cores, whose operands are the same bytes for both; FP32 through fused multiply-adds, which tensor cores have not.
#include "../ops/shapes.h"
#include "../star_layers.h"

namespace {

constexpr int kRows = 64, kOutputs = STAR_CUDA_TILE_OUTPUTS, kBytes = STAR_CUDA_TILE_BYTES;
constexpr int kWarps = kRows / 16, kThreads = kWarps * 32;
constexpr int kStride = kBytes + 16;  // bytes; rows in different banks

struct Problem {
    star_cuda_linear_layer layer;
    int64_t rows;
    int padded_inputs;
};

__device__ float activated(const star_cuda_linear_layer &layer, float value) {
    return layer.silu != 0 ? value / (1.0f + expf(-value)) : value;
}

/// Two neighbouring outputs of a row, those that there are.
template <class Out>
__device__ void put(const Problem &problem, int64_t row, int output, float first, float second, Out *out) {
    const star_cuda_linear_layer &layer = problem.layer;
    if (row >= problem.rows) return;
    Out *at = out + row * layer.outputs + output;
    const float values[2] = {first, second};
    for (int i = 0; i < 2; i++) {
        if (output + i >= layer.outputs) continue;
        const float value = activated(layer, values[i] + layer.bias[output + i]);
        if constexpr (std::is_same_v<Out, float>) {
            at[i] = value;
        } else {
            at[i] = __float2half_rn(value);
        }
    }
}

/// Four inputs of a row as the operand holds them.
__device__ void stage(const __half *x, float, __half *to) {
    *reinterpret_cast<uint2 *>(to) = *reinterpret_cast<const uint2 *>(x);
}
__device__ void stage(const __half *x, float scale, int8_t *to) { store(to, load(x, 0), scale); }

/// A tile of x in shared memory, zeros beyond its rows and inputs.
template <class Operand>
__device__ void stage_rows(const Problem &problem, int64_t first_row, int first_input, const __half *x, char *tile) {
    constexpr int kQuads = kBytes / static_cast<int>(sizeof(Operand)) / 4;
    for (int i = threadIdx.x; i < kRows * kQuads; i += kThreads) {
        const int64_t row = first_row + i / kQuads;
        const int input = first_input + i % kQuads * 4;
        auto *to = reinterpret_cast<Operand *>(tile + i / kQuads * kStride) + i % kQuads * 4;
        if (row < problem.rows && input < problem.layer.inputs) {
            stage(x + row * problem.layer.inputs + input, problem.layer.input_scale, to);
        } else {
            for (int channel = 0; channel < 4; channel++) to[channel] = Operand{};
        }
    }
}

/// Begins to copy a tile of the matrix.
__device__ void stage_outputs(const char *matrix, size_t row_bytes, char *tile) {
    constexpr int kParts = kBytes / 16;
    for (int i = threadIdx.x; i < kOutputs * kParts; i += kThreads)
        copy_16_bytes(tile + i / kParts * kStride + i % kParts * 16, matrix + i / kParts * row_bytes + i % kParts * 16);
}

/// sums += 16 rows of x by 64 outputs, a warp; fragments are 32 bytes of inputs.
template <class Sum>
__device__ void multiply_tiles(const char *rows, const char *outputs, Sum (&sums)[8][4]) {
    const int lane = threadIdx.x % 32;
    const char *row = rows + (threadIdx.x / 32 * 16 + lane % 16) * kStride + lane / 16 * 16;
    const char *output = outputs + lane % 8 * kStride + lane / 8 * 16;
#pragma unroll
    for (int half = 0; half < kBytes; half += 64) {
        uint32_t a[2][4];
#pragma unroll
        for (int step = 0; step < 2; step++) load_matrices(a[step], reinterpret_cast<const __half *>(row + half + step * 32));
#pragma unroll
        for (int n = 0; n < 8; n++) {
            uint32_t b[4];
            load_matrices(b, reinterpret_cast<const __half *>(output + n * 8 * kStride + half));
#pragma unroll
            for (int step = 0; step < 2; step++)
                multiply_add(sums[n], a[step][0], a[step][1], a[step][2], a[step][3], b[2 * step], b[2 * step + 1]);
        }
    }
}

template <class Operand, class Out>
__global__ void __launch_bounds__(kThreads, 1) linear_kernel(Problem problem, const __half *x, Out *out) {
    using Sum = std::conditional_t<std::is_same_v<Operand, int8_t>, int, float>;
    constexpr int kInputs = kBytes / static_cast<int>(sizeof(Operand));
    __shared__ uint4 row_tile[kRows * kStride / 16], output_tile[kOutputs * kStride / 16];
    auto *rows = reinterpret_cast<char *>(row_tile), *outputs = reinterpret_cast<char *>(output_tile);
    const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRows;
    const int first_output = static_cast<int>(blockIdx.y) * kOutputs;
    const size_t row_bytes = problem.padded_inputs * sizeof(Operand);
    const char *matrix = static_cast<const char *>(problem.layer.matrix) + first_output * row_bytes;

    Sum sums[8][4] = {};
    for (int input = 0; input < problem.padded_inputs; input += kInputs) {
        __syncthreads();  // the tiles before are used
        stage_outputs(matrix + input * sizeof(Operand), row_bytes, outputs);
        stage_rows<Operand>(problem, first_row, input, x, rows);
        await_copies();
        __syncthreads();
        multiply_tiles(rows, outputs, sums);
    }
    const int lane = threadIdx.x % 32;
    const int64_t row = first_row + threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const int output = first_output + n * 8 + lane % 4 * 2;
        float factors[2] = {1.0f, 1.0f};
        if constexpr (std::is_same_v<Operand, int8_t>) {
            factors[0] = problem.layer.scales[output];
            factors[1] = problem.layer.scales[output + 1];
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
            put(problem, row + i * 8, output, static_cast<float>(sums[n][2 * i]) * factors[0],
                static_cast<float>(sums[n][2 * i + 1]) * factors[1], out);
    }
}

constexpr int kFloatThreads = 256, kFloatInputs = kBytes / static_cast<int>(sizeof(float));
constexpr int kFloatStride = kRows + 4;  // floats; [input][row or output]
static_assert(kRows == kOutputs);

/// A thread takes four rows by four outputs.
__global__ void __launch_bounds__(kFloatThreads, 1) float_linear_kernel(Problem problem, const float *x, float *out) {
    __shared__ float4 row_tile[kFloatInputs * kFloatStride / 4], output_tile[kFloatInputs * kFloatStride / 4];
    auto *rows = reinterpret_cast<float *>(row_tile), *outputs = reinterpret_cast<float *>(output_tile);
    const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRows;
    const int first_output = static_cast<int>(blockIdx.y) * kOutputs, inputs = problem.layer.inputs;
    const auto *matrix = static_cast<const float *>(problem.layer.matrix);
    const int own_row = static_cast<int>(threadIdx.x) / 16 * 4, own_output = static_cast<int>(threadIdx.x) % 16 * 4;
    const auto turn = [](float4 values, float *tile, int input, int at) {
        tile[input * kFloatStride + at] = values.x;
        tile[(input + 1) * kFloatStride + at] = values.y;
        tile[(input + 2) * kFloatStride + at] = values.z;
        tile[(input + 3) * kFloatStride + at] = values.w;
    };

    float sums[4][4] = {};
    for (int begin = 0; begin < problem.padded_inputs; begin += kFloatInputs) {
        __syncthreads();  // the tiles before are used
        for (int i = threadIdx.x; i < kRows * kFloatInputs / 4; i += kFloatThreads) {
            const int at = i / (kFloatInputs / 4), input = i % (kFloatInputs / 4) * 4;
            const int64_t row = first_row + at;
            const bool is_there = row < problem.rows && begin + input < inputs;
            turn(is_there ? load(x + row * inputs + begin + input, 0) : make_float4(0, 0, 0, 0), rows, input, at);
            turn(load(matrix + static_cast<size_t>(first_output + at) * problem.padded_inputs + begin + input, 0), outputs,
                 input, at);
        }
        __syncthreads();
#pragma unroll 8
        for (int input = 0; input < kFloatInputs; input++) {
            const float4 a = *reinterpret_cast<const float4 *>(rows + input * kFloatStride + own_row);
            const float4 b = *reinterpret_cast<const float4 *>(outputs + input * kFloatStride + own_output);
            const float of_rows[4] = {a.x, a.y, a.z, a.w}, of_outputs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] += of_rows[i] * of_outputs[j];
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j += 2)
            put(problem, first_row + own_row + i, first_output + own_output + j, sums[i][j], sums[i][j + 1], out);
}

int element_bytes(star_cuda_type type) { return type == STAR_CUDA_FP32 ? 4 : type == STAR_CUDA_FP16 ? 2 : 1; }

bool is_layer(const star_cuda_linear_layer &layer) {
    return (layer.type == STAR_CUDA_FP32 || layer.type == STAR_CUDA_FP16 ||
            (layer.type == STAR_CUDA_INT8 && layer.input_scale > 0 && layer.scales != nullptr)) &&
           layer.inputs >= 4 && layer.inputs % 4 == 0 && layer.inputs <= 1 << 24 && layer.outputs >= 1 &&
           layer.outputs <= 1 << 21 && layer.matrix != nullptr && layer.bias != nullptr;
}

}  // namespace

cudaError_t star_cuda_linear(const star_cuda_linear_layer *layer, int64_t rows, star_cuda_type x_type, const void *x,
                             star_cuda_type out_type, void *out, cudaStream_t stream) {
    if (layer == nullptr || !is_layer(*layer) || rows < 0 || rows > int64_t{INT32_MAX} * kRows ||
        x_type != (layer->type == STAR_CUDA_FP32 ? STAR_CUDA_FP32 : STAR_CUDA_FP16) ||
        (out_type != STAR_CUDA_FP32 && (out_type != STAR_CUDA_FP16 || layer->type == STAR_CUDA_FP32)))
        return cudaErrorInvalidValue;
    if (rows == 0) return cudaSuccess;
    if (x == nullptr || out == nullptr) return cudaErrorInvalidValue;
    const int tile = kBytes / element_bytes(layer->type);
    const Problem problem{*layer, rows, (layer->inputs + tile - 1) / tile * tile};
    const dim3 grid(blocks_of(rows, kRows), blocks_of(layer->outputs, kOutputs));
    if (layer->type == STAR_CUDA_FP32)
        return launch(float_linear_kernel, grid, kFloatThreads, 0, stream, problem, static_cast<const float *>(x),
                      static_cast<float *>(out));
    const auto run = [&](auto operand, auto result) {
        using Out = decltype(result);
        return launch(linear_kernel<decltype(operand), Out>, grid, kThreads, 0, stream, problem,
                      static_cast<const __half *>(x), static_cast<Out *>(out));
    };
    const auto run_into = [&](auto operand) {
        return out_type == STAR_CUDA_FP32 ? run(operand, float{}) : run(operand, __half{});
    };
    return layer->type == STAR_CUDA_FP16 ? run_into(__half{}) : run_into(int8_t{});
}
