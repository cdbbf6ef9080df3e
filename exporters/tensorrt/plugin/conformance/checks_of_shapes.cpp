#include <algorithm>
#include <array>

#include "checks.h"
#include "expressions.h"

namespace conformance {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr int32_t kTypes = nvinfer1::EnumMax<DataType>(), kFormats = nvinfer1::EnumMax<TensorFormat>();

Settings settings_of(bool is_quantised) {
    Settings settings;
    if (is_quantised) {
        settings.input_scale = 0.03f;
        settings.output_scale = 0.02f;
    }
    return settings;
}

bool may_be(const Contract &contract, bool is_quantised, size_t position, DataType type, DataType first) {
    const bool is_float = type == DataType::kFLOAT || type == DataType::kHALF;
    const Input input = position < contract.inputs.size() ? contract.inputs[position] : Input::features;
    if (input == Input::offsets) return type == DataType::kINT32;
    if (input == Input::weight) return is_float;
    return type == first && (is_quantised ? type == DataType::kINT8 : is_float);
}

/// Every type and format at a position, after each that is accepted before it; whatever stands behind, which is invalid.
class Formats {
   public:
    Formats(Plugin plugin, const Contract &contract, bool is_quantised)
        : plugin_(std::move(plugin)), contract_(contract), is_quantised_(is_quantised), tensors_(contract.inputs.size() + 1) {}

    std::string problem() {
        walk(0);
        return problem_;
    }
    int accepted() const { return accepted_; }

   private:
    bool asks(size_t position) {
        const auto inputs = static_cast<int32_t>(contract_.inputs.size());
        return plugin_.build->supportsFormatCombination(static_cast<int32_t>(position), tensors_.data(), inputs, 1);
    }

    void walk(size_t position) {
        if (position == tensors_.size()) {
            accepted_++;
            return;
        }
        PluginTensorDesc &tensor = tensors_[position].desc;
        for (int32_t type = 0; type < kTypes; type++)
            for (int32_t format = 0; format < kFormats && problem_.empty(); format++) {
                const bool expected = format == static_cast<int32_t>(TensorFormat::kLINEAR) &&
                                      may_be(contract_, is_quantised_, position, static_cast<DataType>(type),
                                             position == 0 ? static_cast<DataType>(type) : tensors_[0].desc.type);
                for (const int32_t behind : {0, -1, 1000}) {
                    for (size_t later = position + 1; later < tensors_.size(); later++) {
                        tensors_[later].desc.type = static_cast<DataType>(behind);
                        tensors_[later].desc.format = static_cast<TensorFormat>(behind);
                    }
                    tensor.type = static_cast<DataType>(type);
                    tensor.format = static_cast<TensorFormat>(format);
                    if (asks(position) != expected)
                        problem_ = "type " + std::to_string(type) + " in format " + std::to_string(format) + " at position " +
                                   std::to_string(position) + (expected ? " is refused" : " is accepted");
                }
                if (expected) walk(position + 1);
            }
    }

