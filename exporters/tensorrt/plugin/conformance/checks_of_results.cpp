#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>

#include "checks.h"
#include "device.h"
#include "references.h"
#include "tensors.h"

namespace conformance {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginTensorDesc;

constexpr float kInputScale = 0.03f, kOutputScale = 0.02f;

struct Batch {
    const char *name;
    std::vector<int32_t> lengths;
    int64_t spare_frames = 0;  // that tensors have room for behind the last clip
};

const std::vector<Batch> kBatches{
    {"one frame", {1}},
    {"several clips", {7, 1, 12, 4}},
    {"a clip of many chunks", {150}},
    {"clips that end with chunks", {64, 128, 1}},
    {"first clip empty", {0, 5, 3}},
    {"clips between empty", {4, 0, 0, 6}},
    {"last clip empty", {3, 2, 0}},
    {"all clips empty", {0, 0, 0}, 5},
    {"no frames at all", {0, 0}},
    {"room for more frames and clips", {6, 70, 0, 0, 0}, 9},
};

struct Case {
    Type type = Type::fp32, weight_type = Type::fp32;
    Batch batch = kBatches[1];
    Layout layout = chain(5);
    int64_t heads = 2, width = 8;
};

DataType data_type_of(Type type) {
    return type == Type::fp32 ? DataType::kFLOAT : type == Type::fp16 ? DataType::kHALF : DataType::kINT8;
}

/// What a case is computed from, and what must come out of it.
struct Problem {
    const Contract &contract;
    Case of;
    Dimensions size;
    std::vector<int32_t> cu_seqlens;
    std::vector<PluginTensorDesc> descs;
    std::vector<Bytes> inputs;
    Values expected;      // of the rows that are written
    int64_t written = 0;  // rows
};

Values normal(size_t count, double deviation, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> distribution(0, deviation);
    Values values(count);
    for (double &value : values) value = distribution(generator);
    return values;
}

Values expected_of(const Problem &problem, const Values &features, const Values &weight, double eps) {
    const std::string &name = problem.contract.name;
    if (name == "StarSegmentedPositions") return positions(problem.size, features, problem.cu_seqlens);
    if (name == "StarSparseAttention") return sparse_attention(problem.size, features, problem.of.layout.edges);
    if (name == "StarSegmentedLinearAttention") return linear_attention(problem.size, features, problem.cu_seqlens, eps);
    return context_attention(problem.size, features, weight, problem.cu_seqlens);
}

Problem make_problem(const Contract &contract, const Case &of, unsigned seed) {
    Problem problem{contract, of, {}, {0}, {}, {}, {}};
    for (const int32_t length : of.batch.lengths) problem.cu_seqlens.push_back(problem.cu_seqlens.back() + length);
    const int64_t used = problem.cu_seqlens.back(), clips = static_cast<int64_t>(of.batch.lengths.size());
    problem.size = {used + of.batch.spare_frames, of.layout.joints, of.heads * of.width, of.heads};
    const auto row = static_cast<size_t>(problem.size.joints * problem.size.channels);
    problem.descs = descs_of(contract, {problem.size.frames, clips, problem.size.joints, problem.size.channels},
                             data_type_of(of.type), data_type_of(of.weight_type));

    const size_t row_in = row * static_cast<size_t>(contract.parts);
    Bytes features = encode(normal(static_cast<size_t>(problem.size.frames) * row_in, 1, seed), of.type, kInputScale);
    const Bytes weight = encode(normal(static_cast<size_t>(problem.size.channels * problem.size.channels),
                                       1 / std::sqrt(static_cast<double>(problem.size.channels)), seed + 1),
                                of.weight_type, 0);
    Values values = expected_of(problem, decode(features, of.type, kInputScale), decode(weight, of.weight_type, 0),
                                static_cast<double>(Settings{}.eps));
    const bool has_offsets = contract.inputs.size() > 1;
    problem.written = contract.gives_clips ? clips : has_offsets ? used : problem.size.frames;
    values.resize(static_cast<size_t>(problem.written) * row);
    problem.expected = values;
    // what no clip has is poison: nobody may read it
    if (has_offsets)
        std::fill(features.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(used) * row_in * size_of(of.type)),
                  features.end(), poison_of(of.type));
    for (const Input input : contract.inputs)
        problem.inputs.push_back(input == Input::features ? features
                                 : input == Input::weight ? weight
                                                          : bytes_of(problem.cu_seqlens));
    return problem;
}

