// The C interface: arguments are checked, failures come as status and message, handles are freed in any order.
#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bundle_writer.h"
#include "count_allocations.h"
#include "star_edge/star.h"

using namespace star::test;

namespace {

template <class Handle, void (*free_handle)(Handle *)>
struct Free {
    void operator()(Handle *handle) const { free_handle(handle); }
};
using Model = std::unique_ptr<star_model, Free<star_model, star_model_free>>;
using Context = std::unique_ptr<star_context, Free<star_context, star_context_free>>;
using StreamHandle = std::unique_ptr<star_stream, Free<star_stream, star_stream_free>>;

star_bytes bytes_of(const std::string &text) { return {text.data(), text.size()}; }

star_status load(const Files &files, star_precision precision, star_model **model) {
    return star_model_load_bytes(bytes_of(files.manifest), bytes_of(files.weights), bytes_of(files.calibration), precision,
                                 STAR_ISA_AUTO, model);
}

Model model_of(const Files &files, star_precision precision = STAR_PRECISION_FP32) {
    star_model *model = nullptr;
    REQUIRE(load(files, precision, &model) == STAR_OK);
    return Model(model);
}

Context context_of(const Model &model, int32_t threads = 1) {
    star_context *context = nullptr;
    REQUIRE(star_context_create(model.get(), threads, &context) == STAR_OK);
    return Context(context);
}

StreamHandle stream_of(const Context &context, int64_t window, int64_t hop) {
    star_stream *stream = nullptr;
    REQUIRE(star_stream_create(context.get(), window, hop, &stream) == STAR_OK);
    return StreamHandle(stream);
}

void check_invalid(star_status status, const std::string &part) {
    CHECK(status == STAR_INVALID_ARGUMENT);
    const std::string text = star_last_error();
    CAPTURE(text);
    CHECK(text.find(part) != text.npos);
}

/// Rows of three joints that differ.
std::vector<float> walk(int64_t rows) {
    std::vector<float> joints;
    for (int64_t i = 0; i < rows * 9; i++) joints.push_back(std::sin(static_cast<float>(i)) + 1.5f);
    return joints;
}

std::vector<float> logits_of(const Model &model, const Context &context, const std::vector<float> &joints,
                             const std::vector<int64_t> &lengths) {
    std::vector<float> features(joints.size() * 3), logits(lengths.size() * 2);
    std::vector<int64_t> cu_seqlens = {0};
    for (const int64_t length : lengths) cu_seqlens.push_back(cu_seqlens.back() + length);
    const auto clips = static_cast<int64_t>(lengths.size());
    REQUIRE(star_features(model.get(), joints.data(), lengths.data(), clips, 1, features.data()) == STAR_OK);
    REQUIRE(star_run(context.get(), features.data(), cu_seqlens.data(), clips, logits.data()) == STAR_OK);
    return logits;
}

void check_allocations(const Files &files, star_precision precision) {
    const Model model = model_of(files, precision);
    const Context context = context_of(model, 2);
    const std::vector<float> joints = walk(70);
    std::vector<float> features(70 * 27), logits(3 * 2);
    const int64_t lengths[] = {40, 13, 17}, cu_seqlens[] = {0, 40, 53, 70};
    const auto run = [&](int64_t clips) {
        star_status status = star_features(model.get(), joints.data(), lengths, clips, 1, features.data());
        if (status == STAR_OK) status = star_run(context.get(), features.data(), cu_seqlens, clips, logits.data());
        return status;
    };
    REQUIRE(run(3) == STAR_OK);
    const int64_t before = allocations;
    for (const int64_t clips : {3, 1, 2, 3}) {
        if (run(clips) != STAR_OK) FAIL("refused");
    }
    CHECK(allocations == before);
}

}  // namespace

TEST_CASE("versions") {
    CHECK(star_abi_version() == STAR_ABI_VERSION);
    CHECK(std::string(star_version()).find('.') != std::string::npos);
    CHECK(std::string(star_instruction_sets()).find("portable") != std::string::npos);
    CHECK(star_last_error() != nullptr);
}

