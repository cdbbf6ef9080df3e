#include "plugin.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <new>

#include "log.h"

namespace star_edge {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

constexpr int32_t kSuccess = 0, kFailure = 1;

star_cuda_type star_type(DataType type) {
    return type == DataType::kINT8 ? STAR_CUDA_INT8 : type == DataType::kHALF ? STAR_CUDA_FP16 : STAR_CUDA_FP32;
}

/// What a kernel's time depends on beside tensors' shapes and types, which TensorRT adds itself.
std::string timing_cache_id_of(const Op &op, const Parameters &parameters) {
    std::string id = op.name;
    if (op.has(kHeads)) id += " heads " + std::to_string(parameters.heads);
    if (op.has(kEdges)) {
        id += " neighbours";
        for (int32_t joint = 0; joint < parameters.joints; joint++) {
            char word[24];
            std::snprintf(word, sizeof word, " %" PRIx64, parameters.neighbours[static_cast<size_t>(joint)]);
            id += word;
        }
    }
    return id;
}

/// Constants of expressions; -1 for what is none.
Dims constants_of(const DimsExprs &expressions) {
    Dims dims{};
    dims.nbDims = expressions.nbDims;
    for (int32_t i = 0; i < expressions.nbDims; i++)
        dims.d[i] = expressions.d[i]->isConstant() ? expressions.d[i]->getConstantValue() : -1;
    return dims;
}

bool are_equal(const Dims &a, const Dims &b) { return a.nbDims == b.nbDims && std::equal(a.d, a.d + a.nbDims, b.d); }

}  // namespace

Plugin::Plugin(const Op &op, const Parameters &parameters)
    : op_(op),
      parameters_(parameters),
      timing_cache_id_(timing_cache_id_of(op, parameters)),
      fields_(fields_of(op, parameters_)),
      serialized_{static_cast<int32_t>(fields_.size()), fields_.data()} {}

nvinfer1::IPluginCapability *Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
    switch (type) {
        case nvinfer1::PluginCapabilityType::kCORE:
            return static_cast<nvinfer1::IPluginV3OneCore *>(this);
        case nvinfer1::PluginCapabilityType::kBUILD:
            return static_cast<nvinfer1::IPluginV3OneBuild *>(this);
        case nvinfer1::PluginCapabilityType::kRUNTIME:
            return static_cast<nvinfer1::IPluginV3OneRuntime *>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3 *Plugin::clone() noexcept {
    try {
        return new Plugin(op_, parameters_);
    } catch (const std::bad_alloc &) {
        log_error("%s: no memory for a clone", op_.name);
        return nullptr;
    }
}

nvinfer1::IPluginV3 *Plugin::attachToContext(nvinfer1::IPluginResourceContext *) noexcept { return clone(); }

bool Plugin::has_counts(int32_t inputs, int32_t outputs) const {
    if (inputs == op_.inputs() && outputs == 1) return true;
    log_error("%s: found %d inputs and %d outputs, expected %d and 1", op_.name, inputs, outputs, op_.inputs());
    return false;
}

/// Whether the tensor at a position may be so where the first input is of type `first`.
bool Plugin::supports(int32_t position, DataType type, nvinfer1::TensorFormat format, DataType first) const {
    if (format != nvinfer1::TensorFormat::kLINEAR) return false;
    const bool is_float = type == DataType::kFLOAT || type == DataType::kHALF;
    if (position > 0 && position < op_.inputs()) {
        const Role role = op_.roles[static_cast<size_t>(position)];
        return role == Role::weight ? is_float : type == DataType::kINT32;
    }
    return type == first && (parameters_.is_quantised() ? type == DataType::kINT8 : is_float);
}

int32_t Plugin::getOutputDataTypes(DataType *output_types, int32_t outputs, const DataType *input_types,
                                   int32_t inputs) const noexcept {
    if (!has_counts(inputs, outputs)) return kFailure;
    for (int32_t i = 0; i < inputs; i++) {
        if (supports(i, input_types[i], nvinfer1::TensorFormat::kLINEAR, input_types[0])) continue;
        const Role role = op_.roles[static_cast<size_t>(i)];
        log_error("%s: input %d: found type %d, expected %s", op_.name, i, static_cast<int>(input_types[i]),
                  role == Role::offsets                                  ? "INT32"
                  : role == Role::features && parameters_.is_quantised() ? "INT8, since there are scales"
                                                                         : "FLOAT or HALF");
        return kFailure;
    }
    output_types[0] = input_types[0];
    return kSuccess;
}

int32_t Plugin::getOutputShapes(const DimsExprs *inputs, int32_t input_count, const DimsExprs *, int32_t, DimsExprs *outputs,
                                int32_t output_count, nvinfer1::IExprBuilder &expressions) noexcept {
    if (!has_counts(input_count, output_count)) return kFailure;
    std::array<Dims, kMostInputs> known{};
    for (int32_t i = 0; i < input_count; i++) known[static_cast<size_t>(i)] = constants_of(inputs[i]);
    star_cuda_shape shape;
    if (!read_shape(op_, parameters_, known.data(), true, shape)) return kFailure;

    using nvinfer1::DimensionOperation;
    outputs[0] = inputs[0];
    if (op_.parts > 1)
        outputs[0].d[2] =
            expressions.operation(DimensionOperation::kFLOOR_DIV, *inputs[0].d[2], *expressions.constant(op_.parts));
    if (op_.gives_clips)
        outputs[0].d[0] =
            expressions.operation(DimensionOperation::kSUB, *inputs[input_count - 1].d[0], *expressions.constant(1));
    return kSuccess;
}

bool Plugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc *tensors, int32_t inputs,
                                       int32_t outputs) noexcept {
    if (!has_counts(inputs, outputs) || position < 0 || position >= inputs + outputs) return false;
    const PluginTensorDesc &tensor = tensors[position].desc;
    return supports(position, tensor.type, tensor.format, tensors[0].desc.type);
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc *inputs, int32_t input_count, const DynamicPluginTensorDesc *,
                                int32_t output_count) noexcept {
    if (!has_counts(input_count, output_count)) return kFailure;
    std::array<Dims, kMostInputs> largest{};
    for (int32_t i = 0; i < input_count; i++) largest[static_cast<size_t>(i)] = inputs[i].max;
    star_cuda_shape shape;
    return read_shape(op_, parameters_, largest.data(), true, shape) ? kSuccess : kFailure;
}

