// A bundle as star-run needs it: a model to load, golden clips, names of the modules. A folder, or packed in one file.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "archive.h"
#include "handles.h"
#include "manifest.h"

namespace star::tools {

/// An opened bundle.
class BundleFiles {
   public:
    /// Throws Failure when there is no bundle at path, or a packed one is damaged or not to be trusted.
    explicit BundleFiles(const std::string &path);

    const std::string &path() const { return path_; }
    const Manifest &manifest() const { return manifest_; }

    /// Paths of the modules of the network.
    std::vector<std::string> modules() const;

    /// The model, its files compared with their hashes.
    Model load(star_precision precision, star_isa isa) const;

    /// Bytes of a file by its logical name, compared with its size and hash; Failure when the bundle has none.
    std::string read(const std::string &name) const;

   private:
    std::string read_listed(const FileEntry &entry) const;

    const std::string path_;
    std::optional<Archive> archive_;  // of a packed one
    std::string manifest_bytes_;
    Manifest manifest_;
};

}  // namespace star::tools