TEST_CASE("a model says what it is") {
    const Files files = tiny_files();
    const Model model = model_of(files);
    star_model_info info{};
    REQUIRE(star_model_describe(model.get(), &info) == STAR_OK);
    CHECK(info.joints == 3);
    CHECK(info.channels == 9);
    CHECK(info.classes == 2);
    CHECK(info.dim == 4);
    CHECK(info.heads == 2);
    CHECK(info.layers == 1);
    CHECK(info.precision == STAR_PRECISION_FP32);
    CHECK(info.isa != STAR_ISA_AUTO);
    CHECK(info.bundle_id == star::Json::parse(files.manifest)["bundle_id"].get<std::string>());
    CHECK(std::string(star_model_class_name(model.get(), 1)) == "sit");
    CHECK(star_model_class_name(model.get(), 2) == nullptr);
    CHECK(star_model_class_name(model.get(), -1) == nullptr);
    CHECK(star_model_class_name(nullptr, 0) == nullptr);
}

TEST_CASE("the default precision is the bundle's") {
    const Model model = model_of(tiny_files(), STAR_PRECISION_DEFAULT);
    star_model_info info{};
    REQUIRE(star_model_describe(model.get(), &info) == STAR_OK);
    CHECK(info.precision == STAR_PRECISION_FP32);
}

TEST_CASE("modules have precisions") {
    const auto precision_of = [](const Model &model, const char *module) {
        const char *precision = star_model_module_precision(model.get(), module);
        return std::string(precision == nullptr ? "" : precision);
    };
    const Model fp32 = model_of(calibrated_files()), int8 = model_of(calibrated_files(), STAR_PRECISION_INT8);
    CHECK(precision_of(fp32, "layers.0.temporal.qkv") == "fp32");
    CHECK(precision_of(int8, "layers.0.temporal.qkv") == "int8");
    CHECK(precision_of(int8, "head.output") == "int8");
    CHECK(precision_of(int8, "embedding") == "fp32");
    CHECK(precision_of(int8, "layers.0.temporal.norm1") == "fp32");
    CHECK(precision_of(int8, "layers.1.temporal.qkv") == "");
    CHECK(star_model_module_precision(int8.get(), nullptr) == nullptr);
    CHECK(star_model_module_precision(nullptr, "context") == nullptr);
}

TEST_CASE("what cannot be loaded is refused, and the handle is null") {
    star_model *model = reinterpret_cast<star_model *>(&model);
    const Files files = tiny_files();
    CHECK(load({"", "", ""}, STAR_PRECISION_FP32, &model) == STAR_BAD_FILE);
    CHECK(model == nullptr);
    CHECK(std::string(star_last_error()).find("cannot read the manifest; where: manifest.json; found: ") == 0);
    CHECK(load(files, STAR_PRECISION_INT8, &model) == STAR_UNSUPPORTED);
    check_invalid(load(files, static_cast<star_precision>(7), &model), "unknown precision");
    check_invalid(star_model_load("x", STAR_PRECISION_FP32, static_cast<star_isa>(7), &model), "unknown instruction set");
    CHECK(star_model_load("/nowhere.star", STAR_PRECISION_FP32, STAR_ISA_AUTO, &model) == STAR_IO);
    check_invalid(star_model_load(nullptr, STAR_PRECISION_FP32, STAR_ISA_AUTO, &model), "path");
    check_invalid(star_model_load("x", STAR_PRECISION_FP32, STAR_ISA_AUTO, nullptr), "model");
    check_invalid(star_model_load_bytes({nullptr, 8}, {}, {}, STAR_PRECISION_FP32, STAR_ISA_AUTO, &model), "manifest");
    check_invalid(star_model_describe(nullptr, nullptr), "null pointer");
}

TEST_CASE("a folder and its bytes give the same logits") {
    const Files files = tiny_files();
    const auto folder = std::filesystem::temp_directory_path() / ("star_star_" + std::to_string(::getpid()));
    std::filesystem::create_directory(folder);
    std::ofstream(folder / "manifest.json", std::ios::binary) << files.manifest;
    std::ofstream(folder / "weights.safetensors", std::ios::binary) << files.weights;
    star_model *loaded = nullptr;
    REQUIRE(star_model_load(folder.c_str(), STAR_PRECISION_FP32, STAR_ISA_AUTO, &loaded) == STAR_OK);
    const Model from_folder(loaded), from_bytes = model_of(files);
    std::filesystem::remove_all(folder);
    const std::vector<float> joints = walk(7);
    const auto logits = logits_of(from_folder, context_of(from_folder), joints, {7});
    CHECK(std::isfinite(logits[0]));
    CHECK(logits == logits_of(from_bytes, context_of(from_bytes), joints, {7}));
}

