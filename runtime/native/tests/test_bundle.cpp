// The bundle reader: what a maker writes is read as it was, and what is damaged, contradicts itself or lies is refused with a
// reason.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "bundle_writer.h"
#include "error.h"
#include "message.h"

using namespace star;
using namespace star::test;

namespace {

/// Status and message of what must be refused.
struct Refusal {
    star_status status = STAR_OK;
    std::string text;
    bool says(const std::string &part) const { return text.find(part) != text.npos; }
};

Refusal refusal_of(const std::function<void()> &body) {
    try {
        body();
    } catch (const Error &error) {
        return {error.status, error.what()};
    }
    return {};
}

void check_refused(const Refusal &refusal, star_status status, const std::string &part) {
    CAPTURE(part);
    CHECK(refusal.text != "");
    CAPTURE(refusal.text);
    CHECK(refusal.status == status);
    CHECK(refusal.says(part));
    CHECK(refusal.text.find('\n') == refusal.text.npos);
}

Refusal refusal_of(const Files &files) {
    return refusal_of([&] { parse_bundle(files.bytes()); });
}

/// Of a sealed bundle whose manifest was changed at a JSON pointer; the identity is that of the changed content where it has
/// one.
Refusal refusal_of_manifest(const std::string &pointer, const Json &value) {
    Json manifest = Json::parse(tiny_files().manifest);
    manifest[Json::json_pointer(pointer)] = value;
    try {
        manifest["bundle_id"] = identity_of(manifest);
    } catch (const Malformed &) {
    }
    Files files = tiny_files();
    files.manifest = manifest.dump();
    return refusal_of(files);
}

Refusal refusal_without(const std::string &parent, const std::string &field) {
    Files files = tiny_files();
    Json manifest = Json::parse(files.manifest);
    manifest[Json::json_pointer(parent)].erase(field);
    files.manifest = manifest.dump();
    return refusal_of(files);
}

Refusal refusal_of_weights(const std::string &weights) { return refusal_of(seal(tiny_manifest(), weights)); }

Refusal refusal_of_tensors(const std::function<void(std::map<std::string, Tensor> &)> &change) {
    std::map<std::string, Tensor> tensors = tiny_tensors();
    change(tensors);
    return refusal_of_weights(safetensors(tensors));
}

Refusal refusal_of_table(const std::string &pointer, const Json &value) {
    Files files = calibrated_files();
    Json table = Json::parse(files.calibration), manifest = Json::parse(files.manifest);
    table[Json::json_pointer(pointer)] = value;
    return refusal_of(seal(manifest, files.weights, table.dump()));
}

/// A folder of its own, removed at the end.
class Folder {
   public:
    Folder() : path(std::filesystem::temp_directory_path() / ("star_bundle_" + std::to_string(::getpid()))) {
        std::filesystem::remove_all(path);
        std::filesystem::create_directory(path);
    }
    ~Folder() { std::filesystem::remove_all(path); }
    void write(const std::string &name, const std::string &content) const {
        std::ofstream(path / name, std::ios::binary) << content;
    }
    void write(const Files &files) const {
        write(kManifest, files.manifest);
        write(kWeights, files.weights);
        if (!files.calibration.empty()) write(kCalibration, files.calibration);
    }
    Refusal refusal() const {
        return refusal_of([this] { read_bundle(path); });
    }
    const std::filesystem::path path;
};

}  // namespace

TEST_CASE("a bundle is read as it was written") {
    const Files files = tiny_files();
    const Bundle bundle = parse_bundle(files.bytes());
    CHECK(bundle.model_name == "star-4");
    CHECK(bundle.bundle_id == Json::parse(files.manifest)["bundle_id"]);
    CHECK(bundle.default_precision == "fp32");
    CHECK(bundle.class_names == std::vector<std::string>{"wave", "sit"});
    CHECK(bundle.config.joints == 3);
    CHECK(bundle.config.hidden == 5);
    CHECK(bundle.config.edges.size() == 7);
    CHECK(bundle.config.edges[4] == std::pair<int32_t, int32_t>(1, 2));
    CHECK(bundle.features.parents == std::vector<int32_t>{0, 0, 1});
    CHECK(bundle.features.centre);
    CHECK(bundle.ranges.empty());
    CHECK(bundle.quantised.empty());
    const auto tensors = tiny_tensors();
    REQUIRE(bundle.weights.size() == tensors.size());
    for (const auto &[name, tensor] : tensors) {
        CHECK(bundle.weights.at(name).shape == tensor.shape);
        CHECK(bundle.weights.at(name).data == tensor.data);
    }
}

