// TensorRT engines behind the C interface's runner, with a TensorRT that has the processor's kernels inside: buckets, padding,
// graphs, memory, and what is refused when an engine is opened. TensorRT itself is not in it.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

#include "engine_file.h"
#include "error.h"
#include "json.h"
#include "random_star.h"
#include "sha256.h"
#include "streams.h"
#include "tensorrt_program.h"

using namespace star;
using namespace star::test;
namespace fs = std::filesystem;

namespace {

const std::vector<Bucket> kBuckets = {{16, 2}, {64, 4}, {128, 8}};
const std::string kVersion = "10.3.0", kKey(16, 'a'), kPlan = "plan";

/// Runs the whole bucket on the processor whenever the stream comes to it.
class FakeContext : public TensorRtContext {
   public:
    FakeContext(std::unique_ptr<Runner> runner, std::vector<Binding> bindings, const bool &fails)
        : runner_(std::move(runner)), bindings_(std::move(bindings)), fails_(fails) {}

    void enqueue(cudaStream_t stream) override {
        if (fails_) throw Error(STAR_MISMATCH, "TensorRT cannot run the engine");
        emulator::enqueue(stream, [this] {
            if (fails_) return cudaErrorInvalidValue;
            const auto *offsets = static_cast<const int32_t *>(at("cu_seqlens").address);
            const std::vector<int64_t> cu_seqlens(offsets, offsets + at("cu_seqlens").shape[0]);
            check_padding(cu_seqlens.back());
            runner_->run(static_cast<const float *>(at("features").address), cu_seqlens.data(),
                         static_cast<int64_t>(cu_seqlens.size()) - 1, static_cast<float *>(at("logits").address));
            return cudaSuccess;
        });
    }

   private:
    const Binding &at(const std::string &name) const {
        return *std::find_if(bindings_.begin(), bindings_.end(), [&](const Binding &one) { return one.name == name; });
    }

    void check_padding(int64_t rows) const {
        const Binding &features = at("features");
        const auto *values = static_cast<const float *>(features.address);
        const int64_t row = features.shape[1] * features.shape[2];
        CHECK(std::all_of(values + rows * row, values + features.shape[0] * row, [](float value) { return value == 0; }));
    }

    const std::unique_ptr<Runner> runner_;
    const std::vector<Binding> bindings_;
    const bool &fails_;
};

/// What a test may change.
struct Fake {
    std::string version = kVersion;
    std::vector<Bucket> profiles = kBuckets;
    std::map<std::string, std::string> tensors = {{"features", "float32"}, {"cu_seqlens", "int32"}, {"logits", "float32"}};
    int64_t classes = 4;
    bool fails = false;
    int contexts = 0;  // made
    std::string plan;  // loaded
    fs::path plugins;  // loaded
};

class FakeEngine : public TensorRtEngine {
   public:
    FakeEngine(Fake &fake, std::shared_ptr<const Program> program) : fake_(fake), program_(std::move(program)) {}
    int profiles() const override { return static_cast<int>(fake_.profiles.size()); }
    std::map<std::string, std::string> tensors() const override { return fake_.tensors; }
    std::vector<int64_t> largest_shape(const std::string &input, int profile) const override {
        const Bucket &bucket = fake_.profiles[static_cast<std::size_t>(profile)];
        if (input == "cu_seqlens") return {bucket.clips + 1};
        return {bucket.rows, program_->config.joints, program_->config.channels};
    }
    std::vector<int64_t> shape(const std::string &) const override { return {-1, fake_.classes}; }
    std::unique_ptr<TensorRtContext> make_context(int, const std::vector<Binding> &bindings, cudaStream_t) override {
        fake_.contexts++;
        return std::make_unique<FakeContext>(program_->make_runner(1), bindings, fake_.fails);
    }

   private:
    Fake &fake_;
    const std::shared_ptr<const Program> program_;
};

class FakeTensorRt : public TensorRt {
   public:
    FakeTensorRt(Fake &fake, const Bundle &bundle) : fake_(fake), bundle_(bundle) {}
    std::string version() const override { return fake_.version; }
    std::unique_ptr<TensorRtEngine> load(const std::string &plan, const fs::path &plugins) override {
        fake_.plan = plan;
        fake_.plugins = plugins;
        return std::make_unique<FakeEngine>(fake_, compile(bundle_, STAR_PRECISION_FP32, STAR_ISA_PORTABLE));
    }

   private:
    Fake &fake_;
    const Bundle &bundle_;
};

void write(const fs::path &path, const std::string &content) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
}

