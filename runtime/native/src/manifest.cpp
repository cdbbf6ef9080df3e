#include "manifest.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "error.h"
#include "message.h"
#include "sha256.h"

namespace star {

namespace {

const std::vector<std::string> kPrecisions = {"fp32", "fp16", "bf16", "int8"};
const std::string kGolden = "golden.npz";
const std::string kExportAgain = "export the bundle again";
constexpr std::size_t kMostClasses = 1 << 16;

std::string model_file(const std::string &precision) { return "model." + precision + ".onnx"; }

std::vector<std::string> logical_names() {
    std::vector<std::string> names;
    for (const std::string &precision : kPrecisions) names.push_back(model_file(precision));
    names.insert(names.end(), {kWeights, kCalibration, kGolden});
    return names;
}

bool is_letter_or_digit(char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
}

/// Whether a path is one visible file name: nothing that could leave the folder on any system.
bool is_plain(const std::string &name) {
    return !name.empty() && is_letter_or_digit(name.front()) &&
           std::all_of(name.begin(), name.end(), [](char c) { return is_letter_or_digit(c) || c == '.' || c == '-'; });
}

bool is_sha256(const std::string &text) {
    return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == text.npos;
}

std::map<std::string, FileEntry> read_files(const Value &value) {
    const std::vector<std::string> known = logical_names();
    std::map<std::string, FileEntry> files;
    std::set<std::string> paths;
    for (const auto &[name, entry] : value.fields()) {
        FileEntry file{entry.at("path").text(), static_cast<uint64_t>(entry.at("bytes").integer(0, INT64_MAX)),
                       entry.at("sha256").text()};
        if (std::find(known.begin(), known.end(), name) == known.end())
            throw Malformed("unknown file in the manifest", in_quotes(name), "a file of a bundle");
        if (!is_plain(file.path))
            throw Malformed(in_quotes(name) + " points outside the bundle", in_quotes(file.path), "a plain file name");
        if (!is_sha256(file.sha256))
            throw Malformed("bad hash of " + in_quotes(name), in_quotes(file.sha256), "64 hex digits");
        if (!paths.insert(file.path).second)
            throw Malformed("two entries share one file", in_quotes(file.path), "one file an entry");
        files.emplace(name, std::move(file));
    }
    for (const std::string &required : {model_file("fp32"), std::string(kWeights), kGolden}) {
        if (!files.count(required)) throw Malformed("incomplete bundle", "no " + required, required);
    }
    return files;
}

std::vector<std::string> read_texts(const Value &value) {
    std::vector<std::string> texts;
    for (const Value &item : value.items()) texts.push_back(item.text());
    return texts;
}

std::vector<std::string> read_classes(const Value &value) {
    std::vector<std::string> names = read_texts(value);
    if (names.empty() || names.size() > kMostClasses)
        throw Malformed(std::to_string(names.size()) + " class_names", "1 to " + std::to_string(kMostClasses));
    return names;
}

std::map<std::string, std::string> read_int8_nodes(const Value &document) {
    std::map<std::string, std::string> nodes;
    const auto precisions = document.find("nodes");
    const auto int8 = precisions ? precisions->find("int8") : std::nullopt;
    if (!int8) return nodes;
    for (const auto &[module, precision] : int8->fields()) nodes.emplace(module, precision.text());
    return nodes;
}

Manifest read_manifest(const Value &document) {
    Manifest manifest;
    const Value model = document.at("model");
    manifest.model_name = model.at("name").text();
    manifest.model_config = model.at("config").json();
    manifest.skeleton = read_skeleton(document.at("skeleton"));
    const Value features = document.at("features");
    if (const auto channels = features.find("channels")) {
        manifest.channels = static_cast<int32_t>(channels->integer(3, 10));
        if (manifest.channels % 3 > 1 || (manifest.channels > 4 && manifest.channels < 9))
            throw Malformed(std::to_string(manifest.channels) + " channels of features", "3, 4, 9 or 10");
    }
    if (const auto centre = features.find("centre")) manifest.centre = centre->text({"root", "none"}) == "root";
    manifest.class_names = read_classes(document.at("class_names"));
    manifest.files = read_files(document.at("files"));
    manifest.default_precision = document.at("default_precision").text(kPrecisions);
    if (!manifest.has(model_file(manifest.default_precision)))
        throw Malformed("the default precision has no model", "no " + model_file(manifest.default_precision), "a model of it");
    if (manifest.has(model_file("int8"))) manifest.int8_nodes = read_int8_nodes(document);
    return manifest;
}

// The identity is the SHA-256 of canonical JSON as msgspec writes it: dictionaries sorted by key, structures in the order of
// their fields in runtime/manifest.py, no blanks, the shortest decimals that give a number back.

std::string canonical_float(double value) {
    const double magnitude = std::fabs(value);
    const bool plain = magnitude == 0 || (magnitude >= 1e-5 && magnitude < 1e16);
    char text[64];
    const auto end =
        std::to_chars(text, text + sizeof(text), value, plain ? std::chars_format::fixed : std::chars_format::scientific).ptr;
    std::string number(text, end);
    if (plain) return number.find('.') == number.npos ? number + ".0" : number;
    const std::size_t exponent = number.find('e') + 1;  // "e+20", "e-07": as "e20", "e-7"
    if (number[exponent] == '+') number.erase(exponent, 1);
    const std::size_t digits = exponent + (number[exponent] == '-');
    return number.erase(digits, number.find_first_not_of('0', digits) - digits);
}

std::string canonical(const Json &value);

template <class Items, class Write>
std::string list(char open, char close, const Items &items, const Write &write) {
    std::string text(1, open);
    for (const auto &item : items) text += (text.size() == 1 ? "" : ",") + write(item);
    return text + close;
}

std::string canonical_object(const std::map<std::string, std::string> &fields) {
    return list('{', '}', fields, [](const auto &field) { return Json(field.first).dump() + ":" + field.second; });
}

std::string canonical(const Json &value) {
    if (value.is_number_float()) return canonical_float(value.get<double>());
    if (value.is_array()) return list('[', ']', value, [](const Json &item) { return canonical(item); });
    if (!value.is_object()) return value.dump();
    std::map<std::string, std::string> fields;
    for (const auto &[name, field] : value.items()) fields.emplace(name, canonical(field));
    return canonical_object(fields);
}

std::string canonical(const Skeleton &skeleton) {
    return "{\"name\":" + Json(skeleton.name).dump() + ",\"joints\":" + Json(skeleton.joints).dump() +
           ",\"bones\":" + Json(skeleton.bones).dump() + ",\"root\":" + std::to_string(skeleton.root) +
           ",\"pairs\":" + Json(skeleton.pairs).dump() + ",\"dims\":" + std::to_string(skeleton.dims) + "}";
}

std::string canonical_op(const Value &op) {
    const auto modules = op.find("modules");
    return "{\"name\":" + Json(op.at("name").text()).dump() + ",\"domain\":" + Json(op.at("domain").text()).dump() +
           ",\"version\":" + std::to_string(op.at("version").integer(INT64_MIN, INT64_MAX)) +
           ",\"modules\":" + Json(modules ? read_texts(*modules) : std::vector<std::string>()).dump() + "}";
}

std::string identity(const Manifest &manifest, const Value &document) {
    std::map<std::string, std::string> files;
    for (const auto &[name, entry] : manifest.files) {
        if (name != kGolden) files.emplace(name, Json(entry.sha256).dump());
    }
    const auto ops = document.find("ops");
    const std::string centre = manifest.centre ? "root" : "none";
    return sha256(canonical_object({
        {"model", "{\"name\":" + Json(manifest.model_name).dump() + ",\"config\":" + canonical(manifest.model_config) + "}"},
        {"skeleton", canonical(manifest.skeleton)},
        {"features", "{\"channels\":" + std::to_string(manifest.channels) + ",\"centre\":\"" + centre + "\"}"},
        {"class_names", Json(manifest.class_names).dump()},
        {"default_precision", Json(manifest.default_precision).dump()},
        {"ops", ops ? list('[', ']', ops->items(), canonical_op) : "[]"},
        {"files", canonical_object(files)},
    }));
}

void check_identity(const Manifest &manifest, const std::string &expected, const std::string &where) {
    if (manifest.bundle_id == expected) return;
    throw Error(STAR_MISMATCH,
                message("the manifest was changed after it was written",
                        {.where = where,
                         .found = "bundle_id " + (manifest.bundle_id.empty() ? "empty" : manifest.bundle_id.substr(0, 12)),
                         .expected = expected.substr(0, 12),
                         .next = kExportAgain}));
}

}  // namespace

std::string identity_of(const Json &manifest) {
    const Value document(manifest);
    return identity(read_manifest(document), document);
}

Manifest parse_manifest(std::string_view text, const std::string &where) {
    try {
        const Json json = parse_json(text);
        const Value document(json);
        check_schema(document, "star-edge/bundle/1", where);
        Manifest manifest = read_manifest(document);
        manifest.bundle_id = document.at("bundle_id").text();
        check_identity(manifest, identity(manifest, document), where);
        return manifest;
    } catch (const Malformed &error) {
        throw bad_file(error, "cannot read the manifest", where, kExportAgain);
    }
}

}  // namespace star