TEST_CASE("a calibrated bundle has ranges and quantised modules") {
    const Bundle bundle = parse_bundle(calibrated_files().bytes());
    CHECK(bundle.quantised == star_quantisable_modules(bundle.config));
    CHECK(bundle.ranges.at("layers.0.temporal.linear2.in") == 4.0f);
}

TEST_CASE("layers of low rank and of other widths are read as their matrices") {
    const Bundle bundle = parse_bundle(thin_files().bytes());
    CHECK(bundle.config.hidden == 7);
    CHECK(bundle.config.widths ==
          std::map<std::string, int64_t>{{"layers.0.spatial.linear1", 3}, {"layers.0.temporal.linear1", 9}});
    CHECK(bundle.config.ranks.size() == 6);
    const auto shape = [&bundle](const std::string &name) { return bundle.weights.at(name).shape; };
    CHECK(shape("layers.0.temporal.qkv.first.weight") == std::vector<int64_t>{3, 4});
    CHECK(shape("layers.0.temporal.qkv.second.weight") == std::vector<int64_t>{12, 3});
    CHECK(shape("layers.0.spatial.linear1.second.bias") == std::vector<int64_t>{3});
    CHECK(shape("layers.0.spatial.linear2.weight") == std::vector<int64_t>{4, 3});
    CHECK(shape("layers.0.temporal.linear2.first.weight") == std::vector<int64_t>{4, 9});
    CHECK(shape("head.hidden.first.weight") == std::vector<int64_t>{6, 12});
    CHECK(shape("head.output.weight") == std::vector<int64_t>{2, 7});
    CHECK(bundle.quantised.size() == 8 + 5);
    CHECK(bundle.quantised.count("head.hidden.second") == 1);
    CHECK(bundle.quantised.count("embedding.first") == 0);
}

TEST_CASE("modules left in float are not quantised") {
    Files files = calibrated_files();
    Json manifest = Json::parse(files.manifest);
    manifest["nodes"]["int8"]["head.output"] = "fp16";
    files = seal(manifest, files.weights, files.calibration);
    const Bundle bundle = parse_bundle(files.bytes());
    CHECK(bundle.quantised.count("head.output") == 0);
    CHECK(bundle.quantised.count("head.hidden") == 1);
}

// made with runtime/manifest.py
TEST_CASE("bundle_id is what Python makes of the same manifest") {
    const Json manifest = parse_json(
        R"({"model":{"name":"star-64","config":{"dropout":0.1,"edges":[[0,0],[1,1]],"exact":9007199254740992.0,)"
        R"("head_dropout":0.0,"joints":2,"large":2.5e20,"none":null,"on":true,"rate":1e-7,"tiny":0.00001234}},)"
        R"("skeleton":{"name":"zwei \"é\"","joints":["a\n","b\u2028"],"bones":[[1,0]],"root":0,"pairs":[],"dims":3},)"
        R"("features":{"channels":3,"centre":"none"},"class_names":["wave \\ 😀","sit"],"default_precision":"fp32",)"
        R"("ops":[{"name":"StarSparseAttention","domain":"star_edge","version":1,"modules":["layers.0"]},)"
        R"({"name":"X","domain":"star_edge","version":1,"modules":[]}],"files":{)"
        R"("golden.npz":{"path":"g","bytes":1,"sha256":"2222222222222222222222222222222222222222222222222222222222222222"},)"
        R"("model.fp32.onnx":{"path":"m","bytes":1,)"
        R"("sha256":"0000000000000000000000000000000000000000000000000000000000000000"},)"
        R"("weights.safetensors":{"path":"w","bytes":1,)"
        R"("sha256":"1111111111111111111111111111111111111111111111111111111111111111"}}})");
    CHECK(identity_of(manifest) == "b58de583a40b70b7d1f8dcf0145cb9f5fb0cd3051977e610ca665ba636087b3a");
}