TEST_CASE("threads of a context") {
    const Model model = model_of(tiny_files());
    CHECK(star_context_threads(context_of(model, 2).get()) == 2);
    CHECK(star_context_threads(context_of(model, 0).get()) >= 1);
    CHECK(star_context_threads(nullptr) == 0);
    star_context *context = nullptr;
    check_invalid(star_context_create(model.get(), -1, &context), "threads out of range; found: -1");
    check_invalid(star_context_create(model.get(), 1025, &context), "threads");
    check_invalid(star_context_create(nullptr, 1, &context), "model");
    check_invalid(star_context_create(model.get(), 1, nullptr), "context");
}

TEST_CASE("arguments of a run are checked") {
    const Model model = model_of(tiny_files());
    const Context context = context_of(model);
    const std::vector<float> features(4 * 27, 0.5f);
    float logits[4];
    const auto run = [&](std::vector<int64_t> cu_seqlens) {
        return star_run(context.get(), features.data(), cu_seqlens.data(), static_cast<int64_t>(cu_seqlens.size()) - 1,
                        logits);
    };
    const int64_t whole[] = {0, 4};
    CHECK(run({0, 4}) == STAR_OK);
    CHECK(run({0, 1, 4}) == STAR_OK);
    CHECK(run({0, 0, 4}) == STAR_OK);
    CHECK(run({0}) == STAR_OK);
    CHECK(star_run(context.get(), nullptr, whole, 0, nullptr) == STAR_OK);
    check_invalid(run({1, 4}), "must start at 0; found: 1");
    check_invalid(run({0, 3, 2}), "descends; found: 3 then 2 at clip 1");
    check_invalid(run({0, -1}), "descends");
    check_invalid(run({0, std::numeric_limits<int64_t>::max()}), "more rows than memory");
    check_invalid(star_run(context.get(), features.data(), whole, -1, logits), "clips out of range");
    check_invalid(star_run(context.get(), features.data(), whole, std::numeric_limits<int64_t>::max(), logits),
                  "clips out of range");
    check_invalid(star_run(nullptr, features.data(), whole, 1, logits), "context");
    check_invalid(star_run(context.get(), nullptr, whole, 1, logits), "features");
    check_invalid(star_run(context.get(), features.data(), nullptr, 1, logits), "cu_seqlens");
    check_invalid(star_run(context.get(), features.data(), whole, 1, nullptr), "logits");
}

TEST_CASE("factors have precisions") {
    const Model int8 = model_of(thin_files(), STAR_PRECISION_INT8), bf16 = model_of(thin_files(), STAR_PRECISION_BF16);
    const auto precision_of = [](const Model &model, const char *module) {
        const char *precision = star_model_module_precision(model.get(), module);
        return std::string(precision == nullptr ? "" : precision);
    };
    CHECK(precision_of(int8, "layers.0.temporal.qkv.first") == "int8");
    CHECK(precision_of(int8, "head.hidden.second") == "int8");
    CHECK(precision_of(int8, "embedding.second") == "fp32");
    CHECK(precision_of(int8, "layers.0.temporal.qkv") == "");
    CHECK(precision_of(bf16, "head.hidden.first") == "fp32");
}

TEST_CASE("a run allocates only for more rows or clips than before") {
    check_allocations(tiny_files(), STAR_PRECISION_FP32);
    for (const star_precision precision : {STAR_PRECISION_FP32, STAR_PRECISION_BF16, STAR_PRECISION_INT8})
        check_allocations(thin_files(), precision);
}

