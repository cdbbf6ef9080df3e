// Files read whole.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include "errors.h"

namespace star::tools {

/// Bytes of a file; throws Failure when it cannot be read.
inline std::string read_file(const std::filesystem::path &path) {
    std::error_code error;
    std::string bytes(std::filesystem::is_regular_file(path, error) ? std::filesystem::file_size(path) : 0, '\0');
    std::ifstream file(path, std::ios::binary);
    if (!file.read(bytes.data(), static_cast<std::streamsize>(bytes.size())))
        throw Failure(Exit::mismatch, "cannot read the file", {.where = path.string(), .expected = "permission to read it"});
    return bytes;
}

}  // namespace star::tools