TEST_CASE("a manifest that was changed is refused") {
    Files files = tiny_files();
    Json manifest = Json::parse(files.manifest);
    manifest["class_names"] = {"sit", "wave"};
    files.manifest = manifest.dump();
    check_refused(refusal_of(files), STAR_MISMATCH, "changed after it was written");
}

TEST_CASE("schemas") {
    check_refused(refusal_of_manifest("/schema", "star-edge/bundle/2"), STAR_MISMATCH, "newer star-edge");
    check_refused(refusal_of_manifest("/schema", "star-edge/bundle/99999999999999999999"), STAR_MISMATCH, "newer star-edge");
    for (const char *other : {"star-edge/bench/1", "star-edge/bundle/0", "star-edge/bundle/", "star-edge/bundle/-1", "1", ""})
        check_refused(refusal_of_manifest("/schema", other), STAR_BAD_FILE, "another kind");
    check_refused(refusal_of_manifest("/schema", 1), STAR_BAD_FILE, "a text");
}

TEST_CASE("manifests that cannot be used") {
    const std::string hash(64, 'a');
    const auto file = [&](const Json &path, const Json &bytes, const Json &sha) {
        return Json{{"path", path}, {"bytes", bytes}, {"sha256", sha}};
    };
    const std::pair<std::pair<std::string, Json>, std::string> cases[] = {
        {{"/skeleton/root", 3}, "0 to 2"},
        {{"/skeleton/root", 0.0}, "an integer"},
        {{"/skeleton/root", 1}, "joint 0 without a parent"},
        {{"/skeleton/dims", 4}, "2 to 3"},
        {{"/skeleton/joints", {"one"}}, "1 joints"},
        {{"/skeleton/joints", {"a", "b", 3}}, "a text"},
        {{"/skeleton/bones", {{1, 0}, {2, 7}}}, "0 to 2"},
        {{"/skeleton/bones", {{1, 0}, {2, -1}}}, "0 to 2"},
        {{"/skeleton/bones", {{1, 0}, {2, 18446744073709551615u}}}, "0 to 2"},
        {{"/skeleton/bones", {{1, 0}, {2}}}, "1 joints"},
        {{"/skeleton/bones", {{1, 1}, {2, 1}}}, "with itself"},
        {{"/skeleton/bones", {{1, 0}, {1, 2}}}, "without a parent or with two"},
        {{"/skeleton/bones", {{1, 2}, {2, 1}}}, "a cycle"},
        {{"/skeleton/pairs", {{0, 3}}}, "0 to 2"},
        {{"/skeleton/pairs", {{1, 1}}}, "with itself"},
        {{"/features/channels", 6}, "3, 4, 9 or 10"},
        {{"/features/centre", "hips"}, "one of root, none"},
        {{"/class_names", Json::array()}, "0 class_names"},
        {{"/default_precision", "fp64"}, "one of fp32, fp16, bf16, int8"},
        {{"/default_precision", "fp16"}, "default precision has no model"},
        {{"/files/other", file("other", 1, hash)}, "unknown file"},
        {{"/files/golden.npz", file("../golden.npz", 1, hash)}, "outside the bundle"},
        {{"/files/golden.npz", file("", 1, hash)}, "outside the bundle"},
        {{"/files/golden.npz", file(".hidden", 1, hash)}, "outside the bundle"},
        {{"/files/golden.npz", file("a/b", 1, hash)}, "outside the bundle"},
        {{"/files/golden.npz", file("a\\b", 1, hash)}, "outside the bundle"},
        {{"/files/golden.npz", file(std::string("a\0b", 3), 1, hash)}, "outside the bundle"},
        {{"/files/golden.npz", file("weights.safetensors", 1, hash)}, "share one file"},
        {{"/files/golden.npz", file("golden.npz", -1, hash)}, "-1"},
        {{"/files/golden.npz", file("golden.npz", 1, "A" + hash.substr(1))}, "64 hex digits"},
        {{"/files/golden.npz", file("golden.npz", 1, "abc")}, "64 hex digits"},
        {{"/model", "star-64"}, "an object"},
        {{"/ops", {{{"name", "X"}, {"domain", "star_edge"}}}}, "no 'version'"},
    };
    for (const auto &[change, part] : cases) {
        CAPTURE(change.first);
        check_refused(refusal_of_manifest(change.first, change.second), STAR_BAD_FILE, part);
    }
    check_refused(refusal_without("/files", "golden.npz"), STAR_BAD_FILE, "incomplete bundle");
    for (const char *field :
         {"schema", "model", "skeleton", "features", "class_names", "default_precision", "files", "bundle_id"})
        check_refused(refusal_without("", field), STAR_BAD_FILE, std::string("no '") + field + "'");
}

