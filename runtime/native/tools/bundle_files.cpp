#include "bundle_files.h"

#include <filesystem>

#include "files.h"
#include "sha256.h"

namespace star::tools {
namespace {

constexpr const char *EXPORT = "export the bundle again";

star_bytes view(const std::string &bytes) { return {bytes.data(), bytes.size()}; }

}  // namespace

BundleFiles::BundleFiles(const std::string &path) : path_(path) {
    const std::filesystem::path folder = path, manifest = folder / kManifest;
    std::error_code unreadable;
    if (std::filesystem::is_regular_file(folder, unreadable)) {
        archive_.emplace(path);
        manifest_bytes_ = archive_->read(kManifest);
    } else if (std::filesystem::is_regular_file(manifest, unreadable)) {
        constexpr uintmax_t limit = 16u << 20;
        if (const uintmax_t size = std::filesystem::file_size(manifest); size > limit)
            throw input_error(
                "the manifest is too large to be one",
                {.where = manifest.string(), .found = concat(size, " bytes"), .expected = concat("at most ", limit)});
        manifest_bytes_ = read_file(manifest);
    } else {
        const bool is_folder = std::filesystem::is_directory(folder, unreadable);
        throw input_error("not a bundle", {.where = path,
                                           .found = is_folder ? "a folder without manifest.json" : "nothing",
                                           .expected = "a NAME.star folder, or a NAME.star.zip",
                                           .next = "star-edge export ckpt.pt"});
    }
    manifest_ = parse_manifest(manifest_bytes_, manifest.string());
    if (archive_) archive_->check(manifest_.files, manifest_.bundle_id);
}

std::vector<std::string> BundleFiles::modules() const {
    std::vector<std::string> names;
    try {
        const Json json = parse_json(manifest_bytes_);
        for (const auto &[name, precision] : Value(json).at("nodes").at("fp32").fields()) names.push_back(name);
    } catch (const Malformed &malformed) {
        throw bad_file(malformed, "cannot read the manifest", path_, EXPORT);
    }
    return names;
}

Model BundleFiles::load(star_precision precision, star_isa isa) const {
    star_model *model = nullptr;
    if (!archive_) {
        check(star_model_load(path_.c_str(), precision, isa, &model));
        return Model(model);
    }
    const std::string weights = read(kWeights);
    const std::string calibration = manifest_.has(kCalibration) ? read(kCalibration) : "";
    check(star_model_load_bytes(view(manifest_bytes_), view(weights), view(calibration), precision, isa, &model));
    return Model(model);
}

std::string BundleFiles::read(const std::string &name) const {
    const auto found = manifest_.files.find(name);
    if (found == manifest_.files.end())
        throw mismatch_error("the bundle has no " + name, {.where = path_, .expected = name, .next = EXPORT});
    return archive_ ? archive_->read(found->second.path) : read_listed(found->second);
}

std::string BundleFiles::read_listed(const FileEntry &entry) const {
    const std::filesystem::path path = std::filesystem::path(path_) / entry.path;
    const auto damage = [&](const std::string &found, const std::string &expected) {
        return mismatch_error(entry.path + " is not the file the bundle was made with",
                              {.where = path.string(), .found = found, .expected = expected, .next = "copy the bundle again"});
    };
    std::error_code unreadable;
    if (!std::filesystem::is_regular_file(path, unreadable)) throw damage("missing", concat(entry.bytes, " bytes"));
    if (const uintmax_t size = std::filesystem::file_size(path); size != entry.bytes)
        throw damage(concat(size, " bytes"), concat(entry.bytes, " bytes"));
    std::string bytes = read_file(path);
    if (const std::string digest = sha256(bytes); digest != entry.sha256) throw damage("SHA-256 " + digest, entry.sha256);
    return bytes;
}

}  // namespace star::tools
