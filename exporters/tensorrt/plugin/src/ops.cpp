#include "ops.h"

#include <algorithm>

#include "log.h"

namespace star_edge {
namespace {

using nvinfer1::Dims;

cudaError_t run_positions(const Call &call) {
    return star_cuda_segmented_positions(&call.shape, &call.format, call.inputs[0],
                                         static_cast<const int32_t *>(call.inputs[1]), call.output, call.stream);
}

cudaError_t run_sparse(const Call &call) {
    return star_cuda_sparse_attention(&call.shape, &call.format, call.parameters.neighbours.data(), call.inputs[0],
                                      call.output, call.stream);
}

cudaError_t run_linear(const Call &call) {
    return star_cuda_segmented_linear_attention(&call.shape, &call.format, call.parameters.eps, call.inputs[0],
                                                static_cast<const int32_t *>(call.inputs[1]), call.workspace, call.output,
                                                call.stream);
}

cudaError_t run_context(const Call &call) {
    return star_cuda_context_attention(&call.shape, &call.format, call.weight_type, call.inputs[0], call.inputs[1],
                                       static_cast<const int32_t *>(call.inputs[2]), call.output, call.stream);
}

int32_t rank_of(Role role) { return role == Role::features ? 3 : role == Role::weight ? 2 : 1; }

/// Reads extents of one op's inputs; the first that is wrong is logged and the rest are not read.
class Reader {
   public:
    Reader(const Op &op, const Dims *inputs, bool may_be_unknown) : op_(op), inputs_(inputs), unknown_(may_be_unknown) {}

    bool has_ranks() const {
        for (int32_t i = 0; i < op_.inputs(); i++) {
            const int32_t expected = rank_of(op_.roles[static_cast<size_t>(i)]);
            if (inputs_[i].nbDims == expected) continue;
            log_error("%s: input %d: found %d dimensions, expected %d", op_.name, i, inputs_[i].nbDims, expected);
            return false;
        }
        return true;
    }

    /// An extent between two bounds; -1 where it is unknown and may be.
    bool read(int32_t input, int32_t axis, const char *what, int64_t least, int64_t most, int32_t multiple, int32_t &extent) {
        const int64_t found = inputs_[input].d[axis];
        if (found == -1 && unknown_) {
            extent = -1;
            return true;
        }
        if (found >= least && found <= most && found % multiple == 0) {
            extent = static_cast<int32_t>(found);
            return true;
        }
        log_error("%s: input %d: found %lld %s, expected %lld to %lld, a multiple of %d", op_.name, input,
                  static_cast<long long>(found), what, static_cast<long long>(least), static_cast<long long>(most), multiple);
        return false;
    }

   private:
    const Op &op_;
    const Dims *inputs_;
    bool unknown_;
};

/// Channels that the heads' width fits, and as many joints as the edges name.
bool fits_parameters(const Op &op, const Parameters &parameters, const star_cuda_shape &shape) {
    const int32_t width = shape.channels / parameters.heads;
    constexpr std::array<int32_t, 5> kWidths{4, 8, 16, 32, 64};
    const bool is_width = std::find(kWidths.begin(), kWidths.end(), width) != kWidths.end();
    if (op.has(kHeads) && shape.channels != -1 && (shape.channels % parameters.heads != 0 || !is_width)) {
        log_error("%s: heads: found %d for %d channels, expected heads of 4, 8, 16, 32 or 64 channels", op.name,
                  parameters.heads, shape.channels);
        return false;
    }
    if (op.has(kEdges) && shape.joints != -1 && shape.joints != parameters.joints) {
        log_error("%s: input 0: found %d joints, expected the %d of edges", op.name, shape.joints, parameters.joints);
        return false;
    }
    return true;
}

}  // namespace

const std::array<Op, 4> kOps{{
    {"StarSegmentedPositions",
     {Role::features, Role::offsets},
     {&kInputScale, &kOutputScale},
     1,
     0,
     false,
     run_positions,
     nullptr},
    {"StarSparseAttention",
     {Role::features},
     {&kHeads, &kEdges, &kInputScale, &kOutputScale},
     3,
     0,
     false,
     run_sparse,
     nullptr},
    {"StarSegmentedLinearAttention",
     {Role::features, Role::offsets},
     {&kHeads, &kEps, &kInputScale, &kOutputScale},
     3,
     0,
     false,
     run_linear,
     star_cuda_segmented_linear_attention_workspace},
    {"StarContextAttention",
     {Role::features, Role::weight, Role::offsets},
     {&kInputScale, &kOutputScale},
     1,
     STAR_CUDA_MOST_POOLED,
     true,
     run_context,
     nullptr},
}};

int32_t Op::inputs() const {
    return static_cast<int32_t>(std::count_if(roles.begin(), roles.end(), [](Role role) { return role != Role::none; }));
}

bool Op::has(const Field &field) const { return std::find(fields.begin(), fields.end(), &field) != fields.end(); }

bool read_shape(const Op &op, const Parameters &parameters, const Dims *inputs, bool may_be_unknown, star_cuda_shape &shape) {
    constexpr int64_t kMost = INT32_MAX;
    Reader reader(op, inputs, may_be_unknown);
    shape = {0, 1, 0, 0, parameters.heads};
    const int64_t most = op.most_channels == 0 ? kMost : op.most_channels * op.parts;
    if (!reader.has_ranks() || !reader.read(0, 0, "frames", 0, kMost, 1, shape.frames) ||
        !reader.read(0, 1, "joints", 1, STAR_CUDA_MOST_JOINTS, 1, shape.joints) ||
        !reader.read(0, 2, "channels", 4 * op.parts, most, 4 * op.parts, shape.channels))
        return false;
    if (shape.channels != -1) shape.channels /= op.parts;
    for (int32_t input = 1; input < op.inputs(); input++) {
        int32_t extent = -1;
        if (op.roles[static_cast<size_t>(input)] == Role::offsets) {
            if (!reader.read(input, 0, "offsets", 2, kMost, 1, extent)) return false;
            shape.clips = extent == -1 ? -1 : extent - 1;
            continue;
        }
        const int32_t least = shape.channels == -1 ? 4 : shape.channels, largest = shape.channels == -1 ? 1024 : least;
        for (int32_t axis = 0; axis < 2; axis++)
            if (!reader.read(input, axis, "channels", least, largest, 4, extent)) return false;
    }
    return fits_parameters(op, parameters, shape);
}

Dims output_of(const Op &op, const star_cuda_shape &shape) {
    Dims output{};
    output.nbDims = 3;
    output.d[0] = op.gives_clips ? shape.clips : shape.frames;
    output.d[1] = shape.joints;
    output.d[2] = shape.channels;
    return output;
}

}  // namespace star_edge
