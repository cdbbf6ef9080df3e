// What a node's attributes say, read from plugin fields and written back to them.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "star_ops.h"
#include "tensorrt.h"

namespace star_edge {

struct Op;

struct Parameters {
    int32_t heads = 1;
    std::vector<int32_t> edges;  // pairs (joint, neighbour)
    float eps = 0;
    float input_scale = 0, output_scale = 0;  // of int8; 0 where tensors are floats

    // of the edges: bit j of word i is set where (i, j) is one
    std::array<uint64_t, STAR_CUDA_MOST_JOINTS> neighbours{};
    int32_t joints = 0;

    bool is_quantised() const { return input_scale > 0; }
};

/// A field's name and its place in the parameters: one of two numbers, else the edges.
struct Field {
    const char *name;
    bool is_required;
    int32_t Parameters::*integer;
    float Parameters::*real;

    bool is_list() const { return integer == nullptr && real == nullptr; }
    nvinfer1::PluginFieldType type() const {
        return real != nullptr ? nvinfer1::PluginFieldType::kFLOAT32 : nvinfer1::PluginFieldType::kINT32;
    }
};

inline constexpr Field kHeads{"heads", true, &Parameters::heads, nullptr};
inline constexpr Field kEdges{"edges", true, nullptr, nullptr};
inline constexpr Field kEps{"eps", true, nullptr, &Parameters::eps};
inline constexpr Field kInputScale{"input_scale", false, nullptr, &Parameters::input_scale};
inline constexpr Field kOutputScale{"output_scale", false, nullptr, &Parameters::output_scale};

/// Reads the fields of an op; false, with a log line, where one is missing, unknown, or not what it must be.
bool read_fields(const Op &op, const nvinfer1::PluginFieldCollection *fields, Parameters &parameters);

/// The fields that read_fields() makes equal parameters of; they point into these.
std::vector<nvinfer1::PluginField> fields_of(const Op &op, const Parameters &parameters);

}  // namespace star_edge