TEST_CASE("stages of measured runs are their time, and leave the logits as they are") {
    using Clock = std::chrono::steady_clock;
    const Model model = model_of(tiny_files());
    const Context context = context_of(model, 2);
    const std::vector<float> features(70 * 27, 0.5f);
    const int64_t cu_seqlens[] = {0, 40, 70};
    std::vector<float> logits(2 * 2), measured(2 * 2);
    const auto stages = [&] {
        std::vector<double> found;
        double seconds = 0;
        while (star_context_stage(context.get(), static_cast<int32_t>(found.size()), &seconds)) found.push_back(seconds);
        return found;
    };
    const auto run = [&](std::vector<float> &out) {
        REQUIRE(star_run(context.get(), features.data(), cu_seqlens, 2, out.data()) == STAR_OK);
    };
    run(logits);
    CHECK(stages() == std::vector<double>(stages().size(), 0.0));

    REQUIRE(star_context_profile(context.get(), 1) == STAR_OK);
    const auto begun = Clock::now();
    run(measured);
    const double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
    CHECK(measured == logits);
    const std::vector<double> found = stages();
    double total = 0;
    for (std::size_t stage = 0; stage < found.size(); stage++) {
        CHECK(found[stage] > (stage + 1 < found.size() ? 0 : -1e-9));  // the last is what is left over
        total += found[stage];
    }
    CHECK(total > 0);
    CHECK(total <= 2 * seconds);

    REQUIRE(star_context_profile(context.get(), 0) == STAR_OK);
    run(measured);
    CHECK(stages() == std::vector<double>(found.size(), 0.0));

    double ignored = 0;
    CHECK(star_context_stage(context.get(), -1, &ignored) == nullptr);
    CHECK(star_context_stage(context.get(), std::numeric_limits<int32_t>::max(), &ignored) == nullptr);
    CHECK(star_context_stage(context.get(), 0, nullptr) == nullptr);
    CHECK(star_context_stage(nullptr, 0, &ignored) == nullptr);
    check_invalid(star_context_profile(nullptr, 1), "context");
}

TEST_CASE("arguments of features are checked") {
    constexpr int64_t huge = std::numeric_limits<int64_t>::max();
    const Model model = model_of(tiny_files());
    std::vector<float> joints = walk(4), features(4 * 27);
    const auto make = [&](std::vector<int64_t> lengths, int64_t clips, int64_t persons) {
        return star_features(model.get(), joints.data(), lengths.data(), clips, persons, features.data());
    };
    CHECK(make({4, 0}, 1, 2) == STAR_OK);
    CHECK(make({1, 3}, 2, 1) == STAR_OK);
    CHECK(make({0, 0}, 2, 1) == STAR_OK);
    CHECK(star_features(model.get(), nullptr, nullptr, 0, 0, nullptr) == STAR_OK);
    check_invalid(make({1, 1, 5, -1}, 2, 2), "negative length in person_lengths; found: -1 at clip 1, person 1");
    check_invalid(make({huge, 1}, 1, 2), "more rows than memory");
    check_invalid(make({huge / 200, huge / 200}, 1, 2), "more rows than memory");
    check_invalid(make({1}, huge, huge), "more persons than memory");
    check_invalid(make({1}, -1, 1), "clips out of range");
    check_invalid(make({1}, 1, -1), "persons out of range");
    check_invalid(star_features(nullptr, joints.data(), nullptr, 0, 0, features.data()), "model");
    const int64_t lengths[] = {4};
    check_invalid(star_features(model.get(), joints.data(), nullptr, 1, 1, features.data()), "person_lengths");
    check_invalid(star_features(model.get(), nullptr, lengths, 1, 1, features.data()), "joints");
    check_invalid(star_features(model.get(), joints.data(), lengths, 1, 1, nullptr), "features");
    joints[2 * 9 + 5] = std::numeric_limits<float>::quiet_NaN();
    check_invalid(make({4}, 1, 1), "found: row 2, joint 1");
}

TEST_CASE("a stream's prediction is the run on its window") {
    const Model model = model_of(tiny_files());
    const Context context = context_of(model);
    const StreamHandle stream = stream_of(context, 5, 4);
    const std::vector<float> joints = walk(12);
    for (int64_t frame = 0; frame < 12; frame++) {
        const star_person person{42, joints.data() + frame * 9};
        star_stream_result result{};
        float logits[2];
        int32_t ready = -1;
        REQUIRE(star_stream_push(stream.get(), &person, 1, &result, logits, &ready) == STAR_OK);
        REQUIRE(ready == (frame % 4 == 3));
        if (!ready) continue;
        const int64_t rows = std::min<int64_t>(frame + 1, 5);
        CHECK(result.frame == frame + 1);
        CHECK(result.rows == rows);
        const std::vector<float> window(joints.begin() + (frame + 1 - rows) * 9, joints.begin() + (frame + 1) * 9);
        const auto expected = logits_of(model, context, window, {rows});
        CHECK(logits[0] == expected[0]);
        CHECK(logits[1] == expected[1]);
        CHECK(result.label == (expected[1] > expected[0]));
        int64_t id = 0;
        CHECK(star_stream_persons(stream.get(), &id) == STAR_OK);
        CHECK(id == 42);
    }
}