TEST_CASE("configurations that cannot be used") {
    const std::pair<std::pair<std::string, Json>, std::string> cases[] = {
        {{"joints", 1}, "2 to 1024"},
        {{"joints", 1025}, "2 to 1024"},
        {{"joints", "3"}, "an integer"},
        {{"channels", 10}, "3 to 9"},
        {{"classes", 0}, "1 to 65536"},
        {{"dim", 0}, "1 to 4096"},
        {{"dim", 4097}, "1 to 4096"},
        {{"dim", 9223372036854775807}, "1 to 4096"},
        {{"heads", 3}, "heads that divide dim"},
        {{"heads", 0}, "1 to 4096"},
        {{"layers", 65}, "1 to 64"},
        {{"hidden", 65537}, "1 to 65536"},
        {{"dropout", "none"}, "a number"},
        {{"edges", {{0, 0}, {1, 1}, {2, 3}}}, "0 to 2"},
        {{"edges", {{0, 0}, {1, 1}, {2, 2}, {0, 0}}}, "each pair once"},
        {{"edges", {{0, 0}, {1, 1}}}, "joint 2 without an edge"},
        {{"edges", Json::array()}, "joint 0 without an edge"},
        {{"edges", std::vector<std::vector<int>>(10, {0, 0})}, "at most 9"},
        {{"edges", 3}, "an array"},
        {{"ranks", 3}, "an object"},
        {{"ranks", {{"head.hidden", 0}}}, "1 to 5"},
        {{"ranks", {{"head.hidden", -1}}}, "1 to 5"},
        {{"ranks", {{"head.hidden", 6}}}, "1 to 5"},
        {{"ranks", {{"head.hidden", 2.0}}}, "an integer"},
        {{"ranks", {{"layers.0.spatial.qkv", 5}}}, "'$.model.config.ranks.layers.0.spatial.qkv'; expected: 1 to 4"},
        {{"ranks", {{"layers.1.spatial.qkv", 1}}}, "'layers.1.spatial.qkv' in $.model.config.ranks"},
        {{"ranks", {{"context", 1}}}, "the path of a linear layer"},
        {{"ranks", {{"head.hidden.first", 1}}}, "the path of a linear layer"},
        {{"widths", {"head.hidden"}}, "an object"},
        {{"widths", {{"head.hidden", 0}}}, "1 to 65536"},
        {{"widths", {{"layers.0.temporal.linear1", 65537}}}, "1 to 65536"},
        {{"widths", {{"layers.0.temporal.linear1", "4"}}}, "an integer"},
        {{"widths", {{"layers.0.temporal.linear2", 4}}}, "'layers.0.temporal.linear2' in $.model.config.widths"},
        {{"widths", {{"layers.1.temporal.linear1", 4}}}, "linear1 of an encoder, or head.hidden"},
        {{"experts", 0}, "1 to 2147483647"},
        {{"experts", "2"}, "an integer"},
    };
    for (const auto &[change, part] : cases) {
        CAPTURE(change.first);
        check_refused(refusal_of_manifest("/model/config/" + change.first, change.second), STAR_BAD_FILE, part);
    }
}