size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc *inputs, int32_t input_count, const DynamicPluginTensorDesc *,
                                int32_t output_count) const noexcept {
    if (op_.workspace == nullptr || !has_counts(input_count, output_count)) return 0;
    std::array<Dims, kMostInputs> largest{};
    for (int32_t i = 0; i < input_count; i++) largest[static_cast<size_t>(i)] = inputs[i].max;
    star_cuda_shape shape;
    return read_shape(op_, parameters_, largest.data(), false, shape) ? op_.workspace(&shape) : 0;
}

int32_t Plugin::onShapeChange(const PluginTensorDesc *inputs, int32_t input_count, const PluginTensorDesc *outputs,
                              int32_t output_count) noexcept {
    if (!has_counts(input_count, output_count)) return kFailure;
    std::array<Dims, kMostInputs> dims{};
    for (int32_t i = 0; i <= input_count; i++) {
        const PluginTensorDesc &tensor = i < input_count ? inputs[i] : outputs[0];
        if (i < input_count) dims[static_cast<size_t>(i)] = tensor.dims;
        if (supports(i, tensor.type, tensor.format, inputs[0].type)) continue;
        log_error("%s: tensor %d: found type %d in format %d, expected what supportsFormatCombination() accepts", op_.name, i,
                  static_cast<int>(tensor.type), static_cast<int>(tensor.format));
        return kFailure;
    }
    star_cuda_shape shape;
    if (!read_shape(op_, parameters_, dims.data(), false, shape)) return kFailure;
    const Dims expected = output_of(op_, shape), &found = outputs[0].dims;
    if (are_equal(found, expected)) return kSuccess;
    log_error("%s: output: found [%lld, %lld, %lld] in %d dimensions, expected [%lld, %lld, %lld]", op_.name,
              static_cast<long long>(found.d[0]), static_cast<long long>(found.d[1]), static_cast<long long>(found.d[2]),
              found.nbDims, static_cast<long long>(expected.d[0]), static_cast<long long>(expected.d[1]),
              static_cast<long long>(expected.d[2]));
    return kFailure;
}

int32_t Plugin::enqueue(const PluginTensorDesc *input_descs, const PluginTensorDesc *, const void *const *inputs,
                        void *const *outputs, void *workspace, cudaStream_t stream) noexcept {
    std::array<Dims, kMostInputs> dims{};
    Call call{parameters_, {}, {}, STAR_CUDA_FP32, inputs, outputs[0], workspace, stream};
    for (int32_t i = 0; i < op_.inputs(); i++) {
        dims[static_cast<size_t>(i)] = input_descs[i].dims;
        if (op_.roles[static_cast<size_t>(i)] == Role::weight) call.weight_type = star_type(input_descs[i].type);
    }
    call.format = {star_type(input_descs[0].type), parameters_.input_scale, parameters_.output_scale};
    if (!read_shape(op_, parameters_, dims.data(), false, call.shape)) return kFailure;
    const cudaError_t error = op_.run(call);
    if (error == cudaSuccess) return kSuccess;
    log_error("%s: found CUDA error %d for %d frames, %d clips, %d joints, %d channels and type %d, expected a launch",
              op_.name, static_cast<int>(error), call.shape.frames, call.shape.clips, call.shape.joints, call.shape.channels,
              static_cast<int>(call.format.type));
    return static_cast<int32_t>(error);
}

}  // namespace star_edge