/// A problem's plugin, attached to a context, and its memory.
class Run {
   public:
    Run(Library &library, const Problem &problem) : problem_(problem) {
        Settings settings;
        settings.heads = static_cast<int32_t>(problem.of.heads);
        settings.edges = problem.of.layout.edges;
        if (problem.of.type == Type::int8) {
            settings.input_scale = kInputScale;
            settings.output_scale = kOutputScale;
        }
        const Plugin plugin = library.create(problem.contract, settings);
        plugin_ = Plugin(plugin.runtime->attachToContext(nullptr));
        const auto inputs = static_cast<int32_t>(problem.inputs.size());
        std::vector<nvinfer1::DynamicPluginTensorDesc> descs;
        for (const PluginTensorDesc &desc : problem.descs) descs.push_back({desc, desc.dims, desc.dims, desc.dims});
        workspace_bytes_ = plugin.build->getWorkspaceSize(descs.data(), inputs, &descs.back(), 1);
        for (const Bytes &input : problem.inputs) buffers_.emplace_back(input.size(), 0xff);
        const nvinfer1::Dims &out = problem.descs.back().dims;
        buffers_.emplace_back(static_cast<size_t>(out.d[0] * out.d[1] * out.d[2]) * size_of(problem.of.type),
                              poison_of(problem.of.type));
        buffers_.emplace_back(workspace_bytes_, 0xff);
        fill();
        for (const Buffer &buffer : buffers_) addresses_.push_back(buffer.data());
        if (plugin_.runtime->onShapeChange(problem.descs.data(), inputs, &problem.descs.back(), 1) != 0)
            throw std::runtime_error(library.logger.lines.back());
    }

    /// Writes inputs, poison into the rest.
    void fill() {
        for (size_t i = 0; i < problem_.inputs.size(); i++) buffers_[i].write(problem_.inputs[i]);
        buffers_[problem_.inputs.size()].poison();
        buffers_.back().poison();
    }

    int32_t enqueue(cudaStream_t stream) {
        void *output = addresses_[problem_.inputs.size()];
        return plugin_.runtime->enqueue(problem_.descs.data(), &problem_.descs.back(), addresses_.data(), &output,
                                        workspace_bytes_ == 0 ? nullptr : addresses_.back(), stream);
    }

    /// What is wrong with what is in the memory.
    std::string problem_of_result() const {
        for (size_t i = 0; i < buffers_.size(); i++) {
            if (!buffers_[i].has_whole_bands()) return "wrote beyond buffer " + std::to_string(i);
            if (i < problem_.inputs.size() && buffers_[i].read() != problem_.inputs[i])
                return "wrote to input " + std::to_string(i);
        }
        const Type type = problem_.of.type;
        Bytes bytes = buffers_[problem_.inputs.size()].read();
        const size_t written = problem_.expected.size() * size_of(type);
        const auto behind = bytes.begin() + static_cast<ptrdiff_t>(written);
        if (std::any_of(behind, bytes.end(), [&](uint8_t byte) { return byte != poison_of(type); }))
            return "wrote behind the last clip";
        bytes.resize(written);
        return problem_of_values(bytes);
    }

    /// Whether all of the bands round the buffers are as they were.
    bool has_whole_bands() const {
        return std::all_of(buffers_.begin(), buffers_.end(), [](const Buffer &buffer) { return buffer.has_whole_bands(); });
    }

    Bytes output() const { return buffers_[problem_.inputs.size()].read(); }

