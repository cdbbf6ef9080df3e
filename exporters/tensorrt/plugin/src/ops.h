// The four ops: what their tensors are, and which entry point computes them.
#pragma once

#include <array>

#include "parameters.h"

namespace star_edge {

enum class Role { none, features, weight, offsets };

inline constexpr int32_t kMostInputs = 3;
inline constexpr size_t kMostFields = 4;

/// What an entry point is called with; inputs in the op's order.
struct Call {
    const Parameters &parameters;
    star_cuda_shape shape;
    star_cuda_format format;
    star_cuda_type weight_type;
    const void *const *inputs;
    void *output, *workspace;
    cudaStream_t stream;
};

struct Op {
    const char *name;
    std::array<Role, kMostInputs> roles;
    std::array<const Field *, kMostFields> fields;
    int32_t parts;          // of the first input's channels: q, k and v, or one
    int32_t most_channels;  // 0: no limit
    bool gives_clips;       // a row of the output is a clip, not a frame
    cudaError_t (*run)(const Call &call);
    size_t (*workspace)(const star_cuda_shape *shape);  // nullptr: none

    int32_t inputs() const;
    bool has(const Field &field) const;
};

extern const std::array<Op, 4> kOps;

/// The shape that an op has with inputs of these dimensions, -1 where one is unknown and may be. False, with a log line,
/// where it cannot be one of this op.
bool read_shape(const Op &op, const Parameters &parameters, const nvinfer1::Dims *inputs, bool may_be_unknown,
                star_cuda_shape &shape);

/// The output's dimensions.
nvinfer1::Dims output_of(const Op &op, const star_cuda_shape &shape);

}  // namespace star_edge