TEST_CASE("parts of a manifest that contradict each other are refused") {
    for (const auto &[pointer, value] : std::vector<std::pair<std::string, Json>>{{"/features/channels", 3},
                                                                                  {"/class_names", {"one"}},
                                                                                  {"/model/config/channels", 4},
                                                                                  {"/model/config/classes", 3}})
        check_refused(refusal_of_manifest(pointer, value), STAR_MISMATCH, "does not fit");
}

TEST_CASE("another family of models is refused by name") {
    check_refused(refusal_of_manifest("/model/config/temporal_kernel", 9), STAR_UNSUPPORTED, "star-4");
    check_refused(refusal_of_manifest("/features/channels", 4), STAR_UNSUPPORTED, "star-4");
    Json manifest = tiny_manifest();
    manifest["model"] = {{"name", "ctr-gcn"}, {"config", Json::object()}};
    check_refused(refusal_of(seal(manifest, safetensors(tiny_tensors()))), STAR_UNSUPPORTED, "ctr-gcn");
}

TEST_CASE("an ensemble is refused with the engine that runs it") {
    const Refusal refusal = refusal_of_manifest("/model/config/experts", 4);
    check_refused(refusal, STAR_UNSUPPORTED, "no ensembles; where: manifest.json; found: 4 experts; expected: 1");
    check_refused(refusal, STAR_UNSUPPORTED, "use the engine onnxruntime");
}

TEST_CASE("a message is one line whatever a file holds") {
    Json manifest = tiny_manifest();
    manifest["model"] = {{"name", "a\nb\x7f" + std::string(200, 'c')}, {"config", 1}};
    const Refusal refusal = refusal_of(seal(manifest, safetensors(tiny_tensors())));
    check_refused(refusal, STAR_UNSUPPORTED, "'a?b?ccc");
    CHECK(refusal.text.size() < 300);
    CHECK(in_quotes(std::string(79, 'a') + "é") == "'" + std::string(79, 'a') + "...'");  // not half a character
}

TEST_CASE("text that is no JSON of ours is refused") {
    const auto refused = [](const std::string &manifest, const std::string &part) {
        Files files = tiny_files();
        files.manifest = manifest;
        check_refused(refusal_of(files), STAR_BAD_FILE, part);
    };
    const std::string good = tiny_files().manifest;
    refused("", "end of input");
    refused("[]", "an object");
    refused("null", "an object");
    refused(good.substr(0, good.size() / 2), "cannot read the manifest");
    refused(good + "x", "cannot read the manifest");
    refused(R"({"schema": "star-edge/bundle/1", "schema": "star-edge/bundle/1"})", "'schema' twice");
    refused(R"({"a": {"b": 1, "b": 2}})", "'b' twice");
    refused(R"({"a": 1e999})", "cannot read the manifest");
    refused("{\"a\": \"\xff\"}", "UTF-8");
    refused(R"({"a": "\ud800"})", "cannot read the manifest");
    refused(std::string(100000, '['), "nested too deep");
    std::string deep;
    for (int i = 0; i < 100; i++) deep += "{\"a\":";
    refused(deep, "nested too deep");
}

TEST_CASE("weights that do not fit the configuration are refused") {
    check_refused(refusal_of_manifest("/model/config/ranks", {{"head.hidden", 2}}), STAR_BAD_FILE,
                  "no 'head.hidden.first.weight'; expected: F32 [2, 12]");
    check_refused(refusal_of_manifest("/model/config/widths", {{"layers.0.spatial.linear1", 3}}), STAR_BAD_FILE, "F32 [3]");
    check_refused(refusal_of_manifest("/model/config/widths", {{"head.hidden", 6}}), STAR_BAD_FILE, "F32 [6]");
    check_refused(refusal_of_tensors([](auto &tensors) { tensors.erase("context.weight"); }), STAR_BAD_FILE,
                  "no 'context.weight'");
    check_refused(refusal_of_tensors([](auto &tensors) { tensors["layers.1.spatial.qkv.weight"] = {{1}, {0.0f}}; }),
                  STAR_BAD_FILE, "unknown tensor");
    check_refused(refusal_of_tensors([](auto &tensors) { tensors["context.weight"].shape = {2, 8}; }), STAR_BAD_FILE,
                  "F32 [2, 8]");
    check_refused(refusal_of_tensors([](auto &tensors) { tensors["context.weight"].shape = {16}; }), STAR_BAD_FILE,
                  "F32 [16]");
    for (const float bad : {NAN, INFINITY, -INFINITY})
        check_refused(refusal_of_tensors([bad](auto &tensors) { tensors["embedding.bias"].data[3] = bad; }), STAR_BAD_FILE,
                      "at index 3");
    check_refused(refusal_of_tensors([](auto &tensors) { tensors["input_norm.running_var"].data[0] = -1; }), STAR_BAD_FILE,
                  "variance");
}