/// A bundle's folder with an engine for the emulated GPU, and the plugins that it needs; gone with it.
class Folder {
   public:
    Folder() {
        std::string name = (fs::temp_directory_path() / "star-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path = name;
        setenv("XDG_CACHE_HOME", (path / "cache").c_str(), 1);
        write(plugins(), "plugins");
        describe(Json::object());
        write(path / "engines/10.3.0-sm87-fp32.engine", kPlan);
    }
    Folder(const Folder &) = delete;
    Folder &operator=(const Folder &) = delete;
    ~Folder() { fs::remove_all(path); }

    fs::path plugins() const { return path / "cache/star-edge/plugins" / kKey / "libstar_edge_trt.so"; }

    /// Writes the description, changed by a JSON merge patch.
    void describe(const Json &patch, const std::string &name = "10.3.0-sm87-fp32") const {
        Json document = {{"schema", "star-edge/engine/1"},
                         {"bundle_id", "b"},
                         {"precision", "fp32"},
                         {"tensorrt", kVersion},
                         {"gpu", {{"name", "emulated GPU"}, {"sm", 87}, {"multiprocessors", 2}, {"integrated", false}}},
                         {"plugin", {{"key", kKey}, {"sources_sha256", ""}, {"sha256", sha256("plugins")}}},
                         {"engine_sha256", sha256(kPlan)},
                         {"profiles", Json::array()}};
        for (const Bucket &bucket : kBuckets) document["profiles"].push_back({{"rows", bucket.rows}, {"clips", bucket.clips}});
        document.merge_patch(patch);
        write(path / "engines" / (name + ".json"), document.dump());
    }

    fs::path path;
};

/// A small model, its engine, and how it is opened.
struct Opened {
    Opened() { bundle.bundle_id = "b"; }
    std::shared_ptr<const Program> open(star_precision precision = STAR_PRECISION_FP32) {
        return compile_for_tensorrt(bundle, precision, folder.path, tensorrt);
    }
    std::vector<float> expected(const Batch &batch) const {
        return run(*compile(bundle, STAR_PRECISION_FP32, STAR_ISA_PORTABLE)->make_runner(1), config, batch);
    }

    const Config config = config_of(5, 9, 4, 16, 4, 2, 8);
    Bundle bundle = random_bundle(config, 1);
    Fake fake;
    FakeTensorRt tensorrt{fake, bundle};
    Folder folder;
};

void check_refused(const std::function<void()> &act, star_status status, const std::vector<std::string> &texts) {
    try {
        act();
        FAIL("was not refused");
    } catch (const Error &error) {
        CHECK(error.status == status);
        for (const std::string &text : texts) {
            CAPTURE(error.what());
            CHECK(std::string(error.what()).find(text) != std::string::npos);
        }
    }
}

void check_refused(Opened &opened, star_status status, const std::vector<std::string> &texts) {
    check_refused([&] { opened.open(); }, status, texts);
}

}  // namespace

TEST_CASE("an engine's logits are those of its kernels, whatever was in its buckets before") {
    for (const bool integrated : {false, true}) {
        emulator::set_integrated(integrated);
        Opened opened;
        opened.folder.describe({{"gpu", {{"integrated", integrated}}}});
        const auto runner = opened.open()->make_runner(3);
        CHECK(runner->threads() == 1);
        for (const std::vector<int64_t> &rows : std::vector<std::vector<int64_t>>{
                 {16}, {3}, {7, 0}, {0}, {1}, {64, 0, 0, 0}, {20, 20}, {128}, {1, 1, 1, 1, 1, 1, 1, 1}, {9}}) {
            const Batch batch = random_batch(opened.config, rows, 3);
            CHECK(run(*runner, opened.config, batch) == opened.expected(batch));
        }
        CHECK(opened.fake.contexts == 3);
    }
    emulator::set_integrated(false);
}

TEST_CASE("a batch that no bucket holds runs in parts") {
    Opened opened;
    const auto runner = opened.open()->make_runner(1);
    const Batch batch = random_batch(opened.config, {100, 40, 0, 128, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}, 4);
    CHECK(run(*runner, opened.config, batch) == opened.expected(batch));
    check_refused([&] { run(*runner, opened.config, random_batch(opened.config, {1, 129}, 5)); }, STAR_UNSUPPORTED,
                  {"longer than the engine's largest bucket", "clip 1; found: 129 rows; expected: at most 128", "--buckets"});
}

