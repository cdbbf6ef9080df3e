#include "archive.h"

#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "errors.h"
#include "sha256.h"

namespace star::tools {
namespace {

constexpr const char *SCHEMA = "star-edge/packed/1";
const std::string LIST = "packed.json", MANIFEST = kManifest;
const std::set<std::string> RESERVED = {LIST, "sbom.cdx.json", "clips.npz", MANIFEST};
constexpr const char *AGAIN = "copy the file again, or make it again with star-edge pack";
constexpr uint64_t LIST_LIMIT = 1u << 20, MANIFEST_LIMIT = 16u << 20;  // bytes

Failure refused(const std::string &what, const std::string &where, const std::string &found, const std::string &expected) {
    return input_error(what, {.where = where, .found = found, .expected = expected, .next = AGAIN});
}

Failure changed(const std::string &path, const std::string &name, const std::string &found, const std::string &expected) {
    return mismatch_error(name + " is not the file the bundle was made with",
                          {.where = path + "/" + name, .found = found, .expected = expected, .next = AGAIN});
}

bool same(const FileEntry &a, const FileEntry &b) { return a.bytes == b.bytes && a.sha256 == b.sha256; }

std::string describe(const FileEntry &entry) { return concat(entry.bytes, " bytes, SHA-256 ", entry.sha256); }

bool is_report(const std::string &name) {
    return name.starts_with("reports/") && name.ends_with(".json") && is_plain(std::string_view(name).substr(8));
}

}  // namespace

bool is_plain(std::string_view name) {
    static constexpr std::string_view letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    return !name.empty() && name[0] != '.' && name[0] != '-' && name.find_first_not_of(letters) == name.npos;
}

Archive::Archive(const std::string &path) : path_(path) {
    try {
        zip_ = ZipFile::open(path);
    } catch (const Damaged &damage) {
        throw refused("not a bundle, or a packed one that is damaged or truncated", path, damage.what(),
                      "a NAME.star folder, or a NAME.star.zip made by star-edge pack");
    }
    check_entries();
    read_list();
    check_list();
}

void Archive::check_entries() const {
    std::set<std::string> folded;
    for (const ZipEntry &entry : zip_->entries()) {
        std::string_view name = entry.name;
        if (name.starts_with("reports/")) name.remove_prefix(8);
        if (!is_plain(name))
            throw refused("the archive holds a path that is not a plain file name", path_, entry.name,
                          "names such as model.fp32.onnx");
        if (const uint32_t kind = entry.unix_mode & S_IFMT; kind != 0 && kind != S_IFREG)
            throw refused(kind == S_IFLNK ? "the archive holds a link" : "the archive holds something that is no file", path_,
                          entry.name, "regular files");
        std::string lower = entry.name;
        std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
        if (!folded.insert(lower).second) throw refused("the archive holds a file twice", path_, lower, "every name once");
    }
}

void Archive::read_list() {
    const ZipEntry *entry = zip_->find(LIST);
    if (entry == nullptr) throw refused("not a bundle: an archive without its list", path_, "no " + LIST, LIST);
    if (entry->size > LIST_LIMIT)
        throw refused(LIST + " is too large to be one", path_, concat(entry->size, " bytes"), concat("at most ", LIST_LIMIT));
    const std::string bytes = member(*entry);
    const std::string where = path_ + "/" + LIST;
    try {
        const Json json = parse_json(bytes);
        const Value list(json);
        check_schema(list, SCHEMA, where);
        bundle_id_ = list.at("bundle_id").text();
        for (const auto &[name, file] : list.at("files").fields())
            files_[name] = {name, static_cast<uint64_t>(file.at("bytes").integer(0, INT64_MAX)), file.at("sha256").text()};
    } catch (const Malformed &malformed) {
        throw bad_file(malformed, "cannot read the archive's list", where, AGAIN);
    }
}

// The list and the directory must name the same files with the same sizes.
void Archive::check_list() const {
    for (const ZipEntry &entry : zip_->entries())
        if (entry.name != LIST && !files_.contains(entry.name))
            throw refused("the archive holds a file that its list does not name", path_, entry.name, "the files of " + LIST);
    for (const auto &[name, file] : files_) {
        const ZipEntry *entry = zip_->find(name);
        if (entry == nullptr)
            throw mismatch_error("the archive lacks a file of its list",
                                 {.where = path_, .found = "no such file", .expected = name, .next = AGAIN});
        if (entry->size != file.bytes) throw changed(path_, name, concat(entry->size, " bytes"), concat(file.bytes, " bytes"));
    }
    const auto manifest = files_.find(MANIFEST);
    if (manifest == files_.end())
        throw refused("not a bundle: an archive without a manifest", path_, "no " + MANIFEST, MANIFEST);
    if (manifest->second.bytes > MANIFEST_LIMIT)
        throw refused(MANIFEST + " is too large to be one", path_, concat(manifest->second.bytes, " bytes"),
                      concat("at most ", MANIFEST_LIMIT));
}

std::string Archive::member(const ZipEntry &entry) const {
    try {
        return zip_->read(entry);
    } catch (const Damaged &damage) {
        throw refused("the packed bundle is damaged or truncated", path_, damage.what(), "an archive made by star-edge pack");
    }
}

std::string Archive::read(const std::string &name) const {
    const FileEntry &file = files_.at(name);
    std::string bytes = member(*zip_->find(name));
    const FileEntry found{name, bytes.size(), sha256(bytes)};
    if (!same(found, file)) throw changed(path_, name, describe(found), describe(file));
    return bytes;
}

void Archive::check(const std::map<std::string, FileEntry> &files, const std::string &bundle_id) const {
    std::set<std::string> known = RESERVED;
    for (const auto &[logical, expected] : files) {
        if (RESERVED.contains(expected.path))
            throw input_error("a file of the bundle has a reserved name",
                              {.where = path_, .found = expected.path, .next = "export the bundle again"});
        const auto found = files_.find(expected.path);
        if (found == files_.end() || !same(found->second, expected))
            throw changed(path_, expected.path, found == files_.end() ? "no such file" : describe(found->second),
                          describe(expected));
        known.insert(expected.path);
    }
    for (const auto &[name, file] : files_)
        if (!known.contains(name) && !is_report(name))
            throw refused("the archive holds a file that is not in the manifest", path_, name, "the manifest's files");
    if (bundle_id_ != bundle_id)
        throw mismatch_error("list and manifest are of different bundles", {.where = path_ + "/" + LIST,
                                                                            .found = "bundle_id " + bundle_id_.substr(0, 12),
                                                                            .expected = bundle_id.substr(0, 12),
                                                                            .next = AGAIN});
}

}  // namespace star::tools
