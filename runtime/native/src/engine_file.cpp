#include "engine_file.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>

#include "error.h"
#include "json.h"
#include "message.h"
#include "sha256.h"

namespace star {

namespace {

namespace fs = std::filesystem;

const std::string kSchema = "star-edge/engine/1";
const std::string kBuild = "star-edge build";
constexpr const char *kPluginLibrary = "libstar_edge_trt.so";
constexpr int64_t kMost = INT32_MAX;

std::string text_of(const Gpu &gpu) { return gpu.name + ", " + std::to_string(gpu.multiprocessors) + " SMs"; }

bool is_hex(const std::string &text, std::size_t digits) {
    return text.size() == digits && text.find_first_not_of("0123456789abcdef") == text.npos;
}

std::string hex(const Value &value, std::size_t digits) {
    if (!is_hex(value.text(), digits)) throw Malformed(in_quotes(value.text()), std::to_string(digits) + " hex digits");
    return value.text();
}

std::vector<Bucket> read_buckets(const Value &value) {
    std::vector<Bucket> buckets;
    for (const Value &item : value.items())
        buckets.push_back({item.at("rows").integer(1, kMost), item.at("clips").integer(1, kMost)});
    const auto follows = [](const Bucket &one, const Bucket &next) {
        return one.rows < next.rows || (one.rows == next.rows && one.clips < next.clips);
    };
    const bool ascending = std::adjacent_find(buckets.begin(), buckets.end(), [&](const Bucket &one, const Bucket &next) {
                               return !follows(one, next);
                           }) == buckets.end();
    if (buckets.empty() || !ascending) throw Malformed(value.json().dump(), "profiles in ascending order");
    return buckets;
}

Gpu read_gpu(const Value &value) {
    Gpu gpu{value.at("name").text(), value.at("sm").integer(1, kMost), value.at("multiprocessors").integer(1, kMost), false};
    if (const auto integrated = value.find("integrated")) {
        if (!integrated->json().is_boolean()) throw Malformed(integrated->json().dump(), "true or false");
        gpu.integrated = integrated->json().get<bool>();
    }
    return gpu;
}

std::optional<std::string> read(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    std::error_code error;
    if (!file || fs::is_directory(path, error)) return std::nullopt;
    return std::string(std::istreambuf_iterator<char>(file), {});
}

bool ends_with(const std::string &text, const std::string &end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Paths in a folder by how their names end, sorted.
std::vector<fs::path> files_of(const fs::path &folder, const std::string &end) {
    std::vector<fs::path> found;
    std::error_code error;
    for (fs::directory_iterator at(folder, error), last; !error && at != last; at.increment(error))
        if (ends_with(at->path().filename().string(), end)) found.push_back(at->path());
    std::sort(found.begin(), found.end());
    return found;
}

std::string names_of(const std::vector<fs::path> &paths) {
    std::string names;
    for (const fs::path &path : paths) names += (names.empty() ? "" : ", ") + path.filename().string();
    return names;
}

/// A refusal: its reason, what the engine was made with or for, what is here, and what there is to do about it.
struct Check {
    const char *reason;
    std::string made, here;
    bool fits;
    const char *advice = "";
};

/// The rows of runtime/tensorrt/compatibility.py, in its order.
std::vector<Check> checks_of(const EngineFile &made, const Here &here) {
    const auto same = [](const char *reason, const std::string &one, const std::string &other, const char *advice = "") {
        return Check{reason, one, other, one == other, advice};
    };
    return {
        same("the engine is of another precision", made.precision, here.precision),
        same("the bundle was changed after the engine was built", made.bundle_id, here.bundle_id),
        same("the engine's file is not the one that was built", made.engine_sha256, here.engine_sha256),
        same("the engine was built by another TensorRT", "TensorRT " + made.tensorrt, "TensorRT " + here.tensorrt),
        same("the engine was built for another GPU", "sm_" + std::to_string(made.gpu.sm), "sm_" + std::to_string(here.gpu.sm)),
        {"the engine was built on another GPU, or in a power mode with other multiprocessors", text_of(made.gpu),
         text_of(here.gpu), made.gpu == here.gpu, ", in the power mode that it will run in"},
        same("the engine's plugins are not here as it was built with them", made.plugin_sha256,
             here.plugin_sha256.empty() ? "no plugin library" : here.plugin_sha256, ", which compiles them"),
    };
}

/// Index of the first of ascending buckets that holds a batch.
std::optional<std::size_t> smallest(const std::vector<Bucket> &buckets, int64_t rows, int64_t clips) {
    for (std::size_t index = 0; index < buckets.size(); index++)
        if (rows <= buckets[index].rows && clips <= buckets[index].clips) return index;
    return std::nullopt;
}

}  // namespace

EngineFile parse_engine_file(std::string_view text, const fs::path &where) {
    try {
        const Json json = parse_json(text);
        const Value document(json);
        check_schema(document, kSchema, where.string());
        const Value plugin = document.at("plugin");
        return {.where = where,
                .bundle_id = document.at("bundle_id").text(),
                .precision = document.at("precision").text(),
                .tensorrt = document.at("tensorrt").text(),
                .gpu = read_gpu(document.at("gpu")),
                .plugin_key = hex(plugin.at("key"), 16),
                .plugin_sha256 = hex(plugin.at("sha256"), 64),
                .engine_sha256 = hex(document.at("engine_sha256"), 64),
                .buckets = read_buckets(document.at("profiles"))};
    } catch (const Malformed &malformed) {
        throw bad_file(malformed, "cannot read the engine's description", where.string(), kBuild);
    }
}

EngineFile find_engine_file(const fs::path &bundle, const std::string &tensorrt, int64_t sm, const std::string &precision) {
    const fs::path folder = bundle / "engines";
    const std::string name = tensorrt + "-sm" + std::to_string(sm) + "-" + precision;
    const fs::path exact = folder / (name + ".json");
    if (const auto text = read(exact)) return parse_engine_file(*text, exact);
    for (const fs::path &other : files_of(folder, "-" + precision + ".json"))
        if (const auto text = read(other)) return parse_engine_file(*text, other);
    const std::string engines = names_of(files_of(folder, ".engine"));
    throw Error(STAR_IO, message("the bundle has no TensorRT engine in " + precision,
                                 {.where = folder.string(),
                                  .found = engines.empty() ? "no engine" : engines,
                                  .expected = name + ".engine",
                                  .next = kBuild + " " + bundle.string() + " --" + precision}));
}

std::string read_plan(const EngineFile &file) {
    // where the command that wrote it was killed before its last step, the file still has its hash in its name
    const std::string name = file.where.stem().string();
    const fs::path plain = file.where.parent_path() / (name + ".engine");
    if (auto plan = read(file.where.parent_path() / (name + "." + file.engine_sha256.substr(0, 16) + ".engine"))) return *plan;
    if (auto plan = read(plain)) return *plan;
    throw Error(STAR_IO, message("an engine's file is missing", {.where = plain.string(), .next = kBuild}));
}

fs::path plugin_path(const std::string &key) {
    const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
    const fs::path base =
        cache != nullptr && *cache != '\0' ? fs::path(cache) : fs::path(home == nullptr ? "" : home) / ".cache";
    return base / "star-edge" / "plugins" / key / kPluginLibrary;
}

std::string plugin_sha256(const std::string &key) {
    const auto library = read(plugin_path(key));
    return library ? sha256(*library) : "";
}

void require_compatible(const EngineFile &made, const Here &here) {
    for (const Check &check : checks_of(made, here)) {
        if (check.fits) continue;
        throw Error(STAR_MISMATCH, message(check.reason, {.where = made.where.string(),
                                                          .found = check.here + " here",
                                                          .expected = check.made,
                                                          .next = kBuild + " " + here.bundle.string() + " --" +
                                                                  here.precision + check.advice}));
    }
}

std::vector<Part> split(const std::vector<Bucket> &buckets, const int64_t *cu_seqlens, int64_t clips) {
    std::vector<Part> parts;
    for (int64_t first = 0; first < clips;) {
        Part part{first, first, 0};
        while (part.last < clips) {
            const auto bucket = smallest(buckets, cu_seqlens[part.last + 1] - cu_seqlens[first], part.last + 1 - first);
            if (!bucket) break;
            part = {first, part.last + 1, *bucket};
        }
        if (part.last == first) {
            const Bucket &largest = *std::max_element(buckets.begin(), buckets.end(),
                                                      [](const Bucket &a, const Bucket &b) { return a.rows < b.rows; });
            throw Error(STAR_UNSUPPORTED,
                        message("a clip is longer than the engine's largest bucket",
                                {.where = "clip " + std::to_string(first),
                                 .found = std::to_string(cu_seqlens[first + 1] - cu_seqlens[first]) + " rows",
                                 .expected = "at most " + std::to_string(largest.rows),
                                 .next = kBuild + " --buckets, with one that is long enough"}));
        }
        parts.push_back(part);
        first = part.last;
    }
    return parts;
}

}  // namespace star