TEST_CASE("a bucket is captured once, and copies are made where the GPU has memory of its own") {
    Opened opened;
    const Batch batch = random_batch(opened.config, {16}, 6);
    const auto counted = [&](bool integrated) {
        emulator::set_integrated(integrated);
        opened.folder.describe({{"gpu", {{"integrated", integrated}}}});
        const auto runner = opened.open()->make_runner(1);
        run(*runner, opened.config, batch);
        const emulator::Counts before = emulator::counts();
        for (int i = 0; i < 4; i++) run(*runner, opened.config, batch);
        const emulator::Counts &after = emulator::counts();
        return std::vector<int>{after.captures - before.captures, after.graph_launches - before.graph_launches,
                                after.copies - before.copies};
    };
    CHECK(counted(false) == std::vector<int>{0, 4, 12});
    CHECK(counted(true) == std::vector<int>{0, 4, 0});
    emulator::set_integrated(false);
}

TEST_CASE("time on the GPU is told apart from the whole") {
    Opened opened;
    const auto runner = opened.open()->make_runner(1);
    const Batch batch = random_batch(opened.config, {100}, 6);
    double gpu = -1, rest = -1;
    run(*runner, opened.config, batch);
    CHECK(runner->stage(0, gpu) == std::string("kernels on the GPU"));
    CHECK(gpu == 0);
    runner->profile(true);
    run(*runner, opened.config, batch);
    runner->stage(0, gpu);
    CHECK(runner->stage(1, rest) == std::string("copies and waiting"));
    CHECK(gpu > 0);
    CHECK(rest > 0);
    CHECK(runner->stage(2, rest) == nullptr);
    runner->profile(false);
    runner->stage(0, gpu);
    CHECK(gpu == 0);
}

TEST_CASE("a bucket that failed is made anew") {
    Opened opened;
    const auto runner = opened.open()->make_runner(1);
    const Batch batch = random_batch(opened.config, {16}, 6);
    opened.fake.fails = true;
    check_refused([&] { run(*runner, opened.config, batch); }, STAR_MISMATCH, {"cannot run the engine"});
    opened.fake.fails = false;
    CHECK(run(*runner, opened.config, batch) == opened.expected(batch));
    CHECK(opened.fake.contexts == 2);
    opened.fake.fails = true;
    check_refused([&] { run(*runner, opened.config, batch); }, STAR_INTERNAL, {"launching a graph failed on the GPU"});
    opened.fake.fails = false;
    CHECK(run(*runner, opened.config, batch) == opened.expected(batch));
    CHECK(opened.fake.contexts == 3);
}

TEST_CASE("the plan and the plugins that a description names are loaded") {
    Opened opened;
    const auto program = opened.open();
    CHECK(opened.fake.plan == kPlan);
    CHECK(opened.fake.plugins == opened.folder.plugins());
    CHECK(program->isa == STAR_ISA_TENSORRT);
    CHECK(program->products == "TensorRT 10.3.0");
    CHECK(program->compute == "fp32");
    // the last step of a killed build is missing: the file has its hash in its name
    const fs::path engines = opened.folder.path / "engines";
    write(engines / ("10.3.0-sm87-fp32." + sha256("newer").substr(0, 16) + ".engine"), "newer");
    opened.folder.describe({{"engine_sha256", sha256("newer")}});
    opened.open();
    CHECK(opened.fake.plan == "newer");
}

TEST_CASE("an engine that was not made for what is here is refused, with the command that mends it") {
    Opened opened;
    const std::string mend = "star-edge build " + opened.folder.path.string() + " --fp32";
    const std::string sha(64, 'c');
    const std::tuple<Json, std::string, std::string> cases[] = {
        {{{"precision", "fp16"}}, "of another precision", "found: fp32 here; expected: fp16"},
        {{{"bundle_id", "x"}}, "bundle was changed", "found: b here; expected: x"},
        {{{"engine_sha256", sha}}, "not the one that was built", "expected: " + sha},
        {{{"tensorrt", "10.13.3"}}, "another TensorRT", "found: TensorRT 10.3.0 here; expected: TensorRT 10.13.3"},
        {{{"gpu", {{"sm", 110}}}}, "for another GPU", "found: sm_87 here; expected: sm_110"},
        {{{"gpu", {{"multiprocessors", 8}}}}, "power mode", "found: emulated GPU, 2 SMs here; expected: emulated GPU, 8 SMs"},
        {{{"gpu", {{"name", "Orin"}}}}, "on another GPU", "expected: Orin, 2 SMs"},
        {{{"plugin", {{"sha256", sha}}}}, "plugins are not here", "expected: " + sha},
    };
    for (const auto &[patch, reason, detail] : cases) {
        opened.folder.describe(patch);
        check_refused(opened, STAR_MISMATCH, {reason, detail, mend, "10.3.0-sm87-fp32.json"});
    }
    opened.folder.describe(Json::object());
    fs::remove(opened.folder.plugins());
    check_refused(opened, STAR_MISMATCH, {"found: no plugin library here", mend + ", which compiles them"});
}

