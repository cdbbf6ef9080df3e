// Bundles for tests, made in memory: a tiny STAR whose parts a test changes before, or after, their hashes are taken.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "bundle.h"
#include "json.h"
#include "manifest.h"
#include "sha256.h"
#include "star_config.h"

namespace star::test {

/// Files of a bundle as they would be in its folder.
struct Files {
    std::string manifest, weights, calibration;
    BundleBytes bytes() const { return {manifest, weights, calibration}; }
};

/// A manifest without files: three joints in a chain, two classes.
inline Json tiny_manifest() {
    return Json::parse(R"({
        "schema": "star-edge/bundle/1", "star_edge_version": "0.1.0",
        "model": {"name": "star-4", "config": {
            "joints": 3, "channels": 9, "classes": 2, "dim": 4, "heads": 2, "layers": 1, "hidden": 5,
            "edges": [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 1], [2, 2]],
            "dropout": 0.0, "attention_dropout": 0.1, "head_dropout": 0.0}},
        "skeleton": {"name": "chain", "joints": ["hip", "spine", "head"], "bones": [[1, 0], [2, 1]], "root": 0, "dims": 3},
        "features": {"channels": 9, "centre": "root"},
        "class_names": ["wave", "sit"], "default_precision": "fp32", "files": {}, "bundle_id": ""})");
}

/// Every tensor that a configuration needs; repeatable values around zero, variances around one.
inline std::map<std::string, Tensor> random_tensors(const Config &config) {
    uint32_t state = 1;
    std::map<std::string, Tensor> tensors;
    for (const auto &[name, shape] : star_tensors(config)) {
        int64_t size = 1;
        for (const int64_t length : shape) size *= length;
        Tensor tensor{shape, {}};
        for (int64_t i = 0; i < size; i++) {
            state = state * 1664525u + 1013904223u;
            const float value = static_cast<float>(state >> 8) / static_cast<float>(1 << 24) - 0.5f;
            tensor.data.push_back(name.ends_with("running_var") ? 1 + value : value);
        }
        tensors.emplace(name, std::move(tensor));
    }
    return tensors;
}

inline Config config_of(const Json &manifest) { return read_star_config(Value(manifest).at("model").at("config")); }

inline std::map<std::string, Tensor> tiny_tensors() { return random_tensors(config_of(tiny_manifest())); }

/// A container with a header that may lie.
inline std::string safetensors(const std::string &header, const std::string &data) {
    std::string length(8, '\0');
    for (int place = 0; place < 8; place++) length[place] = static_cast<char>(header.size() >> (8 * place));
    return length + header + data;
}

inline std::string safetensors(const std::map<std::string, Tensor> &tensors) {
    Json header = {{"__metadata__", {{"format", "pt"}}}};
    std::string data;
    for (const auto &[name, tensor] : tensors) {
        const std::size_t begin = data.size(), bytes = tensor.data.size() * sizeof(float);
        data.append(reinterpret_cast<const char *>(tensor.data.data()), bytes);
        header[name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, begin + bytes}}};
    }
    return safetensors(header.dump(), data);
}

/// A table with a range of every module that can be quantised.
inline Json calibration_table(const std::string &weights, const Config &config) {
    Json table = {{"schema", "star-edge/calibration/1"},
                  {"method", "max"},
                  {"samples", 1},
                  {"requested_samples", 1},
                  {"clips", {"clip"}},
                  {"weights_sha256", sha256(weights)},
                  {"ranges", Json::object()}};
    for (const std::string &module : star_quantisable_modules(config)) table["ranges"][module + ".in"] = 4.0;
    return table;
}

inline void set_file(Json &manifest, const std::string &name, const std::string &content) {
    manifest["files"][name] = {{"path", name}, {"bytes", content.size()}, {"sha256", sha256(content)}};
}

/// Files whose hashes and bundle_id fit their content, whatever that is.
inline Files seal(Json manifest, const std::string &weights, const std::string &calibration = "") {
    set_file(manifest, "model.fp32.onnx", "not read by this runtime");
    set_file(manifest, "golden.npz", "not read either");
    set_file(manifest, kWeights, weights);
    if (!calibration.empty()) {
        set_file(manifest, "model.int8.onnx", "nor this");
        set_file(manifest, kCalibration, calibration);
    }
    manifest["bundle_id"] = identity_of(manifest);
    return {manifest.dump(), weights, calibration};
}

inline Files tiny_files() { return seal(tiny_manifest(), safetensors(tiny_tensors())); }

/// A bundle with an int8 model of all modules that can be quantised.
inline Files calibrated_files(Json manifest = tiny_manifest()) {
    const Config config = config_of(manifest);
    for (const std::string &module : star_modules(config))
        manifest["nodes"]["int8"][module] = star_quantisable_modules(config).count(module) ? "int8" : "fp32";
    const std::string weights = safetensors(random_tensors(config));
    return seal(manifest, weights, calibration_table(weights, config).dump());
}

/// A tiny bundle, calibrated, with layers of low rank and of other widths, some of them both.
inline Files thin_files() {
    Json manifest = tiny_manifest();
    Json &config = manifest["model"]["config"];
    config["experts"] = 1;
    config["widths"] = {{"layers.0.spatial.linear1", 3}, {"layers.0.temporal.linear1", 9}, {"head.hidden", 7}};
    config["ranks"] = {{"embedding", 2},
                       {"layers.0.spatial.qkv", 1},
                       {"layers.0.spatial.linear1", 2},
                       {"layers.0.temporal.qkv", 3},
                       {"layers.0.temporal.linear2", 4},
                       {"head.hidden", 6}};
    return calibrated_files(manifest);
}

}  // namespace star::test
