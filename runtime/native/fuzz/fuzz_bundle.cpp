// libFuzzer harness over the bundle reader: any manifest, weights and calibration are read, or refused with an Error.
//
// Input: two big-endian 4-byte lengths, of manifest and weights, then manifest, weights, calibration. They are read twice: as
// they are, and with sizes, hashes and bundle_id put right, which no mutation guesses and without which nothing behind the
// manifest would be reached. make_bundle_seeds.cpp wrote corpus/bundle.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "bundle.h"
#include "error.h"
#include "json.h"
#include "manifest.h"
#include "sha256.h"
#include "star_config.h"

using namespace star;

namespace {

void require(bool holds) {
    if (!holds) std::abort();
}

// what everything behind the reader relies on
void check(const Bundle &bundle) {
    const Config &config = bundle.config;
    require(config.dim % config.heads == 0 && config.joints == static_cast<int64_t>(bundle.features.parents.size()));
    require(config.classes == static_cast<int64_t>(bundle.class_names.size()) && config.channels == bundle.features.channels);
    for (const auto &[i, j] : config.edges) require(i >= 0 && j >= 0 && i < config.joints && j < config.joints);
    for (const int32_t parent : bundle.features.parents) require(parent >= 0 && parent < config.joints);
    require(bundle.features.root >= 0 && bundle.features.root < config.joints);
    for (const auto &[name, shape] : star_tensors(config)) {
        const Tensor &tensor = bundle.weights.at(name);
        std::size_t size = 1;
        for (const int64_t length : shape) size *= static_cast<std::size_t>(length);
        require(tensor.shape == shape && tensor.data.size() == size);
        for (const float value : tensor.data) require(std::isfinite(value));
    }
    for (const std::string &module : bundle.quantised) require(bundle.ranges.at(module + ".in") > 0);
    for (const auto &[tensor, amax] : bundle.ranges) require(std::isfinite(amax) && amax > 0);
}

void read(const BundleBytes &bytes) {
    try {
        check(parse_bundle(bytes));
    } catch (const Error &error) {
        require(std::string_view(error.what()).find('\n') == std::string_view::npos);
    }
}

void set_file(Json &manifest, const char *name, std::string_view content) {
    if (content.empty()) return;
    manifest["files"][name]["bytes"] = content.size();
    manifest["files"][name]["sha256"] = sha256(content);
}

/// The files as a maker of this content would have written them.
struct PutRight {
    explicit PutRight(const BundleBytes &bytes) : manifest(bytes.manifest), calibration(bytes.calibration) {
        try {
            name_weights(bytes.weights);
            name_files(bytes.weights);
        } catch (const Malformed &) {  // no such document: left as it is
        } catch (const Json::exception &) {
        }
    }
    void name_weights(std::string_view weights) {
        if (calibration.empty()) return;
        Json table = parse_json(calibration);
        table["weights_sha256"] = sha256(weights);
        calibration = table.dump();
    }
    void name_files(std::string_view weights) {
        Json document = parse_json(manifest);
        set_file(document, kWeights, weights);
        set_file(document, kCalibration, calibration);
        document["bundle_id"] = identity_of(document);
        manifest = document.dump();
    }
    std::string manifest, calibration;
};

std::string_view take(std::string_view &data, std::size_t size) {
    const std::string_view taken = data.substr(0, std::min(size, data.size()));
    data.remove_prefix(taken.size());
    return taken;
}

std::size_t take_length(std::string_view &data) {
    std::size_t length = 0;
    for (const char byte : take(data, 4)) length = length << 8 | static_cast<unsigned char>(byte);
    return length;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *bytes, std::size_t size) {
    std::string_view data(reinterpret_cast<const char *>(bytes), size);
    const std::size_t manifest_length = take_length(data), weights_length = take_length(data);
    const std::string_view manifest = take(data, manifest_length), weights = take(data, weights_length);
    read({manifest, weights, data});
    const PutRight right({manifest, weights, data});
    read({right.manifest, weights, right.calibration});
    return 0;
}