TEST_CASE("an engine for another machine is named where there is none for this one") {
    Opened opened;
    const fs::path engines = opened.folder.path / "engines";
    opened.fake.version = "10.13.3";
    check_refused(opened, STAR_MISMATCH, {"another TensorRT", "10.3.0-sm87-fp32.json", "found: TensorRT 10.13.3 here"});
    check_refused(
        [&] { opened.open(STAR_PRECISION_FP16); }, STAR_IO,
        {"no TensorRT engine in fp16", "found: 10.3.0-sm87-fp32.engine", "expected: 10.13.3-sm87-fp16.engine", "--fp16"});
    check_refused([&] { opened.open(STAR_PRECISION_BF16); }, STAR_UNSUPPORTED, {"bf16"});
    fs::remove(engines / "10.3.0-sm87-fp32.engine");
    check_refused(opened, STAR_IO, {"file is missing", "10.3.0-sm87-fp32.engine"});
    fs::remove_all(engines);
    check_refused(opened, STAR_IO, {"found: no engine; expected: 10.13.3-sm87-fp32.engine"});
    check_refused([&] { compile_for_tensorrt(opened.bundle, STAR_PRECISION_FP32, {}, opened.tensorrt); }, STAR_UNSUPPORTED,
                  {"bundle in memory", "--unpack"});
}

TEST_CASE("an engine with other tensors than its description is refused before it gets an address") {
    const std::pair<std::function<void(Fake &)>, std::string> cases[] = {
        {[](Fake &fake) { fake.profiles.pop_back(); }, "profiles; found: 2; expected: 3"},
        {[](Fake &fake) { fake.profiles[1].rows = 63; }, "features of profile 1; found: [63, 5, 9]; expected: [64, 5, 9]"},
        {[](Fake &fake) { fake.profiles[2].clips = 9; }, "cu_seqlens of profile 2; found: [10]; expected: [9]"},
        {[](Fake &fake) { fake.tensors["logits"] = "type 1"; }, "logits; found: type 1; expected: float32"},
        {[](Fake &fake) { fake.tensors.erase("cu_seqlens"); }, "tensors; found: 2; expected: 3"},
        {[](Fake &fake) { fake.tensors["more"] = "int32"; }, "tensors; found: 4; expected: 3"},
        {[](Fake &fake) { fake.classes = 5; }, "logits; found: [-1, 5]; expected: [-1, 4]"},
    };
    for (const auto &[change, detail] : cases) {
        Opened opened;
        change(opened.fake);
        check_refused(opened, STAR_MISMATCH, {"other tensors than its description says", detail});
        CHECK(opened.fake.contexts == 0);
    }
}

TEST_CASE("a damaged description is refused") {
    Opened opened;
    const fs::path description = opened.folder.path / "engines/10.3.0-sm87-fp32.json";
    const auto bucket = [](int64_t rows, int64_t clips) { return Json{{"rows", rows}, {"clips", clips}}; };
    const Json cases[] = {
        {{"profiles", Json::array()}},
        {{"profiles", Json::array({bucket(64, 4), bucket(64, 4)})}},
        {{"profiles", Json::array({bucket(64, 4), bucket(16, 2)})}},
        {{"profiles", Json::array({bucket(0, 4)})}},
        {{"profiles", Json::array({bucket(1, -4)})}},
        {{"profiles", 3}},
        {{"plugin", {{"key", "../../../etc/passwd"}}}},
        {{"plugin", nullptr}},
        {{"engine_sha256", std::string(64, 'A')}},
        {{"gpu", {{"sm", "87"}}}},
        {{"gpu", {{"integrated", 1}}}},
        {{"schema", "star-edge/bundle/1"}},
    };
    for (const Json &patch : cases) {
        CAPTURE(patch.dump());
        opened.folder.describe(patch);
        check_refused(opened, STAR_BAD_FILE, {description.string()});
    }
    opened.folder.describe({{"schema", "star-edge/engine/2"}});
    check_refused(opened, STAR_MISMATCH, {"newer star-edge"});
    opened.folder.describe(Json::object());
    std::string whole(fs::file_size(description), '\0');
    std::ifstream(description, std::ios::binary).read(whole.data(), static_cast<std::streamsize>(whole.size()));
    for (std::size_t length = 0; length < whole.size(); length += 7) {
        CHECK_THROWS_AS(parse_engine_file(std::string_view(whole).substr(0, length), description), Error);
        std::string damaged = whole;
        damaged[length] = '\xff';
        CHECK_THROWS_AS(parse_engine_file(damaged, description), Error);
    }
}