    Plugin plugin_;
    const Contract &contract_;
    bool is_quantised_;
    std::vector<DynamicPluginTensorDesc> tensors_;
    std::string problem_;
    int accepted_ = 0;
};

std::string problem_of_formats(Library &library, const Contract &contract, bool is_quantised) {
    Formats formats(library.create(contract, settings_of(is_quantised)), contract, is_quantised);
    const std::string problem = formats.problem();
    const bool has_weight = std::count(contract.inputs.begin(), contract.inputs.end(), Input::weight) > 0;
    const int expected = (is_quantised ? 1 : 2) * (has_weight ? 2 : 1);
    if (!problem.empty() || formats.accepted() == expected) return problem;
    return std::to_string(formats.accepted()) + " combinations instead of " + std::to_string(expected);
}

/// Types of inputs in a strongly typed network: the output's follows, or they are refused.
std::string problem_of_types(Library &library, const Contract &contract, bool is_quantised) {
    const Plugin plugin = library.create(contract, settings_of(is_quantised));
    const DataType feature = is_quantised ? DataType::kINT8 : DataType::kHALF;
    std::vector<DataType> good;
    for (const Input input : contract.inputs)
        good.push_back(input == Input::features ? feature : input == Input::weight ? DataType::kHALF : DataType::kINT32);
    const auto inputs = static_cast<int32_t>(good.size());
    for (size_t position = 0; position < good.size(); position++)
        for (int32_t type = 0; type < kTypes; type++) {
            std::vector<DataType> types = good;
            types[position] = static_cast<DataType>(type);
            auto found = static_cast<DataType>(-1);
            const auto ask = [&] { return plugin.build->getOutputDataTypes(&found, 1, types.data(), inputs); };
            if (!may_be(contract, is_quantised, position, types[position], types[0])) {
                const std::string problem =
                    library.problem_of_refusal(contract, "type " + std::to_string(type), [&] { return ask() != 0; });
                if (!problem.empty()) return problem;
            } else if (ask() != 0 || found != types[0]) {
                return "type " + std::to_string(type) + " of input " + std::to_string(position) +
                       " is refused, or the output's is another";
            }
        }
    return library.problem_of_refusal(contract, "inputs", [&] {
        DataType found;
        return plugin.build->getOutputDataTypes(&found, 1, good.data(), inputs - 1) != 0;
    });
}

/// Tensors whose extents are variables, constants, or both; frames and clips are evaluated afterwards.
std::string problem_of_output_shape(Library &library, const Contract &contract, bool has_constant_joints) {
    const Plugin plugin = library.create(contract, Settings{});
    Expressions expressions;
    Size size;
    std::vector<PluginTensorDesc> descs = descs_of(contract, size, DataType::kFLOAT);
    std::vector<DimsExprs> inputs(contract.inputs.size());
    for (size_t i = 0; i < inputs.size(); i++) {
        inputs[i].nbDims = descs[i].dims.nbDims;
        for (int32_t axis = 0; axis < inputs[i].nbDims; axis++) {
            const bool is_variable = contract.inputs[i] == Input::offsets || axis == 0 || !has_constant_joints;
            const int64_t &extent = descs[i].dims.d[axis];
            inputs[i].d[axis] = is_variable && contract.inputs[i] != Input::weight ? expressions.variable(extent)
                                                                                   : expressions.constant(extent);
        }
    }
    DimsExprs output{};
    const auto ask = [&] {
        return plugin.build->getOutputShapes(inputs.data(), static_cast<int32_t>(inputs.size()), nullptr, 0, &output, 1,
                                             expressions);
    };
    if (ask() != 0) return "refused";
    for (const int64_t frames : {12, 1, 300})
        for (const int64_t clips : {3, 1, 8}) {
            size.frames = frames;
            size.clips = clips;
            const std::vector<PluginTensorDesc> now = descs_of(contract, size, DataType::kFLOAT);
            std::copy(now.begin(), now.end(), descs.begin());
            const nvinfer1::Dims &expected = now.back().dims;
            if (output.nbDims != expected.nbDims) return "another number of dimensions";
            for (int32_t axis = 0; axis < expected.nbDims; axis++)
                if (static_cast<const Expression *>(output.d[axis])->value() != expected.d[axis])
                    return "another extent of axis " + std::to_string(axis);
        }
    if (!has_constant_joints) return "";
    for (size_t i = 0; i < inputs.size(); i++) {
        inputs[i].nbDims++;
        inputs[i].d[inputs[i].nbDims - 1] = expressions.constant(1);
        const std::string words = "input " + std::to_string(i);
        const std::string problem = library.problem_of_refusal(contract, words, [&] { return ask() != 0; });
        if (!problem.empty()) return problem;
        inputs[i].nbDims--;
    }
    inputs[0].d[2] = expressions.constant(4 * contract.parts + 1);
    return library.problem_of_refusal(contract, "channels", [&] { return ask() != 0; });
}

/// Tensors that an op cannot have, with the words that the refusal must contain.
std::vector<std::pair<std::string, std::vector<PluginTensorDesc>>> bad_tensors(const Contract &contract) {
    std::vector<std::pair<std::string, std::vector<PluginTensorDesc>>> all;
    const auto add = [&](const std::string &words, size_t tensor, const std::function<void(PluginTensorDesc &)> &change) {
        all.emplace_back(words, descs_of(contract, Size{}, DataType::kFLOAT));
        change(all.back().second[tensor]);
    };
    const auto extent = [&](const std::string &words, size_t tensor, int32_t axis, int64_t value) {
        add(words, tensor, [&](PluginTensorDesc &desc) { desc.dims.d[axis] = value; });
    };
    for (size_t i = 0; i < contract.inputs.size(); i++) {
        const std::string words = "input " + std::to_string(i);
        add(words, i, [](PluginTensorDesc &desc) { desc.dims.nbDims--; });
        if (contract.inputs[i] == Input::weight) {
            for (const int32_t axis : {0, 1})
                for (const int64_t value : {12, 20}) extent(words, i, axis, value);
        } else if (contract.inputs[i] == Input::offsets) {
            for (const int64_t value : {int64_t{0}, int64_t{1}, int64_t{INT32_MAX} + 1}) extent(words, i, 0, value);
        }
    }
    for (const int64_t value : {int64_t{-2}, int64_t{INT32_MAX} + 1}) extent("frames", 0, 0, value);
    for (const int64_t value : {0, 65}) extent("joints", 0, 1, value);
    if (contract.has_edges)
        for (const int64_t value : {4, 6}) extent("joints", 0, 1, value);
    for (const int64_t value : {int64_t{0}, 4 * contract.parts + 2, 16 * contract.parts + 1}) extent("channels", 0, 2, value);
    if (contract.has_heads)  // heads of 6, 10 and 128 channels
        for (const int64_t channels : {12, 20, 256}) extent("heads", 0, 2, channels * contract.parts);
    if (contract.gives_clips) all.emplace_back("input 0", descs_of(contract, {12, 3, 5, 1028}, DataType::kFLOAT));
    return all;
}

std::vector<DynamicPluginTensorDesc> dynamic(const std::vector<PluginTensorDesc> &descs) {
    std::vector<DynamicPluginTensorDesc> all;
    for (const PluginTensorDesc &desc : descs) all.push_back({desc, desc.dims, desc.dims, desc.dims});
    return all;
}

std::string problem_of_configuration(Library &library, const Contract &contract) {
    const auto configure = [&](const std::vector<PluginTensorDesc> &descs, const Settings &settings = {}) {
        std::vector<DynamicPluginTensorDesc> all = dynamic(descs);
        for (DynamicPluginTensorDesc &one : all) one.desc.dims.d[0] = -1;
        const Plugin plugin = library.create(contract, settings);
        return plugin.build->configurePlugin(all.data(), static_cast<int32_t>(contract.inputs.size()), &all.back(), 1);
    };
    if (configure(descs_of(contract, Size{}, DataType::kFLOAT)) != 0) return "refused";
    if (contract.has_heads) {
        Settings uneven;
        uneven.heads = 5;  // 24 channels are five heads of 4, and some more
        const std::string problem = library.problem_of_refusal(
            contract, "heads", [&] { return configure(descs_of(contract, {12, 3, 5, 24}, DataType::kFLOAT), uneven) != 0; });
        if (!problem.empty()) return problem;
    }
    for (const auto &[words, descs] : bad_tensors(contract)) {
        const std::string problem =
            library.problem_of_refusal(contract, words, [&, &descs = descs] { return configure(descs) != 0; });
        if (!problem.empty()) return problem;
    }
    return "";
}

std::string problem_of_shape_change(Library &library, const Contract &contract) {
    const Plugin plugin = library.create(contract, Settings{});
    const auto inputs = static_cast<int32_t>(contract.inputs.size());
    const auto change = [&](const std::vector<PluginTensorDesc> &descs) {
        return plugin.runtime->onShapeChange(descs.data(), inputs, &descs.back(), 1);
    };
    for (const DataType type : {DataType::kFLOAT, DataType::kHALF})
        for (const int64_t frames : {0, 1, 12})
            if (change(descs_of(contract, {frames, 3, 5, 16}, type)) != 0) return "refused";
    std::vector<std::pair<std::string, std::vector<PluginTensorDesc>>> bad = bad_tensors(contract);
    const auto add = [&](const std::string &words, size_t tensor, const std::function<void(PluginTensorDesc &)> &spoil) {
        bad.emplace_back(words, descs_of(contract, Size{}, DataType::kFLOAT));
        spoil(bad.back().second[tensor]);
    };
    add("frames", 0, [](PluginTensorDesc &desc) { desc.dims.d[0] = -1; });
    for (size_t tensor = 0; tensor <= contract.inputs.size(); tensor++) {
        const std::string words = "tensor " + std::to_string(tensor);
        const bool is_first = tensor == 0;
        add(words, tensor, [&](PluginTensorDesc &desc) { desc.type = is_first ? DataType::kINT8 : DataType::kBOOL; });
        add(words, tensor, [](PluginTensorDesc &desc) { desc.format = TensorFormat::kHWC8; });
    }
    for (const int32_t axis : {0, 1, 2})
        add("output", contract.inputs.size(), [&](PluginTensorDesc &desc) { desc.dims.d[axis]++; });
    for (const auto &[words, descs] : bad) {
        const std::string problem =
            library.problem_of_refusal(contract, words, [&, &descs = descs] { return change(descs) != 0; });
        if (!problem.empty()) return problem;
    }
    return "";
}

/// Of the largest extents, whatever the others are; never less for more.
std::string problem_of_workspace(Library &library, const Contract &contract) {
    const Plugin plugin = library.create(contract, Settings{});
    const auto ask = [&](int64_t frames, int64_t clips) {
        std::vector<DynamicPluginTensorDesc> all = dynamic(descs_of(contract, {frames, clips, 5, 16}, DataType::kFLOAT));
        for (DynamicPluginTensorDesc &one : all) one.desc.dims.d[0] = one.min.d[0] = one.opt.d[0] = 1;
        return plugin.build->getWorkspaceSize(all.data(), static_cast<int32_t>(contract.inputs.size()), &all.back(), 1);
    };
    if (!contract.has_eps) return ask(300, 8) == 0 ? "" : "there is one";
    if (ask(1, 1) == 0 || ask(300, 8) <= ask(1, 1)) return "it does not follow the largest extents";
    size_t before = 0;
    for (int64_t frames = 1; frames <= 200; frames++) {
        if (ask(frames, 3) < before || ask(frames, 4) < ask(frames, 3)) return "it is less for more";
        before = ask(frames, 3);
    }
    return "";
}

}  // namespace

void check_shapes(Library &library, const Contract &contract, Report &report) {
    const auto check = [&](const std::string &what, const std::string &problem) {
        report.check(contract.name + ": " + what, problem);
    };
    for (const bool is_quantised : {false, true}) {
        const std::string kind = is_quantised ? ", int8" : ", floats";
        check("output type" + kind, problem_of_types(library, contract, is_quantised));
        check("formats" + kind, problem_of_formats(library, contract, is_quantised));
    }
    check("output shape", problem_of_output_shape(library, contract, true));
    check("output shape, all extents variable", problem_of_output_shape(library, contract, false));
    const std::string count = std::to_string(bad_tensors(contract).size());
    check("configuration, and refuses " + count + " bad shapes", problem_of_configuration(library, contract));
    check("shape change, and refuses " + count + " bad shapes, types and formats", problem_of_shape_change(library, contract));
    check("workspace", problem_of_workspace(library, contract));
}

}  // namespace conformance
