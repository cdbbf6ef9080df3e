#include "bundle.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>

#include "calibration.h"
#include "error.h"
#include "manifest.h"
#include "message.h"
#include "safetensors.h"
#include "sha256.h"
#include "star_config.h"

namespace star {

namespace {

static_assert(std::endian::native == std::endian::little, "weights are copied as they lie in the file");

constexpr uintmax_t kManifestLimit = 16 << 20;
const std::string kExportAgain = "export the bundle again";

/// Where a bundle's files are, for messages.
struct Places {
    std::string manifest = kManifest, weights = kWeights, calibration = kCalibration;
};

std::string maker_of(const std::string &name) {
    return name == kCalibration ? "star-edge calibrate" : "star-edge export ckpt.pt";
}

Error damage(const std::string &name, const std::string &where, const std::string &found, const std::string &expected) {
    return Error(
        STAR_MISMATCH,
        message(
            name + " is not the file the bundle was made with",
            {.where = where, .found = found, .expected = expected, .next = "copy the bundle again, or " + maker_of(name)}));
}

void check_size(const Manifest &manifest, const std::string &name, uintmax_t bytes, const std::string &where) {
    const auto entry = manifest.files.find(name);
    const uintmax_t expected = entry == manifest.files.end() ? 0 : entry->second.bytes;
    if (bytes != expected) throw damage(name, where, std::to_string(bytes) + " bytes", std::to_string(expected) + " bytes");
}

/// The family of a bundle's network is chosen here, and in compile(); another one is told by its configuration too.
Config read_config(const Manifest &manifest, const std::string &where) {
    // a channel with the person's number (the fourth, or the tenth) is for models that tell persons apart
    if (!is_star_config(manifest.model_config) || manifest.channels % 3 == 1)
        throw Error(STAR_UNSUPPORTED, message("this version cannot run the model " + in_quotes(manifest.model_name),
                                              {.where = where,
                                               .found = "another configuration",
                                               .expected = "that of a STAR model",
                                               .next = "use the engine onnxruntime, or a newer star-edge"}));
    try {
        const Value config(manifest.model_config, "$.model.config");
        if (is_ensemble(config))
            throw Error(STAR_UNSUPPORTED, message("the native engine runs no ensembles",
                                                  {.where = where,
                                                   .found = config.at("experts").json().dump() + " experts",
                                                   .expected = "1",
                                                   .next = "use the engine onnxruntime"}));
        return read_star_config(config);
    } catch (const Malformed &error) {
        throw bad_file(error, "the model's configuration cannot be used", where, kExportAgain);
    }
}

void check_fit(const Manifest &manifest, const Config &config, const std::string &where) {
    const auto joints = static_cast<int64_t>(manifest.skeleton.joints.size()),
               classes = static_cast<int64_t>(manifest.class_names.size());
    const auto sizes = [](int64_t v, int64_t c, int64_t k) {
        return std::to_string(v) + " joints, " + std::to_string(c) + " channels, " + std::to_string(k) + " classes";
    };
    if (config.joints == joints && config.channels == manifest.channels && config.classes == classes) return;
    throw Error(STAR_MISMATCH, message("the network does not fit the bundle's skeleton, features and classes",
                                       {.where = where,
                                        .found = sizes(config.joints, config.channels, config.classes),
                                        .expected = sizes(joints, manifest.channels, classes),
                                        .next = kExportAgain}));
}

Tensor read_tensor(const std::string &name, const StoredTensor &stored, const std::vector<int64_t> &shape) {
    if (stored.dtype != "F32" || stored.shape != shape)
        throw Malformed("tensor " + in_quotes(name) + " has another type or shape", describe(stored.dtype, stored.shape),
                        describe("F32", shape));
    Tensor tensor{shape, std::vector<float>(stored.bytes.size() / sizeof(float))};
    std::memcpy(tensor.data.data(), stored.bytes.data(), stored.bytes.size());
    const bool variance = name == "input_norm.running_var";
    for (std::size_t index = 0; index < tensor.data.size(); index++) {
        const float value = tensor.data[index];
        if (!std::isfinite(value) || (variance && value < 0))
            throw Malformed("tensor " + in_quotes(name) + " holds a number that cannot be used",
                            std::to_string(value) + " at index " + std::to_string(index),
                            variance ? "a finite variance, 0 or above" : "a finite number");
    }
    return tensor;
}

/// Every tensor the configuration needs, and no other; a batch counter that training leaves behind is ignored.
std::map<std::string, Tensor> read_weights(std::string_view bytes, const Config &config) {
    std::map<std::string, StoredTensor> stored = read_safetensors(bytes);
    stored.erase("input_norm.num_batches_tracked");
    std::map<std::string, Tensor> weights;
    for (const auto &[name, shape] : star_tensors(config)) {
        const auto found = stored.find(name);
        if (found == stored.end())
            throw Malformed("the state dict lacks a tensor", "no " + in_quotes(name), describe("F32", shape));
        weights.emplace(name, read_tensor(name, found->second, shape));
        stored.erase(found);
    }
    if (!stored.empty())
        throw Malformed("unknown tensor in the state dict", in_quotes(stored.begin()->first),
                        "those of the configuration alone");
    return weights;
}

std::map<std::string, Tensor> parse_weights(std::string_view bytes, const Config &config, const std::string &where) {
    try {
        return read_weights(bytes, config);
    } catch (const Malformed &error) {
        throw bad_file(error, "cannot read the weights", where, "copy the bundle again, or " + maker_of(kWeights));
    }
}

std::map<std::string, float> read_ranges(std::string_view text, const Manifest &manifest, const std::string &where) {
    if (text.empty()) return {};
    CalibrationTable table = parse_calibration(text, where);
    const std::string &weights = manifest.files.at(kWeights).sha256;
    if (table.weights_sha256 != weights)
        throw Error(STAR_MISMATCH, message("calibration belongs to other weights",
                                           {.where = where,
                                            .found = "weights " + in_quotes(weights.substr(0, 12)),
                                            .expected = "weights " + in_quotes(table.weights_sha256.substr(0, 12)),
                                            .next = "star-edge calibrate"}));
    return std::move(table.ranges);
}

std::set<std::string> read_quantised(const Manifest &manifest, const Bundle &bundle, const Places &places) {
    const std::set<std::string> allowed = star_quantisable_modules(bundle.config);
    std::set<std::string> quantised;
    for (const auto &[module, precision] : manifest.int8_nodes) {
        if (precision != "int8") continue;
        if (!allowed.count(module))
            throw Error(STAR_BAD_FILE,
                        message("no such module can be quantised",
                                {.where = places.manifest, .found = in_quotes(module), .next = "star-edge calibrate"}));
        if (!bundle.ranges.count(module + ".in"))
            throw Error(STAR_MISMATCH,
                        message("the calibration table lacks a range",
                                {.where = places.calibration, .expected = module + ".in", .next = "star-edge calibrate"}));
        quantised.insert(module);
    }
    return quantised;
}

Bundle make_bundle(const Manifest &manifest, const BundleBytes &bytes, const Places &places) {
    check_size(manifest, kWeights, bytes.weights.size(), places.weights);
    check_size(manifest, kCalibration, bytes.calibration.size(), places.calibration);
    Bundle bundle;
    bundle.model_name = manifest.model_name;
    bundle.bundle_id = manifest.bundle_id;
    bundle.default_precision = manifest.default_precision;
    bundle.class_names = manifest.class_names;
    bundle.config = read_config(manifest, places.manifest);
    check_fit(manifest, bundle.config, places.manifest);
    bundle.features = {manifest.skeleton.parents(), manifest.skeleton.root, manifest.skeleton.dims, manifest.channels,
                       manifest.centre};
    bundle.weights = parse_weights(bytes.weights, bundle.config, places.weights);
    bundle.ranges = read_ranges(bytes.calibration, manifest, places.calibration);
    bundle.quantised = read_quantised(manifest, bundle, places);
    return bundle;
}

std::string read_file(const std::filesystem::path &path, uintmax_t bytes) {
    std::string content(bytes, '\0');
    std::ifstream file(path, std::ios::binary);
    if (!file.read(content.data(), static_cast<std::streamsize>(bytes)))
        throw Error(STAR_IO,
                    message("cannot read the file", {.where = path.string(),
                                                     .expected = std::to_string(bytes) + " bytes and permission to read them",
                                                     .next = "copy the bundle again"}));
    return content;
}

std::string read_manifest(const std::filesystem::path &folder) {
    const std::filesystem::path path = folder / kManifest;
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) {
        const bool packed = std::filesystem::is_regular_file(folder, error), any = std::filesystem::exists(folder, error);
        throw Error(STAR_IO,
                    message("not a bundle", {.where = folder.string(),
                                             .found = packed ? "a file"
                                                      : any  ? "a folder without manifest.json"
                                                             : "nothing",
                                             .expected = "a NAME.star folder",
                                             .next = packed ? "star-edge pack --unpack" : "star-edge export ckpt.pt"}));
    }
    const uintmax_t bytes = std::filesystem::file_size(path);
    if (bytes > kManifestLimit)
        throw Error(STAR_BAD_FILE,
                    message("the manifest is too large to be one", {.where = path.string(),
                                                                    .found = std::to_string(bytes) + " bytes",
                                                                    .expected = "at most " + std::to_string(kManifestLimit),
                                                                    .next = kExportAgain}));
    return read_file(path, bytes);
}

/// Bytes of a file by its logical name, compared with the manifest; empty when the bundle has none.
std::string read_checked(const std::filesystem::path &folder, const Manifest &manifest, const std::string &name) {
    const auto found = manifest.files.find(name);
    if (found == manifest.files.end()) return {};
    const FileEntry &entry = found->second;
    const std::filesystem::path path = folder / entry.path;
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error))
        throw damage(name, path.string(), "missing", std::to_string(entry.bytes) + " bytes");
    check_size(manifest, name, std::filesystem::file_size(path), path.string());
    std::string bytes = read_file(path, entry.bytes);
    if (const std::string digest = sha256(bytes); digest != entry.sha256)
        throw damage(name, path.string(), "SHA-256 " + digest, entry.sha256);
    return bytes;
}