TEST_CASE("a batch counter that training leaves is ignored") {
    std::map<std::string, Tensor> tensors = tiny_tensors();
    std::string file = safetensors(tensors);
    const std::size_t header_size = static_cast<unsigned char>(file[0]) + 256 * static_cast<unsigned char>(file[1]);
    Json header = Json::parse(file.substr(8, header_size));
    const std::size_t data_size = file.size() - 8 - header_size;
    header["input_norm.num_batches_tracked"] = {
        {"dtype", "I64"}, {"shape", Json::array()}, {"data_offsets", {data_size, data_size + 8}}};
    // an odd header puts every tensor at an odd address
    std::string text = header.dump();
    text.resize(text.size() + 1 + text.size() % 2, ' ');
    const Bundle bundle =
        parse_bundle(seal(tiny_manifest(), safetensors(text, file.substr(8 + header_size) + std::string(8, '\1'))).bytes());
    CHECK(bundle.weights.count("input_norm.num_batches_tracked") == 0);
    CHECK(bundle.weights.at("context.weight").data == tensors.at("context.weight").data);
}

TEST_CASE("containers that lie are refused") {
    const auto entry = [](const std::string &dtype, const std::string &shape, const std::string &offsets) {
        return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
    };
    const auto refused = [](const std::string &file, const std::string &part) {
        CAPTURE(file);
        check_refused(refusal_of_weights(file), STAR_BAD_FILE, part);
    };
    const std::string data(8, '\0');
    refused("", "0 bytes");
    refused("1234567", "7 bytes");
    refused(std::string(8, '\xff'), "at most 0");
    refused(std::string("\x00\x00\x00\x00\x00\x00\x00\x80", 8) + data, "at most 8");
    refused(std::string("\x09\0\0\0\0\0\0\0", 8) + data, "at most 8");
    refused(safetensors(std::string(2 << 20, ' '), ""), "at most 1048576");
    refused(safetensors("", ""), "cannot read the weights");
    refused(safetensors("[]", ""), "an object");
    refused(safetensors("{}", data), "0 bytes");
    refused(safetensors(R"({"a":1})", data), "an object");
    refused(safetensors(entry("F16", "[4]", "[0,8]"), data), "one of F32, I64");
    refused(safetensors(entry("F32", "[2]", "[0,9]"), data), "0 to 8");
    refused(safetensors(entry("F32", "[2]", "[-1,7]"), data), "0 to 8");
    refused(safetensors(entry("F32", "[2]", "[8,0]"), data), "8 to 8");
    refused(safetensors(entry("F32", "[2]", "[0]"), data), "begin and end");
    refused(safetensors(entry("F32", "[2]", "[0,4]"), data), "8 for F32 [2]");
    refused(safetensors(entry("F32", "[-2]", "[0,8]"), data), "-2");
    refused(safetensors(entry("F32", "[2.0]", "[0,8]"), data), "an integer");
    refused(safetensors(entry("F32", "[4294967296,4294967296]", "[0,8]"), data), "larger than the file");
    refused(safetensors(entry("F32", "[9223372036854775807,2]", "[0,8]"), data), "larger than the file");
    refused(safetensors(entry("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), data), "9 axes");
    refused(safetensors(entry("F32", "[1]", "[0,4]"), data), "4 bytes");
    refused(safetensors(entry("F32", "[1]", "[4,8]"), data), "begins at byte 4");
    const std::string overlapping =
        R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})";
    refused(safetensors(overlapping, data), "begins at byte 4");
}

TEST_CASE("calibration tables that cannot be used") {
    const std::string range = "/ranges/head.hidden.in";
    for (const Json &bad : {Json(0), Json(-1.5), Json(1e39), Json(1e-60)})
        check_refused(refusal_of_table(range, bad), STAR_BAD_FILE, "range of 'head.hidden.in' cannot become a scale");
    check_refused(refusal_of_table(range, nullptr), STAR_BAD_FILE, "a number");
    check_refused(refusal_of_table("/ranges", Json::object()), STAR_BAD_FILE, "without ranges");
    check_refused(refusal_of_table("/ranges", {{"embedding.in", 1}}), STAR_MISMATCH, "lacks a range");
    check_refused(refusal_of_table("/samples", 2), STAR_BAD_FILE, "contradicts itself");
    check_refused(refusal_of_table("/schema", "star-edge/calibration/2"), STAR_MISMATCH, "newer star-edge");
    check_refused(refusal_of_table("/weights_sha256", std::string(64, '0')), STAR_MISMATCH, "other weights");
}

TEST_CASE("a module that cannot be quantised is refused") {
    Files files = calibrated_files();
    for (const char *module : {"embedding", "context", "head.hidden.first", "layers.1.spatial.qkv", "nothing"}) {
        Json manifest = Json::parse(files.manifest);
        manifest["nodes"]["int8"][module] = "int8";
        check_refused(refusal_of(seal(manifest, files.weights, files.calibration)), STAR_BAD_FILE, "can be quantised");
    }
}

TEST_CASE("bytes of another size than the manifest's are refused") {
    Files files = calibrated_files();
    files.weights += ' ';
    check_refused(refusal_of(files), STAR_MISMATCH, "weights.safetensors is not the file");
    files = calibrated_files();
    files.calibration.clear();
    check_refused(refusal_of(files), STAR_MISMATCH, "calibration.json is not the file");
    files = tiny_files();
    files.calibration = "{}";
    check_refused(refusal_of(files), STAR_MISMATCH, "calibration.json is not the file");
}

TEST_CASE("a folder is read without the files of other engines") {
    const Folder folder;
    folder.write(calibrated_files());
    const Bundle bundle = read_bundle(folder.path);
    CHECK(bundle.quantised.size() == 8);
    CHECK(bundle.weights.at("context.weight").data == tiny_tensors().at("context.weight").data);
}

TEST_CASE("files are found by their logical names") {
    const Folder folder;
    Files files = tiny_files();
    Json manifest = Json::parse(files.manifest);
    manifest["files"][kWeights]["path"] = "weights.0123abcd.safetensors";
    folder.write(kManifest, manifest.dump());
    folder.write("weights.0123abcd.safetensors", files.weights);
    CHECK(read_bundle(folder.path).weights.size() == tiny_tensors().size());
}

TEST_CASE("damaged folders are refused") {
    const Folder folder;
    check_refused(folder.refusal(), STAR_IO, "a folder without manifest.json");
    check_refused(refusal_of([&] { read_bundle(folder.path / "absent"); }), STAR_IO, "found: nothing");
    folder.write(calibrated_files());
    check_refused(refusal_of([&] { read_bundle(folder.path / kWeights); }), STAR_IO, "found: a file");

    std::string weights = calibrated_files().weights;
    weights.back() ^= 1;
    folder.write(kWeights, weights);
    check_refused(folder.refusal(), STAR_MISMATCH, "SHA-256");
    folder.write(kWeights, weights + " ");
    check_refused(folder.refusal(), STAR_MISMATCH, "bytes");
    std::filesystem::remove(folder.path / kWeights);
    check_refused(folder.refusal(), STAR_MISMATCH, "missing");
    std::filesystem::create_directory(folder.path / kWeights);
    check_refused(folder.refusal(), STAR_MISMATCH, "missing");

    folder.write(kManifest, std::string((16 << 20) + 1, ' '));
    check_refused(folder.refusal(), STAR_BAD_FILE, "too large");
}

TEST_CASE("SHA-256 is that of the standard") {
    CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}
