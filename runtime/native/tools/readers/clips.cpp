#include "clips.h"

#include <filesystem>

#include "../errors.h"
#include "../files.h"
#include "zip.h"

namespace star::tools {
namespace {

constexpr const char *SUFFIXES = ".skeleton, .npz";

Recording read_npz_file(const std::filesystem::path &path) {
    try {
        ZipFile zip = ZipFile::open(path.string());
        return read_npz(zip, path.string(), path.stem().string());
    } catch (const Damaged &damage) {
        throw input_error(
            "cannot read the .npz file",
            {.where = path.string(), .found = damage.what(), .expected = "arrays of numbers and text, undamaged"});
    }
}

}  // namespace

Recording read_recording(const std::string &name) {
    const std::filesystem::path path = name;
    std::error_code unreadable;
    if (!std::filesystem::is_regular_file(path, unreadable))
        throw input_error("no such file", {.where = name, .expected = concat("a file: ", SUFFIXES)});
    const std::string suffix = path.extension().string();
    if (suffix == ".skeleton") return parse_ntu(read_file(path), name, path.stem().string());
    if (suffix == ".npz") return read_npz_file(path);
    throw input_error("unknown kind of recording", {.where = name,
                                                    .found = suffix.empty() ? "no suffix" : suffix,
                                                    .expected = SUFFIXES,
                                                    .next = "star-edge run reads more kinds"});
}

}  // namespace star::tools