   private:
    std::string problem_of_values(const Bytes &bytes) const {
        const Type type = problem_.of.type;
        const Values found = decode(bytes, type, kOutputScale), &expected = problem_.expected;
        double largest = 1e-3;
        for (const double value : expected) largest = std::max(largest, std::fabs(value));
        for (size_t i = 0; i < expected.size(); i++) {
            double wanted = expected[i], allowed = 1e-5 * largest;
            if (type == Type::fp16) allowed += std::fabs(wanted) / 2048 + 3e-8;  // half a unit of its last bit
            if (type == Type::int8) {
                const auto scale = static_cast<double>(kOutputScale);
                wanted = std::clamp(wanted, -127 * scale, 127 * scale);
                allowed = 0.501 * scale;  // half a level, and what float32 loses
            }
            if (expected[i] == 0) allowed = 0;  // of an empty clip
            if (std::fabs(found[i] - wanted) <= allowed) continue;
            return "value " + std::to_string(i) + " is " + std::to_string(found[i]) + ", expected " + std::to_string(wanted);
        }
        return "";
    }

    const Problem &problem_;
    Plugin plugin_;
    size_t workspace_bytes_ = 0;
    std::vector<Buffer> buffers_;  // inputs, output, workspace
    std::vector<void *> addresses_;
};

std::string problem_of_case(Library &library, const Contract &contract, const Case &of) {
    const Problem problem = make_problem(contract, of, 1);
    Run run(library, problem);
    const device::Stream stream;
    Bytes before;
    for (int time = 0; time < 2; time++) {
        run.fill();
        library.logger.lines.clear();
        const int32_t status = run.enqueue(stream.self);
        if (status != 0)
            return "enqueue returned " + std::to_string(status) + ": " +
                   (library.logger.lines.empty() ? "no line" : library.logger.lines.back());
        stream.synchronize();
        const std::string wrong = run.problem_of_result();
        if (!wrong.empty()) return wrong;
        if (time > 0 && run.output() != before) return "other bits the second time";
        before = run.output();
    }
    return "";
}

bool has_weight(const Contract &contract) {
    return std::count(contract.inputs.begin(), contract.inputs.end(), Input::weight) > 0;
}

/// Every batch; then every width of heads, on another skeleton.
std::vector<std::pair<std::string, Case>> cases_of(const Contract &contract, Type type) {
    std::vector<std::pair<std::string, Case>> cases;
    for (const Type weight_type : {Type::fp32, Type::fp16}) {
        if (weight_type != Type::fp32 && !has_weight(contract)) continue;
        Case of;
        of.type = type;
        of.weight_type = weight_type;
        const std::string weight = has_weight(contract) ? std::string(", weight ") + name_of(weight_type) : "";
        for (const Batch &batch : kBatches) {
            of.batch = batch;
            cases.emplace_back(batch.name + weight, of);
        }
        of.batch = {"", {3, 0, 9}, 2};
        of.layout = scattered(25);
        for (const auto &[heads, width] : {std::pair{3, 4}, {5, 8}, {3, 16}, {1, 32}, {3, 64}}) {
            of.heads = heads;
            of.width = width;
            cases.emplace_back("25 joints, " + std::to_string(heads) + " x " + std::to_string(width) + " channels" + weight,
                               of);
        }
    }
    return cases;
}

/// Where kernels refuse, enqueue says so and that something was launched is not pretended.
std::string problem_of_failure(Library &library, const Contract &contract) {
    const Problem problem = make_problem(contract, Case{}, 1);
    const Plugin plugin = library.create(contract, Settings{});
    const std::vector<const void *> nowhere(contract.inputs.size(), nullptr);
    void *output = nullptr;
    return library.problem_of_refusal(contract, "CUDA error", [&] {
        return plugin.runtime->enqueue(problem.descs.data(), &problem.descs.back(), nowhere.data(), &output, nullptr,
                                       nullptr) != 0;
    });
}