std::string place_of(const std::filesystem::path &folder, const Manifest &manifest, const std::string &name) {
    const auto entry = manifest.files.find(name);
    return (folder / (entry == manifest.files.end() ? name : entry->second.path)).string();
}

Bundle read_once(const std::filesystem::path &folder, const std::string &manifest_text) {
    const std::string where = (folder / kManifest).string();
    const Manifest manifest = parse_manifest(manifest_text, where);
    const Places places{where, place_of(folder, manifest, kWeights), place_of(folder, manifest, kCalibration)};
    const std::string weights = read_checked(folder, manifest, kWeights);
    const std::string calibration = read_checked(folder, manifest, kCalibration);
    return make_bundle(manifest, {manifest_text, weights, calibration}, places);
}

}  // namespace

Bundle parse_bundle(const BundleBytes &bytes) {
    const Places places;
    return make_bundle(parse_manifest(bytes.manifest, places.manifest), bytes, places);
}

Bundle read_bundle(const std::filesystem::path &folder) {
    std::string manifest = read_manifest(folder);
    for (;;) {
        try {
            return read_once(folder, manifest);
        } catch (const Error &error) {
            // a command may have committed a new bundle, and removed the old one's files, in between
            std::string now = read_manifest(folder);
            if (now == manifest) throw;
            manifest = std::move(now);
        }
    }
}

}  // namespace star
