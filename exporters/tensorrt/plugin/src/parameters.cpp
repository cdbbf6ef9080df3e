#include "parameters.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "log.h"
#include "ops.h"

namespace star_edge {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

const Field *find_field(const Op &op, const char *name) {
    for (const Field *field : op.fields)
        if (field != nullptr && std::strcmp(field->name, name) == 0) return field;
    return nullptr;
}

std::string names_of_fields(const Op &op) {
    std::string names;
    for (const Field *field : op.fields)
        if (field != nullptr) names += (names.empty() ? "" : ", ") + std::string(field->name);
    return names;
}

const char *name_of_type(PluginFieldType type) { return type == PluginFieldType::kFLOAT32 ? "FLOAT32" : "INT32"; }

bool read_field(const Op &op, const Field &field, const PluginField &given, Parameters &parameters) {
    if (given.type != field.type()) {
        log_error("%s: %s: found a field of type %d, expected %s, type %d", op.name, field.name, static_cast<int>(given.type),
                  name_of_type(field.type()), static_cast<int>(field.type()));
        return false;
    }
    if (given.data == nullptr || given.length < 1 || (!field.is_list() && given.length != 1)) {
        log_error("%s: %s: found %d values%s, expected %s", op.name, field.name, given.length,
                  given.data == nullptr ? " at no address" : "", field.is_list() ? "pairs of joints" : "1");
        return false;
    }
    // copied, since what TensorRT serialised may lie at any address
    if (field.is_list()) {
        parameters.edges.resize(static_cast<size_t>(given.length));
        std::memcpy(parameters.edges.data(), given.data, parameters.edges.size() * sizeof(int32_t));
    } else if (field.integer != nullptr) {
        std::memcpy(&(parameters.*field.integer), given.data, sizeof(int32_t));
    } else {
        std::memcpy(&(parameters.*field.real), given.data, sizeof(float));
    }
    return true;
}

bool read_all(const Op &op, const nvinfer1::PluginFieldCollection *given, Parameters &parameters) {
    std::array<bool, kMostFields> seen{};
    const int32_t count = given == nullptr || given->fields == nullptr ? 0 : given->nbFields;
    for (int32_t i = 0; i < count; i++) {
        const PluginField &one = given->fields[i];
        const Field *field = one.name == nullptr ? nullptr : find_field(op, one.name);
        if (field == nullptr) {
            log_error("%s: found a field '%s', expected %s", op.name, one.name == nullptr ? "" : one.name,
                      names_of_fields(op).c_str());
            return false;
        }
        for (size_t place = 0; place < kMostFields; place++) {
            if (op.fields[place] != field) continue;
            if (seen[place]) {
                log_error("%s: %s: found the field twice, expected it once", op.name, field->name);
                return false;
            }
            seen[place] = true;
        }
        if (!read_field(op, *field, one, parameters)) return false;
    }
    for (size_t place = 0; place < kMostFields; place++) {
        const Field *field = op.fields[place];
        if (field == nullptr || !field->is_required || seen[place]) continue;
        log_error("%s: %s: found no such field, expected one of type %s", op.name, field->name, name_of_type(field->type()));
        return false;
    }
    return true;
}

bool read_neighbours(const Op &op, Parameters &parameters) {
    const std::vector<int32_t> &edges = parameters.edges;
    if (edges.size() % 2 != 0) {
        log_error("%s: edges: found %zu values, expected pairs of joints", op.name, edges.size());
        return false;
    }
    for (const int32_t joint : edges) {
        if (joint < 0 || joint >= STAR_CUDA_MOST_JOINTS) {
            log_error("%s: edges: found joint %d, expected 0 to %d", op.name, joint, STAR_CUDA_MOST_JOINTS - 1);
            return false;
        }
        parameters.joints = std::max(parameters.joints, joint + 1);
    }
    for (size_t i = 0; i < edges.size(); i += 2)
        parameters.neighbours[static_cast<size_t>(edges[i])] |= uint64_t{1} << edges[i + 1];
    for (int32_t joint = 0; joint < parameters.joints; joint++) {
        if (parameters.neighbours[static_cast<size_t>(joint)] == 0) {
            log_error("%s: edges: found none of joint %d, expected one or more of each joint up to %d", op.name, joint,
                      parameters.joints - 1);
            return false;
        }
    }
    return true;
}

/// Whether scales are both of int8 or both absent.
bool are_scales(const Op &op, const Parameters &parameters) {
    const float scales[] = {parameters.input_scale, parameters.output_scale};
    const bool are_numbers = std::isfinite(scales[0]) && std::isfinite(scales[1]) && scales[0] >= 0 && scales[1] >= 0;
    if (are_numbers && (scales[0] > 0) == (scales[1] > 0)) return true;
    log_error("%s: input_scale, output_scale: found %g and %g, expected two positive numbers (int8) or two zeros", op.name,
              static_cast<double>(scales[0]), static_cast<double>(scales[1]));
    return false;
}

}  // namespace

bool read_fields(const Op &op, const nvinfer1::PluginFieldCollection *fields, Parameters &parameters) {
    if (!read_all(op, fields, parameters) || !read_neighbours(op, parameters)) return false;
    if (parameters.heads < 1) {
        log_error("%s: heads: found %d, expected 1 or more", op.name, parameters.heads);
        return false;
    }
    if (find_field(op, kEps.name) != nullptr && !(std::isfinite(parameters.eps) && parameters.eps > 0)) {
        log_error("%s: eps: found %g, expected a positive number", op.name, static_cast<double>(parameters.eps));
        return false;
    }
    return are_scales(op, parameters);
}

std::vector<PluginField> fields_of(const Op &op, const Parameters &parameters) {
    std::vector<PluginField> fields;
    for (const Field *field : op.fields) {
        if (field == nullptr) continue;
        const void *data = field->is_list()            ? static_cast<const void *>(parameters.edges.data())
                           : field->integer != nullptr ? static_cast<const void *>(&(parameters.*field->integer))
                                                       : static_cast<const void *>(&(parameters.*field->real));
        const auto length = field->is_list() ? static_cast<int32_t>(parameters.edges.size()) : 1;
        fields.emplace_back(field->name, data, field->type(), length);
    }
    return fields;
}

}  // namespace star_edge