TEST_CASE("arguments of a stream are checked") {
    const Model model = model_of(tiny_files());
    const Context context = context_of(model);
    star_stream *made = nullptr;
    check_invalid(star_stream_create(context.get(), 0, 1, &made), "window of a stream without frames; found: 0");
    check_invalid(star_stream_create(context.get(), 1, -1, &made), "hop of a stream without frames");
    check_invalid(star_stream_create(nullptr, 1, 1, &made), "context");
    check_invalid(star_stream_create(context.get(), 1, 1, nullptr), "stream");

    const StreamHandle stream = stream_of(context, 4, 1);
    const std::vector<float> joints = walk(1), bad(9, NAN);
    const star_person person{1, joints.data()}, twice[] = {person, person}, nan{7, bad.data()}, null{1, nullptr};
    star_stream_result result{};
    int32_t ready = 0;
    check_invalid(star_stream_push(stream.get(), &person, -1, &result, nullptr, &ready), "count out of range");
    check_invalid(star_stream_push(stream.get(), nullptr, 1, &result, nullptr, &ready), "persons");
    check_invalid(star_stream_push(stream.get(), &null, 1, &result, nullptr, &ready), "joints of a person");
    check_invalid(star_stream_push(stream.get(), twice, 2, &result, nullptr, &ready), "twice in one frame; found: id 1");
    check_invalid(star_stream_push(stream.get(), &nan, 1, &result, nullptr, &ready), "where: person 7; found: joint 0");
    check_invalid(star_stream_push(stream.get(), &person, 1, nullptr, nullptr, &ready), "result");
    check_invalid(star_stream_push(stream.get(), &person, 1, &result, nullptr, nullptr), "ready");
    check_invalid(star_stream_push(nullptr, &person, 1, &result, nullptr, &ready), "stream");
    CHECK(star_stream_persons(stream.get(), nullptr) == STAR_OK);  // nobody yet
    CHECK(star_stream_push(stream.get(), nullptr, 0, &result, nullptr, &ready) == STAR_OK);
    CHECK(ready == 1);
    CHECK(result.frame == 1);  // none of the refused frames was taken
    CHECK(result.label == -1);
    CHECK(star_stream_push(stream.get(), &person, 1, &result, nullptr, &ready) == STAR_OK);
    CHECK(result.persons == 1);
    check_invalid(star_stream_persons(stream.get(), nullptr), "ids");
}

TEST_CASE("handles are freed in any order") {
    Model model = model_of(tiny_files());
    Context context = context_of(model);
    const StreamHandle stream = stream_of(context, 4, 1);
    const std::vector<float> expected = logits_of(model, context, walk(1), {1});
    model.reset();
    context.reset();
    const std::vector<float> joints = walk(1);
    const star_person person{1, joints.data()};
    star_stream_result result{};
    float logits[2];
    int32_t ready = 0;
    REQUIRE(star_stream_push(stream.get(), &person, 1, &result, logits, &ready) == STAR_OK);
    CHECK(logits[0] == expected[0]);
    star_model_free(nullptr);
    star_context_free(nullptr);
    star_stream_free(nullptr);
}

TEST_CASE("a thread has its own last error, and a success keeps it") {
    check_invalid(star_model_describe(nullptr, nullptr), "null pointer");
    std::string other = "not set";
    std::thread([&other] { other = star_last_error(); }).join();
    CHECK(other.empty());
    const Model model = model_of(tiny_files());
    CHECK(std::string(star_last_error()).find("null pointer") == 0);
}

TEST_CASE("several contexts run one model from several threads") {
    const Model model = model_of(tiny_files());
    const std::vector<float> joints = walk(30);
    const auto expected = logits_of(model, context_of(model), joints, {30});
    std::vector<std::vector<float>> found(4);
    std::vector<std::thread> threads;
    for (auto &logits : found) threads.emplace_back([&] { logits = logits_of(model, context_of(model), joints, {30}); });
    for (auto &thread : threads) thread.join();
    for (const auto &logits : found) CHECK(logits == expected);
}