/// TensorRT times plugins on inputs that it makes up: whatever offsets are, nothing beyond the buffers is touched.
std::string problem_of_made_up_offsets(Library &library, const Contract &contract, Type type) {
    Case of;
    of.type = type;
    of.batch = {"", {64, 64, 72}, 0};
    Problem problem = make_problem(contract, of, 1);
    Run run(library, problem);
    const device::Stream stream;
    const std::vector<int32_t> made_up[] = {
        {0, 0, 0, 0}, {7, 7, 7, 7}, {0, 90, 30, 70}, {-7, 4, INT32_MAX, INT32_MIN}, {INT32_MAX, -1, 0, INT32_MAX}};
    for (const std::vector<int32_t> &offsets : made_up) {
        problem.inputs.back() = bytes_of(offsets);
        run.fill();
        if (run.enqueue(stream.self) != 0) return "enqueue failed";
        stream.synchronize();
        if (!run.has_whole_bands()) return "wrote beyond a buffer with offsets from " + std::to_string(offsets[0]);
    }
    return "";
}

/// Two contexts of different shapes, each in its own stream, many calls under way at once.
std::string problem_of_two_streams(Library &library, const Contract &contract, Type type) {
    Case first, second;
    first.type = second.type = type;
    first.batch = kBatches[2];
    second.batch = kBatches[9];
    const Problem problems[] = {make_problem(contract, first, 1), make_problem(contract, second, 2)};
    Run runs[] = {Run(library, problems[0]), Run(library, problems[1])};
    const device::Stream streams[2];
    for (int time = 0; time < 50; time++)
        for (int i = 0; i < 2; i++)
            if (runs[i].enqueue(streams[i].self) != 0) return "enqueue failed";
    for (int i = 0; i < 2; i++) {
        streams[i].synchronize();
        const std::string wrong = runs[i].problem_of_result();
        if (!wrong.empty()) return "stream " + std::to_string(i) + ": " + wrong;
    }
    return "";
}

/// Captured with one batch, replayed with it and with another of the same room.
std::string problem_of_graph(Library &library, const Contract &contract, Type type) {
    Case of;
    of.type = type;
    of.batch = {"", {20, 0, 70}, 0};
    Problem problem = make_problem(contract, of, 1);
    of.batch = {"", {3, 68, 1}, 18};
    const Problem other = make_problem(contract, of, 2);
    Run run(library, problem);
    const device::Stream stream;
    if (run.enqueue(stream.self) != 0) return "enqueue failed";
    stream.synchronize();
    const std::function<void()> replay = device::capture(stream, [&] { return run.enqueue(stream.self); });
    for (int time = 0; time < 2; time++) {
        run.fill();
        replay();
        const std::string wrong = run.problem_of_result();
        if (!wrong.empty()) return (time == 0 ? "replayed: " : "replayed with another batch: ") + wrong;
        problem.inputs = other.inputs;
        problem.cu_seqlens = other.cu_seqlens;
        problem.expected = other.expected;
    }
    return "";
}

}  // namespace

void check_results(Library &library, const Contract &contract, Report &report) {
    const auto check = [&](const std::string &what, const std::function<std::string()> &problem) {
        std::string wrong;
        try {
            wrong = problem();
        } catch (const std::exception &error) {
            wrong = error.what();
        }
        report.check(contract.name + ": " + what, wrong);
    };
    for (const Type type : {Type::fp32, Type::fp16, Type::int8}) {
        const std::string kind = std::string(name_of(type)) + ", ";
        for (const auto &[what, of] : cases_of(contract, type))
            check(kind + what, [&, &of = of] { return problem_of_case(library, contract, of); });
        if (contract.inputs.back() == Input::offsets)
            check(kind + "offsets that are none", [&] { return problem_of_made_up_offsets(library, contract, type); });
        check(kind + "two streams at once", [&] { return problem_of_two_streams(library, contract, type); });
        check(kind + "captured in a graph", [&] { return problem_of_graph(library, contract, type); });
    }
    check("a failing launch", [&] { return problem_of_failure(library, contract); });
}

}  // namespace conformance
