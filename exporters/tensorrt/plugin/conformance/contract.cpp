#include "contract.h"

#include <algorithm>
#include <cstring>

namespace conformance {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

const std::vector<Contract> kContracts{
    {"StarSegmentedPositions", {Input::features, Input::offsets}, 1, false, false, false, false},
    {"StarSparseAttention", {Input::features}, 3, true, true, false, false},
    {"StarSegmentedLinearAttention", {Input::features, Input::offsets}, 3, true, false, true, false},
    {"StarContextAttention", {Input::features, Input::weight, Input::offsets}, 1, false, false, false, true},
};

Layout chain(int64_t joints) {
    Layout layout{joints, {}};
    const auto add = [&](int64_t a, int64_t b) { layout.edges.insert(layout.edges.end(), {int32_t(a), int32_t(b)}); };
    for (int64_t joint = 0; joint < joints; joint++)
        for (int64_t other = std::max<int64_t>(joint - 2, 0); other <= std::min(joint + 2, joints - 1); other++)
            add(joint, other);
    add(0, joints - 1);
    return layout;
}

Layout scattered(int64_t joints) {
    Layout layout{joints, {}};
    for (int64_t joint = 0; joint < joints; joint++) {
        const int64_t distances[] = {0, 1, 7, 11};
        for (int64_t i = 0; i <= joint % 4; i++)
            layout.edges.insert(layout.edges.end(), {int32_t(joint), int32_t((joint + distances[i]) % joints)});
    }
    return layout;
}

Fields::Fields(const Contract &contract, const Settings &settings) {
    if (contract.has_heads) set("heads", std::vector<int32_t>{settings.heads});
    if (contract.has_edges) set("edges", settings.edges);
    if (contract.has_eps) set("eps", std::vector<float>{settings.eps});
    set("input_scale", std::vector<float>{settings.input_scale});
    set("output_scale", std::vector<float>{settings.output_scale});
}

void Fields::set(const std::string &name, const std::vector<int32_t> &values) {
    put(name, values.data(), PluginFieldType::kINT32, values.size());
}

void Fields::set(const std::string &name, const std::vector<float> &values) {
    put(name, values.data(), PluginFieldType::kFLOAT32, values.size());
}

void Fields::put(const std::string &name, const void *data, PluginFieldType type, size_t length) {
    remove(name);
    words_.emplace_back(length);
    if (length > 0) std::memcpy(words_.back().data(), data, 4 * length);
    names_.push_back(name);
    fields_.emplace_back(names_.back().c_str(), words_.back().data(), type, static_cast<int32_t>(length));
}

void Fields::remove(const std::string &name) {
    fields_.erase(std::remove_if(fields_.begin(), fields_.end(), [&](const PluginField &field) { return field.name == name; }),
                  fields_.end());
}

void Fields::repeat(const std::string &name) {
    const auto found =
        std::find_if(fields_.begin(), fields_.end(), [&](const PluginField &field) { return field.name == name; });
    fields_.push_back(PluginField(*found));
}

void Fields::spoil(const std::string &name, PluginFieldType type, int32_t length, bool has_data) {
    for (PluginField &field : fields_)
        if (field.name == name) field = PluginField(field.name, has_data ? field.data : nullptr, type, length);
}

PluginFieldCollection Fields::collection() const { return {static_cast<int32_t>(fields_.size()), fields_.data()}; }

std::vector<nvinfer1::PluginTensorDesc> descs_of(const Contract &contract, const Size &size, nvinfer1::DataType features,
                                                 nvinfer1::DataType weight) {
    const auto desc = [](std::initializer_list<int64_t> extents, nvinfer1::DataType type) {
        nvinfer1::PluginTensorDesc tensor{};
        tensor.dims.nbDims = static_cast<int32_t>(extents.size());
        std::copy(extents.begin(), extents.end(), tensor.dims.d);
        tensor.type = type;
        tensor.format = nvinfer1::TensorFormat::kLINEAR;
        tensor.scale = -1;
        return tensor;
    };
    std::vector<nvinfer1::PluginTensorDesc> descs;
    for (const Input input : contract.inputs)
        descs.push_back(input == Input::features ? desc({size.frames, size.joints, contract.parts * size.channels}, features)
                        : input == Input::weight ? desc({size.channels, size.channels}, weight)
                                                 : desc({size.clips + 1}, nvinfer1::DataType::kINT32));
    descs.push_back(desc({contract.gives_clips ? size.clips : size.frames, size.joints, size.channels}, features));
    return descs;
}

bool are_equal(const PluginFieldCollection &a, const PluginFieldCollection &b) {
    const auto is_equal = [](const PluginField &x, const PluginField &y) {
        return std::strcmp(x.name, y.name) == 0 && x.type == y.type && x.length == y.length &&
               std::memcmp(x.data, y.data, 4 * static_cast<size_t>(x.length)) == 0;
    };
    return std::equal(a.fields, a.fields + a.nbFields, b.fields, b.fields + b.nbFields, is_equal);
}

}  // namespace conformance
